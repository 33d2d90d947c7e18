-- Which comparison of outbox and stream began last. Each instance begins one on each connection
-- to the broker; marks that were acknowledged before it are checked before they are written.
create table mesh.generation (
    is_only boolean primary key default true check (is_only),
    number bigint not null
);
insert into mesh.generation (number) values (0);
