//! The mistakes of each operation's own, operation by operation.

use serde_json::{Value, json};

use super::{
    operation::Operation,
    request::{Case, Request},
    seat_plans,
    world::World,
};

/// The cases of one operation, or `None` for an operation that is not listed: it still needs a
/// decision, even if that is an empty list.
pub async fn cases(operation: &Operation, world: &World) -> Option<Vec<Case>> {
    let right = world.right(operation);
    Some(match operation.id.as_str() {
        "register" => register(&right, world),
        "logIn" => log_in(&right),
        "refreshSession" => refresh(&right),
        "grantRole" => roles(&right),
        "findConcerts" => {
            let long = "a".repeat(201);
            vec![Case::new("a long search", right.query(&format!("q={long}")), "invalid")]
        }
        "rankConcerts" => rankings(&right),
        "createConcert" => concert(&right),
        "openSchedule" => {
            let mut cases = schedule(&right, world);
            cases.extend(seat_plans::cases(&right));
            cases
        }
        "cancelSchedule" => cancelling(&right, world),
        "getOrganizers" => {
            let other = right.by(&world.rival.access_token);
            vec![Case::new("another's concert", other, "forbidden")]
        }
        "addOrganizer" | "removeOrganizer" => organizers(&right, operation, world),
        "enter" => tickets(&right, world),
        "getPlace" | "leave" | "followPlace" => {
            vec![Case::new("no place in the queue", right.by(world.other.token()), "not_found")]
        }
        "reserve" => reserve(&right, world).await,
        "getReservation" | "getPayment" | "getWithdrawal" => {
            vec![Case::new("another's", right.by(world.other.token()), "not_found")]
        }
        "cancelReservation" => {
            let nothing = Request { path: world.path(operation, &unknown()), ..right.clone() };
            let gone = world.path(operation, &world.cancelled.to_string());
            let mut cases = prefers(&nothing, "not_found");
            cases.extend([
                Case::new("another's", right.clone().by(world.other.token()), "not_found"),
                Case::new("one that is over", Request { path: gone, ..right }, "not_cancellable"),
            ]);
            cases
        }
        "charge" => charge(&right),
        "pay" => {
            let mut cases = prefers(&right.clone().set("reservation_id", unknown()), "not_found");
            cases.extend([
                Case::new("another's hold", right.clone().by(world.other.token()), "not_found"),
                Case::new("no id", right.clone().set("reservation_id", "first"), "invalid"),
                Case::new("a hold that is over", of(&right, &world.cancelled), "hold_gone"),
                Case::new("a ticket", of(&right, &world.sold), "already_paid"),
            ]);
            cases
        }
        "setContact" => contact(&right),
        "followMyEvents" | "followSeats" => cursors(&right),
        "getPlan" | "getSeats" => {
            tags(&Request { path: world.path(operation, &unknown()), ..right })
        }
        "getSaga" => vec![Case::new("another's", right.by(world.other.token()), "not_found")],
        "findSagas" => sagas(&right),
        "withdraw" | "getKeys" | "getConcert" | "findSchedules" | "findReservations" => vec![],
        "getBalance" | "findEntries" | "findPayments" => vec![],
        "findViolations" | "getContact" | "findMessages" | "getExport" => vec![],
        _ => return dead_letters(operation, &right),
    })
}

fn rankings(right: &Request) -> Vec<Case> {
    let wrong = |what: &str, query| Case::new(what, right.clone().query(query), "bad_request");
    vec![
        wrong("an unknown measure", "by=fame"),
        wrong("an empty measure", "by="),
        wrong("an unknown window", "window=2h"),
        wrong("a window in capitals", "window=1H"),
        wrong("two windows", "window=1h&window=7d"),
    ]
}

fn cancelling(right: &Request, world: &World) -> Vec<Case> {
    vec![
        Case::new("another's show", right.clone().by(&world.rival.access_token), "forbidden"),
        Case::new("a long reason", reason(right, &"a".repeat(501)), "invalid"),
        Case::new("a reason with a zero byte", reason(right, "a%00b"), "invalid"),
        Case::new("a reason of two lines", reason(right, "a%0Ab"), "invalid"),
        Case::new("a reason that cannot be seen", reason(right, "%E2%80%8B"), "invalid"),
    ]
}

