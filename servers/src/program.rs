//! Other programs that serve on ports of this machine, run like the servers.

use std::{cell::RefCell, ffi::OsString, path::PathBuf};

use rustix::process::Signal;

use crate::{
    error::Error,
    ports::free_port,
    probe,
    process::Launch,
    server::{Plan, Server},
};

/// A program that is not one of the servers of the mesh, for example a tool that tests use.
pub struct Program<'a> {
    /// Its name in errors.
    pub name: &'static str,
    /// The program.
    pub path: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
    /// How many ports it listens on.
    pub ports: usize,
    /// Its arguments. The ports are free; it is ready when it accepts connections on the first.
    pub args: &'a dyn Fn(&[u16]) -> Vec<OsString>,
}

impl Program<'_> {
    /// Starts it, and returns when it is ready; with its ports. Like the servers it is stopped when
    /// the last handle is dropped, and killed when this process dies.
    ///
    /// # Errors
    /// When it does not come up; the error has the end of its log.
    pub fn start(&self) -> Result<(Server, Vec<u16>), Error> {
        let taken = RefCell::new(Vec::new());
        let server = Server::start(None, |port| {
            let others = std::iter::repeat_with(free_port).take(self.ports.saturating_sub(1));
            let ports: Vec<u16> = std::iter::once(port).chain(others).collect();
            let launch = Launch {
                program: self.path.clone(),
                args: (self.args)(&ports),
                env: Vec::new(),
                account: None,
                log: self.log.clone(),
                orphaned: Signal::KILL,
            };
            taken.replace(ports);
            Ok(Plan {
                name: self.name,
                launch,
                url: format!("http://127.0.0.1:{port}"),
                port,
                stop: Signal::TERM,
                answers: Box::new(move |_| probe::connect(port).is_ok()),
            })
        })?;
        Ok((server, taken.into_inner()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server of Python's own that prints where it listens.
    const SERVE: &str = "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.\
                         argv[1])), http.server.BaseHTTPRequestHandler).serve_forever()";

    #[test]
    fn a_program_runs_until_its_handle_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let args = |ports: &[u16]| {
            vec![
                "-c".into(),
                SERVE.into(),
                ports[0].to_string().into(),
                ports[1].to_string().into(),
            ]
        };
        let path = PathBuf::from("python3");
        let program = Program { name: "python", path, log, ports: 2, args: &args };
        let (server, ports) = program.start().unwrap();
        assert_eq!((ports.len(), ports[0]), (2, server.port()));
        assert!(probe::connect(ports[0]).is_ok());
        drop(server);
        assert!(probe::connect(ports[0]).is_err());
    }

    #[test]
    fn a_program_that_ends_at_once_is_an_error_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let args = |_: &[u16]| vec!["-c".into(), "raise SystemExit('no configuration')".into()];
        let path = PathBuf::from("python3");
        let program = Program { name: "python", path, log, ports: 1, args: &args };
        let error = program.start().err().unwrap().to_string();
        assert!(error.contains("no configuration"), "{error}");
    }
}
