-- The seat map is kept in Valkey and made from what the reservation service has told.

drop table seat_states;
drop type seat_stage;
