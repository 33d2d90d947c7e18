-- What audit keeps.

select 1;
