//! One seat map in memory, and its response bodies and events, each encoded once. Pure.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    str::FromStr,
};

use bytes::Bytes;
use events::{
    ScheduleId, SeatId,
    concert::{Epoch, MapState, Seat, SeatDelta, SeatMap, SeatState, SectionCount},
};
use serde::Serialize;

/// Changes that are kept for clients that come back.
const DELTAS_MAX: usize = 10_000;

/// A place in a map's history; it also identifies the map as it was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) epoch: Epoch,
    pub(crate) sequence: u64,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.sequence)
    }
}

/// Not a place in the history of a map.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoPlace;

impl FromStr for At {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let (epoch, sequence) = text.split_once('.').ok_or(NoPlace)?;
        if !sequence.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NoPlace);
        }
        let sequence = sequence.parse().map_err(|_| NoPlace)?;
        Ok(Self { epoch: epoch.parse().map_err(|_| NoPlace)?, sequence })
    }
}

/// One server-sent event, ready to be written to watchers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Frame {
    /// The sequence of the map after it.
    pub(crate) sequence: u64,
    pub(crate) bytes: Bytes,
}

/// What a client that has the map of some place is missing.
#[derive(Debug, PartialEq)]
pub(crate) enum Gap {
    /// These changes, perhaps none.
    Deltas(Vec<Frame>),
    /// Changes that are no longer here, but perhaps still at the service.
    Older,
    /// Not known here: the client is further than this copy, or of another epoch.
    Unknown,
}

/// A seat map.
pub(crate) struct Map {
    schedule_id: ScheduleId,
    at: At,
    state: MapState,
    sections: Vec<SectionCount>,
    /// The index of a section by its name as in seat ids, which is how changes name it.
    place_of: HashMap<String, usize>,
    taken: BTreeMap<SeatId, SeatState>,
    /// The last changes, without a gap, up to `at`.
    deltas: VecDeque<Frame>,
}

#[derive(Serialize)]
struct Body<'a> {
    schedule_id: ScheduleId,
    epoch: Epoch,
    sequence: u64,
    state: MapState,
    sections: Vec<&'a SectionCount>,
    seats: Vec<Shown<'a>>,
}

#[derive(Serialize)]
struct Shown<'a> {
    seat: &'a SeatId,
    state: SeatState,
}

#[derive(Serialize)]
struct Delta<'a> {
    sequence: u64,
    sections: Vec<&'a SectionCount>,
    seats: &'a [Seat],
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<MapState>,
}

impl Map {
    /// The map as it was read.
    pub(crate) fn new(read: SeatMap) -> Self {
        let places = read.sections.iter().enumerate();
        Self {
            schedule_id: read.schedule_id,
            at: At { epoch: read.epoch, sequence: read.sequence },
            state: read.state,
            place_of: places.map(|(at, count)| (SeatId::part(&count.section), at)).collect(),
            sections: read.sections,
            taken: read.seats.into_iter().map(|seat| (seat.seat, seat.state)).collect(),
            deltas: VecDeque::new(),
        }
    }

    /// Its place in its history.
    pub(crate) fn at(&self) -> At {
        self.at
    }

    /// Applies the next change, and returns it as an event for watchers; `None` when it is not
    /// the next one.
    pub(crate) fn apply(&mut self, delta: &SeatDelta) -> Option<Frame> {
        if delta.sequence != self.at.sequence + 1 {
            return None;
        }
        for seat in &delta.seats {
            match seat.state {
                SeatState::Free => self.taken.remove(&seat.seat),
                state => self.taken.insert(seat.seat.clone(), state),
            };
        }
        self.state = delta.state.unwrap_or(self.state);
        let touched: Vec<SectionCount> = self.counts_after(delta);
        for count in &touched {
            if let Some(place) = self.place_of.get(&SeatId::part(&count.section)) {
                self.sections[*place] = count.clone();
            }
        }
        self.at.sequence = delta.sequence;
        let frame = self.frame(delta, &touched);
        self.deltas.push_back(frame.clone());
        if self.deltas.len() > DELTAS_MAX {
            self.deltas.pop_front();
        }
        Some(frame)
    }

