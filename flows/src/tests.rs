use super::*;

fn wrong(text: &str) -> String {
    Flows::parse(text).expect_err("it is wrong").to_string()
}

/// A flow of one event, and `more`.
fn with(more: &str) -> String {
    let flow = "[[flow]]\nname = \"pay\"\ntitle = \"t\"\n\
                begins = { \"payment.pay\" = [\"payment.requested\"] }\n";
    format!("{flow}{more}")
}

#[test]
fn the_shipped_file_is_valid() {
    let flows = Flows::shipped();
    assert!(flows.knows("payment.requested") && !flows.knows("payment.lost"));
    assert!(flows.may_follow("payment.requested", "point.debited"));
    assert!(!flows.may_follow("payment.requested", "point.refunded"));
    assert!(flows.may_follow("payment.completed", "notification.sent"), "with time");
    assert!(flows.may_begin("payment.requested") && flows.may_begin("reservation.expired"));
    assert!(!flows.may_begin("point.debited"));
}

#[test]
fn a_flow_reaches_what_its_beginning_leads_to_and_no_more() {
    let flows = Flows::shipped();
    let events = |name| -> BTreeSet<String> {
        let (events, _) = flows.reach(flows.flow(name).expect(name));
        events.iter().map(ToString::to_string).collect()
    };
    let cancel = events("cancel");
    assert!(cancel.contains("payment.refunded"), "{cancel:?}");
    assert!(!cancel.contains("payment.failed{reason=hold_gone}"), "{cancel:?}");
    let withdraw = events("withdraw");
    assert!(withdraw.contains("point.forfeited"), "{withdraw:?}");
    assert!(!withdraw.contains("point.refunded{reason=cancelled}"), "kept: {withdraw:?}");
}

#[test]
fn a_mistake_is_named_with_its_place() {
    assert!(wrong("[[step]]\nafter = \"a\"\n").contains("`a` is no event"), "with its line");
    assert!(wrong("[[stop]]").contains("unknown field `stop`"));
    let step = "[[step]]\nafter = \"payment.requested\"\nby = \"point\"\n";
    assert_eq!(
        wrong(&with(&format!("{step}must = [\"reservation.confirmed\"]\nwithin_secs = 1"))),
        "the step after `payment.requested`: `reservation.confirmed` is emitted by reservation, \
         not by point"
    );
    for without_time in ["must = [\"point.debited\"]", "may = [\"point.debited\"]\nwithin_secs = 1"]
    {
        let error = wrong(&with(&format!("{step}{without_time}")));
        assert!(error.contains("needs `within_secs`"), "{error}");
    }
    assert!(wrong(&with(step)).contains("names no event"));
    assert_eq!(wrong(&with(&with(""))), "there are two flows `pay`");
    assert_eq!(
        wrong(&with("failed = [\"payment.failed\"]")),
        "flow `pay` cannot end with `payment.failed`: nothing leads there"
    );
    let lost = "[[step]]\nafter = \"queue.lost\"\nby = \"point\"\nmay = [\"point.debited\"]";
    assert_eq!(wrong(&with(lost)), "a step comes after `queue.lost`, which no flow leads to");
}
