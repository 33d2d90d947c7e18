//! The seat map: which word on a seat remains, and what is drawn of it. Pure.

use std::collections::HashMap;

use events::{
    ReservationId, ScheduleId,
    concert::{Seat, SeatBlock, SeatMap, SeatState, SectionCount},
};

/// How far one owner of a seat has come, in the order of the stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// `reservation.created`.
    Held,
    /// `reservation.confirmed`.
    Sold,
    /// `reservation.expired` or `reservation.cancelled`.
    Freed,
}

impl Stage {
    /// As the database names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Sold => "sold",
            Self::Freed => "freed",
        }
    }
}

/// What the map shows of a seat, by the name of its stage.
pub fn seat_state(stage: &str) -> SeatState {
    match stage {
        "held" => SeatState::Held,
        "sold" => SeatState::Sold,
        _ => SeatState::Free,
    }
}

/// The last word on a seat: whose it is or was, and how far that owner has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The fence: each next owner of the seat has a higher one.
    pub hold_version: i64,
    /// How far this owner has come.
    pub stage: Stage,
    /// The owner.
    pub reservation_id: ReservationId,
}

impl Mark {
    /// The later of two words on one seat: of the later owner, or of the later stage of
    /// the same owner. Whatever the order of arrival, and however often each arrives,
    /// the same word remains.
    pub fn or_later(self, other: Self) -> Self {
        let rank = |mark: Self| (mark.hold_version, mark.stage);
        if rank(other) > rank(self) { other } else { self }
    }
}

/// Draws the map: the plan, with a state at each seat.
pub fn draw(
    schedule_id: ScheduleId,
    plan: &[SeatBlock],
    section: Option<&str>,
    states: &HashMap<String, SeatState>,
) -> SeatMap {
    let mut sections: Vec<SectionCount> = Vec::new();
    let mut place_of: HashMap<&str, usize> = HashMap::new();
    let mut seats = Vec::new();
    for block in plan.iter().filter(|block| section.is_none_or(|name| block.section == name)) {
        let place = *place_of.entry(&block.section).or_insert_with(|| {
            let section = block.section.clone();
            sections.push(SectionCount { section, free: 0, held: 0, sold: 0 });
            sections.len() - 1
        });
        let count = &mut sections[place];
        for seat in block.ids() {
            let state = states.get(&seat.0).copied().unwrap_or(SeatState::Free);
            match state {
                SeatState::Free => count.free += 1,
                SeatState::Held => count.held += 1,
                SeatState::Sold => count.sold += 1,
            }
            seats.push(Seat { seat, price: block.price, state });
        }
    }
    SeatMap { schedule_id, sections, seats }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_stage_is_read_back_as_what_the_map_shows() {
        let shown = [Stage::Held, Stage::Sold, Stage::Freed].map(|it| seat_state(it.as_str()));
        assert_eq!(shown, [SeatState::Held, SeatState::Sold, SeatState::Free]);
    }

    /// Every order of `items`.
    fn orders<T: Copy>(items: &[T]) -> Vec<Vec<T>> {
        if items.is_empty() {
            return vec![Vec::new()];
        }
        let mut all = Vec::new();
        for index in 0..items.len() {
            let mut rest = items.to_vec();
            let first = rest.remove(index);
            for mut order in orders(&rest) {
                order.insert(0, first);
                all.push(order);
            }
        }
        all
    }

    /// What two successive owners of one seat may have had said about it.
    fn histories() -> Vec<(Vec<Mark>, SeatState)> {
        use Stage::{Freed, Held, Sold};
        let said = |hold_version: i64, stages: &[Stage]| -> Vec<Mark> {
            let reservation_id = ReservationId(Uuid::from_u128(hold_version as u128));
            let of = |&stage| Mark { hold_version, stage, reservation_id };
            stages.iter().map(of).collect()
        };
        let first: [&[Stage]; 2] = [&[Held, Freed], &[Held, Sold, Freed]];
        let second: [(&[Stage], SeatState); 4] = [
            (&[Held], SeatState::Held),
            (&[Held, Sold], SeatState::Sold),
            (&[Held, Freed], SeatState::Free),
            (&[Held, Sold, Freed], SeatState::Free),
        ];
        let mut all = Vec::new();
        for first in first {
            for (second, end) in second {
                all.push(([said(7, first), said(8, second)].concat(), end));
            }
        }
        all
    }

    #[test]
    fn two_owners_facts_in_any_order_and_twice_leave_the_same_map() {
        for (facts, end) in histories() {
            for order in orders(&facts) {
                let mut map: BTreeMap<&str, Mark> = BTreeMap::new();
                // The second round is everything once more, late.
                for &fact in order.iter().chain(&order) {
                    let last = map.entry("A-1-1").or_insert(fact);
                    *last = last.or_later(fact);
                }
                let last = map["A-1-1"];
                assert_eq!(seat_state(last.stage.as_str()), end, "{order:?}");
                assert_eq!(last.hold_version, 8, "{order:?}");
                assert_eq!(last.reservation_id, ReservationId(Uuid::from_u128(8)));
            }
        }
    }

    #[test]
    fn an_end_that_arrives_before_its_begin_leaves_the_seat_free() {
        let reservation_id = ReservationId(Uuid::from_u128(7));
        let said = |stage| Mark { hold_version: 7, stage, reservation_id };
        let last = said(Stage::Freed).or_later(said(Stage::Held)).or_later(said(Stage::Sold));
        assert_eq!(last.stage, Stage::Freed);
    }

    fn block(section: &str, row: &str, price: i64, seats: &[&str]) -> SeatBlock {
        SeatBlock {
            section: section.into(),
            row: row.into(),
            price,
            seats: seats.iter().map(|&seat| seat.into()).collect(),
        }
    }

    fn drawn(section: Option<&str>) -> SeatMap {
        let plan = [
            block("B", "1", 90, &["1", "2"]),
            block("A", "1", 50, &["1"]),
            block("B", "2", 80, &["1"]),
        ];
        let states = [("B-1-2", SeatState::Held), ("B-2-1", SeatState::Sold)];
        let states = states.map(|(seat, state)| (seat.to_owned(), state)).into();
        draw(ScheduleId(Uuid::nil()), &plan, section, &states)
    }

    #[test]
    fn a_map_has_every_seat_in_the_order_of_the_plan() {
        let map = drawn(None);
        let seats: Vec<_> =
            map.seats.iter().map(|it| (it.seat.0.as_str(), it.price, it.state)).collect();
        assert_eq!(
            seats,
            [
                ("B-1-1", 90, SeatState::Free),
                ("B-1-2", 90, SeatState::Held),
                ("A-1-1", 50, SeatState::Free),
                ("B-2-1", 80, SeatState::Sold),
            ]
        );
        let counts: Vec<_> =
            map.sections.iter().map(|it| (&*it.section, it.free, it.held, it.sold)).collect();
        assert_eq!(counts, [("B", 1, 1, 1), ("A", 1, 0, 0)]);
    }

    #[test]
    fn a_map_of_one_section_has_nothing_else() {
        let map = drawn(Some("A"));
        assert_eq!((map.seats.len(), map.sections.len()), (1, 1));
        assert!(drawn(Some("C")).seats.is_empty());
    }
}
