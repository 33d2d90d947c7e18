-- How often the message that a fact follows from was delivered before it was taken in.
alter table mesh.outbox add column deliveries integer not null default 1;

-- How far a service that reads whole streams has come in each: the last fact whose effect
-- is in this database, written in the transaction of that effect. The fact's id tells a
-- stream that was wiped and filled anew from the one that was read.
create table mesh.positions (
    stream text primary key,
    seq bigint not null,
    event_id uuid not null
);
