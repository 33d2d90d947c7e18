-- The span in which a hold became known here, so that the traces of its payments can be linked to the reservation's.

alter table holds add column traceparent text;
