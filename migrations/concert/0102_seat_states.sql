-- What the seat map shows: a copy of what the reservation service has told, never a judge.

-- Declared in the order in which one owner passes through them.
create type seat_stage as enum ('held', 'sold', 'freed');

-- The last word on each seat that ever had an owner. A freed seat keeps its row: the
-- version in it is the fence that a late message of a former owner meets. No reference to
-- schedules, since the copy must take in whatever is told, in whatever order.
create table seat_states (
    schedule_id uuid not null,
    seat text not null,
    reservation_id uuid not null,
    hold_version bigint not null,
    stage seat_stage not null,
    primary key (schedule_id, seat)
) with (fillfactor = 80);
