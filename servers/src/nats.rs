//! Runs NATS with the configuration that the project ships.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
};

use rustix::process::Signal;

use crate::{
    binaries::Binary,
    error::Error,
    identities::NATS_CONF,
    options::Ports,
    ports::free_port,
    probe,
    process::Launch,
    secrets::{self, Nkeys, private_folder},
    server::{Plan, Server},
};

/// The nodes of a broker. It has the first one, or all of them.
pub(crate) const NODES: [&str; 3] = ["nats", "nats-2", "nats-3"];
/// More than the monitoring ever answers.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A broker and what its nodes share.
struct Broker<'a> {
    binary: &'a Binary,
    folder: &'a Path,
    nkeys: &'a Nkeys,
    /// The port of each node for the others; none when there is only one.
    routes: Vec<u16>,
}

/// Starts the nodes of a broker; returns each with its monitoring port.
pub(crate) fn start(
    binary: &Binary,
    folder: &Path,
    nkeys: &Nkeys,
    ports: Ports,
    nodes: usize,
) -> Result<Vec<(Server, u16)>, Error> {
    let routes = if nodes > 1 { NODES.map(|_| free_port()).to_vec() } else { Vec::new() };
    let broker = Broker { binary, folder, nkeys, routes };
    // No node is ready before it knows a leader, so they start in parallel.
    std::thread::scope(|scope| {
        let starting = (0..nodes).map(|index| {
            let ports = if index == 0 { ports } else { Ports::default() };
            let broker = &broker;
            scope.spawn(move || start_node(broker, index, ports))
        });
        let starting: Vec<_> = starting.collect();
        let started = starting.into_iter().map(|node| node.join());
        started.map(|node| node.expect("starting a server does not panic")).collect()
    })
}

impl Broker<'_> {
    /// The configuration of a node.
    fn conf_of(&self, index: usize) -> String {
        let mut conf = NATS_CONF.to_owned();
        if !self.routes.is_empty() {
            let listen = self.routes[index];
            let others = self.routes.iter().filter(|port| **port != listen);
            let others = others.map(|port| format!("\"nats-route://127.0.0.1:{port}\""));
            let others: Vec<String> = others.collect();
            // Clients keep to the addresses that they were given.
            conf.push_str(&format!(
                "\ncluster {{\n  name: onsale\n  listen: \"127.0.0.1:{listen}\"\n  \
                 no_advertise: true\n  routes: [{}]\n}}\n",
                others.join(", ")
            ));
        }
        conf
    }
}

fn start_node(broker: &Broker<'_>, index: usize, ports: Ports) -> Result<(Server, u16), Error> {
    let (node, nkeys) = (NODES[index], broker.nkeys);
    let own = broker.folder.join(node);
    private_folder(&own).map_err(Error::io("cannot create", &own))?;
    let conf = own.join("nats.conf");
    secrets::write(&conf, broker.conf_of(index).as_bytes())
        .map_err(Error::io("cannot write", &conf))?;
    // Distinguishes it from another NATS that may be faster to take the port.
    let name = format!("onsale-{node}-{:08x}", rand::random::<u32>());
    let monitor_taken = std::cell::Cell::new(0);
    let server = Server::start(ports.nats, |port| {
        let monitor = ports.nats_monitor.unwrap_or_else(free_port);
        monitor_taken.set(monitor);
        let mut env = vec![
            ("ONSALE_NATS_LISTEN".into(), format!("127.0.0.1:{port}")),
            ("ONSALE_NATS_MONITOR".into(), format!("127.0.0.1:{monitor}")),
            // NATS parses this as a configuration value: quoted, for folders with spaces.
            ("ONSALE_NATS_STORE_DIR".into(), format!("\"{}\"", own.display())),
        ];
        env.extend(nkeys.environment());
        let greeting = format!("\"server_name\":\"{name}\"");
        Ok(Plan {
            name: node,
            launch: Launch {
                program: broker.binary.path.clone(),
                args: vec![
                    "--config".into(),
                    conf.clone().into(),
                    "--name".into(),
                    name.clone().into(),
                ],
                env,
                account: None,
                log: own.join(format!("{node}.log")),
                orphaned: Signal::KILL,
            },
            url: format!("nats://127.0.0.1:{port}"),
            port,
            stop: Signal::TERM,
            answers: Box::new(move |_| {
                greets(port, &greeting).unwrap_or(false) && healthy(monitor).unwrap_or(false)
            }),
        })
    })?;
    Ok((server, monitor_taken.get()))
}

/// Whether the first line of the server at this port, `INFO {…}`, carries our name.
fn greets(port: u16, greeting: &str) -> std::io::Result<bool> {
    let mut line = String::new();
    BufReader::new(probe::connect(port)?.take(64 * 1024)).read_line(&mut line)?;
    Ok(line.contains(greeting))
}

/// Whether the server is healthy, which includes that JetStream has loaded its streams.
fn healthy(monitor: u16) -> std::io::Result<bool> {
    Ok(get(monitor, "/healthz")?.lines().next().is_some_and(|line| line.contains(" 200 ")))
}

/// Why the broker can no longer write, if so. It stays like that until it is restarted.
pub(crate) fn write_error(monitor: u16) -> Option<String> {
    let answer = get(monitor, "/healthz").ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let health: serde_json::Value = serde_json::from_str(body).ok()?;
    let error = health.get("error")?.as_str()?;
    error.contains("write error").then(|| error.to_owned())
}

/// The node that leads a stream, or with `None` all of them, as the node with this monitoring port
/// knows.
pub(crate) fn leader(monitor: u16, stream: Option<&str>) -> Option<String> {
    let answer = get(monitor, "/jsz?accounts=true&streams=true").ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let known: serde_json::Value = serde_json::from_str(body).ok()?;
    let leader = match stream {
        None => &known["meta_cluster"]["leader"],
        Some(name) => {
            let accounts = known["account_details"].as_array()?.iter();
            let mut streams = accounts.filter_map(|one| one["stream_detail"].as_array()).flatten();
            &streams.find(|stream| stream["name"] == name)?["cluster"]["leader"]
        }
    };
    // `onsale-nats-2-0a1b2c3d`
    let (node, _) = leader.as_str()?.strip_prefix("onsale-")?.rsplit_once('-')?;
    Some(node.to_owned())
}

fn get(monitor: u16, path: &str) -> std::io::Result<String> {
    let mut stream = probe::connect(monitor)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}
