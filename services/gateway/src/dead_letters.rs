//! Dead letters, for operators. Each service keeps its own and decides over them; here they
//! are asked, and their letters are put into one list.

use std::{
    cmp::Reverse,
    collections::HashSet,
    fmt,
    time::{Duration, Instant},
};

use axum::{
    extract::{FromRequestParts, State},
    http::request::Parts,
    response::Response,
};
use bytes::Bytes;
use events::{
    Problem,
    audit::{GetSaga, Saga},
    codes,
    dead_letter::{
        DEAD_LETTERS, DISCARD, DeadLetter, DeadLetterId, DeadLetterState, DeadLetters, Discard,
        DiscardReason, FindDeadLetters, FoundDeadLetters, OpenedDeadLetter, REASON_CHARS_MAX,
        REDRIVE, Redrive, Redriven, RetriedAll, RetryAll, Unasked, UnaskedService,
    },
    user::Role,
};
use futures::future::join_all;
use mesh::{Allow, Answered, clock};
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::IntoParams;

use crate::{
    Edge,
    call::{Call, Head, Params, json, path_parameter, short},
    examples,
    op::Op,
    problem::{Copies, Refused, answer},
};

const TAG: &str = "dead letters";
/// The verb under which audit answers for one saga.
const SAGA: &str = "saga";
/// The services that consume events; each keeps the letters of those that it cannot take in.
const KEEPERS: [&str; 8] =
    ["user", "concert", "queue", "reservation", "payment", "point", "ranking", "notification"];
/// How long a service may take to say which letters it has.
const LIST_WITHIN: Duration = Duration::from_secs(4);
/// Letters of a page when the caller does not say, and at most.
const PAGE_DEFAULT: usize = 20;
const PAGE_MAX: usize = 100;
/// Lines that are tried at once.
const LINES_AT_ONCE: usize = 4;
/// How long one request goes on to the next lines; what is left needs another.
const RETRY_ALL_WITHIN: Duration = Duration::from_secs(15);

/// The operations of this area.
pub(crate) fn ops() -> Vec<Op> {
    vec![
        Op::get("/v1/dead-letters", find)
            .named(TAG, "findDeadLetters", "List what services could not take in, newest first")
            .explained(
                "A service that does not answer is named in `unasked`, and its letters are \
                 missing; when `service` names it, that is the answer.",
            )
            .role("operator")
            .query::<Which>()
            .gives::<DeadLetters>(200, "Some of the letters", examples::DEAD_LETTERS),
        Op::get("/v1/dead-letters/{letter}", open)
            .named(TAG, "getDeadLetter", "Read a letter, its message, and the line of its key")
            .role("operator")
            .path_schema::<DeadLetterId>("letter")
            .gives::<OpenedDeadLetter>(200, "The letter", examples::OPENED_LETTER),
        Op::post("/v1/dead-letters/{letter}/retry", retry)
            .named(TAG, "retryDeadLetter", "Try a letter again")
            .explained(
                "Takes the letters of its key in, in order, from the first to the last or to one \
                 that fails again. Each keeps its event's id, so it takes effect once however \
                 often it is tried.",
            )
            .role("operator")
            .path_schema::<DeadLetterId>("letter")
            .gives::<Redriven>(200, "What became of the line", examples::REDRIVEN),
        Op::post("/v1/dead-letters/retry", retry_all)
            .named(TAG, "retryDeadLetters", "Try every letter of a cause again")
            .explained("With the lines that they stand in. Repeat it while `left` is not 0.")
            .role("operator")
            .takes::<RetryAll>(examples::RETRY_ALL)
            .gives::<RetriedAll>(200, "What became of the lines", examples::RETRIED_ALL),
        Op::post("/v1/dead-letters/{letter}/discard", discard)
            .named(TAG, "discardDeadLetter", "Give a letter up")
            .explained(
                "The reason is kept, and who gave it. The letters that waited behind it are taken \
                 in by themselves from then on, up to one that cannot be. Where the service \
                 decides by the event, what waits for it would stay open: that is refused with \
                 what would have followed and where the saga stands, unless `leave_open` is true.",
            )
            .role("operator")
            .path_schema::<DeadLetterId>("letter")
            .takes::<DiscardReason>(examples::DISCARD_REASON)
            .gives::<Redriven>(200, "What became of the line", examples::REDRIVEN)
            .refuses(&[codes::SAGA_OPEN]),
    ]
}

