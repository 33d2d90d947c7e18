//! The mesh against the monolith: the same payments on the same machine, by turns.

use std::time::Instant;

use anyhow::Result;
use comfy_table::Table;
use serde::Serialize;

use super::{
    driver,
    line::{self, Line, median},
    meter::{Component, Meter},
    monolith::{NAME, Opponent},
    options::{Load, Payments},
    procs::Memory,
    run::{Run, components_of},
    stand::Setup,
};

/// One turn of both.
#[derive(Debug, Clone, Serialize)]
pub struct Turn {
    /// The mesh, with every service.
    pub mesh: Line,
    /// The monolith.
    pub monolith: Line,
    /// Cores that the resting mesh took while the monolith was paid: what the monolith could
    /// not have.
    pub resting_mesh_cores: f64,
}

/// The monolith's side of one line of the result.
#[derive(Debug, Clone, Serialize)]
pub struct Against {
    /// Payments of the monolith with a known end per second.
    pub monolith_payments_per_s: f64,
    /// Its median time from request to known end, in ms.
    pub monolith_p50_ms: f64,
    /// The same for the slowest hundredth.
    pub monolith_p99_ms: f64,
    /// Payments per second of the mesh by those of the monolith: the median of the turns.
    pub ratio: f64,
    /// Median time of the mesh by that of the monolith: the median of the turns.
    pub p50_ratio: f64,
    /// Processor time of the mesh by that of the monolith: the median of the turns.
    pub cpu_ratio: f64,
    /// Microseconds of processor time a payment of the monolith, by component.
    pub monolith_cpu_us_per_payment: std::collections::BTreeMap<&'static str, f64>,
    /// Cores that the resting mesh took meanwhile, median.
    pub resting_mesh_cores: f64,
    /// What is behind the medians.
    pub turns: Vec<Turn>,
}

/// One line of the result with both sides.
#[derive(Debug, Clone, Serialize)]
pub struct Both {
    /// The mesh.
    #[serde(flatten)]
    pub mesh: Line,
    /// The monolith.
    #[serde(flatten)]
    pub against: Against,
    #[serde(skip)]
    monolith: Line,
}

impl Both {
    fn of(turns: Vec<Turn>) -> Self {
        let mesh = Line::of_turns(&turns.iter().map(|turn| &turn.mesh).collect::<Vec<_>>());
        let monolith = Line::of_turns(&turns.iter().map(|turn| &turn.monolith).collect::<Vec<_>>());
        let ratio = |of: fn(&Line) -> f64| {
            median(turns.iter().map(|turn| of(&turn.mesh) / of(&turn.monolith)))
        };
        let against = Against {
            monolith_payments_per_s: monolith.payments_per_s,
            monolith_p50_ms: monolith.p50_ms,
            monolith_p99_ms: monolith.p99_ms,
            ratio: ratio(|line| line.payments_per_s),
            p50_ratio: ratio(|line| line.p50_ms),
            cpu_ratio: ratio(|line| line.costs.cpu_us()),
            monolith_cpu_us_per_payment: monolith.costs.cpu_us_per_payment.clone(),
            resting_mesh_cores: median(turns.iter().map(|turn| turn.resting_mesh_cores)),
            turns,
        };
        Self { mesh, against, monolith }
    }
}

/// A monolith under test, and what counts its costs.
struct Other {
    opponent: Opponent,
    meter: Meter,
    resting: Meter,
}

impl Other {
    async fn start(run: &Run, connections: u32) -> Result<Self> {
        let opponent = Opponent::start(&run.stand, connections).await?;
        let pool = &opponent.pool;
        let mut components =
            vec![Component { name: NAME, pid: opponent.pid()? }, Component::driver()];
        components.extend(Component::postgres(pool).await?);
        let (own, others): (Vec<_>, Vec<_>) =
            run.stand.config.database_urls.iter().partition(|(name, _)| *name == NAME);
        // The resting mesh has periodic work to do, which is no cost of the monolith.
        let others = || others.iter().map(|(_, url)| url.as_str());
        let own = own.iter().map(|(_, url)| url.as_str());
        let meter = Meter::new(components, own, pool.clone()).beside(others());
        let resting = components_of(&run.stand)?;
        let resting = Meter::new(resting, std::iter::empty(), pool.clone()).beside(others());
        Ok(Self { opponent, meter, resting })
    }

