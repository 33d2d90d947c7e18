//! A look as lines: for a screen, where all must have room, or as a single one.

use anstyle::{AnsiColor, Style};
use events::Timestamp;

use super::{
    line::Line,
    look::{Look, OnSale, Part, Payments, Sagas, ServiceLine},
};

const PLAIN: Style = Style::new();
const DIM: Style = Style::new().dimmed();
const HEAD: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const WARN: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// An event that waits longer than this to be published is late.
const LATE_SECS: u64 = 10;
/// Columns of the name of a schedule, and of a service.
const TITLE: usize = 36;
const SERVICE: usize = 14;
/// Lines that are kept for what needs an operator, on a small screen too.
const NEEDS: usize = 3;

/// The line above the first look.
pub(super) fn greeting() -> Line {
    Line::default().add(HEAD, "onsale top").plain("  looking …")
}

/// The lines of a screen of this size.
pub(super) fn lines(look: &Look, _width: u16, height: u16) -> Vec<Line> {
    let height = usize::from(height);
    let mut lines = vec![head(look)];
    lines.extend(troubles(look));
    let (services, mut needs) = (services(look), needs(look));
    // What needs an operator has some room left; schedules have what is over.
    needs.truncate(NEEDS.max(height.saturating_sub(lines.len() + services.len() + 5)));
    let taken = lines.len() + services.len() + needs.len();
    lines.extend(sale(look, height.saturating_sub(taken)));
    lines.extend(services);
    lines.extend(needs);
    lines.truncate(height);
    lines
}

fn head(look: &Look) -> Line {
    let state = |line: Line, name: &str, part: &Part<Vec<String>>| {
        let (style, word) = match part {
            Part::Seen(faults) if faults.is_empty() => (GOOD, "ok"),
            Part::Seen(_) => (BAD, "not ready"),
            Part::NotReachable(_) => (BAD, "not reachable"),
        };
        line.plain(format!("  {name} ")).add(style, word)
    };
    let line = Line::default().add(HEAD, "onsale top").plain(format!("  {}", time_of(look.at)));
    let line = state(line, "broker", &look.broker);
    state(line, "gateway", &look.gateway).add(DIM, "  q quits")
}

/// What is broken or cannot be reached.
fn troubles(look: &Look) -> Vec<Line> {
    let faults = [("broker", &look.broker), ("gateway", &look.gateway)];
    let faults = faults.into_iter().flat_map(|(name, part)| {
        let faults = part.seen().into_iter().flatten();
        faults.map(move |fault| (name, fault.as_str()))
    });
    let faults: Vec<_> = faults.map(|(name, fault)| trouble(name, fault)).collect();
    let unreachable = look.unreachable();
    let unreachable =
        unreachable.iter().map(|(part, why)| trouble(part, &format!("not reachable: {why}")));
    faults.into_iter().chain(unreachable).collect()
}

fn trouble(part: &str, what: &str) -> Line {
    Line::default().add(BAD, "! ").plain(part).plain(": ").plain(what)
}

fn sale(look: &Look, room: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let head = |name: &str| {
        let mut line = Line::default().left(HEAD, name, TITLE);
        for name in ["free", "held", "sold", "waiting", "admitted", "wait"] {
            line = line.right(DIM, name, 9);
        }
        line
    };
    if let Part::Seen(schedules) = &look.schedules {
        lines.push(head(&format!("SALE ({} on sale)", look.schedules_total)));
        // The payments have a line of their own.
        let most = room.saturating_sub(2);
        lines.extend(schedules.iter().take(most).map(schedule));
    }
    if let Part::Seen(payments) = &look.payments {
        lines.push(payments_line(payments));
    }
    lines
}

