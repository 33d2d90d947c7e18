//! What is exported: a record for each sales event, and how records become batches.

use std::{collections::BTreeMap, fmt};

use events::{EventId, SagaId, Timestamp, producer_of};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// Records of one batch at most.
pub const BATCH_RECORDS_MAX: usize = 1_000;
/// Bytes of one batch at most, except for a single record that is larger.
pub const BATCH_BYTES_MAX: usize = 1_000_000;

/// The events that are read: all of payment's and reservation's, so that a position at the end of
/// a stream shows that it is there. Those with a [`step_of`] are exported.
/// `reservation.confirm_refused` has none: it changes no reservation, and the payment says
/// `hold_gone`. `payment.hold_extension_requested` has none: it changes no payment.
pub const EVENTS: &[&str] = &[
    "payment.requested",
    "payment.hold_extension_requested",
    "payment.completed",
    "payment.failed",
    "payment.refunded",
    "reservation.created",
    "reservation.confirmed",
    "reservation.confirm_refused",
    "reservation.expired",
    "reservation.cancelled",
];

/// The step of its life that an event brings a payment or a reservation to, and its state then.
///
/// The version counts steps of the life and not sequences of the stream: a stream that was lost
/// and published again has other sequences, and a row is none the older for it.
pub fn step_of(event: &str) -> Option<(u32, &'static str)> {
    Some(match event {
        "payment.requested" => (1, "REQUESTED"),
        "payment.completed" => (2, "COMPLETED"),
        "payment.failed" => (2, "FAILED"),
        "payment.refunded" => (3, "REFUNDED"),
        "reservation.created" => (1, "PENDING"),
        "reservation.confirmed" => (2, "CONFIRMED"),
        "reservation.expired" => (3, "EXPIRED"),
        "reservation.cancelled" => (3, "CANCELLED"),
        _ => return None,
    })
}

/// One event as it is exported.
///
/// A target that keeps one row per `key`, and lets a record change it when its `version` is not
/// lower than the row's, ends with the last state of every payment and every reservation,
/// whatever comes twice or late. An event does not repeat the fields of earlier ones: a field
/// that it does not name stays as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `payment/<id>` or `reservation/<id>`.
    pub key: String,
    /// Which step of its life this is.
    pub version: u32,
    /// The state after it.
    pub state: String,
    /// The service that emitted it.
    pub stream: String,
    /// Its position in that service's stream: records of a stream come in this order.
    pub sequence: u64,
    /// The same for every repeat.
    pub event_id: EventId,
    /// The event's name, for example `payment.completed`.
    #[serde(rename = "type")]
    pub event: String,
    /// When it was emitted.
    pub at: Timestamp,
    /// The saga it belongs to.
    pub saga_id: SagaId,
    /// Its data.
    pub data: Value,
}

impl Record {
    /// Stored events as records, in their order, and how many should be records but cannot be
    /// read.
    pub fn of_all<'a>(
        events: impl IntoIterator<Item = &'a mesh::StoredEvent>,
    ) -> (Vec<Self>, usize) {
        let exported = events.into_iter().filter(|event| step_of(event.name()).is_some());
        let (mut records, mut unreadable) = (Vec::new(), 0);
        for event in exported {
            match Self::of(event) {
                Some(record) => records.push(record),
                None => unreadable += 1,
            }
        }
        (records, unreadable)
    }

    /// A stored event as a record; `None` when it is not exported, or lacks an attribute that
    /// every event has.
    pub fn of(event: &mesh::StoredEvent) -> Option<Self> {
        let (version, state) = step_of(event.name())?;
        Some(Self {
            key: key(event.name(), event.about()?),
            version,
            state: state.to_owned(),
            stream: event.service().to_owned(),
            sequence: event.position(),
            event_id: EventId(event.event_id()?),
            event: event.name().to_owned(),
            at: event.at()?,
            saga_id: event.saga_id()?,
            data: serde_json::from_slice(event.payload()).ok()?,
        })
    }

    /// The points that it moves or requests.
    pub fn points(&self) -> i64 {
        let named = |name: &str| self.data.get(name).and_then(Value::as_i64);
        named("refund").or_else(|| named("amount")).unwrap_or(0)
    }

    /// The seats that it names.
    pub fn seats(&self) -> u64 {
        self.data.get("seats").and_then(Value::as_array).map_or(0, |seats| seats.len() as u64)
    }
}

