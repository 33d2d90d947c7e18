//! Seat plans with a mistake: the refusal names its line, its column and its reason.

use serde_json::Value;

use super::request::{Case, Request};

/// Plans, each with the line and the column of its mistake, and words of the reason.
const PLANS: [(&str, u64, u64, &str); 25] = [
    ("", 1, 1, "empty"),
    ("section,row,seat,price\n", 1, 1, "no seats"),
    ("section row seat price\nA 1 1 100\n", 1, 1, "lacks the columns `section`, `row`"),
    ("section,row,seat\nA,1,1\n", 1, 4, "lacks the column `price`"),
    ("section,row,number,price\nA,1,1,100\n", 1, 3, "`number`"),
    ("section;row;number;price\nA;1;1;100\n", 1, 3, "`number`"),
    ("section,row,seat,price,seat\nA,1,1,100,1\n", 1, 5, "twice"),
    ("sep=\nsection,row,seat,price\nA,1,1,100\n", 1, 1, "sep="),
    ("sep=;\nsection;row;seat;price\nA;1;1;x\n", 3, 4, "whole number"),
    ("section,row,seat,price\nA,1,1,100\nA,1,2\n", 3, 4, "3 fields"),
    ("section,row,seat,price\nA,1,1,100,x\n", 2, 5, "5 fields"),
    ("section,row,seat,price,\nBox 3,4,A,1,55000\n", 2, 5, "quotes"),
    ("section,row,seat,price\nA,1,1,100\n\nA,,2,100\n", 4, 2, "empty"),
    ("section,row,seat,price\nA,1,1,cheap\n", 2, 4, "whole number"),
    ("section,row,seat,price\nA,1,1,-100\n", 2, 4, "whole number"),
    ("section,row,seat,price\nA,1,1,1.5\n", 2, 4, "whole number"),
    ("section,row,seat,price\nA,1,1,55.000\n", 2, 4, "two ways"),
    ("section,row,seat,price\nSTANDING,,,66000\n", 2, 3, "1-300"),
    ("section,row,seat,price\nSTANDING,,1-100001,1\n", 2, 3, "at most 100000"),
    ("section,row,seat,price\nA,1,1,100000001\n", 2, 4, "at most"),
    ("section,row,seat,price\nA,1,1,99999999999999999999999\n", 2, 4, "at most"),
    ("section,row,seat,price\nA,1,1,100\nA,1,2,100\nA,1,1,100\n", 4, 3, "line 2"),
    ("section,row,seat,price\nR석,1,1,1\nR\u{1109}\u{1165}\u{11a8},1,1,1\n", 3, 3, "line 2"),
    ("section,row,seat,price\nA-B,1,1,100\nA_B,1,2,100\n", 3, 1, "line 2"),
    ("section,row,seat,price\nA\u{200b},1,1,100\n", 2, 1, "cannot be seen"),
];

/// Each plan, as text inside the JSON and as a body of its own, and mistakes that only one of the
/// two can have.
pub fn cases(right: &Request) -> Vec<Case> {
    let invalid = |what: String, request| Case::new(what, request, "seat_plan_invalid");
    let mut cases = Vec::new();
    for (plan, line, column, reason) in PLANS {
        let what = format!("the plan {plan:?}");
        let both = [right.clone().set("seat_plan", plan), as_csv(right).bytes(plan)];
        for request in both {
            // An empty body is no plan at all, and has no content type.
            if request.body.is_empty() {
                continue;
            }
            let case = invalid(what.clone(), request);
            cases.push(case.says("line", line).says("column", column).mentions(reason));
        }
    }
    let header = "section,row,seat,price\n";
    let nul = right.clone().set("seat_plan", format!("{header}A\0,1,1,100\n"));
    cases.push(invalid("a zero byte".into(), nul).says("line", 2).says("column", 1));
    let mut latin = format!("{header}A,1,1,100\nParterre ").into_bytes();
    latin.extend(b"\xe4,1,1,100\n");
    let latin = invalid("a plan in Latin 1".into(), as_csv(right).bytes(latin));
    cases.push(latin.says("line", 3));
    let many: String = (0..100_001).map(|seat| format!("A,1,{seat},1\n")).collect();
    let many = invalid("too many seats".into(), as_csv(right).bytes(format!("{header}{many}")));
    cases.push(many.says("line", 100_002).mentions("100000"));
    cases.extend(beside(right));
    cases
}

/// A correct plan with mistakes in the query beside it.
fn beside(right: &Request) -> Vec<Case> {
    let plan = "section,row,seat,price\nA,1,1,100\n";
    let starts = starts(right);
    let with = |query: &str, codes| {
        let request = right.clone().with("content-type", "text/csv").query(query);
        Case::new(format!("a plan with ?{query}"), request.bytes(plan), codes)
    };
    vec![
        with("", "bad_request"),
        with("venue=Hall", "bad_request"),
        with(&starts, "bad_request"),
        with("venue=Hall&starts_at=soon", "bad_request").says("field", "starts_at"),
        with("venue=Hall&starts_at=2030-06-01T19:00:00+09:00", "bad_request").mentions("%2B"),
        with("venue=Hall&starts_at=2030-06-01T19:00:00", "bad_request").mentions("zone"),
        with(&format!("venue=R%BC%AE&{starts}"), "bad_request").mentions("UTF-8"),
        with(&format!("venue=Hall&{starts}&hold_secs=-1"), "bad_request"),
        with(&format!("venue=Hall&{starts}&per_second=4294967296"), "bad_request"),
        with(&format!("venue=Hall&{starts}&colour=red"), "bad_request"),
        with("venue=Hall&starts_at=2020-01-01T00:00:00Z", "invalid"),
        with(&format!("venue=&{starts}"), "invalid"),
        with(&format!("venue=a%00b&{starts}"), "invalid"),
        with(&format!("venue=Hall&{starts}&hold_secs=0"), "invalid"),
    ]
}

/// The request with the schedule in the query, so that the plan can be the body.
fn as_csv(right: &Request) -> Request {
    let csv = right.clone().with("content-type", "text/csv");
    csv.query(&format!("venue=Hall&{}", starts(right)))
}

fn starts(right: &Request) -> String {
    let body: Value = serde_json::from_slice(&right.body).expect("a JSON body");
    format!("starts_at={}", body["starts_at"].as_str().expect("a time"))
}