/// Which letters.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Only of this service.
    service: Option<String>,
    /// Only those whose cause contains this.
    cause: Option<String>,
    /// `true` for those that have ended as well, and for those that came too early and are
    /// tried again by themselves.
    all: Option<bool>,
    /// `next_before` of the page before.
    before: Option<String>,
    /// Entries wanted, 1 to 100; 20 when absent.
    limit: Option<u32>,
}

async fn find(
    State(edge): State<Edge>,
    Params(which): Params<Which>,
    head: Head,
) -> Result<Response, Refused> {
    is_operator(&edge, &head).await?;
    let limit = which.limit.map_or(PAGE_DEFAULT, |limit| limit as usize);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(invalid("limit", &format!("must be 1 to {PAGE_MAX}, not {limit}")).into());
    }
    let before = which.before.as_deref().map(Place::read).transpose()?;
    let (service, cause) = (which.service.as_deref(), which.cause.as_deref());
    let found = matching(&edge, &head, service, cause, which.all.unwrap_or(false)).await?;
    let mut items = found.letters;
    items.retain(|letter| before.as_ref().is_none_or(|before| Place::of(letter) < *before));
    items.sort_by_cached_key(|letter| Reverse(Place::of(letter)));
    let has_more = items.len() > limit;
    items.truncate(limit);
    let last = items.last().filter(|_| has_more);
    let next_before = last.map(|letter| Place::of(letter).to_string());
    Ok(granted(&DeadLetters { items, next_before, unasked: found.unasked }))
}

async fn open(
    State(edge): State<Edge>,
    Letter(letter): Letter,
    head: Head,
) -> Result<Response, Refused> {
    is_operator(&edge, &head).await?;
    let body = json(&FindDeadLetters { letter: Some(letter.clone()), ended: true });
    let answered = edge.ask_service(letter.service(), DEAD_LETTERS, body, &head).await?;
    let found: FoundDeadLetters = said(&answered)?;
    Ok(granted(&found.opened.ok_or_else(|| unknown(&letter))?))
}

async fn retry(
    State(edge): State<Edge>,
    Letter(letter): Letter,
    head: Head,
) -> Result<Response, Refused> {
    is_operator(&edge, &head).await?;
    let body = json(&Redrive { letter: letter.clone() });
    let asked = edge.ask_service(letter.service(), REDRIVE, body, &head).await?;
    Ok(answer(asked, Copies::None))
}

async fn discard(
    State(edge): State<Edge>,
    Letter(letter): Letter,
    call: Call,
) -> Result<Response, Refused> {
    is_operator(&edge, &call.head).await?;
    let DiscardReason { reason, leave_open } = mesh::parse(&call.body)?;
    is_line("reason", &reason)?;
    let body = json(&Discard { letter: letter.clone(), reason, leave_open });
    let asked = edge.ask_service(letter.service(), DISCARD, body, &call.head).await?;
    if asked.status != codes::SAGA_OPEN.status {
        return Ok(answer(asked, Copies::None));
    }
    let mut problem: Problem =
        serde_json::from_slice(&asked.body).map_err(|_| Problem::from(codes::INTERNAL))?;
    if let Some(saga) = saga_of(&edge, &call.head, &problem).await {
        problem = problem.with("saga", saga);
    }
    Err(problem.into())
}

/// Where the saga stands that a letter belongs to, as far as audit can be asked.
async fn saga_of(edge: &Edge, head: &Head, problem: &Problem) -> Option<serde_json::Value> {
    let id = problem.extra.get("saga_id")?.as_str()?.to_owned();
    let body = json(&GetSaga { id });
    let asked = edge.ask_service("audit", SAGA, body, head);
    let answered = tokio::time::timeout(LIST_WITHIN, asked).await.ok()?.ok()?;
    let Saga { line, to_come, .. } = said(&answered).ok()?;
    let to_come: Vec<_> = to_come.into_iter().flat_map(|one| one.events).collect();
    Some(serde_json::json!({
        "saga_id": line.saga_id, "flow": line.flow, "state": line.state,
        "awaited": line.awaited, "to_come": to_come,
    }))
}

