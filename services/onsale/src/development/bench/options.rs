//! What `onsale bench payments` is asked to measure.

use clap::{Args, ValueEnum};

/// Turns of a comparison by default.
const TURNS: u32 = 3;

const EXPLAINED: &str = "\
What is counted, each for one payment:
  CPU µs         processor time by component, from the first request until every service has
                 consumed the events of the last payment, so what listeners do later is included.
                 PostgreSQL is the server with all its processes. The driver counts while it pays
  messages       what JetStream has stored; events: rows, or events in rows, of the outboxes in
                 PostgreSQL
  transactions   those that wrote; rows: inserted, updated and deleted ones
  B              bytes of PostgreSQL's log; what NATS and Valkey have sent to storage
  resident MB    the most memory that the one process with all services took while it paid

Rows are counted in the last turn of each line. PostgreSQL reports them with a delay of ten
seconds, so the benchmark waits for them before and after; --skip-rows saves the time.";

/// Options of `onsale bench payments`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXPLAINED)]
pub struct Payments {
    /// Payments running at once; one line of the table each
    #[arg(long, value_delimiter = ',', default_value = "1,64,512")]
    pub concurrency: Vec<usize>,
    /// Payments of a turn with the highest concurrency; the others take fewer
    #[arg(long, default_value_t = 20_000)]
    pub requests: usize,
    /// Percent of payments whose hold is lost while they run
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub compensate_percent: u32,
    /// Measures another program and the mesh, by turns: it answers the same requests, on the
    /// same PostgreSQL server
    #[arg(long, value_enum, value_name = "OPPONENT", conflicts_with = "compare")]
    pub against: Option<Opponents>,
    /// Connections of the monolith to its database
    #[arg(long, default_value_t = 32, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub monolith_connections: u32,
    /// Measures what one thing costs, by turns with it and without it, at the highest concurrency
    #[arg(long, value_enum, value_name = "WHAT", num_args = 0..=1,
        default_missing_value = "listeners")]
    pub compare: Option<Comparison>,
    /// Turns of each line; medians are printed [default: 3 for a comparison, else 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub turns: Option<u32>,
    /// Does not count rows, which takes 21 s a line
    #[arg(long)]
    pub skip_rows: bool,
    /// Prints an array of objects instead of tables
    #[arg(long)]
    pub json: bool,
}

/// What the mesh can be measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Opponents {
    /// One program, one database, one transaction a request
    Monolith,
}

/// What `--compare` changes from one mesh to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Comparison {
    /// The listeners: one mesh without them, and one with every service
    Listeners,
    /// Traces: none, none again to show the noise, 1 % of them, all of them
    Traces,
}

/// What one turn pays.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) concurrency: usize,
    pub(super) requests: usize,
    /// Percent of holds that are lost.
    pub(super) lost: u32,
    /// Whether rows are counted, which takes 21 s.
    pub(super) rows: bool,
    /// One payment of so many asks to be recorded as a trace.
    pub(super) traced_every: Option<usize>,
}

impl Payments {
    pub(super) fn turns(&self) -> u32 {
        let compares = self.compare.is_some() || self.against.is_some();
        self.turns.unwrap_or(if compares { TURNS } else { 1 })
    }

    pub(super) fn most(&self) -> usize {
        self.concurrency.iter().copied().max().unwrap_or(1)
    }

    /// Enough for a steady state, and no more than it takes.
    pub(super) fn load(&self, concurrency: usize, turn: u32) -> Load {
        let requests = self.requests * concurrency / self.most();
        let requests = requests.clamp(self.requests.min(300), self.requests);
        Load {
            concurrency,
            requests: requests.max(concurrency * 4),
            lost: self.compensate_percent,
            rows: !self.skip_rows && turn == self.turns(),
            traced_every: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        payments: Payments,
    }

    fn options(args: &str) -> Payments {
        Cli::try_parse_from(["bench"].into_iter().chain(args.split_whitespace())).unwrap().payments
    }

    #[test]
    fn a_comparison_takes_three_turns() {
        assert_eq!(options("").turns(), 1);
        assert_eq!(options("--compare").turns(), 3);
        assert_eq!(options("--compare traces").turns(), 3);
        assert_eq!(options("--against monolith").turns(), 3);
        assert_eq!(options("--against monolith --turns 5").turns(), 5);
    }

    #[test]
    fn listeners_are_compared_unless_something_else_is_named() {
        assert_eq!(options("").compare, None);
        assert_eq!(options("--compare --turns 2").compare, Some(Comparison::Listeners));
        assert_eq!(options("--compare traces").compare, Some(Comparison::Traces));
    }

    #[test]
    fn a_line_with_less_concurrency_pays_less() {
        let options = options("--against monolith");
        let requests = |concurrency| options.load(concurrency, 1).requests;
        assert_eq!([1, 64, 512].map(requests), [300, 2_500, 20_000]);
    }

    #[test]
    fn a_small_number_of_requests_is_kept_unless_the_line_needs_more() {
        let options = options("--requests 40 --concurrency 1,16");
        assert_eq!([1, 16].map(|concurrency| options.load(concurrency, 1).requests), [40, 64]);
    }

    #[test]
    fn rows_are_counted_in_the_last_turn() {
        let rows = |options: &Payments| [1, 2].map(|turn| options.load(1, turn).rows);
        assert_eq!(rows(&options("--turns 2")), [false, true]);
        assert_eq!(rows(&options("--turns 2 --skip-rows")), [false, false]);
    }
}
