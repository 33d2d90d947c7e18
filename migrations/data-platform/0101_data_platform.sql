-- What data-platform keeps.

select 1;