fn key(event: &str, about: Uuid) -> String {
    format!("{}/{about}", producer_of(event))
}

/// Records that are handed over in one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Made of what is in it, for example `payment.1-40+reservation.7-55`: the same batch has
    /// the same id.
    pub id: String,
    /// Newline-delimited JSON.
    pub body: Vec<u8>,
    /// How many.
    pub records: usize,
}

/// Cuts records into batches, in their order. Without records there is one empty batch, to carry
/// a watermark.
pub fn batches(records: &[Record]) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut open = Open::default();
    for record in records {
        let mut line = serde_json::to_vec(record).expect("records are plain data");
        line.push(b'\n');
        let is_full = open.records == BATCH_RECORDS_MAX
            || (open.records > 0 && open.body.len() + line.len() > BATCH_BYTES_MAX);
        if is_full {
            batches.push(std::mem::take(&mut open).close());
        }
        open.add(record, &line);
    }
    if open.records > 0 || batches.is_empty() {
        batches.push(open.close());
    }
    batches
}

/// A batch that is being filled.
#[derive(Default)]
struct Open<'a> {
    ranges: Vec<(&'a str, u64, u64)>,
    body: Vec<u8>,
    records: usize,
}

impl<'a> Open<'a> {
    fn add(&mut self, record: &'a Record, line: &[u8]) {
        match self.ranges.last_mut() {
            Some((stream, _, last)) if *stream == record.stream && *last < record.sequence => {
                *last = record.sequence;
            }
            _ => self.ranges.push((&record.stream, record.sequence, record.sequence)),
        }
        self.body.extend_from_slice(line);
        self.records += 1;
    }

    fn close(self) -> Batch {
        let range = |(stream, first, last): &(&str, u64, u64)| format!("{stream}.{first}-{last}");
        let ranges: Vec<String> = self.ranges.iter().map(range).collect();
        let id = if ranges.is_empty() { "empty".to_owned() } else { ranges.join("+") };
        Batch { id, body: self.body, records: self.records }
    }
}

/// The range of events to export, by when they were emitted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Range {
    /// From this moment on; from the beginning when absent.
    pub since: Option<Timestamp>,
    /// Before this moment; to the end when absent.
    pub until: Option<Timestamp>,
}

impl Range {
    /// Whether an event emitted at this moment is in the range.
    pub fn has(&self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| since <= at) && self.until.is_none_or(|until| at < until)
    }
}

/// Counts and sums of records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals(pub BTreeMap<String, Tally>);

/// Counts and sums of one kind of event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records.
    pub records: u64,
    /// Seats named in them.
    pub seats: u64,
    /// Points named in them.
    pub points: i64,
}

impl Totals {
    /// Adds a record.
    pub fn add(&mut self, record: &Record) {
        let tally = self.0.entry(record.event.clone()).or_default();
        tally.records += 1;
        tally.seats += record.seats();
        tally.points += record.points();
    }

    /// All records.
    pub fn records(&self) -> u64 {
        self.0.values().map(|tally| tally.records).sum()
    }

    /// Counts and sums of one kind of event.
    pub fn of(&self, event: &str) -> Tally {
        self.0.get(event).copied().unwrap_or_default()
    }
}

