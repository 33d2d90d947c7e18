-- The span that made a reservation, so that the trace of what ends it later can be linked to it.

alter table reservations add column traceparent text;
