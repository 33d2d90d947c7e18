//! Every handler fails once at each failpoint, and every saga ends as if there had been no
//! failure.

use std::collections::BTreeSet;

use harness::mesh::{Mesh, run};
use mesh::{Wiring, failpoint::Failpoint};

use super::{company::every_flow_in_company, twice::receipt_is_clean};
use crate::rest::Stores;

/// What no sale makes a service do. What a timer finds due runs under the timer's name; accounts
/// from the configuration are opened at the first start alone; every service answers in time; and
/// where every saga ends well, the auditor has nothing to report. Its own tests give it something.
const NEVER_ASKED: [&str; 10] = [
    "user.refuse_withdrawal",
    "withdrawals",
    "reservation.expire",
    "reservation.empty_show",
    "notification.record",
    "user.grant_wish",
    "wishes",
    "stalls",
    "audit.report_stall",
    "audit.report_violation",
];

/// What no sale makes a service emit: messages that are written to a folder are all sent, and
/// nothing is wrong.
const NEVER_EMITTED: [&str; 3] = ["notification.failed", "audit.saga_stalled", "audit.violation"];

#[test]
fn every_handler_may_fail_once_before_its_commit() {
    fail_everywhere_at(Failpoint::BeforeCommit);
}

#[test]
fn every_handler_may_fail_once_between_its_commit_and_its_answer() {
    fail_everywhere_at(Failpoint::BeforeAck);
}

#[test]
fn every_publisher_may_fail_once_after_each_event_that_it_has_published() {
    fail_everywhere_at(Failpoint::BeforeMark);
}

/// Events come in company, so that messages of several events fail, one of which is parked.
fn fail_everywhere_at(point: Failpoint) {
    run(async {
        let mesh = Mesh::own().await;
        let stores = Stores::of(&mesh.env).await;
        for running in mesh.fleet.running() {
            running.failpoints().arm_for(point, targets(point, running.wiring()));
        }
        let (schedules, poisons) = every_flow_in_company(&mesh, &stores).await;
        receipt_is_clean(&mesh, &schedules).await;
        for running in mesh.fleet.running() {
            let pending = running.failpoints().pending(point);
            assert!(pending.is_empty(), "{} never ran {pending:?}", running.name());
            let may_fail = !targets(point, running.wiring()).is_empty();
            let hits = running.failpoints().hits(point);
            assert_eq!(hits > 0, may_fail, "{} failed {hits} times", running.name());
        }
        poisons.alone_are_parked(&stores).await;
        mesh.stop().await;
    });
}

/// What a service can fail at: in its publisher, each event it emits; else each event it handles,
/// and each command and timer that emits something. One that emits nothing may be a query, which
/// has nothing to commit. A service that reads whole streams commits what it reads, and
/// acknowledges nothing.
fn targets(point: Failpoint, wiring: &Wiring) -> BTreeSet<&'static str> {
    let done = wiring.answers.iter().chain(&wiring.timers);
    if point == Failpoint::BeforeMark {
        return wiring
            .consumes
            .iter()
            .chain(done)
            .flat_map(|(_, emits)| emits.iter().copied())
            .filter(|event| !NEVER_EMITTED.contains(event))
            .collect();
    }
    let done = done.filter(|(_, emits)| !emits.is_empty()).map(|(name, _)| *name);
    let handled = wiring.consumes.iter().map(|(name, _)| *name);
    let read = wiring.follows.iter().copied().filter(|_| point == Failpoint::BeforeCommit);
    let read = read.filter(|event| !NEVER_EMITTED.contains(event));
    handled.chain(done).chain(read).filter(|name| !NEVER_ASKED.contains(name)).collect()
}
