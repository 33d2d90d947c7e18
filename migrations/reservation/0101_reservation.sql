-- Who owns which seat: schedules and their seats, reservations, and which passes are void.

-- What is on sale. The terms are unknown when a cancellation is heard first.
create table schedules (
    id                uuid primary key,
    state             text not null check (state in ('open', 'cancelling', 'cancelled')),
    opens_at          timestamptz,
    starts_at         timestamptz,
    hold_secs         integer,
    seats_per_fan_max integer,
    check (state <> 'open' or (opens_at is not null and starts_at is not null
        and hold_secs is not null and seats_per_fan_max is not null))
);

-- Cancelled schedules that may still have owners to be let go: almost always none.
create index schedules_cancelling on schedules (id) where state = 'cancelling';

-- The judge. A seat of a schedule is one row, because of the primary key, and that row
-- has room for one owner: two owners cannot be written down. What remains is an owner
-- written over another. Every batch therefore locks the rows it decides on, in key order,
-- and names in its update the owner and the version it has read; an update that misses
-- is an error, and the batch leaves nothing behind.
--
-- `hold_version` outlives its owner: it only ever grows, so that a late message of a
-- former owner is told from the present one's.
--
-- Neither column that changes is indexed, and half of each page is kept free, so that
-- taking and freeing a seat stays within its page and touches no index.
create table seats (
    schedule_id    uuid not null,
    seat           text collate "C" not null,
    price          bigint not null check (price >= 0),
    reservation_id uuid,
    hold_version   bigint not null default 0,
    primary key (schedule_id, seat)
) with (fillfactor = 50);

-- Claims on seats, past ones included. `seats` is a list of {seat, price}.
create table reservations (
    id           uuid primary key,
    schedule_id  uuid not null,
    user_id      uuid not null,
    state        text not null
        check (state in ('PENDING', 'CONFIRMED', 'EXPIRED', 'CANCELLED')),
    seats        jsonb not null,
    amount       bigint not null,
    hold_version bigint not null,
    created_at   timestamptz not null,
    expires_at   timestamptz not null check (expires_at <= hard_cap_at),
    hard_cap_at  timestamptz not null,
    extended     boolean not null default false,
    payment_id   uuid,
    -- The fan may be leaving: it is neither confirmed nor given back meanwhile.
    closing      boolean not null default false,
    -- What becomes of the money of one that was paid and cancelled.
    refund       text check (refund in ('due', 'made', 'forfeited')),
    check (refund is null or (state = 'CANCELLED' and payment_id is not null)),
    check (state <> 'CONFIRMED' or payment_id is not null),
    check (state not in ('PENDING', 'EXPIRED') or payment_id is null)
) with (fillfactor = 80);

-- The sweep of holds whose time is up.
create index reservations_due on reservations (expires_at) where state = 'PENDING';

-- A fan's list, and how many seats a fan has of one schedule.
create index reservations_of_user on reservations (user_id, schedule_id);

-- Up to which version a fan's place has ended, as the waiting room last said: every earlier
-- pass is void. A fan's holds of one schedule are decided
-- one after the other under the lock of this row, so that two at once cannot both stay
-- within the limit; it exists for every fan who ever held, with version 0 until heard of.
create table places (
    schedule_id   uuid not null,
    user_id       uuid not null,
    ended_version bigint not null,
    primary key (schedule_id, user_id)
) with (fillfactor = 70);

-- Attempts to close an account, as they stand here. While one is `cleared`, and once one is
-- `withdrawn`, this fan holds nothing new. There are few of either.
create table withdrawals (
    attempt  uuid primary key,
    user_id  uuid not null,
    standing text not null
        check (standing in ('cleared', 'blocked', 'overtaken', 'refused', 'withdrawn'))
);
create index withdrawals_of_user on withdrawals (user_id);
