-- Where fans' messages go, the messages, and what they need to know of a show.

-- Where a fan's messages go. The only personal data of this service: a fan who withdraws
-- leaves a row that says so and nothing else, against what is heard late.
create table contacts (
    user_id uuid primary key,
    phone text,
    locale text not null,
    withdrawn boolean not null,
    check (not withdrawn or phone is null)
);

-- What a message says of its show.
create table schedules (
    schedule_id uuid primary key,
    title text not null,
    venue text not null,
    starts_at timestamptz not null
);

-- One message per subject and kind, and `id` is made of the two: it is the key by which a
-- provider drops what it gets twice, so it would be the same even in a database that was
-- lost and filled again from the streams.
--
-- `next_at` is when it may be tried: whoever sends it moves it on by the lease first, so
-- that nobody else does, and a sender that dies is followed by another one. `locale` and
-- `show` are filled in at the first try and stay: a provider that is told twice is told the
-- same. `listed_id` is the order of a fan's list; ids grow with time.
create table messages (
    id uuid primary key,
    subject_id uuid not null,
    kind text not null,
    user_id uuid not null,
    schedule_id uuid not null,
    listed_id uuid not null,
    saga_id uuid not null,
    cause_id uuid,
    details jsonb not null,
    locale text,
    show jsonb,
    state text not null,
    channel text,
    receipt text,
    last_error text,
    attempts integer not null,
    leases integer not null default 0,
    created_at timestamptz not null,
    next_at timestamptz not null,
    ended_at timestamptz,
    unique (subject_id, kind),
    check (state in ('PENDING', 'SENT', 'FAILED')),
    check ((state = 'PENDING') = (ended_at is null)),
    check ((state = 'SENT') = (channel is not null))
);
create index messages_due on messages (next_at) where state = 'PENDING';
create index messages_of_fan on messages (user_id, listed_id);

-- Webhook endpoints that have said `410 Gone`, by a fingerprint of address and secret:
-- nothing more is sent there until an operator changes one of them.
create table closed_endpoints (
    fingerprint text primary key,
    closed_at timestamptz not null
);
