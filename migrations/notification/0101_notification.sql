-- What notification keeps.

select 1;
