-- The monolith: the same sale in one database.
--
-- Tables are as wide as the services', have the checks and indexes that the services' have,
-- and leave the same room in their pages. What only separate services need is not here: no
-- copies of each other's state, no inbox, no marks of a publisher.

-- `balance` is what the ledger adds up to. That it is never negative is what refuses a payment.
create table wallets (
    user_id uuid primary key,
    balance bigint not null constraint wallets_enough check (balance >= 0),
    closed  boolean not null default false
) with (fillfactor = 50);

-- One row is one whole movement, between a wallet and an account of the house: a leg without
-- its other leg cannot be written down. That a debit has a balance means that it has a wallet.
create table entries (
    user_id    uuid not null,
    id         uuid not null,
    payment_id uuid,
    amount     bigint not null,
    balance    bigint not null check (balance >= 0),
    at         timestamptz not null,
    kind       text not null check (kind in ('charge', 'debit', 'refund')),
    house      text not null check (house in ('cash', 'sales')),
    primary key (user_id, id)
);
create unique index entries_payment on entries (payment_id, kind) where payment_id is not null;

create table schedules (
    id       uuid primary key,
    opens_at timestamptz not null
);

-- A seat is one row with room for one owner.
create table seats (
    schedule_id    uuid not null,
    seat           text collate "C" not null,
    price          bigint not null check (price >= 0),
    reservation_id uuid,
    hold_version   bigint not null default 0,
    primary key (schedule_id, seat)
) with (fillfactor = 50);

-- Holds and what became of them. `seats` is a list of {seat, price}.
create table reservations (
    id           uuid primary key,
    schedule_id  uuid not null,
    user_id      uuid not null,
    state        text not null check (state in ('PENDING', 'CONFIRMED', 'EXPIRED', 'CANCELLED')),
    seats        jsonb not null,
    amount       bigint not null,
    hold_version bigint not null,
    created_at   timestamptz not null,
    expires_at   timestamptz not null,
    payment_id   uuid,
    check (state <> 'CONFIRMED' or payment_id is not null)
) with (fillfactor = 80);
create index reservations_due on reservations (expires_at) where state = 'PENDING';
create index reservations_of_user on reservations (user_id, schedule_id);

-- A fan in the waiting room of a schedule, and how many seats the fan has bought there: seats
-- sold are the sum of these, so that no payment waits for the row of its schedule.
create table places (
    schedule_id uuid not null,
    user_id     uuid not null,
    state       text not null check (state in ('WAITING', 'ACTIVE', 'COMPLETED', 'EXPIRED')),
    bought      integer not null default 0 check (bought >= 0),
    primary key (schedule_id, user_id)
) with (fillfactor = 50);

-- A payment is written when it has ended, so it is never half done. A repeat of the request is
-- recognised by its idempotency key; the row is the stored answer.
create table payments (
    id              uuid primary key,
    reservation_id  uuid not null,
    schedule_id     uuid not null,
    user_id         uuid not null,
    amount          bigint not null,
    hold_version    bigint not null,
    requested_at    timestamptz not null,
    ended_at        timestamptz not null,
    state           text not null check (state in ('COMPLETED', 'FAILED', 'REFUNDED')),
    reason          text check ((state = 'FAILED') = (reason is not null)),
    idempotency_key text
) with (fillfactor = 80);
-- One completed payment per reservation.
create unique index payments_live on payments (reservation_id) where state = 'COMPLETED';
create unique index payments_key on payments (user_id, idempotency_key)
    where idempotency_key is not null;
create index payments_of_user on payments (user_id, id);

-- Events that are still to be sent to others: messages to fans, the data platform. A worker
-- takes them from here in its own time.
create table outbox (
    id      bigint generated always as identity primary key,
    kind    text not null,
    payload jsonb not null,
    at      timestamptz not null
);