fn organizers(right: &Request, operation: &Operation, world: &World) -> Vec<Case> {
    let mine = world.mesh.organizer.user_id.to_string();
    let of = |user: &str| Request { path: right.path.replace(&mine, user), ..right.clone() };
    let mut cases = vec![
        Case::new("another's concert", right.clone().by(&world.rival.access_token), "forbidden"),
        Case::new("an account that is no id", of("nobody"), "not_found"),
        Case::new("a fan", of(&world.fan.session.user_id.to_string()), "not_found"),
        Case::new("an unknown account", of(&unknown()), "not_found"),
    ];
    if operation.id == "removeOrganizer" {
        cases.push(Case::new("the last one", right.clone(), "last_organizer"));
    }
    cases
}

/// A preference that cannot be read is ignored (RFC 7240), and a refusal comes without a wait.
fn prefers(refused: &Request, codes: &'static str) -> Vec<Case> {
    let long = "wait=1,".repeat(1_000);
    ["", "wait", "wait=-1", "wait=soon", "wait=99999999999999999999", "☃", ";;=,", "wait=30", &long]
        .map(|preference| {
            let request = refused.clone().with("prefer", preference);
            Case::new(format!("a preference of {preference:.20?}"), request, codes)
        })
        .into()
}

fn unknown() -> String {
    uuid::Uuid::now_v7().to_string()
}

fn of(right: &Request, reservation: &events::ReservationId) -> Request {
    right.clone().set("reservation_id", reservation.to_string())
}

fn reason(right: &Request, reason: &str) -> Request {
    right.clone().query(&format!("reason={reason}"))
}

/// One case for each of these values of a field.
fn each<T: Into<Value>>(
    right: &Request,
    field: &str,
    values: impl IntoIterator<Item = T>,
    codes: &'static str,
) -> Vec<Case> {
    let refused = |value: T| {
        let value: Value = value.into();
        let what = format!("a {field} of {:.60}", value.to_string());
        Case::new(what, right.clone().set(field, value), codes)
    };
    values.into_iter().map(refused).collect()
}

fn long(chars: usize) -> String {
    "ä".repeat(chars)
}

/// Texts with invisible characters, or with characters that change how others are shown.
fn unseen() -> [String; 5] {
    ["\u{200b}", "\u{3164}", "\u{2800}", "a\u{202e}b", "\u{301}a"].map(str::to_owned)
}

fn register(right: &Request, world: &World) -> Vec<Case> {
    let local = format!("{}@example.com", "a".repeat(65));
    let label = format!("a@{}.com", "b".repeat(64));
    let whole = format!("a@{}com", "b.".repeat(126));
    let huge = format!("{}@example.com", "a".repeat(60_000));
    let emails = [
        "",
        " ",
        "fan",
        "@example.com",
        "fan@",
        "fan@example",
        "fan@.com",
        "fan@example..com",
        "fan@-example.com",
        "a b@example.com",
        "a\0b@example.com",
        "a@exa\0mple.com",
        "a\r\nb@example.com",
        "a@b@example.com",
        "<a@example.com>",
        "a,b@example.com",
        ".a@example.com",
        "a\u{200b}@example.com",
        "\u{202e}a@example.com",
        "a@exa\u{ad}mple.com",
        "a@1.2.3.4",
        &local,
        &label,
        &whole,
        &huge,
    ];
    let nine = "e\u{301}".repeat(9);
    let hidden = "pass\u{200b}word-123".to_owned();
    let passwords =
        [String::new(), "123456789".into(), nine, hidden, long(201), "a".repeat(60_000)];
    let taken = world.fan.email.clone();
    let mut cases = each(right, "email", emails, "invalid");
    cases.extend(each(right, "password", passwords, "invalid"));
    for taken in [taken.to_uppercase(), format!(" {taken} "), taken] {
        cases.push(Case::new("a taken address", right.clone().set("email", taken), "email_taken"));
    }
    cases
}

