//! The configuration of this service.

/// The settings of this service.
#[derive(Debug, Clone)]
pub struct Config {
    /// The most points that one charge may buy.
    pub charge_max: i64,
    /// The most points that a charge may fill a wallet up to. A refund may exceed it.
    pub balance_max: i64,
    /// How often a payment is tried before an unknown wallet counts as missing. Until then
    /// the service assumes that `user.registered` is on its way.
    pub unknown_wallet_attempts: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { charge_max: 10_000_000, balance_max: 1_000_000_000_000, unknown_wallet_attempts: 10 }
    }
}
