-- Accounts, their sessions, the keys that sign tokens, and attempts to close one.

create table accounts (
    user_id       uuid        primary key,
    -- Lower case. Gone once the account is closed, so the address is free again.
    email         text        unique,
    password_hash text,
    roles         text[]      not null,
    state         text        not null check (state in ('active', 'withdrawn')),
    created_at    timestamptz not null,
    withdrawn_at  timestamptz,
    check ((state = 'active') = (email is not null and password_hash is not null)),
    check ((state = 'active') = (withdrawn_at is null))
);

-- Each renewal of a session uses one token up and adds its successor to the family. Used
-- ones stay until they run out: one that comes back tells of a theft.
create table refresh_tokens (
    token_hash bytea       primary key check (length(token_hash) = 32),
    user_id    uuid        not null references accounts,
    family_id  uuid        not null,
    expires_at timestamptz not null,
    used_at    timestamptz
);
create index refresh_tokens_user on refresh_tokens (user_id);
create index refresh_tokens_family on refresh_tokens (family_id);
create index refresh_tokens_expiry on refresh_tokens (expires_at);

-- Log-ins that have not succeeded, by the SHA-256 of the address, whether it has an account or not.
create table log_in_failures (
    email_hash bytea         primary key check (length(email_hash) = 32),
    failed_at  timestamptz[] not null,
    last_at    timestamptz   not null
);
create index log_in_failures_age on log_in_failures (last_at);

-- The private keys of this issuer. Whoever reads this table can be anybody.
create table signing_keys (
    kid        text        primary key,
    pkcs8      bytea       not null,
    created_at timestamptz not null
);

-- Attempts to close an account. `payment`, `reservation` and `point` have answered `cleared` or
-- with what stands in the way; the attempt is decided once. Refused ones stay: their owners may
-- look at them.
create table withdrawals (
    attempt      uuid        primary key,
    user_id      uuid        not null references accounts,
    forfeit      boolean     not null,
    requested_at timestamptz not null,
    payment      text,
    reservation  text,
    point        text,
    state        text        not null check (state in ('requested', 'completed', 'refused')),
    reasons      text[]      not null,
    ended_at     timestamptz,
    check ((state = 'requested') = (ended_at is null)),
    check ((state = 'refused') = (cardinality(reasons) > 0))
);
-- One that runs, or has closed the account.
create unique index withdrawals_standing on withdrawals (user_id) where state <> 'refused';
create index withdrawals_unanswered on withdrawals (requested_at) where state = 'requested';

-- Accounts that whoever runs the system asks for; the service makes them as soon as it runs.
create table account_wishes (
    email         text   primary key,
    password_hash text   not null,
    roles         text[] not null
);