/// A text that cannot be an address or a password matches no account.
fn log_in(right: &Request) -> Vec<Case> {
    let huge = format!("{}@example.com", "a".repeat(60_000));
    let mut cases = each(right, "email", ["", "fan", "a\0@example.com", &huge], "bad_credentials");
    let passwords = [String::new(), "short".into(), long(201), "a".repeat(60_000)];
    cases.extend(each(right, "password", passwords, "bad_credentials"));
    cases
}

fn refresh(right: &Request) -> Vec<Case> {
    let tokens = [String::new(), "rubbish".into(), "a\0b".into(), long(20_000)];
    each(right, "refresh_token", tokens, "unauthenticated")
}

fn roles(right: &Request) -> Vec<Case> {
    let with_role = |role: &str| {
        let path = right.path.replace("/roles/fan", &format!("/roles/{role}"));
        Request { path, ..right.clone() }
    };
    ["god", "OPERATOR", "operator%20", "%00", "fan,operator"]
        .map(|role| Case::new(format!("the role {role}"), with_role(role), "invalid"))
        .into()
}

fn concert(right: &Request) -> Vec<Case> {
    let lines =
        [String::new(), "  ".into(), long(201), "a\nb".into(), "a\0b".into(), "a".repeat(60_000)];
    let lines: Vec<String> = lines.into_iter().chain(unseen()).collect();
    let mut cases = each(right, "title", lines.clone(), "invalid");
    cases.extend(each(right, "artist", lines, "invalid"));
    let texts = [long(5_001), "a\0b".into(), "\u{1b}[2J".into(), "a\u{202e}b".into()];
    cases.extend(each(right, "description", texts, "invalid"));
    cases
}

fn schedule(right: &Request, world: &World) -> Vec<Case> {
    let now = mesh::clock::now();
    let query = right.clone().query("opens_at=2030-06-01T19:00:00Z");
    let mut cases = vec![
        Case::new("another's concert", right.clone().by(&world.rival.access_token), "forbidden"),
        Case::new(
            "a show that begins before it opens",
            right.clone().set("opens_at", json!(now.plus_secs(90_000))),
            "invalid",
        ),
        Case::new("an opening in the query beside a body of JSON", query, "bad_request"),
        Case::new("an opens", right.clone().set("opens", json!(now)), "invalid")
            .mentions("did you mean `opens_at`?"),
        Case::new(
            "an unknown field of admission",
            right.clone().set("admission.pace", 1),
            "invalid",
        )
        .says("field", "admission.pace"),
        Case::new("another concert", right.clone().set("concert_id", unknown()), "invalid")
            .says("field", "concert_id"),
    ];
    let venues = [String::new(), long(201), "a\nb".into(), "a\0b".into()];
    let venues: Vec<String> = venues.into_iter().chain(unseen()).collect();
    cases.extend(each(right, "venue", venues, "invalid"));
    let times = [
        "",
        "tomorrow",
        "2027-06-01",
        "2027-06-31T00:00:00Z",
        "2027-06-01T19:00:00",
        "2020-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
    ];
    cases.extend(each(right, "starts_at", times, "invalid"));
    cases.extend(each(right, "opens_at", ["", "now", "2027-06-31T00:00:00Z"], "invalid"));
    let refunds = ["", "never", "2027-06-31T00:00:00Z", "9999-12-31T23:59:59Z"];
    cases.extend(each(right, "refund_until", refunds, "invalid"));
    for (field, max) in [
        ("hold_secs", 3_600_i64),
        ("seats_per_fan_max", 100),
        ("admission.per_second", 100_000),
        ("admission.active_max", 1_000_000),
        ("admission.pass_secs", 3_600),
    ] {
        let values = [0, -1, max + 1, i64::from(u32::MAX), i64::from(u32::MAX) + 1, i64::MIN];
        cases.extend(each(right, field, values, "invalid"));
        cases.extend(each(right, field, [json!("1"), json!(1.5)], "invalid"));
    }
    cases
}