    /// The sections that a change touches, with their counts after it: all of them when the show
    /// is called off, since no seat is free then. How many seats a section has never changes.
    fn counts_after(&self, delta: &SeatDelta) -> Vec<SectionCount> {
        if delta.state == Some(MapState::Cancelled) {
            let none_free = |count: &SectionCount| SectionCount { free: 0, ..count.clone() };
            return self.sections.iter().map(none_free).collect();
        }
        let counted = delta.sections.iter().filter_map(|taken| {
            let before = &self.sections[*self.place_of.get(&taken.section)?];
            let free = match self.state {
                MapState::Cancelled => 0,
                MapState::Open => before.free + before.held + before.sold - taken.held - taken.sold,
            };
            let section = before.section.clone();
            Some(SectionCount { section, free, held: taken.held, sold: taken.sold })
        });
        counted.collect()
    }

    fn frame(&self, delta: &SeatDelta, touched: &[SectionCount]) -> Frame {
        let at = At { sequence: delta.sequence, ..self.at };
        let data = Delta {
            sequence: delta.sequence,
            sections: touched.iter().collect(),
            seats: &delta.seats,
            state: delta.state,
        };
        Frame { sequence: delta.sequence, bytes: event("delta", at, &json(&data)) }
    }

    /// What a client that has the map of `at` is missing.
    pub(crate) fn since(&self, at: At) -> Gap {
        if at.epoch != self.at.epoch || at.sequence > self.at.sequence {
            return Gap::Unknown;
        }
        let missing = self.at.sequence - at.sequence;
        match usize::try_from(missing).ok().and_then(|all| self.deltas.len().checked_sub(all)) {
            Some(known) => Gap::Deltas(self.deltas.range(known..).cloned().collect()),
            None => Gap::Older,
        }
    }

    /// The place before the first change that is kept here.
    pub(crate) fn reaches_back_to(&self) -> At {
        At { sequence: self.at.sequence - self.deltas.len() as u64, ..self.at }
    }

    /// Adds changes before those that are here, as many as join them without a gap.
    pub(crate) fn reach_back(&mut self, epoch: Epoch, older: &[SeatDelta]) {
        for delta in older.iter().rev() {
            let is_next = delta.sequence == self.reaches_back_to().sequence;
            if epoch == self.at.epoch && is_next && self.deltas.len() < DELTAS_MAX {
                let frame = self.frame(delta, &self.counts_after(delta));
                self.deltas.push_front(frame);
            }
        }
    }

    /// The map as a response body: all of it, or one section.
    pub(crate) fn body(&self, section: Option<&str>) -> Bytes {
        let is_wanted = |part: &str| section.is_none_or(|section| section == part);
        let seats = self.taken.iter().filter(|(seat, _)| is_wanted(seat.section()));
        let sections = self.sections.iter();
        json(&Body {
            schedule_id: self.schedule_id,
            epoch: self.at.epoch,
            sequence: self.at.sequence,
            state: self.state,
            sections: sections.filter(|it| is_wanted(&SeatId::part(&it.section))).collect(),
            seats: seats.map(|(seat, state)| Shown { seat, state: *state }).collect(),
        })
        .into()
    }

    /// Whether there is a section of this name, as it is written in seat ids.
    pub(crate) fn has(&self, section: &str) -> bool {
        self.place_of.contains_key(section)
    }

    /// The whole map as an event.
    pub(crate) fn snapshot(&self) -> Frame {
        let bytes = event("snapshot", self.at, &self.body(None));
        Frame { sequence: self.at.sequence, bytes }
    }
}

fn json<T: Serialize>(what: &T) -> Vec<u8> {
    serde_json::to_vec(what).expect("a map is plain data")
}

/// JSON has no line breaks, so the data is one line.
fn event(name: &str, id: At, data: &[u8]) -> Bytes {
    let head = format!("id: {id}\nevent: {name}\ndata: ");
    [head.as_bytes(), data, b"\n\n"].concat().into()
}

#[cfg(test)]
mod tests {
    use events::concert::SectionTaken;
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;

    fn seat(seat: &str, state: SeatState) -> Seat {
        Seat { seat: SeatId(seat.into()), state }
    }

    /// Two sections of ten seats, at 7.5; A-1-1 is held.
    fn map() -> Map {
        let section = |name: &str, held| SectionCount {
            section: name.into(),
            free: 10 - held,
            held,
            sold: 0,
        };
        Map::new(SeatMap {
            schedule_id: ScheduleId(Uuid::nil()),
            epoch: Epoch(7),
            sequence: 5,
            state: MapState::Open,
            sections: vec![section("B", 0), section("A", 1)],
            seats: vec![seat("A-1-1", SeatState::Held)],
        })
    }

