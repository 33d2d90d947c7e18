//! A broker of three nodes, of which one is hit.

#![expect(clippy::disallowed_methods, reason = "a test that waits too long fails by itself")]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use async_nats::{Client, ConnectOptions, jetstream};
use futures::StreamExt;
use mesh::{Link, LinkSettings, MeshClient, topology::Topology, trace::Tracer};
use servers::{Options, Servers};

/// How long the test waits for anything.
const LIMIT: Duration = Duration::from_secs(30);
/// How long the nodes may take to answer.
const ANSWERED: Duration = Duration::from_millis(300);

fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../jetstream").join(folder);
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
    };
    fs::read_dir(folder).unwrap().map(read).collect()
}

async fn link(servers: &Servers, service: &'static str) -> Link {
    let settings = LinkSettings {
        service,
        nats_url: servers.nats_url(),
        nkey_seed: Some(servers.nkey_seed(service).to_owned()),
    };
    Link::connect(settings, Tracer::off()).await.unwrap()
}

/// A connection as that user.
async fn user(servers: &Servers, identity: &str) -> Client {
    let addresses: Vec<String> = servers.nats_url().split(',').map(str::to_owned).collect();
    ConnectOptions::with_nkey(servers.nkey_seed(identity).to_owned())
        .custom_inbox_prefix(format!("_INBOX_{identity}"))
        .connect(addresses)
        .await
        .unwrap()
}

/// What each node says of itself.
async fn reports(client: &Client) -> Vec<String> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    client.publish_with_reply("broker.health", inbox, "".into()).await.unwrap();
    let mut reports = Vec::new();
    while let Ok(Some(answer)) = tokio::time::timeout(ANSWERED, answers.next()).await {
        reports.push(String::from_utf8_lossy(&answer.payload).into_owned());
    }
    reports
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_of_three_that_cannot_write_is_no_fault_of_the_broker() {
    let servers = Servers::start(Options::temporary().three_nodes()).await.unwrap();
    let provisioner = link(&servers, "provisioner").await;
    let topology = Topology::parse(&files("streams"), &files("consumers")).unwrap();
    topology.with_replicas(3).apply(&provisioner).await.unwrap();
    let (client, point) = (user(&servers, "provisioner").await, user(&servers, "point").await);
    let until = Instant::now() + LIMIT;
    while reports(&client).await.iter().filter(|said| !said.contains("error")).count() < 3 {
        assert!(Instant::now() < until, "not all nodes are healthy");
    }

    let leader = servers.leader_of(Some("POINT")).await.expect("a leader");
    leader.limit_files(16).unwrap();
    let stream = jetstream::new(point);
    let is_faulty = |said: &String| said.contains("\"error\"");
    let (until, mut written) = (Instant::now() + LIMIT, 0);
    let mut said = Vec::new();
    while written < 10 || !said.iter().any(is_faulty) {
        assert!(Instant::now() < until, "{written} written; the nodes say {said:?}");
        let sent = stream.publish("onsale.point.charged.v1.-", "[]".into()).await;
        let stored = tokio::time::timeout(Duration::from_secs(1), async { sent?.await });
        written += usize::from(stored.await.is_ok_and(|stored| stored.is_ok()));
        said = reports(&client).await;
    }
    let mesh = MeshClient::new(provisioner);
    for _ in 0..5 {
        assert_eq!(mesh.broker_fault().await.unwrap(), None, "the nodes say {said:?}");
    }
}
