//! TLS for HTTP clients, on the library that the stores and the broker use as well.

/// Lets clients of HTTP use TLS; every call after the first does nothing. To be called before
/// a client is built, which panics without it.
pub fn install() {
    // Refused only when a library is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
