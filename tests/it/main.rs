//! The fast proofs, as one binary.

//TEMP mod architecture;
//TEMP mod compose;
mod contracts;