async fn retry_all(State(edge): State<Edge>, call: Call) -> Result<Response, Refused> {
    is_operator(&edge, &call.head).await?;
    let RetryAll { service, cause } = mesh::parse(&call.body)?;
    is_line("cause", &cause)?;
    let found = matching(&edge, &call.head, service.as_deref(), Some(&cause), false).await?;
    let firsts = first_of_lines(found.letters);
    let until = Instant::now() + RETRY_ALL_WITHIN;
    let mut done = RetriedAll {
        lines: Vec::new(),
        unasked: Vec::new(),
        unasked_services: found.unasked,
        left: 0,
    };
    for some in firsts.chunks(LINES_AT_ONCE) {
        if Instant::now() >= until {
            done.left += some.len() as u64;
            continue;
        }
        let each = some.iter().map(|letter| retried(&edge, &call.head, letter));
        for retried in join_all(each).await {
            match retried {
                Ok(line) => done.lines.push(line),
                Err(unasked) => done.unasked.push(unasked),
            }
        }
    }
    Ok(granted(&done))
}

/// One parked letter of each line: trying it tries the whole line.
fn first_of_lines(letters: Vec<DeadLetter>) -> Vec<DeadLetterId> {
    let mut lines = HashSet::new();
    let parked = letters.into_iter().filter(|letter| letter.state == DeadLetterState::Parked);
    parked
        .filter(|letter| {
            letter.key == "-" || lines.insert((letter.service.clone(), letter.key.clone()))
        })
        .map(|letter| letter.letter)
        .collect()
}

async fn retried(edge: &Edge, head: &Head, letter: &DeadLetterId) -> Result<Redriven, Unasked> {
    let body = json(&Redrive { letter: letter.clone() });
    let asked = edge.ask_service(letter.service(), REDRIVE, body, head).await;
    asked
        .map_err(|Refused(problem)| problem)
        .and_then(|answered| said(&answered))
        .map_err(|problem| Unasked { letter: letter.clone(), why: problem.to_string() })
}

/// What a granted request was answered with, or why it was not granted.
fn said<T: DeserializeOwned>(answered: &Answered) -> Result<T, Problem> {
    let strange = || {
        let detail = format!("A service's answer ({}) cannot be read.", answered.status);
        Problem::new(codes::INTERNAL, detail)
    };
    match answered.is_granted() {
        true => serde_json::from_slice(&answered.body).map_err(|_| strange()),
        false => Err(serde_json::from_slice(&answered.body).unwrap_or_else(|_| strange())),
    }
}

/// Letters, each service's in the order in which they were parked.
struct Found {
    letters: Vec<DeadLetter>,
    unasked: Vec<UnaskedService>,
}

/// Letters of a service, or of all that answer, with a part of a cause.
async fn matching(
    edge: &Edge,
    head: &Head,
    service: Option<&str>,
    cause: Option<&str>,
    ended: bool,
) -> Result<Found, Refused> {
    let body = json(&FindDeadLetters { letter: None, ended });
    let mut found = Found { letters: Vec::new(), unasked: Vec::new() };
    if let Some(service) = service {
        if !KEEPERS.contains(&service) {
            let known = KEEPERS.join(", ");
            let what = format!("must be one of {known}, not `{}`", short(service));
            return Err(invalid("service", &what).into());
        }
        found.letters = letters_of(edge, head, service, body).await?;
    } else {
        let all = KEEPERS.map(|service| letters_of(edge, head, service, body.clone()));
        for (service, letters) in KEEPERS.into_iter().zip(join_all(all).await) {
            match letters {
                Ok(letters) => found.letters.extend(letters),
                Err(problem) => found
                    .unasked
                    .push(UnaskedService { service: service.to_owned(), why: problem.to_string() }),
            }
        }
    }
    let cause = cause.map(text::folded);
    found.letters.retain(|letter| {
        cause.as_ref().is_none_or(|cause| text::folded(&letter.cause).contains(cause))
    });
    Ok(found)
}

async fn letters_of(
    edge: &Edge,
    head: &Head,
    service: &str,
    body: Bytes,
) -> Result<Vec<DeadLetter>, Problem> {
    let asked = edge.ask_service(service, DEAD_LETTERS, body, head);
    let answered = tokio::time::timeout(LIST_WITHIN, asked).await.map_err(|_| {
        let detail = format!("The {service} service did not answer in time.");
        Problem::new(codes::UNAVAILABLE, detail).with("retry_after_secs", 1)
    })?;
    let found: FoundDeadLetters = said(&answered.map_err(|Refused(problem)| problem)?)?;
    Ok(found.letters)
}

/// Where a letter stands in the list: by the time at which it was kept. Written, it is the
/// cursor of a page.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    kept_at_nanos: i128,
    number: u64,
    service: String,
}