fn tickets(right: &Request, world: &World) -> Vec<Case> {
    let mine = right.clone().by(world.other.token());
    let theirs = world.place.ticket.clone().expect("a ticket");
    let cut = theirs[..theirs.len() - 10].to_owned();
    let tickets = [String::new(), "rubbish".into(), "a\0b".into(), long(20_000), cut, theirs];
    each(&mine, "ticket", tickets, "invalid")
}

async fn reserve(right: &Request, world: &World) -> Vec<Case> {
    let pass = world.pass();
    let (claims, signature) = pass.rsplit_once('.').expect("a JWT");
    let other_signature = world.pass_elsewhere.rsplit_once('.').expect("a JWT").1;
    let mut cases = vec![
        Case::new("another's pass", right.clone().by(world.other.token()), "not_active"),
        Case::new("a held seat", right.clone().set("seats", json!(["A-1-1"])), "seat_taken")
            .says("seats", json!(["A-1-1"])),
        Case::new(
            "a sold seat",
            right.clone().set("seats", json!(["A-1-3", "A-1-2"])),
            "seat_taken",
        )
        .says("seats", json!(["A-1-2"])),
        Case::new(
            "more seats than a fan may have",
            right.clone().set("seats", json!(["A-1-3", "A-1-4"])),
            "limit_exceeded",
        ),
        Case::new(
            "an unknown schedule",
            right.clone().set("schedule_id", unknown()),
            "not_found|not_active",
        ),
        Case::new("no id", right.clone().set("schedule_id", "the next one"), "invalid")
            .says("field", "schedule_id")
            .mentions("must be an id"),
        Case::new("seats as a text", right.clone().set("seats", "A-1-3"), "invalid")
            .says("field", "seats")
            .mentions("must be a list, not a text"),
    ];
    let passes = [
        String::new(),
        "rubbish".into(),
        "a\0b".into(),
        long(20_000),
        world.pass_elsewhere.clone(),
        world.pass_of_yesterday().await,
        world.fan.token().to_owned(),
        world.place.ticket.clone().expect("a ticket"),
        format!("{claims}.{other_signature}"),
        format!("{claims}."),
        claims.to_owned(),
        format!("{pass}.{signature}"),
    ];
    cases.extend(each(right, "pass", passes, "not_active"));
    let many: Vec<String> = (0..101).map(|seat| format!("A-1-{seat}")).collect();
    let twice = [json!(["A-1-3", "A-1-3"]), json!(["A-1-3", " Ａ-1-３"])];
    let seats = [json!([]), json!(many)].into_iter().chain(twice);
    cases.extend(each(right, "seats", seats, "invalid"));
    let odd = [
        json!(["Z-9-9"]),
        json!([""]),
        json!(["A-1"]),
        json!(["A-1-3-"]),
        json!(["a-1-3"]),
        json!(["A-1-\u{200b}3"]),
        json!(["A-1-3\0"]),
        json!(["A-1-3", "Z-9-9"]),
        json!([long(20_000)]),
        json!(["' or 1=1--"]),
    ];
    cases.extend(each(right, "seats", odd, "unknown_seat|invalid"));
    cases
}

fn charge(right: &Request) -> Vec<Case> {
    let amounts = [0, -1, 10_000_001, i64::MIN, i64::MAX];
    let mut cases = each(right, "amount", amounts, "invalid");
    for number in ["9223372036854775808", "-9223372036854775809", "1e3", "1.0", "-0.5"] {
        let body = format!("{{\"amount\":{number}}}");
        cases.push(Case::new(
            format!("an amount of {number}"),
            right.clone().bytes(body),
            "invalid",
        ));
    }
    for number in ["1e999", "0x10", "NaN", "+1", "01", "1_000", "--1"] {
        let body = format!("{{\"amount\":{number}}}");
        let what = format!("an amount of {number}");
        cases.push(Case::new(what, right.clone().bytes(body), "bad_request"));
    }
    cases
}

