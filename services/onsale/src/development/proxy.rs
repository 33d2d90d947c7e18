//! Connections that can be cut, slowed down or silenced: a TCP proxy in front of a server.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// Bytes that are read at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// What happens to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// Everything passes.
    Open,
    /// Connections are closed, and new ones are closed at once.
    Cut,
    /// Connections are reset, and new ones are reset at once.
    Reset,
    /// Connections stay open and nothing passes: neither side learns that the other is gone.
    Silent,
    /// Everything passes later by this much.
    Slow(Duration),
}

impl Wire {
    /// Whether connections cannot exist.
    fn is_broken(self) -> bool {
        matches!(self, Self::Cut | Self::Reset)
    }
}

/// A proxy in front of one server. It ends when it is dropped.
pub(super) struct Proxy {
    port: u16,
    wire: watch::Sender<Wire>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Listens on a free port of this machine and passes everything on to `server`.
    pub(super) async fn to(server: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (wire, watched) = watch::channel(Wire::Open);
        let open = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(listener, server, watched, open.clone()));
        Ok(Self { port, wire, open, task })
    }

    /// The port on which it listens.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Whether there is a connection.
    pub(super) fn is_used(&self) -> bool {
        self.open.load(Relaxed) > 0
    }

    /// From now on, this happens to connections.
    pub(super) fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }
}

async fn accept(
    listener: TcpListener,
    server: u16,
    wire: watch::Receiver<Wire>,
    open: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                connections.spawn(connect(client, server, wire.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
        open.store(connections.len(), Relaxed);
    }
}

async fn connect(client: TcpStream, server: u16, mut wire: watch::Receiver<Wire>) {
    if wire.borrow().is_broken() {
        return end(client, *wire.borrow());
    }
    // A server that is down refuses, and so does this.
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut client, mut server) = (client, server);
    let broken = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let (up, down) = (wire.clone(), wire.clone());
        // Either direction ends both.
        tokio::select! {
            () = pass(from_client, to_server, up) => Wire::Cut,
            () = pass(from_server, to_client, down) => Wire::Cut,
            broken = wire.wait_for(|wire| wire.is_broken()) => broken.map_or(Wire::Cut, |wire| *wire),
        }
    };
    end(client, broken);
    end(server, broken);
}

/// Ends a connection.
fn end(connection: TcpStream, wire: Wire) {
    if wire == Wire::Reset {
        let _ = connection.set_zero_linger();
    }
}

/// Passes one direction on until it ends.
async fn pass(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut wire: watch::Receiver<Wire>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let Ok(read) = from.read(&mut buffer).await else { return };
        // What was read while the wire is silent waits: it may still arrive later.
        if wire.wait_for(|wire| *wire != Wire::Silent).await.is_err() {
            return;
        }
        let slow = match *wire.borrow() {
            Wire::Slow(by) => Some(by),
            _ => None,
        };
        if let Some(by) = slow {
            tokio::time::sleep(by).await;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(5);

    /// A server that answers what it is sent.
    async fn echo() -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut one, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = one.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        port
    }

    async fn ask(client: &mut TcpStream) -> io::Result<usize> {
        client.write_all(b"hello").await?;
        let asked = tokio::time::timeout(WITHIN, client.read(&mut [0; 5])).await;
        asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_refuses_new_ones_until_it_is_mended() {
        for broken in [Wire::Cut, Wire::Reset] {
            let proxy = Proxy::to(echo().await).await.unwrap();
            let at = ("127.0.0.1", proxy.port());
            assert!(!proxy.is_used());
            let mut client = TcpStream::connect(at).await.unwrap();
            assert_eq!(ask(&mut client).await.unwrap(), 5);
            assert!(proxy.is_used());
            proxy.set(broken);
            assert!(!ask(&mut client).await.is_ok_and(|read| read > 0), "{broken:?}");
            let mut late = TcpStream::connect(at).await.unwrap();
            assert!(!ask(&mut late).await.is_ok_and(|read| read > 0), "{broken:?}");
            proxy.set(Wire::Open);
            let mut again = TcpStream::connect(at).await.unwrap();
            assert_eq!(ask(&mut again).await.unwrap(), 5);
        }
    }

    #[tokio::test]
    async fn nothing_passes_a_silent_wire_and_everything_arrives_afterwards() {
        let proxy = Proxy::to(echo().await).await.unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        assert_eq!(ask(&mut client).await.unwrap(), 5);
        proxy.set(Wire::Silent);
        client.write_all(b"hello").await.unwrap();
        let mut buffer = [0; 5];
        let silent = tokio::time::timeout(Duration::from_millis(200), client.read(&mut buffer));
        assert!(silent.await.is_err());
        proxy.set(Wire::Slow(Duration::from_millis(1)));
        assert_eq!(client.read_exact(&mut buffer).await.unwrap(), 5);
    }
}
