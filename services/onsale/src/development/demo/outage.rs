//! `--break PART`: one part of the mesh is killed in mid-sale and brought back.

use std::{
    fmt,
    process::Stdio,
    str::FromStr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use servers::Server;
use tokio::process::{Child, Command};

use super::{crowd::Board, show::Show};
use crate::{
    development::environment::{Environment, ask_to_stop},
    registry::SERVICES,
};

/// Servers that can be broken, beside every service.
const SERVERS: [&str; 3] = ["nats", "postgres", "valkey"];
/// How long the part stays dead.
const DEAD_FOR: Duration = Duration::from_millis(1_500);
/// How long a service may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// How often the board is polled for the middle of the sale.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// A part of the mesh that can be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part(&'static str);

impl FromStr for Part {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        SERVICES.into_iter().chain(SERVERS).find(|part| *part == text).map(Self).with_context(
            || format!("parts are {} and {}", SERVICES.join(", "), SERVERS.join(", ")),
        )
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What will be killed, and how it runs until then.
pub(super) struct Outage {
    part: Part,
    how: How,
}

enum How {
    /// A service in a process of its own, so that it can be killed like one.
    Process { env: Vec<(String, String)>, child: Option<Box<Child>> },
    /// One of the servers.
    Server(Server),
}

/// A part that is back; it is killed when this is dropped.
pub(super) struct Back(Option<Child>);

impl Back {
    /// Lets the part finish the messages that it has accepted, like any other.
    pub(super) async fn stop(self) {
        let Some(mut child) = self.0 else { return };
        if let Some(pid) = child.id() {
            ask_to_stop(pid);
        }
        // It is killed when it does not end by itself.
        let _ = tokio::time::timeout(STOP_WITHIN, child.wait()).await;
    }
}

impl Outage {
    pub(super) fn new(part: Part, env: &Environment) -> Result<Self> {
        let how = if SERVERS.contains(&part.0) {
            let server = env
                .servers
                .as_ref()
                .and_then(|servers| servers.by_name(part.0))
                .context("only servers that were started here can be broken")?;
            How::Server(server.clone())
        } else {
            let mut variables = env.config.to_env();
            variables.push(("ONSALE_OPERATOR_EMAIL".into(), env.operator.email.clone()));
            variables.push(("ONSALE_OPERATOR_PASSWORD".into(), env.operator.password.clone()));
            variables.push(("ONSALE_LOGIN_RATE_PER_MINUTE".into(), "0".into()));
            variables.push(("ONSALE_HOLD_GRACE_SECS".into(), "5".into()));
            variables.extend(folders(env));
            How::Process { env: variables, child: None }
        };
        Ok(Self { part, how })
    }

    /// The service that must not run in this process.
    pub(super) fn service(&self) -> Option<&'static str> {
        matches!(self.how, How::Process { .. }).then_some(self.part.0)
    }

    /// Starts the part, when it is a process of its own.
    pub(super) async fn start_part(&mut self) -> Result<()> {
        if let How::Process { env, child } = &mut self.how {
            *child = Some(Box::new(spawn(self.part, env)?));
        }
        Ok(())
    }

    /// Waits for the middle of the sale, kills the part, and brings it back.
    pub(super) fn strike_in_the_middle(
        self,
        board: Arc<Board>,
        seats: usize,
        show: Show,
    ) -> tokio::task::JoinHandle<Result<Back>> {
        tokio::spawn(async move {
            // A third of the seats paid, or the crowd gone before that.
            let middle = (seats / 3).max(1) as u64;
            while board.paid.load(Ordering::Relaxed) < middle && !board.is_over() {
                tokio::time::sleep(POLL_EVERY).await;
            }
            show.warn(&format!("killing {}", self.part));
            let back = match self.how {
                How::Process { env, child } => {
                    if let Some(mut child) = child {
                        child.kill().await.context("killing the process")?;
                    }
                    tokio::time::sleep(DEAD_FOR).await;
                    Back(Some(spawn(self.part, &env)?))
                }
                How::Server(server) => {
                    server.kill();
                    tokio::time::sleep(DEAD_FOR).await;
                    server.restart().await?;
                    Back(None)
                }
            };
            show.warn(&format!("{} is back", self.part));
            Ok(back)
        })
    }
}

/// Where a service in a process of its own writes what it would write in this one.
fn folders(env: &Environment) -> [(String, String); 4] {
    let folder = |folder: std::path::PathBuf| folder.to_string_lossy().into_owned();
    [
        ("ONSALE_NOTIFY".into(), "folder".into()),
        ("ONSALE_NOTIFY_FOLDER".into(), folder(env.messages_folder())),
        (data_platform::FOLDER_VARIABLE.into(), folder(env.export_folder())),
        (data_platform::URL_VARIABLE.into(), String::new()),
    ]
}

fn spawn(part: Part, env: &[(String, String)]) -> Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["run", part.0, "--with-parent"])
        .envs(env.iter().map(|(name, value)| (name, value)))
        // The log of a broken mesh would drown the output of the demo.
        .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "off".into()))
        // It ends when this pipe closes, however this process ends.
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {part} in a process of its own"))
}
