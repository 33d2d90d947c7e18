-- The span that caused a message, so that the trace of sending it can be linked to the saga's.

alter table messages add column traceparent text;