fn schedule(one: &OnSale) -> Line {
    let name = format!("{}, {}", one.title, one.venue);
    let mut line = Line::default().left(PLAIN, &name, TITLE - 1).plain(" ");
    for count in one.by_state().map_or([None; 3], |seats| seats.map(Some)) {
        line = line.right(PLAIN, &number(count), 9);
    }
    let room = one.room;
    line.right(PLAIN, &number(room.map(|room| room.waiting)), 9)
        .right(PLAIN, &number(room.map(|room| room.admitted)), 9)
        .right(PLAIN, &room.map_or("-".into(), |room| span(room.expected_wait_secs)), 9)
}

fn payments_line(payments: &Payments) -> Line {
    let Payments { completed, failed, compensated, refunded, running } = payments;
    let style = if *compensated > 0 { WARN } else { PLAIN };
    Line::default()
        .add(HEAD, "PAYMENTS")
        .add(DIM, " of the last minute: ")
        .plain(format!("{completed} completed, {failed} failed, "))
        .add(style, format!("{compensated} compensated"))
        .plain(format!(", {refunded} refunded, {running} running"))
}

const COLUMNS: [(&str, usize); 11] = [
    ("ready", 6),
    ("in/s", 8),
    ("out/s", 8),
    ("outbox", 8),
    ("oldest", 8),
    ("pending", 9),
    ("unacked", 8),
    ("again", 7),
    ("parked", 7),
    ("dead", 6),
    ("", 0),
];

fn services(look: &Look) -> Vec<Line> {
    let mut head = Line::default().left(HEAD, "SERVICES", SERVICE);
    for (name, width) in COLUMNS {
        head = head.right(DIM, name, width);
    }
    let mut lines = vec![head];
    lines.extend(look.services.iter().map(service));
    lines.push(sagas(look));
    lines
}

fn service(one: &ServiceLine) -> Line {
    let (ready, style) = match one.is_ready {
        Some(true) => ("yes", GOOD),
        Some(false) => ("no", BAD),
        None => ("-", DIM),
    };
    let [
        w_ready,
        w_in,
        w_out,
        w_outbox,
        w_oldest,
        w_pending,
        w_unacked,
        w_again,
        w_parked,
        w_dead,
        _,
    ] = COLUMNS.map(|(_, width)| width);
    let if_any = |count: Option<u64>, style| if count.unwrap_or(0) > 0 { style } else { PLAIN };
    let late = if one.oldest_secs.unwrap_or(0) > LATE_SECS { BAD } else { PLAIN };
    let oldest = match (one.unpublished, one.oldest_secs) {
        (Some(_), Some(secs)) => span(secs),
        _ => "-".into(),
    };
    Line::default()
        .left(PLAIN, one.service, SERVICE)
        .right(style, ready, w_ready)
        .right(PLAIN, &rate(one.consumed_per_sec), w_in)
        .right(PLAIN, &rate(one.published_per_sec), w_out)
        .right(late, &number(one.unpublished), w_outbox)
        .right(late, &oldest, w_oldest)
        .right(PLAIN, &number(one.pending), w_pending)
        .right(PLAIN, &number(one.ack_pending), w_unacked)
        .right(if_any(one.redelivered, WARN), &number(one.redelivered), w_again)
        .right(if_any(one.parked, WARN), &number(one.parked), w_parked)
        .right(if_any(one.dead, BAD), &number(one.dead), w_dead)
}

fn sagas(look: &Look) -> Line {
    let line = Line::default().add(HEAD, "SAGAS");
    let Part::Seen(Sagas { open, stalled, violations }) = look.sagas else {
        return line.add(DIM, " not reachable");
    };
    let bad = |count| if count > 0 { BAD } else { PLAIN };
    line.plain(format!(" {open} open, "))
        .add(bad(stalled), format!("{stalled} stalled"))
        .plain(", ")
        .add(bad(violations), format!("{violations} violations"))
        .add(DIM, if violations > 0 { "  onsale audit verify" } else { "" })
}

