-- Wallets and the double-entry ledger that explains every point in them.

-- `balance` is what the ledger adds up to, kept so that no debit has to add it up. Only
-- the primary key is indexed and half of each page is left free: a new balance stays in
-- its page and touches no index (a HOT update).
create type wallet_state as enum ('open', 'closing', 'closed');
create table wallets (
    user_id uuid primary key,
    balance bigint not null check (balance >= 0),
    state wallet_state not null
) with (fillfactor = 50);

-- The house's side of each movement.
create type house_account as enum ('cash', 'sales', 'forfeits');
create type entry_kind as enum ('charge', 'debit', 'refund', 'forfeit');

-- One row is one whole movement: `amount` goes into the wallet (out of it when negative),
-- and the same amount leaves the `house` account. The usual other form, two rows that must
-- sum to zero, was not taken: it doubles rows and index entries, and its one rule is about
-- two rows at once, which needs a deferred trigger to hold. Here a leg without its other
-- leg cannot be written down. `legs` shows the two legs to whoever audits.
--
-- The primary key is also the order of a fan's list: ids grow with time.
create table entries (
    user_id uuid not null,
    id uuid not null,
    payment_id uuid,
    amount bigint not null,
    balance bigint not null check (balance >= 0),
    at timestamptz not null,
    kind entry_kind not null,
    house house_account not null,
    primary key (user_id, id),
    check (case kind
        when 'charge' then amount > 0 and house = 'cash' and payment_id is null
        when 'debit' then amount <= 0 and house = 'sales' and payment_id is not null
        when 'refund' then amount >= 0 and house = 'sales' and payment_id is not null
        when 'forfeit' then amount < 0 and house = 'forfeits' and payment_id is null
    end)
);

-- A payment is taken once and given back once. This index is the judge: handlers look
-- first, but two batches that both saw nothing cannot both commit.
create unique index entries_payment on entries (payment_id, kind) where payment_id is not null;

-- Every movement as two legs that sum to zero; the sum of a wallet's legs is its balance.
create view legs as
    select id as entry_id, 'wallet' as account, user_id, amount from entries
    union all
    select id, house::text, user_id, -amount from entries;

-- Payments that were refused. A refusal is final: when the same request comes again, it
-- must not find the points that have been charged since.
create table refusals (
    payment_id uuid primary key,
    user_id uuid not null,
    at timestamptz not null
);

-- Attempts to close an account, as they stand here; the wallet's state follows from them.
create table withdrawals (
    attempt uuid primary key,
    user_id uuid not null,
    standing text not null
        check (standing in ('cleared', 'blocked', 'overtaken', 'refused', 'withdrawn'))
);
create index withdrawals_of_user on withdrawals (user_id);

-- For operators: points that lie in a closed wallet, because a payment was given back after
-- it closed (`payment_id`), or while it was closing.
create table stranded (
    id bigint generated always as identity primary key,
    user_id uuid not null,
    payment_id uuid,
    amount bigint not null check (amount > 0),
    at timestamptz not null
);