    /// Makes holds and pays them; also returns how many cores the mesh took meanwhile.
    async fn pay(&mut self, run: &mut Run, load: &Load) -> Result<(Line, f64)> {
        let fans = run.stand.fans().await?;
        let hall = self.opponent.prepare(fans, load.requests, load.lost).await?;
        let rows = if load.rows { Some(self.meter.rows().await?) } else { None };
        let concurrency = load.concurrency;
        eprintln!("{concurrency} at once: paying at the monolith …");
        let memory = Memory::watch(self.opponent.pid()?);
        let rested = self.resting.read().await?;
        let (before, began) = (self.meter.read().await?, Instant::now());
        let mut line = driver::pay_all(self.opponent.addr, &hall, concurrency, None).await?;
        let (after, secs) = (self.meter.read().await?, began.elapsed().as_secs_f64());
        let resting = self.resting.read().await?;
        line.resident_mb = memory.most_mb().await;
        let payments = line.completed + line.compensated;
        line.costs = after.costs_since(&before, payments);
        if let Some(rows) = rows {
            let written = self.meter.rows().await? - rows;
            line.costs.rows_per_payment = Some(written as f64 / payments.max(1) as f64);
        }
        Ok((line, resting.time_since(&rested).as_secs_f64() / secs))
    }
}

/// Pays at both by turns, so that what else the machine does meets both alike.
pub(super) async fn run(options: &Payments) -> Result<()> {
    let mut mesh = Run::start(&Setup { databases: &[NAME], ..Setup::default() }).await?;
    let mut other = Other::start(&mesh, options.monolith_connections).await?;
    let mut lines = Vec::new();
    let many = options.turns();
    for &concurrency in &options.concurrency {
        let mut turns = Vec::new();
        for turn in 1..=many {
            eprintln!("{concurrency} at once: turn {turn} of {many}");
            let load = options.load(concurrency, turn);
            let mesh_line = mesh.pay(&load).await?;
            let (monolith, resting_mesh_cores) = other.pay(&mut mesh, &load).await?;
            turns.push(Turn { mesh: mesh_line, monolith, resting_mesh_cores });
        }
        lines.push(Both::of(turns));
    }
    other.opponent.end().await?;
    let checked = mesh.end().await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
        return Ok(());
    }
    print(&lines);
    println!("invariants checked over {checked} payments of the mesh, and over the monolith's");
    Ok(())
}

fn print(lines: &[Both]) {
    println!("The mesh against the monolith, medians of the turns:\n{}", comparison(lines));
    println!("By turn:\n{}", by_turn(lines));
    println!("The mesh:\n{}", line::speeds(lines.iter().map(|both| &both.mesh)));
    println!("The monolith:\n{}", line::speeds(lines.iter().map(|both| &both.monolith)));
    println!(
        "Processor time a payment of the mesh:\n{}",
        line::processor_times(lines.iter().map(|both| &both.mesh))
    );
    println!(
        "Processor time a payment of the monolith:\n{}",
        line::processor_times(lines.iter().map(|both| &both.monolith))
    );
    println!("A payment of the mesh:\n{}", line::traffic(lines.iter().map(|both| &both.mesh)));
    println!(
        "A payment of the monolith:\n{}",
        line::traffic(lines.iter().map(|both| &both.monolith))
    );
    lines.iter().filter_map(|both| line::batches(&both.mesh)).for_each(|text| println!("{text}"));
    let cores = median(lines.iter().map(|both| both.against.resting_mesh_cores));
    println!("while the monolith was paid, the resting mesh took {cores:.2} cores");
}

