//! `onsale top` shows a mesh: as JSON, as a line, on the screen of a terminal; and whatever is left
//! of it when parts are down.

use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use harness::mesh::{Mesh, eventually, run};
use rustix::{
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use serde_json::Value;

use crate::{
    dead_letters::lines::poison,
    program::{PROGRAM, output, signal, variables},
    unwell::process::Paused,
};

/// How long it may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// Our screen is left.
const LEFT: &str = "\x1b[?25h\x1b[?1049l";

/// How the program reaches a mesh, with its gateway.
fn reach(mesh: &Mesh) -> Vec<(String, String)> {
    let mut variables = variables(&mesh.env);
    variables.push(("ONSALE_URL".into(), mesh.http.base().to_owned()));
    variables
}

/// One look, as JSON.
async fn look(mesh: &Mesh) -> Value {
    let reach = reach(mesh);
    let args = ["top", "--once", "--json", "--every", "0.5"];
    let printed = tokio::task::spawn_blocking(move || output(&args, reach)).await.expect("ended");
    assert!(printed.0, "{}", printed.1);
    serde_json::from_str(&printed.1).unwrap_or_else(|error| panic!("{error}: {}", printed.1))
}

fn service<'a>(look: &'a Value, name: &str) -> &'a Value {
    let services = look["services"].as_array().expect("services");
    services.iter().find(|one| one["service"] == name).expect("a service")
}

