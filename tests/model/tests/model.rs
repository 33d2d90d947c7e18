//! Every path of the payment saga is right, and planted mistakes are found.

use model::{Bug, Saga, Scenario, check};

fn must_hold(name: &str, scenario: Scenario) {
    let found = check(Saga::of(scenario));
    println!("{name}: {} states", found.states);
    assert!(found.broken.is_empty(), "{found:#?}");
    assert!(found.unseen.is_empty(), "never seen: {:?}", found.unseen);
}

#[test]
fn two_fans_who_pay_for_one_seat_end_with_one_owner_and_no_money_lost() {
    must_hold("rivals", Scenario::rivals());
}

#[test]
fn a_fan_who_pays_twice_for_one_hold_pays_once() {
    must_hold("second try", Scenario::second_try());
}

#[test]
fn a_show_that_is_called_off_while_it_is_paid_returns_all_money() {
    must_hold("called off", Scenario::called_off());
}

#[test]
fn every_planted_mistake_has_a_counterexample() {
    for bug in Bug::ALL {
        let scenarios = [Scenario::rivals(), Scenario::second_try()];
        let found = scenarios.into_iter().map(|scenario| check(Saga::with(scenario, bug)));
        let Some(found) = found.into_iter().find(|found| !found.broken.is_empty()) else {
            panic!("{bug:?} was not found");
        };
        let (property, path) = &found.broken[0];
        println!("{bug:?} breaks `{property}` in {} steps", path.len());
    }
}
