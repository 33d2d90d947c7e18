//! Finds free ports.

use std::{fs, net::TcpListener};

/// Ports tried before giving up.
const TRIES_MAX: u32 = 1_000;
/// No well-known server listens below.
const LOWEST: u16 = 10_000;

/// A port that is free right now, below the range from which the kernel takes the local
/// ports of connections.
///
/// A server is killed and restarted on its port while its clients keep trying to connect. Within
/// that range the kernel could give such an attempt the very port it connects to as its local
/// port: it would connect to itself, and the server would find its port taken.
pub(crate) fn free_port() -> u16 {
    let highest = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse::<u16>().ok())
        .filter(|low| *low > LOWEST + 1_000)
        .unwrap_or(32_768);
    (0..TRIES_MAX)
        .map(|_| rand::random_range(LOWEST..highest))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_listened_on() {
        let port = free_port();
        assert!(port >= LOWEST);
        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }
}
