//! A gateway in a process of its own: the program itself, on the servers of the shared mesh.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use harness::mesh::{SOON, eventually, shared};
use onsale::http::Http;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};

use crate::program::PROGRAM;

/// How long a client may wait for the catalogue while others attack.
const SERVED_WITHIN: Duration = Duration::from_secs(10);

/// The process.
pub struct Gateway {
    child: Child,
    /// Where it listens.
    pub addr: SocketAddr,
    /// A client of it.
    pub http: Http,
    /// Its memory once it was ready.
    begun_with_kib: u64,
}

impl Gateway {
    /// Starts one that may have so many files open; as many as the system allows when `None`.
    pub async fn start(files_max: Option<u64>) -> Self {
        let mesh = shared().await;
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = free.local_addr().expect("an address");
        drop(free);
        let config = onsale::config::Config { http_addr: Some(addr), ..mesh.env.config.clone() };
        let limit = files_max.map_or_else(String::new, |files| format!("ulimit -n {files}; "));
        let child = Command::new("sh")
            .args(["-c", &format!("{limit}exec \"$0\" run gateway --with-parent"), PROGRAM])
            .envs(config.to_env())
            .env("ONSALE_LOGIN_RATE_PER_MINUTE", "off")
            .env("RUST_LOG", "error")
            .stdin(Stdio::piped())
            .spawn()
            .expect(PROGRAM);
        let http = Http::new(format!("http://{addr}"));
        eventually("the gateway is ready", || async {
            let ready = http.get("/readyz").send().await.ok()?;
            (ready.status == 200).then_some(())
        })
        .await;
        // What the first requests need is not the attack's.
        for _ in 0..20 {
            http.get("/v1/concerts").send().await.expect("an answer");
        }
        let mut gateway = Self { child, addr, http, begun_with_kib: 0 };
        gateway.begun_with_kib = gateway.rss_kib();
        gateway
    }

    /// Its memory, in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.trim().parse().ok()).expect("a number")
    }

    /// It has grown by no more than this; prints by how much.
    pub fn has_grown_by_at_most(&self, what: &str, mib: u64) {
        let grown = self.rss_kib().saturating_sub(self.begun_with_kib) / 1024;
        println!("{what}: the gateway's memory grew by {grown} MiB of {mib} MiB allowed");
        assert!(grown <= mib, "{what}: the gateway's memory grew by {grown} MiB");
    }

    /// A client that does no harm is served.
    pub async fn serves(&self, while_what: &str) {
        let ask = self.http.get("/v1/concerts");
        let served = tokio::time::timeout(SERVED_WITHIN, ask.send()).await;
        let answer = served.unwrap_or_else(|_| panic!("not served while {while_what}"));
        assert_eq!(answer.expect("an answer").status, 200, "while {while_what}");
    }

    /// A new connection.
    pub async fn connect(&self) -> TcpStream {
        let connected = tokio::time::timeout(SOON, TcpStream::connect(self.addr)).await;
        connected.expect("in time").expect("a connection")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It has nothing to keep. It may be gone already, and then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many files this process may have open, once its limit is as high as the system allows.
pub fn files_max() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the soft limit");
    maximum.unwrap_or(u64::MAX)
}