    fn delta(sequence: u64, name: &str, state: SeatState, held: i64, sold: i64) -> SeatDelta {
        let section = SeatId(name.into()).section().to_owned();
        let sections = vec![SectionTaken { section, held, sold }];
        SeatDelta { sequence, sections, seats: vec![seat(name, state)], state: None }
    }

    fn body(map: &Map, section: Option<&str>) -> Value {
        serde_json::from_slice(&map.body(section)).unwrap()
    }

    fn at(sequence: u64) -> At {
        At { epoch: Epoch(7), sequence }
    }

    fn sequences(gap: Gap) -> Vec<u64> {
        match gap {
            Gap::Deltas(frames) => frames.iter().map(|frame| frame.sequence).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_change_shows_in_the_body_and_in_the_counts() {
        let mut map = map();
        map.apply(&delta(6, "A-1-1", SeatState::Sold, 0, 1)).unwrap();
        map.apply(&delta(7, "B-1-1", SeatState::Held, 1, 0)).unwrap();
        let whole = body(&map, None);
        assert_eq!((&whole["epoch"], &whole["sequence"]), (&json!("0000000000000007"), &json!(7)));
        assert_eq!(
            whole["sections"],
            json!([
                {"section": "B", "free": 9, "held": 1, "sold": 0},
                {"section": "A", "free": 9, "held": 0, "sold": 1},
            ])
        );
        assert_eq!(
            whole["seats"],
            json!([{"seat": "A-1-1", "state": "sold"}, {"seat": "B-1-1", "state": "held"}])
        );
        let section = body(&map, Some("B"));
        assert_eq!(section["seats"], json!([{"seat": "B-1-1", "state": "held"}]));
        assert_eq!(body(&map, Some("C"))["seats"], json!([]));
        map.apply(&delta(8, "A-1-1", SeatState::Free, 0, 0)).unwrap();
        assert_eq!(body(&map, Some("A"))["seats"], json!([]));
        assert_eq!(body(&map, Some("A"))["sections"][0]["free"], 10);
    }

    #[test]
    fn a_section_is_shown_by_its_name_and_found_by_its_form_in_seat_ids() {
        let name = "Orchestra-Left";
        let sections = vec![SectionCount { section: name.into(), free: 9, held: 1, sold: 0 }];
        let mut map = Map::new(SeatMap {
            schedule_id: ScheduleId(Uuid::nil()),
            epoch: Epoch(7),
            sequence: 5,
            state: MapState::Open,
            sections,
            seats: vec![seat("Orchestra_Left-A-1", SeatState::Held)],
        });
        let frame = map.apply(&delta(6, "Orchestra_Left-A-2", SeatState::Sold, 1, 1)).unwrap();
        assert!(str::from_utf8(&frame.bytes).unwrap().contains("\"section\":\"Orchestra-Left\""));
        let body = body(&map, Some("Orchestra_Left"));
        assert_eq!(body["sections"][0], json!({"section": name, "free": 8, "held": 1, "sold": 1}));
        assert_eq!(body["seats"].as_array().unwrap().len(), 2);
        assert!(map.has("Orchestra_Left"));
    }

    #[test]
    fn a_cancelled_show_has_no_free_seat_in_the_body_or_in_any_event() {
        let mut map = map();
        let off = SeatDelta {
            sequence: 6,
            sections: vec![],
            seats: vec![],
            state: Some(MapState::Cancelled),
        };
        let frame = map.apply(&off).unwrap();
        let text = str::from_utf8(&frame.bytes).unwrap();
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(data).unwrap(),
            json!({
                "sequence": 6, "seats": [], "state": "cancelled",
                "sections": [
                    {"section": "B", "free": 0, "held": 0, "sold": 0},
                    {"section": "A", "free": 0, "held": 1, "sold": 0},
                ],
            })
        );
        map.apply(&delta(7, "A-1-1", SeatState::Free, 0, 0)).unwrap();
        let whole = body(&map, None);
        assert_eq!((&whole["state"], &whole["seats"]), (&json!("cancelled"), &json!([])));
        let free = |count: &Value| count["free"] == 0;
        assert!(whole["sections"].as_array().unwrap().iter().all(free), "{whole}");
        assert_eq!(map.at(), at(7), "its place has moved on");
    }

    #[test]
    fn an_event_is_one_id_one_name_and_one_line_of_data() {
        let mut map = map();
        let frame = map.apply(&delta(6, "A-1-1", SeatState::Free, 0, 0)).unwrap();
        assert_eq!(
            str::from_utf8(&frame.bytes).unwrap(),
            "id: 0000000000000007.6\nevent: delta\ndata: {\"sequence\":6,\"sections\":[{\"section\":\"A\",\
             \"free\":10,\"held\":0,\"sold\":0}],\"seats\":[{\"seat\":\"A-1-1\",\
             \"state\":\"free\"}]}\n\n"
        );
        let snapshot = map.snapshot();
        assert!(snapshot.bytes.starts_with(b"id: 0000000000000007.6\nevent: snapshot\ndata: {"));
        assert!(snapshot.bytes.ends_with(b"}\n\n"));
    }

    #[test]
    fn only_the_next_change_is_applied() {
        let mut map = map();
        assert_eq!(map.apply(&delta(5, "A-1-1", SeatState::Free, 0, 0)), None);
        assert_eq!(map.apply(&delta(7, "A-1-1", SeatState::Free, 0, 0)), None);
        assert_eq!(map.at(), at(5));
    }

    #[test]
    fn a_client_that_comes_back_gets_exactly_what_it_missed() {
        let mut map = map();
        for sequence in 6..=9 {
            map.apply(&delta(sequence, "B-1-1", SeatState::Held, 1, 0)).unwrap();
        }
        assert_eq!(sequences(map.since(at(9))), [0; 0]);
        assert_eq!(sequences(map.since(at(7))), [8, 9]);
        assert_eq!(sequences(map.since(at(5))), [6, 7, 8, 9]);
        assert_eq!(map.since(at(4)), Gap::Older);
        assert_eq!(map.since(at(10)), Gap::Unknown);
        assert_eq!(map.since(At { epoch: Epoch(6), sequence: 7 }), Gap::Unknown);
    }

    #[test]
    fn older_changes_join_those_that_are_here_without_a_gap() {
        let mut map = map();
        map.apply(&delta(6, "B-1-1", SeatState::Held, 1, 0)).unwrap();
        let older = |sequences: &[u64]| -> Vec<SeatDelta> {
            let of = |sequence| delta(sequence, "A-1-2", SeatState::Held, 1, 0);
            sequences.iter().copied().map(of).collect()
        };
        map.reach_back(Epoch(7), &older(&[2, 3]));
        assert_eq!(map.since(at(4)), Gap::Older, "4 and 5 are missing between them");
        map.reach_back(Epoch(6), &older(&[4, 5]));
        assert_eq!(map.since(at(4)), Gap::Older, "of another epoch");
        map.reach_back(Epoch(7), &older(&[4, 5, 6]));
        assert_eq!(sequences(map.since(at(3))), [4, 5, 6]);
        assert_eq!(map.reaches_back_to(), at(3));
    }

    #[test]
    fn no_more_changes_are_kept_than_there_is_room_for() {
        let mut map = map();
        let last = 5 + DELTAS_MAX as u64 + 3;
        for sequence in 6..=last {
            map.apply(&delta(sequence, "B-1-1", SeatState::Held, 1, 0)).unwrap();
        }
        assert_eq!(map.since(at(7)), Gap::Older);
        assert_eq!(sequences(map.since(at(8))).len(), DELTAS_MAX);
        map.reach_back(Epoch(7), &[delta(8, "B-1-1", SeatState::Held, 1, 0)]);
        assert_eq!(map.since(at(7)), Gap::Older);
    }

    #[test]
    fn a_place_parses_from_its_own_text() {
        let written = "0000000000000007.5";
        assert_eq!(written.parse(), Ok(at(5)));
        assert_eq!(at(5).to_string(), written);
        for bad in ["", "7.5", "0000000000000007", "0000000000000007.", ".5", "1.1.2.3.4"] {
            assert!(bad.parse::<At>().is_err(), "{bad:?}");
        }
        for sequence in ["+5", "-5", " 5", "5.1", "99999999999999999999"] {
            let bad = format!("0000000000000007.{sequence}");
            assert!(bad.parse::<At>().is_err(), "{bad:?}");
        }
    }
}
