//! Each flow of the domain, over HTTP, from a fan's point of view.

mod awaited;
mod cancel;
mod charge;
mod enter;
mod expire;
mod export;
mod hold_extension;
mod names;
mod organizers;
mod pay_hold_gone;
mod pay_success;
mod pay_too_few_points;
mod provider_down;
mod ranking;
mod reserve;
mod seat_map;
mod show_begins;
mod show_cancelled;
mod sold_out;
mod two_holds;
mod withdraw;
