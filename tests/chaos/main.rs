//! Faults of every kind on real servers, with one process per service: nothing is lost, nothing
//! happens twice, everything ends. A short run of `onsale chaos`; `ONSALE_CHAOS_FAULTS` makes it
//! longer.
//!
//! The processes of the services are this program as well, so that the test needs no other one
//! to be built. That is why it has a `main` of its own.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::ValueEnum;
use onsale::development::chaos::{self, Chaos, Kind};

const NAME: &str = "faults_of_every_kind_lose_nothing_and_do_nothing_twice";
/// Faults of a run unless the environment says otherwise: each kind once, and some with another.
const FAULTS: usize = 20;
/// A run that takes longer than this is stuck.
const AT_MOST: Duration = Duration::from_secs(900);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "run") {
        return onsale::cli::main();
    }
    if args.iter().any(|arg| arg == "--list") {
        println!("{NAME}: test");
        return ExitCode::SUCCESS;
    }
    let is_exact = args.iter().any(|arg| arg == "--exact");
    let wanted = |arg: &String| if is_exact { arg == NAME } else { NAME.contains(arg.as_str()) };
    let mut filters = args.iter().filter(|arg| !arg.starts_with('-')).peekable();
    if filters.peek().is_some() && !filters.any(wanted) {
        println!("running 0 tests");
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime.expect("a runtime").block_on(run()) {
        Ok(()) => {
            println!("test {NAME} ... ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("test {NAME} ... FAILED\n{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let faults = std::env::var("ONSALE_CHAOS_FAULTS").ok();
    let faults = faults.map_or(Ok(FAULTS), |faults| faults.parse())?;
    let seed = std::env::var("ONSALE_CHAOS_SEED").ok().map(|seed| seed.parse()).transpose()?;
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("chaos");
    let options = Chaos {
        lasts: AT_MOST,
        faults: Some(faults),
        seed,
        only: Vec::new(),
        fans: 8,
        report: folder.clone(),
        json: false,
    };
    let report = chaos::make(&options, Arc::new(|line: &str| println!("{line}"))).await?;
    report.print();
    let again = format!(
        "ONSALE_CHAOS_SEED={} ONSALE_CHAOS_FAULTS={faults} cargo test -p tests --test chaos",
        report.seed
    );
    let wrong = report.wrong();
    anyhow::ensure!(wrong.is_empty(), "{}\nthe same faults again: {again}", wrong.join("\n"));
    // Every kind comes up before one comes up again.
    let mut made: BTreeSet<Kind> =
        report.faults.iter().flat_map(|fault| fault.kinds.clone()).collect();
    // A process that does not get to the step of its crash was killed.
    made.insert(Kind::Crash);
    let all = Kind::value_variants().len();
    anyhow::ensure!(made.len() >= all.min(faults), "only {made:?} were made");
    Ok(())
}
