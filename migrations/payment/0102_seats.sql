-- How many seats a hold has and a payment pays, so that its end can say so; 0 in what was
-- written down before.

alter table holds add column seats integer not null default 0;
alter table payments add column seats integer not null default 0;
