//! Why a provider cannot be used as it is configured. No address and no secret is shown.

/// Bytes of a webhook's secret at least; a shorter one could be guessed.
pub(super) const SECRET_BYTES_MIN: usize = 12;

/// Why a provider cannot be used as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Its address is no HTTP address.
    #[error("the provider's address must begin with http:// or https://")]
    Address,
    /// The relay's secret has characters that no header may have.
    #[error("the relay's secret cannot be sent in a header")]
    RelaySecret,
    /// The webhook's secret begins with `whsec_`, and is no base64 behind that.
    #[error("the webhook's secret is not base64")]
    SecretEncoding,
    /// The webhook's secret could be guessed.
    #[error("the webhook's secret has fewer than {SECRET_BYTES_MIN} bytes")]
    ShortSecret,
    /// No HTTP client can be made.
    #[error("no HTTP client: {0}")]
    NoClient(String),
}
