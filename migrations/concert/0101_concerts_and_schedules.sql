-- What is played, when and where, and with which seats: written by organizers.

create table concerts (
    concert_id uuid primary key,
    organizer_id uuid not null,
    title text not null,
    artist text not null,
    description text not null,
    -- The words of title and artist in lower case; each is found by its beginning.
    words tsvector not null,
    created_at timestamptz not null
);
create index concerts_by_word on concerts using gin (words);

create table schedules (
    schedule_id uuid primary key,
    concert_id uuid not null references concerts,
    venue text not null,
    starts_at timestamptz not null,
    opens_at timestamptz not null,
    per_second integer not null,
    active_max integer not null,
    pass_secs integer not null,
    hold_secs integer not null,
    seats_per_fan_max integer not null,
    seats_total bigint not null,
    cancelled_at timestamptz,
    cancel_reason text,
    check ((cancelled_at is null) = (cancel_reason is null))
);
create index schedules_by_concert on schedules (concert_id, schedule_id);

-- Apart from its schedule, because it is large, always wanted whole, and never changes.
create table seat_plans (
    schedule_id uuid primary key references schedules,
    blocks jsonb not null
);
