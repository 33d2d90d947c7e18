//! A Valkey for one test.

#![expect(clippy::disallowed_methods, reason = "a test that waits too long fails by itself")]

use std::sync::Arc;

use redis::{FromRedisValue, ToRedisArgs};
use servers::{Options, Server, Standalone};
use tokio::sync::Mutex;

use crate::valkey::{LuaModule, Valkey};

/// The databases of one server.
const DATABASES: usize = 16;

/// An empty Valkey for one test; only the libraries of functions may be there already. Its server
/// stops when no test uses it any more.
pub struct OwnValkey {
    server: Arc<Standalone>,
    database: usize,
}

impl OwnValkey {
    /// A database on a server that it shares with other tests.
    ///
    /// # Panics
    /// When no server can be started.
    pub async fn open() -> Self {
        static SHARED: Mutex<Option<(Arc<Standalone>, usize)>> = Mutex::const_new(None);
        let mut shared = SHARED.lock().await;
        let (server, database) = match shared.take() {
            Some((server, used)) if used < DATABASES => (server, used),
            _ => (start().await, 0),
        };
        *shared = Some((server.clone(), database + 1));
        Self { server, database }
    }

    /// A server without other tests, for one that stops, configures or wipes it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn alone() -> Self {
        Self { server: start().await, database: 0 }
    }

    /// The server.
    pub fn server(&self) -> &Server {
        self.server.server()
    }

    /// The URL of the database, with the password.
    pub fn url(&self) -> String {
        format!("{}{}", self.server().url(), self.database)
    }

    /// An engine on it.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn engine<L: LuaModule>(&self, config: L::Config) -> Valkey<L> {
        Valkey::new(&self.url(), config).expect("the URL of a server of ours")
    }

    /// Runs a command on a connection of its own.
    ///
    /// # Panics
    /// When it is refused, or its answer is of another type.
    pub async fn redis<T: FromRedisValue>(&self, command: &[impl ToRedisArgs]) -> T {
        let client = redis::Client::open(self.url()).expect("the URL of a server of ours");
        let connected = client.get_multiplexed_async_connection().await;
        let mut connection = connected.expect("Valkey answers");
        let mut run = redis::Cmd::new();
        run.arg(command);
        run.query_async(&mut connection).await.expect("Valkey does it")
    }

    /// Loses all of its content.
    ///
    /// # Panics
    /// When Valkey does not answer.
    pub async fn empty(&self) {
        self.redis::<()>(&["FLUSHDB"]).await;
    }
}

async fn start() -> Arc<Standalone> {
    Arc::new(Standalone::valkey(Options::temporary()).await.expect("Valkey starts"))
}
