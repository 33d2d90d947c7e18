//! Servers that are paused from outside.

use servers::Server;

/// A server that is paused with all of its children, until this is dropped.
pub struct Paused(Server);

impl Paused {
    /// Pauses a server.
    pub fn of(server: &Server) -> Self {
        server.pause();
        Self(server.clone())
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.0.resume();
    }
}