#[test]
fn top_shows_the_sale_the_services_and_what_needs_an_operator() {
    run(async {
        let mesh = Mesh::own().await;
        let schedule = mesh.open(5, |opening| opening.admission.active_max = 2).await.schedule_id;
        let fans = [mesh.fan(200).await, mesh.fan(200).await, mesh.fan(0).await];
        let sold = fans[0].hold(schedule, &["A-1-1", "A-1-2"]).await;
        fans[0].pay(&sold).await;
        fans[1].hold(schedule, &["A-1-3"]).await;
        fans[2].admitted(schedule).await;
        mesh.fan(0).await.enter(schedule).await;
        poison(&mesh, &fans[0]).await;

        eventually("top shows all of it", || async {
            let look = look(&mesh).await;
            let sale = &look["schedules"]["seen"][0];
            let dead = &look["dead_letters"]["seen"][0];
            let shown = sale["schedule_id"] == schedule.to_string()
                && (sale["seats"] == 5 && sale["taken"] == serde_json::json!([1, 2]))
                && (sale["room"]["waiting"] == 1 && sale["room"]["admitted"] == 2)
                && look["payments"]["seen"]["completed"] == 1
                && look["services"].as_array()?.iter().all(|one| one["is_ready"] == true)
                && (service(&look, "point")["dead"] == 1
                    && service(&look, "point")["unpublished"] == 0)
                && (dead["event"] == "payment.requested" && look["sagas"]["seen"]["stalled"] == 0)
                && look["broker"]["seen"].as_array()?.is_empty();
            shown.then_some(())
        })
        .await;
        let look = look(&mesh).await;
        let consumers = look["consumers"].as_array().expect("consumers");
        let of = |service: &str| consumers.iter().filter(|one| one["service"] == service).count();
        assert!(of("point") > 0 && of("audit") > 0, "{consumers:?}");
        assert!(service(&look, "payment")["published_per_sec"].is_f64(), "{look}");
        assert!(service(&look, "payment")["published"].as_u64() > Some(0), "{look}");

        let reach = reach(&mesh);
        let args = ["top", "--once", "--every", "0.5"];
        let (_, line) = tokio::task::spawn_blocking(move || output(&args, reach)).await.expect("");
        assert_eq!(line.lines().count(), 1, "{line}");
        for part in ["free 2 held 1 sold 2 waiting 1", "1 completed", "11/11 ready", "dead 1"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(!line.contains("not reachable"), "{line}");
        mesh.stop().await;
    });
}

#[test]
fn top_goes_on_without_the_broker_a_database_and_the_gateway() {
    run(async {
        let mesh = Mesh::own().await;
        let schedule = mesh.open(2, |_| {}).await.schedule_id;
        mesh.fan(100).await.hold(schedule, &["A-1-1"]).await;
        let servers = mesh.env.servers.as_ref().expect("servers of our own");
        servers.nats.kill();
        eventually("top says that there is no broker", || async {
            let look = look(&mesh).await;
            let sale = &look["schedules"]["seen"][0];
            let why = look["broker"]["not_reachable"].as_str()?;
            assert!(why.contains("NATS cannot be reached"), "{look}");
            (sale["taken"][0] == 1 && service(&look, "point")["is_ready"].is_null()).then_some(())
        })
        .await;
        servers.nats.restart().await.expect("the broker runs again");
        // A server that is silent costs no more than the time of a look.
        let paused = Paused::of(&servers.postgres);
        let found = look(&mesh).await;
        assert!(found["payments"]["not_reachable"].is_string(), "{found}");
        assert!(found["broker"]["seen"].is_array(), "{found}");
        drop(paused);
        mesh.stop().await;
    });
}

/// The program on a terminal of its own.
struct OnTerminal {
    child: Child,
    terminal: File,
    screen: Arc<Mutex<String>>,
}

impl OnTerminal {
    fn start(mesh: &Mesh, columns: u16, rows: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let name = ptsname(&master, Vec::new()).expect("a name");
        resize(&master, columns, rows);
        let slave = || {
            let path = name.to_str().expect("a path");
            File::options().read(true).write(true).open(path).expect("opened")
        };
        let child = Command::new(PROGRAM)
            .args(["top", "--every", "0.3"])
            .envs(reach(mesh))
            .env_remove("NO_COLOR")
            .env("TERM", "xterm-256color")
            .stdin(Stdio::from(slave()))
            .stdout(Stdio::from(slave()))
            .stderr(Stdio::from(slave()))
            .spawn()
            .expect("started");
        let terminal = File::from(master);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut from, into) = (terminal.try_clone().expect("a handle"), screen.clone());
        std::thread::spawn(move || {
            let mut part = [0; 4_096];
            while let Ok(read @ 1..) = from.read(&mut part) {
                let text = String::from_utf8_lossy(&part[..read]).into_owned();
                into.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Self { child, terminal, screen }
    }

    fn written(&self) -> String {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn shows(&self, text: &str) {
        eventually(&format!("the screen shows {text}"), || async {
            self.written().contains(text).then_some(())
        })
        .await;
    }

    fn is_plain(&self) -> bool {
        let modes = tcgetattr(&self.terminal).expect("a terminal").local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Waits for its end; the terminal must be as it was.
    async fn ends(mut self) {
        let until = Instant::now() + ENDS_WITHIN;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < until, "it does not end: {:?}", self.written());
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(status.success(), "{status}");
        eventually("the screen is left", || async {
            self.screen.lock().unwrap_or_else(PoisonError::into_inner).ends_with(LEFT).then_some(())
        })
        .await;
        let modes = tcgetattr(&self.terminal).expect("a terminal").local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO), "{modes:?}");
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(terminal: &impl std::os::fd::AsFd, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("resized");
}

#[test]
fn top_leaves_the_terminal_as_it_was_and_draws_only_what_has_changed() {
    run(async {
        let mesh = Mesh::own().await;
        mesh.open(2, |_| {}).await;
        let mut top = OnTerminal::start(&mesh, 100, 30);
        top.shows("A concert, A hall").await;
        top.shows("SERVICES").await;
        assert!(!top.is_plain(), "each key is delivered at once, and none is shown");
        let written = top.written();
        assert!(written.starts_with("\x1b[?1049h"), "{written:?}");
        // A second passes, and with it at least one line; the title stays where it is.
        eventually("three more looks", || async {
            let more = top.written().split_off(written.len());
            (more.matches("\x1b[?2026h").count() >= 4).then_some(())
        })
        .await;
        let more = top.written().split_off(written.len());
        assert!(!more.contains("A concert, A hall") && !more.contains("\x1b[2J"), "{more:?}");

        resize(&top.terminal, 60, 12);
        signal(top.child.id(), Signal::WINCH);
        eventually("it is drawn anew, in the new size", || async {
            let more = top.written().split_off(written.len());
            let (_, anew) = more.rsplit_once("\x1b[2J")?;
            assert!(!anew.contains("\x1b[13;1H"), "no line below the screen: {anew:?}");
            anew.contains("\x1b[12;1H").then_some(())
        })
        .await;
        top.terminal.write_all(b"q").expect("pressed");
        top.ends().await;

        let interrupted = OnTerminal::start(&mesh, 100, 30);
        interrupted.shows("SERVICES").await;
        signal(interrupted.child.id(), Signal::INT);
        interrupted.ends().await;
        mesh.stop().await;
    });
}
