//! Which services took part in a saga, and which are awaited: one bit for each in its row.

/// A service's bit in a row; 0 for one that is not known. `data-platform` and `ranking` emit
/// nothing, and `audit` does not take in what it emits itself, so no row has their bits.
pub(crate) fn bit_of(service: &str) -> i32 {
    events::contract_of(service).map_or(0, |known| 1 << known.number)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use events::producer_of;
    use flows::Flows;

    use super::*;

    #[test]
    fn every_service_that_emits_events_or_takes_part_in_a_flow_has_a_number() {
        let flows = Flows::shipped();
        let emit = events::all_events().map(producer_of);
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
