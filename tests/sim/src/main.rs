//! `cargo sim`: simulates sales until one fails a check.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

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
    /// The faults that may happen; all but `regrow` by default, none with `none`.
    #[arg(long, value_delimiter = ',')]
    faults: Option<Vec<String>>,
    /// Plant a mistake, to see that the checks find it.
    #[arg(long)]
    mutation: Option<Mutation>,
    /// Plant each mistake in turn, and show the first seed that finds it.
    #[arg(long, conflicts_with = "mutation")]
    mutations: bool,
    /// Threads; each runs sales of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    jobs: u64,
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
    if args.mutations {
        return mutations(&args, &options);
    }
    let began = Instant::now();
    let totals = match run(&args, &options) {
        Ok(totals) => totals,
        Err(seed) => {
            show(seed, &options);
            return ExitCode::FAILURE;
        }
    };
    let (secs, sagas) = (began.elapsed().as_secs_f64(), totals.sagas);
    let rate = sagas as f64 / secs * 60.0;
    println!("{} seeds, {sagas} sagas in {secs:.1} s, {rate:.0} a minute.", args.seeds);
    println!("Nothing was lost, and nothing happened twice.\n");
    for (fault, count) in totals.faults {
        println!("{count:>9}  {}", name(&fault));
    }
    println!();
    for (end, count) in totals.ends {
        println!("{count:>9}  {end}");
    }
    ExitCode::SUCCESS
}

/// What happened in all sales.
#[derive(Default)]
struct Totals {
    sagas: u64,
    faults: BTreeMap<Fault, u64>,
    ends: BTreeMap<String, u64>,
}

impl Totals {
    fn add(&mut self, sagas: u64, faults: BTreeMap<Fault, u64>, ends: BTreeMap<String, u64>) {
        self.sagas += sagas;
        faults
            .into_iter()
            .for_each(|(fault, count)| *self.faults.entry(fault).or_insert(0) += count);
        ends.into_iter().for_each(|(end, count)| *self.ends.entry(end).or_insert(0) += count);
    }
}

/// Runs all seeds; the lowest that was found to fail, if one does.
fn run(args: &Args, options: &Options) -> Result<Totals, u64> {
    let failed = AtomicU64::new(u64::MAX);
    let last = args.seed.saturating_add(args.seeds);
    let job = |first: u64| {
        let mut totals = Totals::default();
        for seed in (first..last).step_by(args.jobs as usize) {
            if failed.load(Relaxed) < seed {
                break;
            }
            let report = sim::run(seed, options);
            if !report.wrong.is_empty() {
                failed.fetch_min(seed, Relaxed);
            }
            totals.add(report.sagas, report.faults, report.ends);
        }
        totals
    };
    let mut all = Totals::default();
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (args.seed..args.seed + args.jobs)
            .map(|first| {
                scope.spawn({
                    let job = &job;
                    move || job(first)
                })
            })
            .collect();
        for job in jobs {
            let totals = job.join().expect("a simulation ends");
            all.add(totals.sagas, totals.faults, totals.ends);
        }
    });
    match failed.into_inner() {
        u64::MAX => Ok(all),
        seed => Err(seed),
    }
}

/// Shows for each mistake the first seed that finds it.
fn mutations(args: &Args, options: &Options) -> ExitCode {
    let mut is_every_one_found = true;
    for mutation in Mutation::value_variants() {
        let options = Options { mutation: Some(*mutation), ..options.clone() };
        let seeds = args.seed..args.seed.saturating_add(args.seeds);
        let found = seeds
            .map(|seed| (seed, sim::run(seed, &options)))
            .find(|(_, report)| report.finds(*mutation));
        match found {
            Some((seed, report)) => {
                println!(
                    "{:<24} {seed:>5}  {}",
                    name(mutation),
                    report.wrong.last().map_or("", String::as_str)
                );
            }
            None => {
                println!("{:<24}     -", name(mutation));
                is_every_one_found = false;
            }
        }
    }
    if is_every_one_found { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
        None => Fault::usual(),
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
