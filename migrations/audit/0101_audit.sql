-- What audit keeps: every fact for some weeks, a row for each saga, and what it found.

-- Every fact that was told, once. Ids are UUIDv7 and so grow with time: partitions by id are
-- partitions by day, and a day is forgotten by dropping a table.
create table facts (
    event_id uuid primary key,
    saga_id uuid not null,
    cause_id uuid,
    about uuid not null,
    trace_id uuid,
    at timestamptz not null,
    stream_seq bigint not null,
    deliveries integer not null,
    fact text not null,
    payload bytea not null
) partition by range (event_id);
create index facts_saga on facts (saga_id);
create table facts_rest partition of facts default;

-- Where each saga stands. It is made of its facts alone, whatever their order, and of no
-- clock: a timeline that is deleted and replayed has the same rows. What depends on the
-- time (running or stalled) is judged by next_due_at when it is asked for.
create table sagas (
    saga_id uuid primary key,
    last_at timestamptz not null,
    -- When the first of what is awaited is due; null when nothing is.
    next_due_at timestamptz,
    -- How it ended: 1 completed, 2 failed, 3 compensated; null while anything is awaited.
    outcome smallint,
    -- Services that told facts of it, and that are awaited; one bit each.
    took_part integer not null,
    awaited integer not null,
    -- The least and the greatest id of its facts: the days to look for them.
    from_id uuid not null,
    to_id uuid not null,
    -- What it is found by, beside its own id and the ids of its facts; 16 bytes each.
    keys bytea not null,
    progress bytea not null
);
create index sagas_last on sagas (last_at);
create index sagas_due on sagas (next_due_at) where next_due_at is not null;
create index sagas_bad_ends on sagas (outcome, saga_id) where outcome > 1;

-- Sagas by payment, reservation, user, trace, and seat (as the hash of its name).
create table saga_keys (
    key uuid,
    saga_id uuid,
    primary key (key, saga_id)
);

-- Deadlines that the watchdog has not looked at yet.
create table watch (
    due_at timestamptz,
    saga_id uuid,
    primary key (due_at, saga_id)
);

-- What the watchdog has reported. Not a part of the timeline: it is kept when that is
-- replayed, so that nothing is reported twice.
create table stalls (
    saga_id uuid,
    after_id uuid,
    awaited text,
    due_at timestamptz not null,
    primary key (saga_id, after_id, awaited)
);
create index stalls_due on stalls (due_at);

-- What the auditor has reported; found_id grows with time.
create table violations (
    violation_id uuid primary key,
    found_id uuid not null unique,
    violation bytea not null
);

-- The instance that took facts in last. Another one has an auditor that missed them.
create table reader (
    one boolean primary key default true check (one),
    instance uuid not null
);
