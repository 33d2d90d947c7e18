//! What the demo prints while it runs.

use std::{
    io::IsTerminal,
    net::SocketAddr,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anstream::{print, println};
use anstyle::{AnsiColor, Style};
use events::concert::Schedule;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use super::{crowd::Board, listened::Listened};
use crate::{
    deployment::DATA_FOLDER,
    development::{environment::Environment, receipt::Receipt, sale::Sale},
    http::Http,
    saga,
};

const GOOD: Style = AnsiColor::Green.on_default().bold();
const WARN: Style = AnsiColor::Yellow.on_default().bold();
const DIM: Style = Style::new().dimmed();
/// How often the crowd's line is printed where there is no terminal to redraw it on.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// How often it is redrawn on a terminal.
const REDRAW_EVERY: Duration = Duration::from_millis(100);

/// The demo's output; clones share its clock.
#[derive(Clone)]
pub(super) struct Show {
    began: Instant,
}

/// The crowd's line while it is being shown.
pub(super) struct Watching {
    bar: ProgressBar,
    task: JoinHandle<()>,
    board: Arc<Board>,
    show: Show,
}

impl Show {
    pub(super) fn begin() -> Self {
        Self { began: Instant::now() }
    }

    fn stamp(&self) -> String {
        format!("{DIM}{:6.1} s{DIM:#}", self.began.elapsed().as_secs_f64())
    }

    /// Prints what happens next.
    pub(super) fn step(&self, line: &str) {
        println!("{}  {line}", self.stamp());
    }

    /// Prints what the reader should notice.
    pub(super) fn warn(&self, line: &str) {
        println!("{}  {WARN}{line}{WARN:#}", self.stamp());
    }

    /// Prints what is on sale.
    pub(super) fn opened(&self, sale: &Sale, schedule: &Schedule) {
        self.step(&format!(
            "on sale: {} by {}, {}: {} seats, {} fans",
            sale.title, sale.artist, sale.venue, schedule.seats_total, sale.crowd.fans
        ));
        self.step(&format!(
            "the room admits {} fans a second, {} at a time; a hold lives {} s",
            sale.admission.per_second, sale.admission.active_max, sale.hold_secs
        ));
    }

    /// Shows the crowd until [`Watching::end`].
    pub(super) fn watch(&self, board: Arc<Board>, fans: u32) -> Watching {
        let on_terminal = std::io::stdout().is_terminal();
        let bar = if on_terminal {
            ProgressBar::new(u64::from(fans)).with_style(
                ProgressStyle::with_template("{bar:20} {pos}/{len} fans done  {wide_msg}")
                    .expect("a template that a run has shown to be right"),
            )
        } else {
            ProgressBar::hidden()
        };
        let (shown, seen, show) = (bar.clone(), board.clone(), self.clone());
        let task = tokio::spawn(async move {
            let every = if on_terminal { REDRAW_EVERY } else { LINE_EVERY };
            loop {
                tokio::time::sleep(every).await;
                shown.set_position(seen.done.load(Ordering::Relaxed));
                shown.set_message(seen.line());
                if !on_terminal {
                    show.step(&seen.line());
                }
            }
        });
        Watching { bar, task, board, show: self.clone() }
    }

    /// Prints the receipt.
    pub(super) fn receipt(&self, receipt: &Receipt) {
        println!("\n{}", receipt.table());
        if receipt.broken().is_empty() {
            println!(
                "{GOOD}every invariant holds{GOOD:#} {DIM}(counted from the databases, {:.1} s \
                 after the command){DIM:#}",
                self.began.elapsed().as_secs_f64()
            );
        }
        if cfg!(debug_assertions) {
            println!(
                "{DIM}its times are those of a build for development; `cargo run --release -- demo` \
                 is about twice as fast{DIM:#}"
            );
        }
    }

    /// Prints what the listeners made of the sale, and where their files are.
    pub(super) fn listened(&self, listened: &Listened, env: &Environment) {
        if let Some(behind) = &listened.behind {
            self.warn(behind);
        }
        println!("\n{}\n{}", listened.ranking(), listened.messages());
        if let Some(saga) = &listened.saga {
            println!("\none payment, {}:", saga.line.state.as_str());
            print!("{}", saga::draw(saga, saga::width(), mesh::clock::now()));
        }
        let style = if listened.audit.is_clean() { GOOD } else { WARN };
        println!(
            "\n{style}audit{style:#} {} {DIM}(read from the streams again){DIM:#}",
            listened.audit.summary()
        );
        println!("messages to fans are in {}", env.messages_folder().display());
        println!("sales events are in {} as Parquet files", env.export_folder().display());
    }

    /// Prints what can be tried now.
    pub(super) fn stay(&self, http: &Http, env: &Environment, data: &Path, health: SocketAddr) {
        let base = http.base();
        println!("\nThe mesh stays up; stop it with Ctrl-C. Try:\n");
        println!("  {base}/                 what there is, in a browser");
        println!("  {base}/openapi.json     the API");
        println!("  http://{health}/metrics          what all services measure");
        println!("  curl -s {base}/v1/concerts");
        println!(
            "  curl -s {base}/v1/users -H 'content-type: application/json' \\\n       \
             -d '{{\"email\":\"you@example.com\",\"password\":\"correct horse battery\"}}'"
        );
        let data = match data == Path::new(DATA_FOLDER) {
            true => String::new(),
            false => format!(" --data {}", data.display()),
        };
        println!("  onsale saga ls{data}");
        println!("  onsale audit verify{data}");
        println!("  onsale dead-letters ls{data}");
        if let Some(servers) = &env.servers {
            let folder = servers.nkeys_folder().display();
            let nats = format!("nats --server {} --nkey {folder}", env.config.nats_url);
            println!("  {nats}/operator.nk --inbox-prefix _INBOX_operator micro ls");
            println!("  {nats}/operator.nk --inbox-prefix _INBOX_operator stream ls");
            println!("  {nats}/client.nk --inbox-prefix _INBOX_client req cmd.concert.find '{{}}'");
            println!("  {nats}/client.nk --inbox-prefix _INBOX_client sub 'live.onsale.payment.>'");
        }
    }
}

impl Watching {
    /// Ends the line with the crowd's last figures.
    pub(super) fn end(self) {
        self.task.abort();
        self.bar.finish_and_clear();
        self.show.step(&self.board.line());
    }
}
