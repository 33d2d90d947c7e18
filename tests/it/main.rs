//! The fast proofs, as one binary.

mod architecture;
mod compose;
mod contracts;
mod journeys;
