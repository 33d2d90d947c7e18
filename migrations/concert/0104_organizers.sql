-- Who acts on a concert: several accounts, and who has let them; and until when a ticket can be given back.

-- `concerts.organizer_id` stays who entered it.
create table concert_organizers (
    concert_id uuid not null references concerts,
    user_id uuid not null,
    since timestamptz not null,
    added_by uuid,
    added_as text check (added_as in ('organizer', 'operator')),
    primary key (concert_id, user_id),
    check ((added_by is null) = (added_as is null))
);
create index concert_organizers_by_user on concert_organizers (user_id);

insert into concert_organizers (concert_id, user_id, since)
select concert_id, organizer_id, created_at from concerts;

-- Accounts that can be added: those that have the role, as far as was heard. One that was
-- closed stays, whichever was heard first.
create table accounts (
    user_id uuid primary key,
    is_organizer boolean not null,
    is_gone boolean not null
);
insert into accounts (user_id, is_organizer, is_gone)
select distinct organizer_id, true, false from concerts;

-- Absent in what the version before this one writes: then it is the start of the show.
alter table schedules add column refund_until timestamptz;

alter table schedules add column cancelled_by uuid;
alter table schedules add column cancelled_as text check (cancelled_as in ('organizer', 'operator'));
