//! `cargo sim`: simulates sales until one fails a check.

use std::{collections::BTreeMap, process::ExitCode, time::Instant};

use clap::{Parser, ValueEnum};
use sim::{Fault, Mutation, Options};

/// Simulates sales with every possible fault, each from its own seed, and checks that nothing is
/// lost and nothing happens twice.
#[derive(Debug, Parser)]
#[command(name = "cargo sim")]
struct Args {
    /// How many seeds to run, counted from the first.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed; `--seeds 1` replays it alone.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many fans take part in one sale.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..=500))]
    people: u64,
    /// How many commands each fan sends.
    #[arg(long, default_value_t = 12)]
    visits: u32,
    /// The faults that may happen; all of them by default, none with `none`.
    #[arg(long, value_delimiter = ',')]
    faults: Option<Vec<String>>,
    /// Plant a mistake, to see that the checks find it.
    #[arg(long)]
    mutation: Option<Mutation>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let options = match options(&args) {
        Ok(options) => options,
        Err(unknown) => {
            let known: Vec<String> = Fault::ALL.iter().map(name).collect();
            eprintln!("`{unknown}` is no fault; the faults are {} and none.", known.join(", "));
            return ExitCode::from(2);
        }
    };
    // The message of a handler's panic is part of the report; its place is not.
    std::panic::set_hook(Box::new(|_| {}));
    let (began, mut sagas) = (Instant::now(), 0);
    let (mut faults, mut ends) = (BTreeMap::new(), BTreeMap::new());
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let report = sim::run(seed, &options);
        sagas += report.sagas;
        report.faults.iter().for_each(|(fault, count)| *faults.entry(*fault).or_insert(0) += count);
        report.ends.into_iter().for_each(|(end, count)| *ends.entry(end).or_insert(0) += count);
        if !report.wrong.is_empty() {
            show(seed, &options);
            return ExitCode::FAILURE;
        }
    }
    let secs = began.elapsed().as_secs_f64();
    let rate = sagas as f64 / secs * 60.0;
    println!("{} seeds, {sagas} sagas in {secs:.1} s, {rate:.0} a minute.", args.seeds);
    println!("Nothing was lost, and nothing happened twice.\n");
    for (fault, count) in faults {
        println!("{count:>9}  {}", name(&fault));
    }
    println!();
    for (end, count) in ends {
        println!("{count:>9}  {end}");
    }
    ExitCode::SUCCESS
}

/// Shows what is wrong with a seed, in the smallest sale that still fails.
fn show(seed: u64, options: &Options) {
    eprintln!("Seed {seed} fails; looking for a smaller sale that fails as well.");
    let smallest = sim::shrink(seed, options);
    let report = sim::run(seed, &smallest);
    report.wrong.iter().for_each(|line| println!("{line}"));
    report.timeline.iter().for_each(|line| println!("  {line}"));
    let Options { people, visits, faults, mutation, .. } = &smallest;
    let faults: Vec<String> = faults.iter().map(name).collect();
    let faults = if faults.is_empty() { "none".to_owned() } else { faults.join(",") };
    let planted =
        mutation.map_or(String::new(), |planted| format!(" --mutation {}", name(&planted)));
    println!(
        "\nReplay it: cargo sim --seed {seed} --seeds 1 --people {people} --visits {visits} \
         --faults {faults}{planted}"
    );
}

fn options(args: &Args) -> Result<Options, String> {
    let faults = match args.faults.as_deref() {
        None => Fault::ALL.to_vec(),
        Some([none]) if none == "none" => Vec::new(),
        Some(names) => names
            .iter()
            .map(|name| Fault::from_str(name, true).map_err(|_| name.clone()))
            .collect::<Result<_, _>>()?,
    };
    let (people, visits, mutation) = (args.people as usize, args.visits, args.mutation);
    Ok(Options { people, visits, faults, mutation, ..Options::default() })
}

fn name<T: ValueEnum>(of: &T) -> String {
    of.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
}
