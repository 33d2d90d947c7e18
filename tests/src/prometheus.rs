//! The real Prometheus of the package `prometheus`, where it is installed.

use std::{
    ffi::OsStr,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use onsale::http::Http;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    mesh::{SOON, eventually},
    project,
};

/// How often it scrapes and evaluates; in a deployment it is 5 s.
const INTERVAL: &str = "1s";
/// How often a start on a port that was taken meanwhile is repeated.
const STARTS_MAX: usize = 5;
/// The pause before a start is known to have failed.
const PROBE: Duration = Duration::from_millis(20);

/// Whether a program can be run.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Runs `promtool`, and returns what it says; `None` where it is not installed.
///
/// # Errors
/// What it says when it fails.
pub fn promtool(
    words: &[&str],
    files: impl IntoIterator<Item = PathBuf>,
) -> Result<Option<String>, String> {
    if !is_installed("promtool") {
        return Ok(None);
    }
    let ran = Command::new("promtool").args(words).args(files).output();
    let ran = ran.map_err(|why| why.to_string())?;
    let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
    if ran.status.success() { Ok(Some(said)) } else { Err(said) }
}

/// One series of an answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Sample {
    /// Its labels.
    pub metric: std::collections::BTreeMap<String, String>,
    /// Time and value.
    value: (f64, String),
}

impl Sample {
    /// Its value.
    ///
    /// # Panics
    /// When it is no number.
    pub fn number(&self) -> f64 {
        self.value.1.parse().expect("a number")
    }
}

/// A running Prometheus with the rules of `deploy/`. It stops when dropped.
pub struct Prometheus {
    http: Http,
    child: Child,
    /// Its configuration, its data and its log.
    _folder: TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It has nothing to keep. Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Whether there is one to start.
    pub fn is_installed() -> bool {
        is_installed("prometheus") && is_installed("setpriv")
    }

    /// Starts one that scrapes `targets` as the job `onsale`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start(targets: &[SocketAddr]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("prometheus.yml");
        fs::write(&config, configuration(targets).to_string()).expect("its configuration");
        for _ in 0..STARTS_MAX {
            let addr = free_addr();
            let mut child = spawn(folder.path(), &config, addr);
            let http = Http::new(format!("http://{addr}"));
            let until = tokio::time::Instant::now() + SOON;
            while child.try_wait().expect("its state").is_none() {
                assert!(tokio::time::Instant::now() < until, "prometheus is not ready");
                let ready = http.get("/-/ready").send().await;
                if ready.is_ok_and(|answer| answer.status == 200) {
                    return Self { http, child, _folder: folder };
                }
                tokio::time::sleep(PROBE).await;
            }
        }
        let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        panic!("prometheus does not start: {log}");
    }

    /// Evaluates a query now.
    ///
    /// # Errors
    /// What Prometheus says against it.
    pub async fn query(&self, expr: &str) -> Result<Vec<Sample>, String> {
        let answer = self.get(&format!("/api/v1/query?query={}", in_url(expr))).await?;
        serde_json::from_value(answer["result"].clone()).map_err(|why| format!("{why}: {answer}"))
    }

    /// The value of a query with one result.
    pub async fn value(&self, expr: &str) -> Option<f64> {
        self.query(expr).await.ok()?.first().map(Sample::number)
    }

    /// Waits until a query has a result that `is_wanted`.
    ///
    /// # Panics
    /// When it has none in time.
    pub async fn becomes(&self, expr: &str, is_wanted: impl Fn(f64) -> bool) -> f64 {
        eventually(&format!("the value of {expr}"), || async {
            self.value(expr).await.filter(|value| is_wanted(*value))
        })
        .await
    }

    /// `data` of an answer of its API.
    ///
    /// # Errors
    /// What Prometheus says against it.
    pub async fn get(&self, path: &str) -> Result<Value, String> {
        let answer = self.http.get(path).send().await.map_err(|why| why.to_string())?;
        let answer: Value = serde_json::from_slice(&answer.body).map_err(|why| why.to_string())?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
            _ => Err(answer.to_string()),
        }
    }
}

/// The configuration of `deploy/`, with these targets in place of the containers. JSON is YAML.
fn configuration(targets: &[SocketAddr]) -> Value {
    let text = project::read("deploy/prometheus/prometheus.yml");
    let mut config: Value = serde_saphyr::from_str(&text).expect("YAML");
    for key in ["scrape_interval", "scrape_timeout", "evaluation_interval"] {
        config["global"][key] = json!(INTERVAL);
    }
    let rules = project::root().join("deploy/prometheus/rules/*.yml");
    config["rule_files"] = json!([rules]);
    let jobs = config["scrape_configs"].as_array_mut().expect("jobs");
    jobs.retain(|job| job["job_name"] == "onsale");
    let job = jobs[0].as_object_mut().expect("a job");
    job.remove("dns_sd_configs").expect("containers");
    let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
    job.insert("static_configs".to_owned(), json!([{ "targets": targets }]));
    config
}

fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address")
}

/// It ends with the thread of its test, also when that is killed.
fn spawn(folder: &Path, config: &Path, addr: SocketAddr) -> Child {
    let log = fs::File::create(folder.join("log")).expect("a log");
    let flag = |name: &str, value: &OsStr| {
        let mut flag = std::ffi::OsString::from(format!("--{name}="));
        flag.push(value);
        flag
    };
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "prometheus"])
        .arg(flag("config.file", config.as_os_str()))
        .arg(flag("storage.tsdb.path", folder.join("data").as_os_str()))
        .arg(format!("--web.listen-address={addr}"))
        .arg("--enable-feature=exemplar-storage")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("prometheus is run")
}

/// A text as a value in an address.
fn in_url(text: &str) -> String {
    let escaped = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escaped).collect()
}
