//! Runs lines of the page as an operator would: in a shell, in a folder with the keys.

use std::{
    os::unix::fs::symlink,
    path::Path,
    process::{Command as Blocking, Stdio},
    time::Duration,
};

use harness::{
    mesh::{SOON, eventually},
    project,
};
use onsale::{development::environment::Environment, http::Http};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use super::page::Line;

/// How long a line may take; the tool itself waits five seconds for an answer.
const LINE_WITHIN: Duration = Duration::from_secs(60);
/// How the `nats` command names its connections.
const TOOL: &str = "NATS CLI";

/// A shell in a folder of its own.
pub struct Shell {
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
}

/// A line that is running.
pub struct Following {
    command: String,
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
    seen: String,
}

impl Shell {
    /// A shell with the keys and the files that the page names, and with the tool in its path.
    pub fn new(env: &Environment, nats: &Path, schedule: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = env.servers.as_ref().expect("servers of our own").folder();
        symlink(data, folder.path().join(".onsale")).expect("a link");
        symlink(project::root().join("jetstream"), folder.path().join("jetstream"))
            .expect("a link");
        let path = std::env::var("PATH").unwrap_or_default();
        let tool = nats.parent().unwrap_or(Path::new("/")).display();
        let home = folder.path().display().to_string();
        let variables = vec![
            ("PATH", format!("{tool}:{path}")),
            ("HOME", home.clone()),
            ("XDG_CONFIG_HOME", home),
            ("NATS_URL", env.config.nats_url.clone()),
            ("SCHEDULE", schedule.to_owned()),
        ];
        Self { folder, variables }
    }

    fn command(&self, line: &Line) -> Command {
        let mut command = Command::new("bash");
        let variables = self.variables.iter().map(|(name, value)| (*name, value.as_str()));
        command
            .args(["-o", "pipefail", "-c", &line.command])
            .env_clear()
            .envs(variables)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a line to its end. It must succeed and show what the page says; returns what it
    /// printed.
    pub async fn run(&self, line: &Line) -> String {
        let ended = timeout(LINE_WITHIN, self.command(line).output()).await;
        let ended = ended.unwrap_or_else(|_| panic!("does not end: {}", line.command));
        let ended = ended.expect("a shell");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (output, errors) = (text(&ended.stdout), text(&ended.stderr));
        assert!(ended.status.success(), "{}\n{output}\n{errors}", line.command);
        for shown in &line.shows {
            assert!(output.contains(shown), "{} does not show {shown}:\n{output}", line.command);
        }
        output
    }

    /// Starts a line that does not end by itself, with further variables.
    pub fn start(&self, line: &Line, variables: &[(&str, &str)]) -> Following {
        let mut command = self.command(line);
        // The group of the shell, so that all of a pipe is stopped.
        command.envs(variables.iter().copied()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("a shell");
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        Following { command: line.command.clone(), child, output, seen: String::new() }
    }
}

impl Following {
    /// Waits until it has shown all of this.
    pub async fn shows(&mut self, expected: &[String]) {
        while !expected.iter().all(|shown| self.seen.contains(shown)) {
            let next = timeout(SOON, self.output.next_line()).await;
            let (command, seen) = (&self.command, &self.seen);
            let next =
                next.unwrap_or_else(|_| panic!("{command} does not show {expected:?}:\n{seen}"));
            let next = next.expect("text");
            let next = next.unwrap_or_else(|| panic!("{command} has ended:\n{seen}"));
            self.seen.push_str(&next);
            self.seen.push('\n');
        }
    }

    /// Stops it.
    pub async fn stop(mut self) {
        self.signal();
        timeout(SOON, self.child.wait()).await.expect("it ends").expect("it was there");
    }

    /// Ends the shell and what it started, by the id of its group.
    fn signal(&self) {
        let id = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        if let Some(id) = id {
            // It fails only when all of them have ended.
            let _ = rustix::process::kill_process_group(id, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for Following {
    /// Also when a test fails in between.
    fn drop(&mut self) {
        self.signal();
    }
}

/// Whether a program is installed.
pub fn is_there(program: &str) -> bool {
    let looked = Blocking::new("bash").args(["-c", "command -v \"$0\"", program]).output();
    looked.expect("a shell").status.success()
}

/// Waits until the broker knows a subscription of the `nats` command besides its inbox, or until
/// it knows none any more.
pub async fn subscribed(line: &Line, monitor: &str, expected: bool) {
    let monitor = Http::new(monitor);
    let what = format!("there is a subscription, {expected}: {}", line.command);
    eventually(&what, || async {
        let all = monitor.get("/connz?subs=1&limit=1024").send().await.expect("sent");
        let all: Value = all.json().expect("connections");
        let connections = all["connections"].as_array().into_iter().flatten();
        let of_tool = connections
            .filter(|one| one["name"].as_str().is_some_and(|name| name.starts_with(TOOL)));
        let mut subjects = of_tool
            .flat_map(|one| one["subscriptions_list"].as_array().into_iter().flatten())
            .filter_map(Value::as_str);
        let is_subscribed = subjects.any(|subject| !subject.starts_with("_INBOX"));
        (is_subscribed == expected).then_some(())
    })
    .await;
}