/// The last stalls and dead letters, each with the command that shows more.
fn needs(look: &Look) -> Vec<Line> {
    let stalls = look.stalls.seen().into_iter().flatten().map(|stall| {
        Line::default()
            .add(BAD, "stalled ")
            .plain(format!(
                "{} awaits {} since {}",
                stall.flow,
                stall.awaited.join(", "),
                time_of(stall.last_at)
            ))
            .plain(format!(" ({})", stall.last_event))
            .add(DIM, format!("  onsale saga show {}", stall.saga_id))
    });
    let dead_letters = look.dead_letters.seen().into_iter().flatten().map(|one| {
        Line::default()
            .add(BAD, "dead letter ")
            .plain(format!("{} ", one.event))
            .add(DIM, format!("onsale dead-letters show {}  ", one.letter))
            .plain(&one.cause)
    });
    stalls.chain(dead_letters).collect()
}

/// A look in one line, for where there is no terminal.
pub(super) fn line(look: &Look) -> String {
    let mut parts = vec![time_of(look.at)];
    if let Part::Seen(schedules) = &look.schedules {
        parts.push(sale_in_words(schedules, look.schedules_total));
    }
    if let Part::Seen(payments) = &look.payments {
        let Payments { completed, failed, compensated, refunded, running } = payments;
        parts.push(format!(
            "payments/min {completed} completed {failed} failed {compensated} compensated \
             {refunded} refunded {running} running"
        ));
    }
    let ready = look.services.iter().filter(|one| one.is_ready == Some(true)).count();
    let count = |of: fn(&ServiceLine) -> Option<u64>| number(look.sum(of));
    parts.push(format!(
        "services {ready}/{} ready in/s {} out/s {}",
        look.services.len(),
        rate(look.sum(|one| one.consumed_per_sec)),
        rate(look.sum(|one| one.published_per_sec))
    ));
    let oldest = look.services.iter().filter_map(|one| one.oldest_secs).max();
    parts.push(format!("outbox {} oldest {} s", count(|one| one.unpublished), oldest.unwrap_or(0)));
    parts.push(format!(
        "pending {} unacked {} again {}",
        count(|one| one.pending),
        count(|one| one.ack_pending),
        count(|one| one.redelivered)
    ));
    parts.push(format!("parked {} dead {}", count(|one| one.parked), count(|one| one.dead)));
    if let Part::Seen(Sagas { open, stalled, violations }) = look.sagas {
        parts.push(format!("sagas {open} open {stalled} stalled {violations} violations"));
    }
    let mut line = parts.join(" | ");
    let faults = [("broker", &look.broker), ("gateway", &look.gateway)];
    for (name, part) in faults {
        part.seen()
            .into_iter()
            .flatten()
            .for_each(|fault| line.push_str(&format!(" | {name}: {fault}")));
    }
    for (part, why) in look.unreachable() {
        line.push_str(&format!(" | {part} not reachable: {why}"));
    }
    Line::default().plain(line).rendered(u16::MAX, false)
}

fn sale_in_words(schedules: &[OnSale], total: u64) -> String {
    let seats = schedules.iter().filter_map(OnSale::by_state);
    let [free, held, sold] =
        seats.fold([0; 3], |sum, one| [sum[0] + one[0], sum[1] + one[1], sum[2] + one[2]]);
    let rooms = schedules.iter().filter_map(|one| one.room);
    let waiting: u64 = rooms.clone().map(|room| room.waiting).sum();
    let longest = rooms.map(|room| room.expected_wait_secs).max().unwrap_or(0);
    format!(
        "on sale {total} free {free} held {held} sold {sold} waiting {waiting} wait {longest} s"
    )
}

fn number(count: Option<u64>) -> String {
    count.map_or("-".into(), |count| count.to_string())
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or("-".into(), |rate| format!("{rate:.1}"))
}

/// Seconds, in the two largest units.
fn span(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs} s"),
        60..3_600 => format!("{}m{:02}s", secs / 60, secs % 60),
        3_600..86_400 => format!("{}h{:02}m", secs / 3_600, secs % 3_600 / 60),
        _ => format!("{}d{:02}h", secs / 86_400, secs % 86_400 / 3_600),
    }
}