impl<'a> FromIterator<&'a Record> for Totals {
    fn from_iter<T: IntoIterator<Item = &'a Record>>(records: T) -> Self {
        let mut totals = Self::default();
        records.into_iter().for_each(|record| totals.add(record));
        totals
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, seats, points } = self;
        write!(f, "{records} records, {seats} seats, {points} points")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn record(event: &str, sequence: u64, data: Value) -> Record {
        let (version, state) = step_of(event).expect("an exported event");
        let id = Uuid::from_u128(u128::from(sequence));
        Record {
            key: key(event, id),
            version,
            state: state.to_owned(),
            stream: producer_of(event).to_owned(),
            sequence,
            event_id: EventId(id),
            event: event.to_owned(),
            at: "2026-11-21T10:00:00.000001Z".parse().expect("a moment"),
            saga_id: SagaId(id),
            data,
        }
    }

    fn paid(sequence: u64) -> Record {
        record("payment.completed", sequence, json!({ "amount": 100 }))
    }

    #[test]
    fn every_exported_event_is_a_step_of_a_life_and_no_other_is() {
        let mut emitted = [events::payment::EVENTS, events::reservation::EVENTS].concat();
        // Events that answer a withdrawal are about an account, not a sale.
        emitted.retain(|event| !event.contains(".withdrawal_"));
        assert_eq!(EVENTS, emitted);
        let unexported: Vec<_> = emitted.iter().filter(|event| step_of(event).is_none()).collect();
        let expected = ["payment.hold_extension_requested", "reservation.confirm_refused"];
        assert_eq!(unexported, expected.iter().collect::<Vec<_>>());
    }

    #[test]
    fn an_event_has_a_higher_version_than_the_event_it_follows() {
        let version = |event| step_of(event).expect("exported").0;
        for (before, after) in [
            ("payment.requested", "payment.completed"),
            ("payment.requested", "payment.failed"),
            ("payment.completed", "payment.refunded"),
            ("reservation.created", "reservation.confirmed"),
            ("reservation.created", "reservation.expired"),
            ("reservation.confirmed", "reservation.cancelled"),
        ] {
            assert!(version(before) < version(after), "{before} {after}");
        }
    }

    #[test]
    fn batches_have_every_record_once_in_order_and_stay_small() {
        let records: Vec<Record> = (1..=2_500).map(paid).collect();
        let batches = batches(&records);
        assert_eq!(batches.iter().map(|b| b.records).collect::<Vec<_>>(), [1_000, 1_000, 500]);
        assert_eq!(batches[1].id, "payment.1001-2000");
        let lines: Vec<Record> = batches
            .iter()
            .flat_map(|batch| batch.body.split(|byte| *byte == b'\n'))
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).expect("a record"))
            .collect();
        assert_eq!(lines, records);
    }

    #[test]
    fn a_batch_of_large_records_is_cut_by_its_bytes() {
        let large = json!({ "seats": "A".repeat(400_000) });
        let records: Vec<Record> =
            (1..=5).map(|seq| record("reservation.created", seq, large.clone())).collect();
        let batches = batches(&records);
        assert_eq!(batches.iter().map(|b| b.records).collect::<Vec<_>>(), [2, 2, 1]);
        assert!(batches.iter().all(|batch| batch.body.len() <= BATCH_BYTES_MAX));
    }

    #[test]
    fn a_batch_is_named_by_what_is_in_it_and_an_empty_one_is_a_watermark() {
        let held = record("reservation.created", 7, json!({ "seats": ["A-1-1"] }));
        let both = batches(&[paid(3), paid(9), held]);
        assert_eq!(both[0].id, "payment.3-9+reservation.7-7");
        assert_eq!(batches(&[])[0], Batch { id: "empty".into(), body: vec![], records: 0 });
    }

    #[test]
    fn a_range_includes_its_beginning_and_not_its_end() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a moment");
        let (since, until) = (at("2026-11-21T00:00:00Z"), at("2026-11-22T00:00:00Z"));
        let range = Range { since: Some(since), until: Some(until) };
        assert!(range.has(since) && !range.has(until) && Range::default().has(until));
    }

    #[test]
    fn totals_count_records_seats_and_points() {
        let back = record("reservation.cancelled", 5, json!({ "seats": ["A-1-1"], "refund": 70 }));
        let totals: Totals = [paid(1), paid(2), back].iter().collect();
        assert_eq!(totals.of("payment.completed"), Tally { records: 2, seats: 0, points: 200 });
        assert_eq!(totals.of("reservation.cancelled"), Tally { records: 1, seats: 1, points: 70 });
        assert_eq!((totals.records(), totals.of("payment.failed")), (3, Tally::default()));
    }
}
