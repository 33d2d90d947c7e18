//! The services as the others know them: what each emits and answers.

/// What a service promises to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contract {
    /// Its name.
    pub name: &'static str,
    /// The number of its bit in the rows of audit. Rows keep these numbers, so each is fixed for
    /// good: none is changed or given to another service. A new service gets the next.
    pub number: u8,
    /// The events that it emits.
    pub events: &'static [&'static str],
    /// The commands and queries that it answers.
    pub endpoints: &'static [&'static str],
    /// Whether it consumes events one by one, and keeps those that it cannot handle.
    pub keeps_dead_letters: bool,
}

/// Every service that is reached over NATS.
pub const CONTRACTS: [Contract; 10] = [
    Contract {
        name: "user",
        number: 0,
        events: crate::user::EVENTS,
        endpoints: crate::user::ENDPOINTS,
        keeps_dead_letters: true,
    },
    Contract {
        name: "concert",
        number: 1,
        events: crate::concert::EVENTS,
        endpoints: crate::concert::ENDPOINTS,
        keeps_dead_letters: true,
    },
    Contract {
        name: "queue",
        number: 2,
        events: crate::queue::EVENTS,
        endpoints: crate::queue::ENDPOINTS,
        keeps_dead_letters: true,
    },
    Contract {
        name: "reservation",
        number: 3,
        events: crate::reservation::EVENTS,
        endpoints: crate::reservation::ENDPOINTS,
        keeps_dead_letters: true,
    },
    Contract {
        name: "payment",
        number: 4,
        events: crate::payment::EVENTS,
        endpoints: crate::payment::ENDPOINTS,
        keeps_dead_letters: true,
    },
    Contract {
        name: "point",
        number: 5,
        events: crate::point::EVENTS,
        endpoints: crate::point::ENDPOINTS,
        keeps_dead_letters: true,
    },
    Contract {
        name: "notification",
        number: 6,
        events: crate::notification::EVENTS,
        endpoints: crate::notification::ENDPOINTS,
        keeps_dead_letters: true,
    },
    Contract {
        name: "data-platform",
        number: 7,
        events: &[],
        endpoints: crate::data_platform::ENDPOINTS,
        keeps_dead_letters: false,
    },
    Contract {
        name: "ranking",
        number: 8,
        events: &[],
        endpoints: crate::ranking::ENDPOINTS,
        keeps_dead_letters: true,
    },
    Contract {
        name: "audit",
        number: 9,
        events: crate::audit::EVENTS,
        endpoints: crate::audit::ENDPOINTS,
        keeps_dead_letters: false,
    },
];

/// The contract of a service.
pub fn contract_of(name: &str) -> Option<&'static Contract> {
    CONTRACTS.iter().find(|service| service.name == name)
}

/// The events of all services.
pub fn all_events() -> impl Iterator<Item = &'static str> {
    CONTRACTS.iter().flat_map(|service| service.events).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What a number meant when a row was written with it. Lines are only ever added here.
    const WRITTEN: [(u8, &str); 10] = [
        (0, "user"),
        (1, "concert"),
        (2, "queue"),
        (3, "reservation"),
        (4, "payment"),
        (5, "point"),
        (6, "notification"),
        (7, "data-platform"),
        (8, "ranking"),
        (9, "audit"),
    ];

    #[test]
    fn a_number_that_was_written_keeps_its_meaning() {
        for (number, service) in WRITTEN {
            let contract = contract_of(service).expect("no service is taken away");
            assert_eq!(contract.number, number, "{service}");
        }
        assert_eq!(CONTRACTS.len(), WRITTEN.len(), "a new service is added to both");
    }

    #[test]
    fn no_two_services_share_a_number_and_all_fit_into_a_row() {
        let numbers: BTreeSet<u8> = CONTRACTS.iter().map(|service| service.number).collect();
        let names: BTreeSet<&str> = CONTRACTS.iter().map(|service| service.name).collect();
        assert_eq!((numbers.len(), names.len()), (CONTRACTS.len(), CONTRACTS.len()));
        // The column is an integer with a sign.
        assert!(numbers.iter().all(|number| *number < 31), "{numbers:?}");
    }
}