/// The time of day, in UTC.
fn time_of(at: Timestamp) -> String {
    let (hour, minute, second) = at.0.to_hms();
    format!("{hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use events::ScheduleId;

    use super::*;
    use crate::{registry::SERVICES, top::look::Room};

    fn look() -> Look {
        let schedule = OnSale {
            schedule_id: ScheduleId(uuid::Uuid::from_u128(1)),
            title: "Night Ferry\x1b[2J".into(),
            venue: "Boiler Room".into(),
            opens_at: Timestamp::from_unix_millis(0).expect("a moment"),
            seats: 50,
            taken: Some((3, 35)),
            room: Some(Room { waiting: 451, admitted: 60, expected_wait_secs: 65 }),
        };
        let service = |service| ServiceLine {
            service,
            is_ready: Some(true),
            consumed: Some(10),
            published: Some(20),
            unpublished: Some(1),
            oldest_secs: Some(11),
            pending: Some(2),
            dead: Some(0),
            ..ServiceLine::default()
        };
        Look {
            at: "2026-11-30T12:00:01Z".parse().expect("a moment"),
            broker: Part::Seen(vec![]),
            gateway: Part::Seen(vec!["point: the store is away".into()]),
            schedules: Part::Seen(vec![schedule; 8]),
            schedules_total: 12,
            seats: Part::Seen(()),
            rooms: Part::Seen(()),
            payments: Part::Seen(Payments { completed: 35, failed: 1, ..Payments::default() }),
            services: SERVICES.map(service).into(),
            consumers: vec![],
            sagas: Part::Seen(Sagas { open: 4, ..Sagas::default() }),
            stalls: Part::NotReachable("no gateway".into()),
            dead_letters: Part::NotReachable("no gateway".into()),
        }
    }

    fn rendered(look: &Look, width: u16, height: u16) -> Vec<String> {
        lines(look, width, height).iter().map(|line| line.rendered(width, false)).collect()
    }

    #[test]
    fn a_screen_has_everything_and_is_never_larger_than_the_terminal() {
        let look = look();
        let shown = rendered(&look, 120, 50);
        let text = shown.join("\n");
        for part in [
            "onsale top  12:00:01  broker ok  gateway not ready",
            "! gateway: point: the store is away",
            "! stalls: not reachable: no gateway",
            "SALE (12 on sale)",
            "Night Ferry [2J, Boiler Room",
            "12        3       35      451       60    1m05s",
            "35 completed, 1 failed, 0 compensated",
            "data-platform",
            "SAGAS 4 open, 0 stalled, 0 violations",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert_eq!(text.matches("no gateway").count(), 1, "one reason is named once");
        for (width, height) in [(80, 24), (40, 20), (20, 5), (1, 1), (200, 100)] {
            let shown = rendered(&look, width, height);
            assert!(shown.len() <= usize::from(height), "{width} x {height}: {}", shown.len());
            assert!(shown.iter().all(|line| line.chars().count() <= usize::from(width)));
        }
        assert!(rendered(&look, 80, 24).iter().any(|line| line.starts_with("audit")));
    }

    #[test]
    fn rates_come_from_counters_and_a_counter_that_goes_back_has_none() {
        let (before, mut after) = (look(), look());
        after.at = before.at.plus_millis(500);
        after.services[0].consumed = Some(40);
        after.services[1].published = Some(1);
        after.rate(&before);
        assert_eq!(after.services[0].consumed_per_sec, Some(60.0));
        assert_eq!(after.services[0].published_per_sec, Some(0.0));
        assert_eq!(after.services[1].published_per_sec, None);
        let line = line(&after);
        for part in ["free 96 held 24 sold 280", "wait 65 s", "services 11/11 ready in/s 60.0"] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        assert_eq!(line.lines().count(), 1);
    }
}
