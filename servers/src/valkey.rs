//! Runs Valkey, the waiting room's store.

use std::{
    io::{Read, Write},
    path::Path,
};

use rustix::process::Signal;

use crate::{
    binaries::Binary,
    error::Error,
    probe,
    process::Launch,
    secrets::{self, private_folder},
    server::{Plan, Server},
};

/// Starts Valkey (or Redis) on its folder.
pub(crate) fn start(
    binary: &Binary,
    folder: &Path,
    password: &str,
    fixed: Option<u16>,
) -> Result<Server, Error> {
    let own = folder.join("valkey");
    private_folder(&own).map_err(Error::io("cannot create", &own))?;
    let conf = own.join("valkey.conf");
    Server::start(fixed, |port| {
        // In a file, because every account can read a command line.
        let text = configuration(port, &own, password);
        secrets::write(&conf, text.as_bytes()).map_err(Error::io("cannot write", &conf))?;
        let password = password.to_owned();
        Ok(Plan {
            name: "valkey",
            url: format!("redis://:{password}@127.0.0.1:{port}/"),
            port,
            launch: Launch {
                program: binary.path.clone(),
                args: vec![conf.clone().into()],
                env: Vec::new(),
                account: None,
                log: own.join("valkey.log"),
                orphaned: Signal::KILL,
            },
            stop: Signal::TERM,
            answers: Box::new(move |_| answers(port, &password).unwrap_or(false)),
        })
    })
}

fn configuration(port: u16, folder: &Path, password: &str) -> String {
    format!(
        "bind 127.0.0.1\n\
         port {port}\n\
         requirepass {password}\n\
         dir \"{folder}\"\n\
         daemonize no\n\
         # A place that was answered as accepted survives a crash: on disk before the answer.\n\
         appendonly yes\n\
         appendfsync always\n\
         save \"\"\n\
         # A full memory gives an error and never loses a place.\n\
         maxmemory-policy noeviction\n",
        folder = folder.display(),
    )
}

/// Whether our server answers: `PONG` comes only once the append-only file has been loaded, and
/// only our server has our password.
fn answers(port: u16, password: &str) -> std::io::Result<bool> {
    let mut stream = probe::connect(port)?;
    stream.write_all(format!("AUTH {password}\r\nPING\r\n").as_bytes())?;
    let wanted = b"+OK\r\n+PONG\r\n";
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(answer == *wanted)
}
