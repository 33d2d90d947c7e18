//! The program as a process of its own, on servers of the harness.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use harness::mesh::{Mesh, eventually};
use onsale::{development::environment::Environment, http::Http};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::Instant;

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_onsale-under-test");
/// How long a process may take to end after it was asked to.
const ENDS_WITHIN: Duration = Duration::from_secs(40);

/// The environment variables with which the program reaches these servers.
pub fn variables(env: &Environment) -> Vec<(String, String)> {
    let mut variables = env.config.to_env();
    let folder = |folder: std::path::PathBuf| folder.to_string_lossy().into_owned();
    let own = [
        ("ONSALE_OPERATOR_EMAIL", env.operator.email.clone()),
        ("ONSALE_OPERATOR_PASSWORD", env.operator.password.clone()),
        ("ONSALE_NOTIFY_FOLDER", folder(env.messages_folder())),
        ("ONSALE_EXPORT_FOLDER", folder(env.export_folder())),
        ("ONSALE_LOGIN_RATE_PER_MINUTE", "off".into()),
    ];
    variables.extend(own.map(|(name, value)| (name.to_owned(), value)));
    variables
}

/// A process that is killed when this is dropped.
pub struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts the program with these arguments and variables, and keeps what it logs.
    pub fn start(args: &[&str], variables: Vec<(String, String)>) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(args)
            .env_remove("RUST_LOG")
            .env_remove("ONSALE_LOG_FORMAT")
            .envs(variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = lines.clone();
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                into.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { child, lines, reader: Some(reader) }
    }

    /// Starts every service on these servers, and returns the mesh once the gateway is ready.
    /// `filter` says what is logged.
    pub async fn run_all(env: Environment, filter: Option<&str>) -> (Self, Mesh) {
        let mut variables = variables(&env);
        variables.retain(|(name, _)| name != "ONSALE_HTTP_ADDR");
        variables.push(("ONSALE_HTTP_ADDR".into(), "127.0.0.1:0".into()));
        variables.extend(filter.map(|filter| ("RUST_LOG".into(), filter.to_owned())));
        let process = Self::start(&["run", "--all", "--with-parent"], variables);
        let addr = eventually("the gateway listens", || async {
            let is_it = |line: &Value| line["fields"]["message"] == "the gateway listens";
            let line = process.logged().into_iter().find(is_it)?;
            Some(line["fields"]["addr"].as_str().expect("an address").to_owned())
        })
        .await;
        let mesh = Mesh::elsewhere(env, Http::new(format!("http://{addr}"))).await;
        (process, mesh)
    }

    /// What it has logged so far, each line as JSON.
    pub fn logged(&self) -> Vec<Value> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let parsed = |line: &String| {
            serde_json::from_str(line).unwrap_or_else(|_| panic!("this is not JSON: {line}"))
        };
        lines.iter().map(parsed).collect()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop and waits for its end; returns what it has logged, line by line.
    pub async fn stop(mut self) -> Vec<String> {
        signal(self.pid(), Signal::TERM);
        let until = Instant::now() + ENDS_WITHIN;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < until, "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(status.success(), "{status}");
        self.reader.take().expect("it reads").join().expect("read to the end");
        std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process that we have started.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("the id of a process");
    kill_process(pid, signal).expect("sent");
}

/// Runs the program to its end; returns whether it succeeded, and what it printed.
pub fn output(args: &[&str], variables: Vec<(String, String)>) -> (bool, String) {
    let mut child = Command::new(PROGRAM)
        .args(args)
        .envs(variables)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut printed = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut printed).expect("text");
    (child.wait().expect("ended").success(), printed)
}