impl Place {
    fn of(letter: &DeadLetter) -> Self {
        Self {
            kept_at_nanos: letter.kept_at.map_or(0, |at| at.0.unix_timestamp_nanos()),
            number: letter.letter.number(),
            service: letter.letter.service().to_owned(),
        }
    }

    fn read(cursor: &str) -> Result<Self, Problem> {
        let read = || {
            let (nanos, letter) = cursor.split_once('-')?;
            let letter: DeadLetterId = letter.parse().ok()?;
            let (number, service) = (letter.number(), letter.service().to_owned());
            Some(Self { kept_at_nanos: nanos.parse().ok()?, number, service })
        };
        read().ok_or_else(|| invalid("before", "must be the `next_before` of the page before"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kept_at_nanos, DeadLetterId::new(&self.service, self.number))
    }
}

/// Lets only operators pass. The services that are asked look again.
async fn is_operator(edge: &Edge, head: &Head) -> Result<(), Problem> {
    let caller = edge.link().verifier().access(head.token()?, clock::now()).await?;
    Allow::Role(Role::Operator).check(&caller)
}

fn is_line(field: &str, line: &str) -> Result<(), Problem> {
    let flaw = text::line(line, 1..=REASON_CHARS_MAX).err();
    flaw.map_or(Ok(()), |flaw| Err(invalid(field, &flaw.to_string())))
}

fn invalid(field: &str, what: &str) -> Problem {
    Problem::about(codes::INVALID, field, what)
}

fn unknown(letter: &DeadLetterId) -> Problem {
    Problem::new(codes::NOT_FOUND, format!("There is no letter {letter}."))
}

fn granted<T: serde::Serialize>(what: &T) -> Response {
    answer(Answered { status: 200, body: json(what) }, Copies::None)
}

/// The letter in the path, of a service that keeps some. What is no letter names nothing.
struct Letter(DeadLetterId);

impl<S: Send + Sync> FromRequestParts<S> for Letter {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let (name, text) = path_parameter(parts, state).await?;
        let letter: DeadLetterId =
            text.parse().map_err(|why: String| Problem::about(codes::NOT_FOUND, &name, why))?;
        match KEEPERS.contains(&letter.service()) {
            true => Ok(Self(letter)),
            false => Err(unknown(&letter).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use events::Timestamp;

    use super::*;

    fn letter(id: &str, key: &str, kept_at: i64) -> DeadLetter {
        let DeadLetters { mut items, .. } = serde_json::from_str(examples::DEAD_LETTERS).unwrap();
        let letter: DeadLetterId = id.parse().unwrap();
        DeadLetter {
            service: letter.service().to_owned(),
            letter,
            key: key.to_owned(),
            kept_at: Timestamp::from_unix_millis(kept_at),
            ..items.remove(0)
        }
    }

    #[test]
    fn a_place_in_the_list_is_written_and_read() {
        let place = Place::of(&letter("data-platform-7", "-", 1_500));
        assert_eq!(place.to_string(), "1500000000-data-platform-7");
        assert_eq!(Place::read(&place.to_string()), Ok(place));
        let DeadLetters { items, next_before, .. } =
            serde_json::from_str(examples::DEAD_LETTERS).unwrap();
        assert_eq!(next_before, Some(Place::of(&items[0]).to_string()));
        for bad in ["", "-1", "last", "17", "point-17", "1-point", "x-point-1"] {
            assert!(Place::read(bad).unwrap_err().is(codes::INVALID), "{bad}");
        }
    }

    #[test]
    fn letters_are_ordered_by_time_and_then_in_the_order_of_parking() {
        let ordered =
            [("point-9", 1), ("point-1", 2), ("user-1", 2), ("point-2", 2), ("point-10", 2)];
        let places = ordered.map(|(id, at)| Place::of(&letter(id, "-", at)));
        assert!(places.is_sorted(), "{places:?}");
    }

    #[test]
    fn one_letter_is_tried_for_each_line_and_each_that_stands_in_none() {
        let mut waiting = letter("point-2", "b", 1);
        waiting.state = DeadLetterState::Waiting;
        let mut letters = vec![letter("point-1", "a", 1), waiting, letter("point-3", "a", 1)];
        letters.extend(["user-1", "user-2"].map(|id| letter(id, "-", 1)));
        letters.push(letter("user-3", "a", 1));
        let firsts: Vec<_> = first_of_lines(letters).iter().map(DeadLetterId::to_string).collect();
        assert_eq!(firsts, ["point-1", "user-1", "user-2", "user-3"]);
    }
}
