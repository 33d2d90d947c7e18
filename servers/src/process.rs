//! Starts child processes that never outlive this one.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal},
};

use crate::account::Account;

/// How often a process is polled for its end.
const POLL: Duration = Duration::from_millis(5);

/// A program to be run.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(String, String)>,
    /// The account that it runs as; `None` for our own.
    pub(crate) account: Option<Account>,
    /// Where its output goes.
    pub(crate) log: PathBuf,
    /// The signal it gets when this process dies.
    pub(crate) orphaned: Signal,
}

type Order = (Launch, mpsc::SyncSender<io::Result<Child>>);

/// Starts a program from the one thread that starts all of them.
///
/// The kernel ties the parent-death signal to the *thread* that forked: a child of a worker of
/// the runtime would be killed when that worker ends. This thread ends with the process and not
/// before.
pub(crate) fn spawn(launch: &Launch) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::Builder::new()
            .name("servers".into())
            .spawn(move || {
                for (launch, answer) in inbox {
                    // The caller waits for the answer, so it is always received.
                    let _ = answer.send(fork(&launch));
                }
            })
            .expect("a thread can be started");
        orders
    });
    let gone = |_| io::Error::other("the thread that starts servers has ended");
    let (answer, child) = mpsc::sync_channel(1);
    spawner.send((launch.clone(), answer)).map_err(|_| gone(mpsc::RecvError))?;
    child.recv().map_err(gone)?
}

fn fork(launch: &Launch) -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(&launch.log)?;
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        // No variable of our own environment (PGPORT, PGOPTIONS, …) reaches a server.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(launch.env.iter().map(|(key, value)| (key, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C at the terminal must reach only us; we stop the servers ourselves, in order.
        .process_group(0);
    if let Some(account) = &launch.account {
        command.uid(account.uid).gid(account.gid);
    }
    die_with_parent(&mut command, launch.orphaned);
    command.spawn()
}

#[expect(unsafe_code, reason = "the parent-death signal is set between fork and exec")]
fn die_with_parent(command: &mut Command, signal: Signal) {
    let parent = Pid::from_raw(std::process::id().cast_signed());
    let armed = move || {
        // The user has already been changed here, which would clear the signal.
        set_parent_process_death_signal(Some(signal))?;
        // The parent may have died before the signal was armed; then it would never be sent.
        if getppid() != parent {
            return Err(Errno::SRCH.into());
        }
        Ok(())
    };
    // SAFETY: the closure makes two system calls; it neither allocates nor locks, as is
    // required after fork.
    unsafe { command.pre_exec(armed) };
}

/// Sends a signal to a child that has not been waited for, so its id is not reused.
pub(crate) fn signal(child: &Child, signal: Signal) {
    // It fails only when the child has ended already, which is what every caller wants.
    let _ = kill_process(Pid::from_child(child), signal);
}

/// Waits until the child has ended, up to the limit.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(POLL),
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Sends a signal to a process; one that has ended meanwhile gets nothing.
pub(crate) fn signal_id(pid: u32, signal: Signal) {
    let _ = id(pid).map(|pid| kill_process(pid, signal));
}

pub(crate) fn id(pid: u32) -> Option<Pid> {
    Pid::from_raw(pid.cast_signed())
}

/// The processes that a process has started and that still run.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        rest.split(' ').nth(1) == Some(&parent.to_string())
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_child).collect()
}
