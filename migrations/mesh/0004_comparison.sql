-- When the stream stored the message up to which outbox and stream agree. A lost message that was
-- published again may be at its old sequence, and only this distinguishes the two.
alter table mesh.verified add column stored_at timestamptz;

-- Which instance compares outbox and stream. The others wait until it releases its lease, or the
-- lease is over.
create table mesh.comparison (
    is_only boolean primary key default true check (is_only),
    instance uuid not null,
    leased_until timestamptz not null
);
