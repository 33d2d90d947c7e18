-- What payment knows of holds and withdrawals, and the payments it owns.

-- A hold as the reservation service told it. One that was heard to have ended stays ended,
-- whatever comes late. `expires_at` is the end that it was made with: a payment may move the
-- hold's end, but none begins after this one. That a hold is paid is not written here: its
-- payment says so.
create table holds (
    reservation_id uuid primary key,
    schedule_id uuid not null,
    user_id uuid not null,
    amount bigint not null,
    seats integer not null,
    hold_version bigint not null,
    expires_at timestamptz not null,
    ended boolean not null
) with (fillfactor = 80);

create type payment_state as enum ('REQUESTED', 'COMPLETED', 'FAILED', 'REFUNDED');
create type payment_failure as enum ('insufficient_balance', 'no_wallet', 'hold_gone');

-- A REQUESTED payment with the reason `hold_gone` is one whose seats are lost and whose
-- money is still on its way back.
create table payments (
    id uuid primary key,
    reservation_id uuid not null,
    schedule_id uuid not null,
    user_id uuid not null,
    amount bigint not null,
    seats integer not null,
    hold_version bigint not null,
    requested_at timestamptz not null,
    ended_at timestamptz,
    state payment_state not null default 'REQUESTED',
    reason payment_failure,
    live boolean not null generated always as (state in ('REQUESTED', 'COMPLETED')) stored,
    check ((state = 'REQUESTED') = (ended_at is null)),
    check (state <> 'FAILED' or reason is not null),
    check (state not in ('COMPLETED', 'REFUNDED') or reason is null)
) with (fillfactor = 50);

-- One running or completed payment per reservation. The index asks `live` and not
-- `state`: completing a payment does not change `live`, so the new version of the row
-- stays in its page and no index is touched (a HOT update). Every payment is changed once,
-- within milliseconds of its insert, hence the half of each page that is left free.
create unique index payments_live on payments (reservation_id) where live;

-- A fan's payments, newest first: ids grow with time.
create index payments_of_user on payments (user_id, id);

-- Attempts to close an account, as they stand here. While one is `cleared`, and once one is
-- `withdrawn`, no payment of this fan begins. There are few of either.
create table withdrawals (
    attempt uuid primary key,
    user_id uuid not null,
    standing text not null
        check (standing in ('cleared', 'blocked', 'overtaken', 'refused', 'withdrawn'))
);
create index withdrawals_of_user on withdrawals (user_id);
