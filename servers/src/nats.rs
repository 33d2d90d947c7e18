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
    ports::free_port,
    probe,
    process::Launch,
    secrets::{self, Nkeys, private_folder},
    server::{Plan, Server},
};

/// Starts the broker; returns it with its monitoring port.
pub(crate) fn start(
    binary: &Binary,
    folder: &Path,
    nkeys: &Nkeys,
    fixed: Option<u16>,
    monitor: Option<u16>,
) -> Result<(Server, u16), Error> {
    let own = folder.join("nats");
    private_folder(&own).map_err(Error::io("cannot create", &own))?;
    let conf = own.join("nats.conf");
    secrets::write(&conf, NATS_CONF.as_bytes()).map_err(Error::io("cannot write", &conf))?;
    // Distinguishes it from another NATS that may be faster to take the port.
    let name = format!("onsale-{:08x}", rand::random::<u32>());
    let monitor_taken = std::cell::Cell::new(0);
    let server = Server::start(fixed, |port| {
        let monitor = monitor.unwrap_or_else(free_port);
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
            name: "nats",
            launch: Launch {
                program: binary.path.clone(),
                args: vec![
                    "--config".into(),
                    conf.clone().into(),
                    "--name".into(),
                    name.clone().into(),
                ],
                env,
                account: None,
                log: own.join("nats.log"),
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
    Ok(health(monitor)?.lines().next().is_some_and(|line| line.contains(" 200 ")))
}

/// Why the broker can no longer write, if so. It stays like that until it is restarted.
pub(crate) fn write_error(monitor: u16) -> Option<String> {
    let answer = health(monitor).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let health: serde_json::Value = serde_json::from_str(body).ok()?;
    let error = health.get("error")?.as_str()?;
    error.contains("write error").then(|| error.to_owned())
}

fn health(monitor: u16) -> std::io::Result<String> {
    let mut stream = probe::connect(monitor)?;
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    Ok(answer)
}
