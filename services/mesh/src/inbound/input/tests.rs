use events::{
    Problem, codes,
    concert::OpenSchedule,
    dead_letter::{DeadLetterId, FindDeadLetters},
    point::Charge,
    ranking::RankConcerts,
    reservation::Reserve,
    user::{GrantRole, Jwks, Register, Withdraw},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::*;

/// Words of library errors, which must not appear in a refusal.
const FOREIGN: [&str; 12] = [
    "at line",
    "expected",
    "struct",
    "invalid type",
    "invalid length",
    "unknown field",
    "unknown variant",
    "missing field",
    "duplicate field",
    "could not be parsed",
    "UUID parsing",
    "trailing characters",
];

fn refused<C: DeserializeOwned>(body: impl AsRef<[u8]>) -> Problem {
    let body = body.as_ref();
    let Err(problem) = parse::<C>(body) else {
        panic!("{} was read", String::from_utf8_lossy(body))
    };
    for foreign in FOREIGN {
        assert!(!problem.detail.contains(foreign), "{problem}");
    }
    assert!(problem.extra.contains_key("field"), "{problem}");
    problem
}

fn is<C: DeserializeOwned>(body: &str, field: &str, words: &str) {
    let problem = refused::<C>(body);
    assert!(problem.is(codes::INVALID), "{problem}");
    assert_eq!(problem.extra["field"], field, "{problem}");
    assert!(problem.detail.contains(words), "{problem}");
}

const ID: &str = "019a5c3e-7a10-7c41-9d0e-3b1f5e2a7c01";

#[test]
fn an_unknown_member_is_named_with_the_most_similar_known_one() {
    is::<Charge>(r#"{"amount":1,"ammount":5}"#, "ammount", "did you mean `amount`?");
    for (unknown, meant) in [
        ("opens", "opens_at"),
        ("seats_per_fan", "seats_per_fan_max"),
        ("hold_seconds", "hold_secs"),
        ("startsAt", "starts_at"),
        ("STARTS_AT", "starts_at"),
        ("seat-plan", "seat_plan"),
    ] {
        let body = json!({ unknown: 1, "venue": "H" }).to_string();
        is::<OpenSchedule>(&body, unknown, &format!("did you mean `{meant}`?"));
    }
    is::<Charge>(r#"{"amount":1,"colour":5}"#, "colour", "known: amount");
    is::<Charge>(r#"{"a":1,"b":2,"c":3}"#, "a", "nor is `b`, `c`");
    is::<Jwks>(r#"{"a":1}"#, "a", "nothing is read here");
    let long = "é".repeat(70_000);
    assert!(refused::<Charge>(json!({ long: 1 }).to_string()).detail.len() < 1_000);
}

#[test]
fn a_member_is_read_strictly_at_any_depth() {
    let body = |admission: &str| {
        format!(
            r#"{{"concert_id":"{ID}","venue":"H","starts_at":"2030-06-01T19:00:00Z",
                "seat_plan":"","admission":{admission}}}"#
        )
    };
    assert!(parse::<OpenSchedule>(body(r#"{"per_second":5}"#).as_bytes()).is_ok());
    is::<OpenSchedule>(
        &body(r#"{"persecond":5}"#),
        "admission.persecond",
        "did you mean `per_second`?",
    );
    is::<OpenSchedule>(&body(r#"{"per_second":"5"}"#), "admission.per_second", "not a text");
    is::<OpenSchedule>(&body("[1,2,3]"), "admission", "must be an object, not a list");
    is::<OpenSchedule>(&body("null"), "admission", "must be an object, not null");
    let seats = format!(r#"{{"schedule_id":"{ID}","seats":["A-1-1",2],"pass":"x"}}"#);
    is::<Reserve>(&seats, "seats[1]", "must be a text, not the number 2");
}

#[test]
fn a_member_that_is_given_twice_is_refused() {
    is::<Charge>(r#"{"amount":1,"amount":1}"#, "amount", "more than once");
    is::<Charge>("{\"amount\":1,\"am\\u006funt\":2}", "amount", "more than once");
    is::<Withdraw>(r#"{"forfeit":true,"forfeit":false}"#, "forfeit", "more than once");
}

#[test]
fn the_refusal_of_a_body_that_is_no_object_says_so() {
    for (body, came) in [
        ("[]", "a list"),
        ("[5]", "a list"),
        ("1", "the number 1"),
        ("1.5", "the number 1.5"),
        ("null", "null"),
        ("true", "`true`"),
        (r#""text""#, "a text"),
    ] {
        is::<Charge>(body, "body", &format!("The body must be an object, not {came}."));
        is::<Withdraw>(body, "body", "must be an object");
    }
}

#[test]
fn the_refusal_of_a_value_of_the_wrong_type_names_the_expected_type() {
    is::<Charge>("{}", "amount", "`amount` is missing");
    is::<Charge>("", "amount", "`amount` is missing");
    is::<Charge>(r#"{"amount":"1"}"#, "amount", "must be a whole number, not a text");
    is::<Charge>(r#"{"amount":1.0}"#, "amount", "must be a whole number, not the number 1.0");
    is::<Charge>(r#"{"amount":1e300}"#, "amount", "not the number 1e300");
    is::<Charge>(r#"{"amount":9223372036854775808}"#, "amount", "must be a smaller number");
    is::<Charge>(r#"{"amount":null}"#, "amount", "not null");
    is::<Withdraw>(r#"{"forfeit":"true"}"#, "forfeit", "must be `true` or `false`, not a text");
    let reserve =
        |id: &str, seats: &str| format!(r#"{{"schedule_id":{id},"seats":{seats},"pass":"x"}}"#);
    let id = format!("\"{ID}\"");
    is::<Reserve>(&reserve(&id, r#""A-1-1""#), "seats", "must be a list, not a text");
    is::<Reserve>(&reserve(r#""nope""#, "[]"), "schedule_id", "like `0000");
    is::<Reserve>(&reserve(r#""nope""#, "[]"), "schedule_id", "not `nope`");
    is::<Reserve>(&reserve("7", "[]"), "schedule_id", "must be an id, a UUID, not the number 7");
    let role = format!(r#"{{"user_id":"{ID}","role":"god"}}"#);
    is::<GrantRole>(&role, "role", "must be one of `fan`, `organizer`, `operator`, not `god`");
    is::<FindDeadLetters>(r#"{"letter":"point"}"#, "letter", "must be a letter like `payment-17`");
    let found: FindDeadLetters = parse(br#"{"letter":"point-1"}"#).unwrap();
    assert_eq!(found.letter, Some(DeadLetterId::new("point", 1)));
}

#[test]
fn the_refusal_of_a_time_without_a_zone_says_how_to_give_one() {
    let body = |at: &str| {
        format!(r#"{{"concert_id":"{ID}","venue":"H","starts_at":"{at}","seat_plan":""}}"#)
    };
    is::<OpenSchedule>(&body("2030-06-01T19:00:00"), "starts_at", "must say its zone");
    is::<OpenSchedule>(&body("2030-06-01T19:00:00 09:00"), "starts_at", "%2B");
    is::<OpenSchedule>(&body("2030-06-01T19:00:00+0900"), "starts_at", "with a colon");
    is::<OpenSchedule>(&body("soon"), "starts_at", "not `soon`");
    let number = body("").replace("\"starts_at\":\"\"", "\"starts_at\":1893456000");
    is::<OpenSchedule>(&number, "starts_at", "must be a time, a text like");
}

#[test]
fn a_password_is_not_repeated() {
    let problem = refused::<Register>(r#"{"email":"a@b.c","password":["hunter2"]}"#);
    assert!(!problem.detail.contains("hunter2"), "{problem}");
    let problem = refused::<Register>(r#"{"email":"a@b.c","pasword":"hunter2"}"#);
    assert!(!problem.detail.contains("hunter2"), "{problem}");
}

#[test]
fn the_refusal_of_a_body_that_is_no_json_names_line_and_column() {
    for (body, line, column, words) in [
        (&b"{"[..], 1, 1, "ends here"),
        (b"{\n \"a", 2, 3, "ends here"),
        (b"email=a&password=b", 1, 1, "not valid JSON"),
        (b"{\"amount\":1}\n{}", 2, 1, "after the end of the JSON"),
        (b"{\"amount\":1e}", 1, 13, "not valid JSON"),
        (b"{\n\"\xff\": 1}", 2, 2, "UTF-8"),
    ] {
        let problem = refused::<Charge>(body);
        assert!(problem.is(codes::BAD_REQUEST), "{problem}");
        assert_eq!(
            (problem.extra["line"].as_u64(), &problem.extra["field"]),
            (Some(line), &json!("body"))
        );
        assert_eq!(problem.extra["column"], column, "{problem}");
        assert!(problem.detail.contains(words), "{problem}");
    }
    assert!(refused::<Charge>("[".repeat(10_000)).is(codes::BAD_REQUEST));
}

#[test]
fn a_valid_body_is_read_in_any_spelling() {
    for body in
        ["{\"amount\":5}", "{ \"amount\" : 5 }\n", "\u{feff}{\"amount\":5}", "{\"am\\u006funt\":5}"]
    {
        assert_eq!(parse::<Charge>(body.as_bytes()).unwrap().amount, 5, "{body}");
    }
    for body in ["", " \n", "{}", r#"{"forfeit":false}"#] {
        assert!(!parse::<Withdraw>(body.as_bytes()).unwrap().forfeit, "{body}");
    }
    assert_eq!(parse::<RankConcerts>(br#"{"limit":null}"#).unwrap().limit, None);
}

#[test]
fn a_body_may_repeat_a_member_of_the_address_but_not_contradict_it() {
    let given = [("id", ID.to_owned())];
    let complete = |body: &str| complete(body.as_bytes(), &given);
    let whole = |body: &str| String::from_utf8(complete(body).unwrap()).unwrap();
    assert_eq!(whole(""), format!(r#"{{"id":"{ID}"}}"#));
    assert_eq!(whole(r#"{"x":3}"#), format!(r#"{{"x":3,"id":"{ID}"}}"#));
    let same = format!(r#"{{"id":"{}"}}"#, ID.to_uppercase());
    assert_eq!(whole(&same), format!(r#"{{"id":"{ID}"}}"#));
    for other in [r#"{"id":2}"#, r#"{"id":"019a5c3e-7a10-7c41-9d0e-3b1f5e2a7c02"}"#] {
        let refused = complete(other).unwrap_err();
        assert!(refused.is(codes::INVALID) && refused.extra["field"] == "id", "{refused}");
    }
    // A member that is given twice is kept, and refused by the type that reads it.
    assert_eq!(whole(r#"{"x":1,"x":2}"#), format!(r#"{{"x":1,"x":2,"id":"{ID}"}}"#));
    assert!(complete("[1]").unwrap_err().is(codes::INVALID));
    assert!(complete("{\n nonsense").unwrap_err().is(codes::BAD_REQUEST));
}

#[test]
fn query_parameters_are_read_as_strictly_as_bodies() {
    let read = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        query::<RankConcerts>(pairs)
    };
    let ranked = read(&[("by", "sell_out"), ("limit", "5")]).unwrap();
    assert_eq!((ranked.limit, ranked.by), (Some(5), events::ranking::RankBy::SellOut));
    for (pairs, field, words) in [
        (&[("colour", "red")][..], "colour", "not known"),
        (&[("limits", "5")], "limits", "did you mean `limit`?"),
        (&[("limit", "1"), ("limit", "1")], "limit", "more than once"),
        (&[("limit", "")], "limit", "a whole number, 0 to 4294967295, not ``"),
        (&[("limit", "+5")], "limit", "not `+5`"),
        (&[("limit", "4294967296")], "limit", "not `4294967296`"),
        (&[("by", "fame")], "by", "one of `sold`, `sell_out`, not `fame`"),
    ] {
        let refused = read(pairs).unwrap_err();
        assert!(refused.is(codes::BAD_REQUEST), "{refused}");
        assert_eq!(refused.extra["field"], field, "{refused}");
        assert!(refused.detail.contains(words), "{refused}");
    }
}
