//! The picture of a run: ends of payments in each second, and when which fault happened.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::report::{ChaosReport, named};

/// Pixels.
const SIZE: (u32, u32) = (1_400, 900);

/// Draws it as SVG.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn draw(report: &ChaosReport, file: &Path) -> Result<()> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let (above, below) = root.split_vertically(SIZE.1 * 3 / 5);
    payments(report, &above)?;
    recoveries(report, &below)?;
    root.present().map_err(failed)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn payments(report: &ChaosReport, area: &Area<'_>) -> Result<()> {
    let secs = report.ends_per_second.len().max(1) as f64;
    let most = report.ends_per_second.iter().copied().max().unwrap_or(1).max(1) as f64;
    let mut chart = ChartBuilder::on(area)
        .caption("payments that ended in each second; faults in red", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..secs, 0.0..most * 1.1)
        .map_err(failed)?;
    chart.configure_mesh().x_desc("seconds").disable_x_mesh().draw().map_err(failed)?;
    let spans = report.faults.iter().map(|fault| {
        let end = fault.at_secs + fault.lasted_secs.max(0.3);
        Rectangle::new([(fault.at_secs, 0.0), (end, most * 1.1)], RED.mix(0.25).filled())
    });
    chart.draw_series(spans).map_err(failed)?;
    let ends = report.ends_per_second.iter().enumerate();
    let line = ends.map(|(second, count)| (second as f64, *count as f64));
    chart.draw_series(LineSeries::new(line, &BLUE)).map_err(failed)?;
    Ok(())
}

fn recoveries(report: &ChaosReport, area: &Area<'_>) -> Result<()> {
    let mut names: Vec<String> = report.faults.iter().map(|fault| named(&fault.kinds)).collect();
    names.retain(|name| !name.contains(" and "));
    names.sort();
    names.dedup();
    let recovered = |name: &String| -> Vec<f64> {
        let of_kind = report.faults.iter().filter(|fault| named(&fault.kinds) == *name);
        of_kind.filter_map(|fault| fault.recovered_secs).collect()
    };
    let longest = names.iter().flat_map(recovered).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("seconds until a new payment ended, by fault", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(140)
        .build_cartesian_2d(0.0..longest * 1.05, (0..names.len().max(1)).into_segmented())
        .map_err(failed)?;
    let label = |at: &SegmentValue<usize>| match at {
        SegmentValue::CenterOf(at) => names.get(*at).cloned().unwrap_or_default(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .y_labels(names.len().max(1))
        .y_label_formatter(&label)
        .disable_y_mesh()
        .draw()
        .map_err(failed)?;
    let points = names.iter().enumerate().flat_map(|(at, name)| {
        recovered(name).into_iter().map(move |secs| {
            Circle::new((secs, SegmentValue::CenterOf(at)), 4, BLUE.mix(0.6).filled())
        })
    });
    chart.draw_series(points).map_err(failed)?;
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("the picture cannot be drawn: {error}")
}
