//! `onsale flows`: which events follow from which, as tables and as diagrams.
//!
//! Both are made from `jetstream/flows.toml`, and the diagrams are kept in `docs/flows.md`; a
//! test fails when they are out of date.

mod diagram;

use std::{fs, path::PathBuf};

use anstream::print;
use anyhow::{Context, Result, bail};
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use flows::{Flow, Flows};

pub use diagram::diagrams;

/// The line above the diagrams in a file.
pub const BEGIN: &str = "<!-- flows:begin -->";
/// The line below them.
pub const END: &str = "<!-- flows:end -->";

/// How flows are printed.
#[derive(Args)]
pub struct FlowsCommand {
    /// Prints Markdown with one Mermaid diagram for each flow, and one for all
    #[arg(long, conflicts_with = "write")]
    mermaid: bool,
    /// Puts the diagrams into this file, between the lines flows:begin and flows:end
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// Runs `onsale flows`.
///
/// # Errors
/// When the file to write to cannot be read or written, or has no place for the diagrams.
pub fn run(options: &FlowsCommand) -> Result<()> {
    let flows = Flows::shipped();
    if let Some(file) = &options.write {
        let name = file.display();
        let text = fs::read_to_string(file).with_context(|| format!("{name}"))?;
        let text = put_into(&text, &diagrams(flows)).with_context(|| format!("{name}"))?;
        fs::write(file, text).with_context(|| format!("{name}"))?;
    } else if options.mermaid {
        print!("{}", diagrams(flows));
    } else {
        print!("{}", tables(flows));
    }
    Ok(())
}

/// The text with the diagrams in their place.
///
/// # Errors
/// When it has no such place.
pub fn put_into(text: &str, diagrams: &str) -> Result<String> {
    let place = text
        .split_once(BEGIN)
        .and_then(|(before, rest)| rest.split_once(END).map(|(_, after)| (before, after)));
    let Some((before, after)) = place else { bail!("there are no lines {BEGIN} and {END}") };
    Ok(format!("{before}{BEGIN}\n\n{diagrams}\n{END}{after}"))
}

/// Every flow, the compensations and the lifetimes, as tables.
pub fn tables(flows: &Flows) -> String {
    let mut text = String::new();
    for flow in flows.flows() {
        text.push_str(&format!("{}: {}\n{}\n\n", flow.name, flow.title, table(flows, flow)));
    }
    let mut undoes = new_table(["event", "is undone by", "emitted by"]);
    for undo in flows.undoes() {
        let by = events::producer_of(&undo.by.event).to_owned();
        undoes.add_row([undo.event.to_string(), undo.by.to_string(), by]);
    }
    text.push_str(&format!("compensations\n{undoes}\n\n"));
    let mut lives = new_table(["event", "ends with one of", "at the latest"]);
    for life in flows.lifetimes() {
        let latest = format!("{} and {} s", life.until, life.within_secs);
        lives.add_row([life.of.to_string(), lines(&life.must), latest]);
    }
    text.push_str(&format!("lifetimes\n{lives}\n"));
    text
}

fn table(flows: &Flows, flow: &Flow) -> Table {
    let mut table = new_table(["after", "by", "emits", "within"]);
    for begin in &flow.begins {
        let (command, emits) = (begin.command.clone(), lines(&begin.emits));
        table.add_row([command, "the command".to_owned(), emits, String::new()]);
    }
    let (events, _) = flows.reach(flow);
    for step in flows.steps() {
        if !events.iter().any(|event| event.meets(&step.after)) {
            continue;
        }
        if !step.must.is_empty() {
            let within = format!("{} s", step.within_secs);
            table.add_row([step.after.to_string(), step.by.clone(), lines(&step.must), within]);
        }
        if !step.may.is_empty() {
            let emits = format!("perhaps {}", lines(&step.may));
            table.add_row([step.after.to_string(), step.by.clone(), emits, String::new()]);
        }
    }
    for timer in flows.timers() {
        for after in timer.after.iter().filter(|after| events.iter().any(|f| f.meets(after))) {
            let name = format!("timer, {}", timer.name);
            let whose = if timer.elsewhere { "\nin another saga" } else { "" };
            let emits = format!("{}{whose}", lines(&timer.emits));
            table.add_row([after.to_string(), name, emits, String::new()]);
        }
    }
    table
}

fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    table
}

fn lines(events: &[flows::Pattern]) -> String {
    events.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagrams_go_between_their_lines_and_nowhere_else() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let put = put_into(&text, "new\n").expect("there is a place");
        assert_eq!(put, format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"));
        assert_eq!(put_into(&put, "new\n").expect("the same place"), put);
        assert!(put_into("nothing", "new").is_err());
    }

    #[test]
    fn every_flow_has_its_table_and_its_diagram() {
        let flows = Flows::shipped();
        let (tables, diagrams) = (tables(flows), diagrams(flows));
        for flow in flows.flows() {
            assert!(
                tables.contains(&flow.title) && diagrams.contains(&flow.title),
                "{}",
                flow.name
            );
        }
        for line in diagrams.lines() {
            assert!(line.len() <= 120, "{line}");
        }
    }
}
