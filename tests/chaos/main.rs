//! Faults of every kind on real servers, with one process per service: nothing is lost, nothing
//! happens twice, everything ends. A short run of `onsale chaos`; `ONSALE_CHAOS_FAULTS` makes it
//! longer, and `ONSALE_CHAOS_SEED` another one.
//!
//! The processes of the services are this program as well, so that the test needs no other one
//! to be built. That is why it has a `main` of its own.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use onsale::development::chaos::{self, Chaos, Kind};

/// One test: what it claims, and the run that shows it.
struct Test {
    name: &'static str,
    nodes: u8,
    /// Only these kinds; all of them when empty.
    only: &'static [Kind],
    /// Faults, unless the environment says otherwise.
    faults: usize,
}

const TESTS: [Test; 2] = [
    Test {
        name: "faults_of_every_kind_lose_nothing_and_do_nothing_twice",
        nodes: 1,
        only: &[],
        // Each kind once, and some with another.
        faults: 21,
    },
    Test {
        name: "a_broker_of_three_nodes_loses_nothing_when_one_of_them_is_hit",
        nodes: 3,
        only: &[Kind::Leader, Kind::Wipe],
        faults: 2,
    },
];
/// The seed, unless the environment says otherwise.
const SEED: u64 = 20_260_501;
/// A run that takes longer than this is stuck.
const AT_MOST: Duration = Duration::from_secs(900);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "run") {
        return onsale::cli::main();
    }
    if args.iter().any(|arg| arg == "--list") {
        TESTS.iter().for_each(|test| println!("{}: test", test.name));
        return ExitCode::SUCCESS;
    }
    let is_exact = args.iter().any(|arg| arg == "--exact");
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |test: &&Test| {
        let fits = |filter: &&String| match is_exact {
            true => test.name == filter.as_str(),
            false => test.name.contains(filter.as_str()),
        };
        filters.is_empty() || filters.iter().any(fits)
    };
    let wanted: Vec<&Test> = TESTS.iter().filter(is_wanted).collect();
    println!("running {} tests", wanted.len());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut code = ExitCode::SUCCESS;
    for test in wanted {
        match runtime.block_on(run(test)) {
            Ok(()) => println!("test {} ... ok", test.name),
            Err(error) => {
                println!("test {} ... FAILED\n{error:#}", test.name);
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

async fn run(test: &Test) -> anyhow::Result<()> {
    let faults = std::env::var("ONSALE_CHAOS_FAULTS").ok();
    let faults = faults.map_or(Ok(test.faults), |faults| faults.parse())?;
    let seed = std::env::var("ONSALE_CHAOS_SEED").ok();
    let seed = seed.map_or(Ok(SEED), |seed| seed.parse())?;
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{}", test.nodes));
    let options = Chaos {
        lasts: AT_MOST,
        faults: Some(faults),
        seed: Some(seed),
        nodes: test.nodes,
        only: test.only.to_vec(),
        fans: 8,
        report: folder.clone(),
        json: false,
    };
    let report = chaos::make(&options, Arc::new(|line: &str| println!("{line}"))).await?;
    report.print();
    let again = format!(
        "ONSALE_CHAOS_SEED={} ONSALE_CHAOS_FAULTS={faults} cargo test -p tests --test chaos {}",
        report.seed, test.name
    );
    let wrong = report.wrong();
    anyhow::ensure!(wrong.is_empty(), "{}\nthe same faults again: {again}", wrong.join("\n"));
    // Every kind comes up before one comes up again.
    let mut made: BTreeSet<Kind> =
        report.faults.iter().flat_map(|fault| fault.kinds.clone()).collect();
    // A process that does not get to the step of its crash was killed.
    if test.only.is_empty() {
        made.insert(Kind::Crash);
    }
    let all = match test.only {
        [] => Kind::all(test.nodes).count(),
        only => only.len(),
    };
    anyhow::ensure!(made.len() >= all.min(faults), "only {made:?} were made");
    Ok(())
}
