//! Shrinking: looks for a smaller sale that fails as well.

use crate::{Fault, Options, run};

/// The smallest sale that was found to fail with the same seed.
pub fn shrink(seed: u64, options: &Options) -> Options {
    let mut smallest = options.clone();
    loop {
        let fails = |smaller: &Options| !run(seed, smaller).wrong.is_empty();
        match smaller(&smallest).into_iter().find(fails) {
            Some(found) => smallest = found,
            None => return smallest,
        }
    }
}

/// Smaller sales, the much smaller ones first.
fn smaller(than: &Options) -> Vec<Options> {
    let mut all = Vec::new();
    for less in [than.people / 2, than.people - 1] {
        if less > 0 && less < than.people {
            all.push(Options { people: less, ..than.clone() });
        }
    }
    for less in [than.visits / 2, than.visits - 1] {
        if less > 0 && less < than.visits {
            all.push(Options { visits: less, ..than.clone() });
        }
    }
    for without in &than.faults {
        let faults: Vec<Fault> =
            than.faults.iter().filter(|fault| *fault != without).copied().collect();
        all.push(Options { faults, ..than.clone() });
    }
    all
}