fn comparison(lines: &[Both]) -> Table {
    let header = [
        "concurrent",
        "payments/s",
        "monolith",
        "ratio",
        "p50 ms",
        "monolith",
        "ratio",
        "p99 ms",
        "monolith",
        "CPU µs",
        "monolith",
        "ratio",
    ];
    let row = |both: &Both| {
        let Both { mesh, against, monolith } = both;
        [
            mesh.concurrency.to_string(),
            format!("{:.0}", mesh.payments_per_s),
            format!("{:.0}", against.monolith_payments_per_s),
            format!("{:.2}", against.ratio),
            format!("{:.1}", mesh.p50_ms),
            format!("{:.1}", against.monolith_p50_ms),
            format!("{:.1}", against.p50_ratio),
            format!("{:.1}", mesh.p99_ms),
            format!("{:.1}", against.monolith_p99_ms),
            format!("{:.0}", mesh.costs.cpu_us()),
            format!("{:.0}", monolith.costs.cpu_us()),
            format!("{:.2}", against.cpu_ratio),
        ]
    };
    line::table(header, lines.iter().map(row))
}

fn by_turn(lines: &[Both]) -> Table {
    let header = ["concurrent", "turn", "payments/s", "monolith", "ratio", "CPU ratio"];
    let row = |(index, turn): (usize, &Turn)| {
        let Turn { mesh, monolith, .. } = turn;
        [
            mesh.concurrency.to_string(),
            (index + 1).to_string(),
            format!("{:.0}", mesh.payments_per_s),
            format!("{:.0}", monolith.payments_per_s),
            format!("{:.2}", mesh.payments_per_s / monolith.payments_per_s),
            format!("{:.2}", mesh.costs.cpu_us() / monolith.costs.cpu_us()),
        ]
    };
    line::table(
        header,
        lines.iter().flat_map(|both| both.against.turns.iter().enumerate()).map(row),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(payments_per_s: f64, p50_ms: f64, name: &'static str, us: f64) -> Line {
        let mut line = Line { concurrency: 64, payments_per_s, p50_ms, ..Line::default() };
        line.costs.cpu_us_per_payment.insert(name, us);
        line
    }

    fn turn(mesh: f64, monolith: f64) -> Turn {
        Turn {
            mesh: line(mesh, 20.0, "services", 300.0),
            monolith: line(monolith, 10.0, NAME, 600.0),
            resting_mesh_cores: 0.1,
        }
    }

    #[test]
    fn a_ratio_is_the_median_of_the_turns_and_not_the_ratio_of_medians() {
        let both = Both::of(vec![turn(100.0, 50.0), turn(300.0, 400.0), turn(200.0, 80.0)]);
        assert_eq!(both.against.ratio, 2.0);
        assert_eq!(both.mesh.payments_per_s, 200.0);
        assert_eq!(both.against.monolith_payments_per_s, 80.0);
        assert_eq!((both.against.p50_ratio, both.against.cpu_ratio), (2.0, 0.5));
    }

    #[test]
    fn a_line_in_json_has_both_sides() {
        let json = serde_json::to_value(Both::of(vec![turn(100.0, 50.0)])).unwrap();
        let figures = [
            "concurrency",
            "payments_per_s",
            "p50_ms",
            "p99_ms",
            "monolith_payments_per_s",
            "monolith_p50_ms",
            "ratio",
            "events_per_message",
        ];
        for name in figures {
            assert!(json[name].is_number(), "{name}");
        }
        assert_eq!(json["cpu_us_per_payment"]["services"], 300.0);
        assert_eq!(json["monolith_cpu_us_per_payment"][NAME], 600.0);
        assert_eq!(json["turns"][0]["monolith"]["payments_per_s"], 50.0);
    }
}
