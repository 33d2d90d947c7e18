//! The API against its own OpenAPI document, with requests that `schemathesis` makes up.
//!
//! As each kind of caller: no answer is a 5xx, every answer has a status, a content type and a
//! body that the document knows, what breaks the document is refused and what keeps to it is
//! read. `tests/hostile/schemathesis.toml` says which checks there are.
//!
//! `SCHEMATHESIS` names the program (`pip install schemathesis`, in the version of `.ci/run`);
//! without it the test says that it was skipped.

use std::{env, process::Stdio, time::Duration};

use harness::{
    mesh::{Mesh, run},
    project,
};
use onsale::http::Http;
use tokio::process::Command;

/// The program.
const PROGRAM: &str = "SCHEMATHESIS";
/// Its configuration.
const CONFIG: &str = "tests/hostile/schemathesis.toml";
/// How long each caller may take.
const BUDGET_SECS: u64 = 8;
/// The last request is answered, and the report written, in this time after the budget.
const REPORT_WITHIN: Duration = Duration::from_secs(90);
/// The requests are the same in every run.
const SEED: &str = "20260501";

#[test]
fn made_up_requests_of_every_caller_are_answered_as_documented() {
    let Ok(program) = env::var(PROGRAM) else {
        eprintln!("skipped: {PROGRAM} does not name the program; see docs/configuration.md");
        return;
    };
    run(async {
        let mesh = Mesh::own().await;
        let fan = mesh.fan(100_000).await;
        let log_in = mesh.http.post("/v1/sessions").json(&mesh.env.operator);
        let operator: events::user::Session =
            log_in.send().await.expect("an answer").json().expect("a session");
        let callers = [
            ("nobody", None),
            ("fan", Some(fan.token())),
            ("organizer", Some(mesh.organizer.access_token.as_str())),
            ("operator", Some(operator.access_token.as_str())),
        ];
        let mut bad = Vec::new();
        for (name, token) in callers {
            // What the caller may do differs; so do the schedules and fans that there are.
            mesh.open(20, |_| {}).await;
            // A closed account can use nothing else.
            let but_one = ["--exclude-operation-id", "withdraw"];
            if let Err(report) = tried(&program, &mesh.http, token, but_one).await {
                bad.push(format!("== as {name}\n{report}"));
            }
        }
        let last = ["--include-operation-id", "withdraw"];
        if let Err(report) = tried(&program, &mesh.http, Some(fan.token()), last).await {
            bad.push(format!("== as a fan who leaves\n{report}"));
        }
        mesh.stop().await;
        assert!(bad.is_empty(), "{}", bad.join("\n"));
    });
}

/// Runs the program as the owner of this token; its report when it has found something.
async fn tried(
    program: &str,
    http: &Http,
    token: Option<&str>,
    which: [&str; 2],
) -> Result<(), String> {
    let folder = std::env::temp_dir().join(format!("onsale-schemathesis-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut command = Command::new(program);
    // Neither its cache nor its reports belong into the checkout.
    command.current_dir(&folder).kill_on_drop(true).stdin(Stdio::null());
    command.arg("--config-file").arg(project::root().join(CONFIG)).arg("run");
    if let Some(token) = token {
        command.arg("--header").arg(format!("Authorization: Bearer {token}"));
    }
    command.args(["--seed", SEED, "--generation-database", "none", "--no-color"]);
    command.args(["--max-examples", "20", "--max-time", &BUDGET_SECS.to_string()]);
    command.args(which).arg(format!("{}/openapi.json", http.base()));
    let limit = Duration::from_secs(BUDGET_SECS) + REPORT_WITHIN;
    let ran = tokio::time::timeout(limit, command.output()).await;
    let ran = ran.unwrap_or_else(|_| panic!("{program} does not end")).expect(program);
    let _ = std::fs::remove_dir_all(&folder);
    let report = String::from_utf8_lossy(&ran.stdout).into_owned();
    match ran.status.success() {
        // A run that has tested nothing has proved nothing.
        true if report.contains(" passed") => Ok(()),
        _ => Err(format!("{report}\n{}", String::from_utf8_lossy(&ran.stderr))),
    }
}
