//! Tests of the servers as the demo and the tests of the mesh use them.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_nats::jetstream;
use servers::{Error, Options, Servers};
use sqlx::{Connection, PgConnection};

/// How long a test waits for anything.
const LIMIT: Duration = Duration::from_secs(20);

async fn nats(servers: &Servers, identity: &str) -> async_nats::Client {
    async_nats::ConnectOptions::with_nkey(servers.nkey_seed(identity).to_owned())
        .custom_inbox_prefix(format!("_INBOX_{identity}"))
        .connect(servers.nats.url())
        .await
        .unwrap()
}

async fn valkey(servers: &Servers) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(servers.valkey.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// Whether a process still runs; a zombie does not.
fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

fn gone_in_time(pids: &[u32]) -> bool {
    let deadline = Instant::now() + LIMIT;
    while pids.iter().any(|pid| runs(*pid)) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

fn pids(servers: &Servers) -> Vec<u32> {
    [&servers.nats, &servers.postgres, &servers.valkey].map(|server| server.pid().unwrap()).into()
}

/// Kills a process as a crash would, without the knowledge of the keeper.
fn crash(pid: u32) {
    let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap();
    assert!(killed.success());
}

/// Services with a database.
const SERVICES: [&str; 3] = ["user", "payment", "point"];

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_is_restarted_and_that_is_reported() {
    let servers = Servers::start(Options::temporary().databases(SERVICES)).await.unwrap();
    let reported = Arc::new(Mutex::new(Vec::new()));
    let lines = reported.clone();
    let keeper =
        servers.keep(Arc::new(move |line: &str| lines.lock().unwrap().push(line.to_owned())));
    for server in [&servers.nats, &servers.postgres, &servers.valkey] {
        let before = server.pid().unwrap();
        crash(before);
        let deadline = Instant::now() + LIMIT;
        while server.pid().is_none_or(|pid| pid == before) {
            assert!(Instant::now() < deadline, "{} is not back: {:?}", server.name(), reported);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    PgConnection::connect(&servers.database_url("point")).await.unwrap();
    let _: String = redis::cmd("PING").query_async(&mut valkey(&servers).await).await.unwrap();
    nats(&servers, "point").await.flush().await.unwrap();
    let ended = |name: &&str| {
        reported.lock().unwrap().iter().any(|line| line.starts_with(&format!("{name} has ended (")))
    };
    assert!(["nats", "postgres", "valkey"].iter().all(ended), "{reported:?}");

    // A server that is stopped on purpose stays stopped, while another is restarted.
    servers.valkey.kill();
    reported.lock().unwrap().clear();
    crash(servers.nats.pid().unwrap());
    let deadline = Instant::now() + LIMIT;
    while !reported.lock().unwrap().iter().any(|line| line == "nats is back") {
        assert!(Instant::now() < deadline, "{reported:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(servers.valkey.pid(), None);
    assert!(
        !reported.lock().unwrap().iter().any(|line| line.starts_with("valkey")),
        "{reported:?}"
    );
    drop(keeper);
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_data_survives_a_kill_of_each_server() {
    let servers = Servers::start(Options::temporary().databases(SERVICES)).await.unwrap();
    let url = servers.database_url("point");
    let mut database = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("create table kept (n int); insert into kept values (7)")
        .execute(&mut database)
        .await
        .unwrap();
    let mut store = valkey(&servers).await;
    let _: () = redis::cmd("SET").arg("kept").arg(7).query_async(&mut store).await.unwrap();
    let client = nats(&servers, "provisioner").await;
    let stream = jetstream::stream::Config {
        name: "POINT".into(),
        subjects: vec!["onsale.point.>".into()],
        ..Default::default()
    };
    jetstream::new(client.clone()).create_stream(stream).await.unwrap();
    let point = jetstream::new(nats(&servers, "point").await);
    point.publish("onsale.point.charged.v1.-", "{}".into()).await.unwrap().await.unwrap();

    let before = (servers.nats.url().to_owned(), servers.postgres.port(), pids(&servers));
    for server in [&servers.nats, &servers.postgres, &servers.valkey] {
        server.kill();
        assert_eq!(server.pid(), None);
        server.restart().await.unwrap();
    }
    let after = (servers.nats.url().to_owned(), servers.postgres.port());
    assert_eq!((before.0, before.1), after, "each is at the same address");
    assert!(gone_in_time(&before.2));

    let mut database = PgConnection::connect(&url).await.unwrap();
    let n: i32 = sqlx::query_scalar("select n from kept").fetch_one(&mut database).await.unwrap();
    assert_eq!(n, 7);
    let mut store = valkey(&servers).await;
    let n: i32 = redis::cmd("GET").arg("kept").query_async(&mut store).await.unwrap();
    assert_eq!(n, 7);
    let context = jetstream::new(nats(&servers, "provisioner").await);
    let stream = context.get_stream("POINT").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 1);

    let (running, folder) = (pids(&servers), servers.folder().to_owned());
    servers.stop().await;
    assert!(gone_in_time(&running), "stopping leaves no process");
    assert!(!folder.exists(), "a temporary folder is deleted with them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_on_a_full_disk_takes_nothing_and_keeps_what_it_had_taken() {
    let servers = Servers::start(Options::temporary().databases(SERVICES)).await.unwrap();
    let url = servers.database_url("point");
    let mut database = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("create table kept (n int); insert into kept values (1)")
        .execute(&mut database)
        .await
        .unwrap();
    let mut store = valkey(&servers).await;
    let _: () = redis::cmd("SET").arg("kept").arg(1).query_async(&mut store).await.unwrap();
    for server in [&servers.postgres, &servers.valkey] {
        server.limit_files(16).unwrap();
    }
    sqlx::raw_sql("update kept set n = 2").execute(&mut database).await.unwrap_err();
    redis::cmd("SET").arg("kept").arg(2).query_async::<()>(&mut store).await.unwrap_err();
    for server in [&servers.postgres, &servers.valkey] {
        server.kill();
        server.restart().await.unwrap();
    }
    let mut database = PgConnection::connect(&url).await.unwrap();
    let n: i32 = sqlx::query_scalar("select n from kept").fetch_one(&mut database).await.unwrap();
    let mut store = valkey(&servers).await;
    let m: i32 = redis::cmd("GET").arg("kept").query_async(&mut store).await.unwrap();
    assert_eq!((n, m), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_folder_keeps_data_passwords_and_keys() {
    let above = tempfile::tempdir().unwrap();
    open(above.path());
    let folder = above.path().join("kept here");
    let servers = Servers::start(Options::folder(&folder).databases(SERVICES)).await.unwrap();
    let seed = servers.nkey_seed("payment").to_owned();
    let mut database = PgConnection::connect(&servers.database_url("user")).await.unwrap();
    sqlx::raw_sql("create table kept ()").execute(&mut database).await.unwrap();
    let again = Servers::start(Options::folder(&folder).databases(SERVICES)).await;
    assert!(matches!(again, Err(Error::InUse(_))), "a folder is used by one process at a time");
    let running = pids(&servers);
    drop(servers);
    assert!(gone_in_time(&running), "dropping leaves no process");

    let servers = Servers::start(Options::folder(&folder).databases(SERVICES)).await.unwrap();
    assert_eq!(servers.nkey_seed("payment"), seed);
    let mut database = PgConnection::connect(&servers.database_url("user")).await.unwrap();
    sqlx::raw_sql("select from kept").execute(&mut database).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_role_connects_to_the_database_of_another() {
    let servers = Servers::start(Options::temporary().databases(SERVICES)).await.unwrap();
    let own = servers.database_url("payment");
    PgConnection::connect(&own).await.unwrap();
    for other in ["onsale_point", "onsale_user", "postgres", "template1"] {
        let url = own.replace("/onsale_payment?", &format!("/{other}?"));
        let refusal = PgConnection::connect(&url).await.unwrap_err();
        let code = refusal.as_database_error().and_then(|error| error.code()).unwrap_or_default();
        assert_eq!(code, "42501", "{other}: {refusal}");
    }
    let unknown = async_nats::connect(servers.nats.url()).await;
    assert!(unknown.is_err(), "no client gets in without a key");
}

/// Not a test of its own: the parent that [`a_killed_parent_leaves_no_server`] kills.
#[tokio::test]
async fn a_parent_to_be_killed() {
    if env::var_os("ONSALE_TEST_PARENT").is_none() {
        return;
    }
    let servers = Servers::start(Options::temporary().databases(SERVICES)).await.unwrap();
    println!("pids {:?} {}", pids(&servers), servers.folder().display());
    std::future::pending::<()>().await;
}

#[test]
fn a_killed_parent_leaves_no_server() {
    let mut parent = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_parent_to_be_killed", "--nocapture"])
        .env("ONSALE_TEST_PARENT", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let reported = lines.map(Result::unwrap).find_map(|line| {
        let (listed, folder) = line.split_once("pids [")?.1.split_once("] ")?;
        Some((listed.to_owned(), folder.to_owned()))
    });
    let (listed, folder) = reported.expect("the parent says which servers it has started");
    let running: Vec<u32> = listed.split(", ").map(|pid| pid.parse().unwrap()).collect();
    assert!(running.iter().all(|pid| runs(*pid)));
    parent.kill().unwrap();
    parent.wait().unwrap();
    let gone = gone_in_time(&running) && gone_in_time(&working_in(Path::new(&folder)));
    let _ = fs::remove_dir_all(folder);
    assert!(gone, "the servers die with the process that started them");
}

/// The processes whose working directory is in this folder: PostgreSQL's own children.
fn working_in(folder: &Path) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|entry| {
            fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Lets every account pass, since PostgreSQL may run as another one.
fn open(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}
