-- What every service remembers of the mesh: what it heard, what it told, what it answered.

create schema mesh;

-- Every event this service has taken in. The row is claimed in the transaction that acts
-- on the event, so an event acts once. Ids are UUIDv7 and so grow with time: partitions by
-- id are partitions by day, and the primary key can still be the id alone.
create table mesh.inbox (
    event_id uuid primary key
) partition by range (event_id);
create table mesh.inbox_rest partition of mesh.inbox default;

-- Every fact this service tells, written in the transaction that makes it true. Rows are
-- never updated; whole days are dropped. The relay reads in the order (xid, id) and only
-- below the oldest running transaction: a transaction that took its id first and commits
-- last is read when it commits, and not skipped.
create sequence mesh.outbox_id;
create table mesh.outbox (
    xid xid8 not null default pg_current_xact_id(),
    id bigint not null default nextval('mesh.outbox_id'),
    event_id uuid not null,
    saga_id uuid not null,
    cause_id uuid,
    about uuid not null,
    told_at timestamptz not null,
    traceparent text,
    subject text not null,
    payload bytea not null
) partition by range (event_id);
create index outbox_order on mesh.outbox (xid, id);
create table mesh.outbox_rest partition of mesh.outbox default;

-- How far the relay has come: the newest line is its position. Older lines say which
-- stream sequence belongs to which position, for the day the broker forgets.
create table mesh.relay_log (
    line bigint generated always as identity primary key,
    xid xid8 not null,
    id bigint not null,
    stream_seq bigint not null,
    at timestamptz not null default now()
);

-- The answer given to each granted command that came with an Idempotency-Key.
create table mesh.answers (
    scope bytea primary key,
    body bytea not null,
    status smallint not null,
    answer bytea not null,
    at timestamptz not null default now()
);
create index answers_at on mesh.answers (at);
