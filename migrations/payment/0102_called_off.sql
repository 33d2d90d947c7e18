-- A show that was called off is an end of its own: of holds, and of payments that were on their way.

alter type payment_failure add value 'show_cancelled';
alter table holds add column is_off boolean not null default false;
