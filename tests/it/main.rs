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
mod jaeger;
mod journeys;
mod messages;
mod micro;
mod outbox;
mod permissions;
mod repeats;
mod rest;
mod retention;
mod traces;
mod unwell;
