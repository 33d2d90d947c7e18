//! Payments that arrive by a schedule, however many of the earlier ones have been answered.
//!
//! A driver with a fixed number of requests at once slows down with what it measures, and never
//! offers more than that can do. This one does not wait: each arrival takes an idle connection
//! or opens one. How long a payment took is counted from the moment it was due.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use events::payment::{Payment, PaymentState};
use hyper::Method;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{
    super::{
        hall::Hold,
        stand::Fan,
        wire::{Wire, ask, connect},
    },
    tally::{Became, Tally},
};

/// Connections at once. The gateway has room for a few more.
const CONNECTIONS_MAX: usize = 15_000;
/// How often payments that are due are sent.
const TICK: Duration = Duration::from_millis(1);
/// How long the last answers may take after the load: longer than a request waits.
const ANSWERED_WITHIN: Duration = Duration::from_secs(40);
/// Characters of a strange answer that are kept.
const STRANGE_CHARS: usize = 120;

/// How long a client of a closed loop waits when it was refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(250);

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paid {
    Answered,
    Refused,
    NoHold,
}

/// The holds, the connections, and what became of what was offered.
pub(super) struct Load {
    addr: SocketAddr,
    holds: Mutex<VecDeque<Hold>>,
    tokens: Mutex<Vec<Arc<str>>>,
    idle: Mutex<Vec<Wire>>,
    connections: AtomicUsize,
    /// What was offered by the clock and is not answered yet.
    open: TaskTracker,
    is_out_of_holds: AtomicBool,
    pub(super) tally: Mutex<Tally>,
}

impl Load {
    pub(super) fn new(addr: SocketAddr) -> Arc<Self> {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // A lower limit shows itself when there are no more connections.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        Arc::new(Self {
            addr,
            holds: Mutex::default(),
            tokens: Mutex::default(),
            idle: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: TaskTracker::new(),
            is_out_of_holds: AtomicBool::new(false),
            tally: Mutex::new(Tally::new()),
        })
    }

    /// Uses these tokens from now on, one for each fan.
    pub(super) fn renew(&self, fans: &[Fan]) {
        *lock(&self.tokens) = fans.iter().map(|fan| fan.token.clone()).collect();
    }

    /// More holds to be paid.
    pub(super) fn add(&self, holds: impl IntoIterator<Item = Hold>) {
        lock(&self.holds).extend(holds);
    }

    /// Holds that are not paid yet.
    pub(super) fn left(&self) -> usize {
        lock(&self.holds).len()
    }

    /// Connections that are open.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Pays so many at once, one after the other, for a time or until every hold is paid.
    ///
    /// # Errors
    /// When a worker panics.
    pub(super) async fn closed(self: Arc<Self>, at_once: usize, lasts: Duration) -> Result<()> {
        let until = Instant::now() + lasts;
        let mut workers = JoinSet::new();
        for _ in 0..at_once {
            let load = self.clone();
            workers.spawn(async move {
                while Instant::now() < until {
                    match load.pay(Instant::now()).await {
                        Paid::Answered => {}
                        Paid::Refused => tokio::time::sleep(REFUSED_PAUSE).await,
                        Paid::NoHold => return,
                    }
                }
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended?;
        }
        Ok(())
    }

    /// Offers `rate` payments a second, evenly, for a time. It returns when the last one was due,
    /// not when it was answered.
    ///
    /// # Errors
    /// When there are not enough holds.
    pub(super) async fn open(self: Arc<Self>, rate: f64, lasts: Duration) -> Result<()> {
        let (began, all) = (Instant::now(), (rate * lasts.as_secs_f64()) as u64);
        let mut sent = 0;
        while began.elapsed() < lasts {
            let due = ((began.elapsed().as_secs_f64() * rate) as u64).min(all);
            while sent < due {
                let at = began + Duration::from_secs_f64(sent as f64 / rate);
                let load = self.clone();
                self.open.spawn(async move {
                    if load.pay(at).await == Paid::NoHold {
                        load.is_out_of_holds.store(true, Ordering::Relaxed);
                    }
                });
                sent += 1;
            }
            if self.is_out_of_holds.load(Ordering::Relaxed) {
                bail!("there are no holds left: more was paid than at the peak");
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// Waits until everything that was offered is answered.
    ///
    /// # Errors
    /// When that takes too long.
    pub(super) async fn answered(self: Arc<Self>) -> Result<()> {
        self.open.close();
        let answered = tokio::time::timeout(ANSWERED_WITHIN, self.open.wait()).await;
        answered.with_context(|| format!("{} requests have no answer", self.open.len()))
    }

    /// Pays one hold that is due. A refused hold comes again.
    async fn pay(&self, at: Instant) -> Paid {
        let Some(hold) = lock(&self.holds).pop_front() else { return Paid::NoHold };
        let became = match self.request(&hold).await {
            Ok(became) => became,
            Err(error) => {
                Became::Strange(format!("{error:#}").chars().take(STRANGE_CHARS).collect())
            }
        };
        let is_refused = became == Became::Refused;
        if is_refused {
            lock(&self.holds).push_back(hold);
        }
        lock(&self.tally).add(at, became);
        if is_refused { Paid::Refused } else { Paid::Answered }
    }

    async fn request(&self, hold: &Hold) -> Result<Became> {
        let token = lock(&self.tokens)[hold.fan].clone();
        let body = format!(r#"{{"reservation_id":"{}"}}"#, hold.reservation_id);
        let key = Uuid::now_v7().to_string();
        let headers = [("prefer", "wait=20"), ("idempotency-key", key.as_str())];
        let mut connection = self.connection().await?;
        let asked =
            ask(&mut connection, Method::POST, "/v1/payments", &token, &headers, body.into()).await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) => {
                self.connections.fetch_sub(1, Ordering::Relaxed);
                return Err(error);
            }
        };
        lock(&self.idle).push(connection);
        if answer.status == 503 && answer.has_retry_after {
            return Ok(Became::Refused);
        }
        let payment = serde_json::from_slice::<Payment>(&answer.body);
        Ok(match payment {
            Ok(payment) if payment.state == PaymentState::Completed => Became::Completed,
            Ok(payment) => Became::Strange(format!("{}: {:?}", answer.status, payment.state)),
            Err(_) => {
                let text = String::from_utf8_lossy(&answer.body);
                bail!("{}: {text}", answer.status)
            }
        })
    }

    /// An idle connection, or a new one.
    async fn connection(&self) -> Result<Wire> {
        loop {
            let idle = lock(&self.idle).pop();
            match idle {
                Some(connection) if connection.is_closed() => {
                    self.connections.fetch_sub(1, Ordering::Relaxed);
                }
                Some(connection) => return Ok(connection),
                None => break,
            }
        }
        if self.connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            bail!("not sent: {CONNECTIONS_MAX} requests wait for their answers");
        }
        let connected = connect(self.addr).await;
        connected.inspect_err(|_| {
            self.connections.fetch_sub(1, Ordering::Relaxed);
        })
    }
}

/// What a lock holds is whole also when its holder has panicked: each takes it for one step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
