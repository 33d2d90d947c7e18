//! Pictures of a run: lines over time, in panels below each other, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Pixels of a panel.
const SIZE: (u32, u32) = (1_200, 260);
/// The colours of the lines of a panel.
const COLOURS: [RGBColor; 6] = [
    BLUE,
    RED,
    RGBColor(0, 140, 70),
    RGBColor(220, 130, 0),
    RGBColor(130, 60, 170),
    RGBColor(90, 90, 90),
];

/// Lines over the same seconds.
#[derive(Debug, Clone)]
pub(super) struct Panel {
    /// What the lines show, with its unit.
    pub(super) caption: String,
    /// The lines, each with its name: second and value.
    pub(super) lines: Vec<(String, Vec<(f64, f64)>)>,
    /// Seconds that are shaded, from and to.
    pub(super) shaded: Vec<(f64, f64)>,
}

/// Draws panels below each other.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn draw(file: &Path, panels: &[Panel]) -> Result<()> {
    let rows = panels.len().max(1);
    let root = SVGBackend::new(file, (SIZE.0, SIZE.1 * rows as u32)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    for (panel, area) in panels.iter().zip(root.split_evenly((rows, 1))) {
        draw_panel(panel, &area)?;
    }
    root.present().map_err(failed)
}

fn draw_panel(
    panel: &Panel,
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
) -> Result<()> {
    let points = || panel.lines.iter().flat_map(|(_, line)| line.iter());
    let first = points().map(|(second, _)| *second).fold(f64::INFINITY, f64::min);
    let last = points().map(|(second, _)| *second).fold(0.0, f64::max);
    let most = points().map(|(_, value)| *value).fold(0.0, f64::max) * 1.1;
    let (first, most) = (first.min(last), if most > 0.0 { most } else { 1.0 });
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.caption, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(26)
        .y_label_area_size(80)
        .build_cartesian_2d(first..last.max(first + 1.0), 0.0..most)
        .map_err(failed)?;
    chart.configure_mesh().disable_x_mesh().draw().map_err(failed)?;
    let shaded = panel
        .shaded
        .iter()
        .map(|(from, to)| Rectangle::new([(*from, 0.0), (*to, most)], RED.mix(0.10).filled()));
    chart.draw_series(shaded).map_err(failed)?;
    for ((name, line), colour) in panel.lines.iter().zip(COLOURS.iter().cycle()) {
        let series = LineSeries::new(line.iter().copied(), colour);
        chart
            .draw_series(series)
            .map_err(failed)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], *colour));
    }
    if panel.lines.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .draw()
            .map_err(failed)?;
    }
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("the picture cannot be drawn: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_its_captions_and_the_names_of_its_lines() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("picture.svg");
        let line = |name: &str| (name.to_owned(), vec![(0.0, 1.0), (1.0, 2.0)]);
        let panel = |caption: &str, lines| Panel {
            caption: caption.into(),
            lines,
            shaded: vec![(0.2, 0.4)],
        };
        let panels =
            [panel("memory, MB", vec![line("nats"), line("valkey")]), panel("empty", vec![])];
        draw(&file, &panels).unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        for word in ["memory, MB", "nats", "valkey", "empty"] {
            assert!(text.contains(word), "{word}");
        }
    }
}
