//! Which services took part in a saga, and which are awaited: one bit for each in its row.

/// The services and the number of the bit of each. Rows keep these numbers, so each is fixed for
/// good: none is changed, given to another service or taken away. A new service gets the next.
///
/// `data-platform` and `ranking` emit nothing, and `audit` does not take in what it emits itself,
/// so no row has their bits. Their numbers are taken all the same.
const NUMBERS: [(&str, u8); 10] = [
    ("user", 0),
    ("concert", 1),
    ("queue", 2),
    ("reservation", 3),
    ("payment", 4),
    ("point", 5),
    ("notification", 6),
    ("data-platform", 7),
    ("ranking", 8),
    ("audit", 9),
];

/// A service's bit in a row; 0 for one that is not known.
pub(crate) fn bit_of(service: &str) -> i32 {
    let number = NUMBERS.iter().find(|(known, _)| *known == service);
    number.map_or(0, |(_, number)| 1 << number)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use events::producer_of;
    use flows::Flows;

    use super::*;
    use crate::FOLLOWED;

    /// What a bit of a row meant when the row was written. Lines are only ever added here.
    const WRITTEN: [(i32, &str); 10] = [
        (0b00_0000_0001, "user"),
        (0b00_0000_0010, "concert"),
        (0b00_0000_0100, "queue"),
        (0b00_0000_1000, "reservation"),
        (0b00_0001_0000, "payment"),
        (0b00_0010_0000, "point"),
        (0b00_0100_0000, "notification"),
        (0b00_1000_0000, "data-platform"),
        (0b01_0000_0000, "ranking"),
        (0b10_0000_0000, "audit"),
    ];

    #[test]
    fn a_bit_that_was_written_keeps_its_meaning() {
        for (bit, service) in WRITTEN {
            assert_eq!(bit_of(service), bit, "{service}");
        }
        assert_eq!(NUMBERS.len(), WRITTEN.len(), "a new service is added to both");
    }

    #[test]
    fn no_two_services_share_a_number_and_all_fit_into_a_row() {
        let numbers: BTreeSet<u8> = NUMBERS.iter().map(|(_, number)| *number).collect();
        let names: BTreeSet<&str> = NUMBERS.iter().map(|(name, _)| *name).collect();
        assert_eq!((numbers.len(), names.len()), (NUMBERS.len(), NUMBERS.len()));
        // The column is an integer with a sign.
        assert!(numbers.iter().all(|number| *number < 31), "{numbers:?}");
    }

    #[test]
    fn every_service_that_emits_events_or_takes_part_in_a_flow_has_a_number() {
        let flows = Flows::shipped();
        let emit = FOLLOWED.iter().chain(events::audit::EVENTS).map(|event| producer_of(event));
        let declared = flows.events().into_iter().map(producer_of);
        let react = flows.steps().iter().map(|step| step.by.as_str());
        let end = flows.lifetimes().iter().map(|life| life.by.as_str());
        let all: BTreeSet<&str> = emit.chain(declared).chain(react).chain(end).collect();
        assert!(all.len() >= 8, "{all:?}");
        let without: Vec<&&str> = all.iter().filter(|service| bit_of(service) == 0).collect();
        assert_eq!(without, [&""; 0]);
        assert_eq!(bit_of("accounting"), 0);
    }
}
