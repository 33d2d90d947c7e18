//! The fast tests, as one binary.

mod access;
mod architecture;
mod audit_verify;
mod bad_input;
mod broker;
mod bundles;
mod compose;
mod contention;
mod contracts;
mod dead_letters;
mod following;
mod forgetful;
mod forgotten;
mod handlers;
mod health;
mod hostile;
mod journeys;
mod messages;
mod outbox;
mod permissions;
mod repeats;
mod rest;
mod retention;
mod schemathesis;
mod traces;
mod unwell;
