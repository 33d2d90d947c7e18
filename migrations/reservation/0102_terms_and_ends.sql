-- Until when a ticket can be given back, by which place a hold was made, and why a reservation was cancelled.

-- Absent in what the version before this one writes: then it is the start of the show.
alter table schedules add column refund_until timestamptz;

-- Of the place whose pass the hold was made with: once it is paid and no hold lives, the
-- place is used up, and its pass is void.
alter table reservations add column place_version bigint not null default 0;

alter table reservations add column cancel_reason text
    check (cancel_reason in ('by_fan', 'show_cancelled', 'withdrawn'));
