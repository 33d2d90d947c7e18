-- What every service remembers of the mesh: what it took in, emitted, answered and parked.

create schema mesh;

-- Every message this service has taken in. The row is claimed in the transaction that acts
-- on the message, so a message acts once. Ids are UUIDv7 and so grow with time: partitions
-- by id are partitions by day.
create table mesh.inbox (
    message_id uuid primary key
) partition by range (message_id);
create table mesh.inbox_rest partition of mesh.inbox default;

-- Every message this service emits, written in the transaction that makes it true. A row is
-- published, and then it has a mark (its sequence in the stream), or it is not. Nothing else
-- about it ever changes but who may publish it next, and when.
create table mesh.outbox (
    id uuid primary key,
    subject text not null,
    events integer not null,
    body bytea not null,
    stream_seq bigint,
    leased_until timestamptz not null,
    refusals integer not null default 0
) partition by range (id);
-- A body is read once, if ever: packing it would cost more than its bytes.
alter table mesh.outbox alter column body set storage external;
create index outbox_unpublished on mesh.outbox (id) where stream_seq is null;
create index outbox_published on mesh.outbox (stream_seq) where stream_seq is not null;
create table mesh.outbox_rest partition of mesh.outbox default;

-- Up to where outbox and stream were seen to agree.
create table mesh.verified (
    is_only boolean primary key default true check (is_only),
    stream_seq bigint not null,
    message_id uuid not null
);

-- Events that could not be taken in, in the order of parking. One that is dead, or behind a
-- dead one, holds its key: only the first of these is ever tried. One that is early holds
-- nobody up. See `services/mesh/src/parked.rs`.
create table mesh.parked (
    number bigint generated always as identity primary key,
    order_key text not null,
    state text not null,
    cause text not null,
    attempts bigint not null default 0,
    unsettled integer not null default 0,
    due_at timestamptz not null,
    leased_until timestamptz not null default '-infinity',
    envelope bytea not null,
    subject text not null,
    stream text not null,
    sequence bigint not null,
    kept_at timestamptz not null default now(),
    ended_at timestamptz,
    history jsonb not null default '[]'
);
create index parked_line on mesh.parked (order_key, number) where ended_at is null;
create index parked_due on mesh.parked (due_at) where ended_at is null;
create index parked_ended on mesh.parked (ended_at) where ended_at is not null;

-- The answer given to each granted command that came with an Idempotency-Key.
create table mesh.answers (
    scope bytea primary key,
    body bytea not null,
    status smallint not null,
    answer bytea not null,
    at timestamptz not null default now()
);
create index answers_at on mesh.answers (at);

-- How far a service that reads whole streams has come in each: the last message whose effect
-- is in this database, written in the transaction of that effect. The message's id tells a
-- stream that was wiped and filled anew from the one that was read.
create table mesh.positions (
    stream text primary key,
    seq bigint not null,
    message_id uuid not null
);
