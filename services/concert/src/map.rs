//! Draws the seat map. Pure. Which update of a seat wins is decided where the map is stored, in
//! `lua/seats.lua`.

use std::collections::HashMap;

use events::{
    SeatId,
    concert::{MapState, Seat, SeatBlock, SeatState, SectionCount},
};
use text::same_name;

/// The sections of a plan in its order, with every seat free.
pub fn empty(plan: &[SeatBlock]) -> Vec<SectionCount> {
    let mut sections: Vec<SectionCount> = Vec::new();
    let mut place_of: HashMap<&str, usize> = HashMap::new();
    for block in plan {
        let place = *place_of.entry(&block.section).or_insert_with(|| {
            let section = block.section.clone();
            sections.push(SectionCount { section, free: 0, held: 0, sold: 0 });
            sections.len() - 1
        });
        sections[place].free += block.seats.len() as i64;
    }
    sections
}

/// Draws the seats that are not free: counts by section, and the seats in the order of their
/// ids. With `section`, only those of that section; it is named as in the plan or as in seat
/// ids. No seat of a cancelled show is free.
pub fn draw(
    empty: &[SectionCount],
    section: Option<&str>,
    state: MapState,
    taken: Vec<Seat>,
) -> (Vec<SectionCount>, Vec<Seat>) {
    let part = section.map(|section| SeatId::part(&same_name(section)));
    let is_wanted = |name: &str| part.as_ref().is_none_or(|part| *part == SeatId::part(name));
    let mut sections: Vec<SectionCount> =
        empty.iter().filter(|count| is_wanted(&count.section)).cloned().collect();
    let place_of: HashMap<String, usize> =
        sections.iter().enumerate().map(|(at, it)| (SeatId::part(&it.section), at)).collect();
    let mut seats = taken;
    seats.retain(|seat| place_of.contains_key(seat.seat.section()));
    for seat in &seats {
        let count = &mut sections[place_of[seat.seat.section()]];
        match seat.state {
            SeatState::Free => continue,
            SeatState::Held => count.held += 1,
            SeatState::Sold => count.sold += 1,
        }
        count.free -= 1;
    }
    if state == MapState::Cancelled {
        sections.iter_mut().for_each(|count| count.free = 0);
    }
    seats.sort_unstable_by(|one, other| one.seat.cmp(&other.seat));
    (sections, seats)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(section: &str, row: &str, seats: &[&str]) -> SeatBlock {
        SeatBlock {
            section: section.into(),
            row: row.into(),
            price: 90,
            seats: seats.iter().map(|&seat| seat.into()).collect(),
        }
    }

    fn plan() -> Vec<SectionCount> {
        empty(&[block("B", "1", &["1", "2"]), block("A", "1", &["1"]), block("B", "2", &["1"])])
    }

    fn drawn(section: Option<&str>) -> (Vec<SectionCount>, Vec<Seat>) {
        let taken = [("B-2-1", SeatState::Sold), ("B-1-2", SeatState::Held)];
        let taken = taken.map(|(seat, state)| Seat { seat: SeatId(seat.into()), state });
        draw(&plan(), section, MapState::Open, taken.into())
    }

    fn counts(sections: &[SectionCount]) -> Vec<(&str, i64, i64, i64)> {
        sections.iter().map(|it| (&*it.section, it.free, it.held, it.sold)).collect()
    }

    #[test]
    fn sections_are_in_the_order_of_the_plan() {
        assert_eq!(counts(&plan()), [("B", 3, 0, 0), ("A", 1, 0, 0)]);
    }

    #[test]
    fn a_map_lists_the_seats_that_are_not_free_and_counts_all() {
        let (sections, seats) = drawn(None);
        assert_eq!(counts(&sections), [("B", 1, 1, 1), ("A", 1, 0, 0)]);
        let seats: Vec<_> = seats.iter().map(|it| (it.seat.0.as_str(), it.state)).collect();
        assert_eq!(seats, [("B-1-2", SeatState::Held), ("B-2-1", SeatState::Sold)]);
    }

    #[test]
    fn no_seat_of_a_cancelled_show_is_free() {
        let taken = vec![Seat { seat: SeatId("B-2-1".into()), state: SeatState::Sold }];
        let (sections, seats) = draw(&plan(), None, MapState::Cancelled, taken);
        assert_eq!(counts(&sections), [("B", 0, 0, 1), ("A", 0, 0, 0)]);
        assert_eq!(seats.len(), 1, "its own cancellation takes it off the map");
    }

    #[test]
    fn a_map_of_one_section_has_no_other_section() {
        let (sections, seats) = drawn(Some("A"));
        assert_eq!((counts(&sections), seats.len()), (vec![("A", 1, 0, 0)], 0));
        assert_eq!(drawn(Some("B")).1.len(), 2);
        assert!(drawn(Some("C")).0.is_empty());
    }

    #[test]
    fn a_section_is_counted_whatever_characters_its_name_has() {
        let plan =
            empty(&[block("Orchestra-Left", "A", &["1", "2"]), block("Box 3/4", "", &["1"])]);
        let taken = ["Orchestra_Left-A-2", "Box 3/4--1"]
            .map(|seat| Seat { seat: SeatId(seat.into()), state: SeatState::Sold });
        let (sections, _) = draw(&plan, None, MapState::Open, taken.clone().into());
        assert_eq!(counts(&sections), [("Orchestra-Left", 1, 0, 1), ("Box 3/4", 0, 0, 1)]);
        for asked in ["Orchestra-Left", "Orchestra_Left", " Orchestra－Left"] {
            let (sections, seats) = draw(&plan, Some(asked), MapState::Open, taken.clone().into());
            assert_eq!((counts(&sections).len(), seats.len()), (1, 1), "{asked}");
        }
    }
}