fn sagas(right: &Request) -> Vec<Case> {
    let unread = ["state=asleep", "state=", "since=yesterday", "since=2027-06-31T00:00:00Z"];
    let unknown = ["service=accounting", "service=", "about=", "about=the-first", "about=%00"];
    let case = |query: &str, codes| Case::new(query.to_owned(), right.clone().query(query), codes);
    let mut cases: Vec<_> = unread.iter().map(|query| case(query, "bad_request")).collect();
    cases.extend(unknown.iter().map(|query| case(query, "invalid")));
    cases
}

fn dead_letters(operation: &Operation, right: &Request) -> Option<Vec<Case>> {
    let lines = || {
        let lines = [String::new(), " ".into(), long(501), "a\nb".into(), "a\0b".into()];
        lines.into_iter().chain(unseen())
    };
    Some(match operation.id.as_str() {
        "findDeadLetters" => which_dead_letters(right),
        "getDeadLetter" | "retryDeadLetter" => no_dead_letter(right),
        "discardDeadLetter" => {
            let mut cases = no_dead_letter(right);
            cases.extend(each(right, "reason", lines(), "invalid"));
            cases.extend(each(right, "leave_open", [json!("yes"), json!(1)], "invalid"));
            cases
        }
        "retryDeadLetters" => {
            let mut cases = each(right, "cause", lines(), "invalid");
            let services = ["", "*", ">", "point.>", "Point", "a b", &"a".repeat(33)];
            cases.extend(each(right, "service", services, "invalid"));
            cases
        }
        _ => return None,
    })
}

fn which_dead_letters(right: &Request) -> Vec<Case> {
    let query = |codes| move |pair: &&str| Case::new(*pair, right.clone().query(pair), codes);
    let services = ["service=", "service=*", "service=%3E", "service=point.%3E", "service=Point"];
    let cursors = ["before=", "before=-1", "before=last", "before=17", "before=1-point"];
    let others = ["all=", "all=yes", "before=1-point-1&before=2-point-1"];
    let invalid = services.iter().chain(&cursors).map(query("invalid"));
    invalid.chain(others.iter().map(query("bad_request"))).collect()
}

/// Malformed ids of dead letters, and ids of dead letters that do not exist.
fn no_dead_letter(right: &Request) -> Vec<Case> {
    let malformed = ["1", "-1", "point", "point-", "point-first", "point-0x1", "Point-1", "%00"];
    let unknown = ["accounting-1", "point--1", "point-0", "point-1", "point-18446744073709551615"];
    let too_large = ["point-18446744073709551616"];
    malformed
        .into_iter()
        .chain(unknown)
        .chain(too_large)
        .map(|id| {
            let path = right.path.replace("/point-1", &format!("/{id}"));
            Case::new(format!("dead letter {id}"), Request { path, ..right.clone() }, "not_found")
        })
        .collect()
}

/// `If-None-Match` does not change a `404`.
fn tags(nothing: &Request) -> Vec<Case> {
    let tagged = |tag| {
        Case::new(
            format!("a tag of {tag}"),
            nothing.clone().with("if-none-match", tag),
            "not_found",
        )
    };
    ["\"x\"", "x", "W/", ",,", "*"].map(tagged).into()
}

fn cursors(right: &Request) -> Vec<Case> {
    let long = "1".repeat(9_000);
    ["", "rubbish", "-1", "1-2", "99999999999999999999999", "☃", &long]
        .map(|id| {
            let request = right.clone().with("last-event-id", id);
            Case::new(format!("a Last-Event-ID of {id:.20}"), request, "invalid")
        })
        .into()
}

fn contact(right: &Request) -> Vec<Case> {
    let phones = [
        String::new(),
        "+".into(),
        "0101234".into(),
        "01012345678 ext. 5".into(),
        "+0821012345678".into(),
        "+8210123456789012".into(),
        "+82101234567\0".into(),
        "+٨٢١٠١٢٣٤٥٦٧٨".into(),
        format!("+{}", "1".repeat(20_000)),
    ];
    let mut cases = each(right, "phone", phones, "invalid");
    cases.extend(each(right, "locale", ["", "fr", "korean", "k", "en\0", "ko\u{200b}"], "invalid"));
    cases
}
