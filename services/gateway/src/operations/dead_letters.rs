//! Dead letters, for operators. Each service keeps and handles its own; the gateway queries the
//! services and merges their dead letters into one list.

use std::{
    cmp::Reverse,
    collections::HashSet,
    fmt,
    sync::LazyLock,
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
        DEAD_LETTERS, DISCARD, DeadLetter, DeadLetterDetails, DeadLetterId, DeadLetterState,
        DeadLetters, Discard, DiscardReason, FindDeadLetters, FoundDeadLetters, REASON_CHARS_MAX,
        REDRIVE, Redrive, Retried, RetriedAll, RetryAll, Unreachable, UnreachableService,
    },
    user::Role,
};
use futures::future::join_all;
use mesh::{Allow, Answered, clock};
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::IntoParams;

use crate::{
    http::{
        call::{Call, Head, Params, json, path_parameter, short},
        edge::Edge,
        op::Op,
        problem::{Copies, Refused, answer},
    },
    operations::examples,
};

const TAG: &str = "dead letters";
/// The verb under which audit answers for one saga.
const SAGA: &str = "saga";
/// The services that consume events; each keeps the dead letters of those it cannot handle.
static KEEPERS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let keepers = events::CONTRACTS.iter().filter(|service| service.keeps_dead_letters);
    keepers.map(|service| service.name).collect()
});
/// How long a service may take to list its dead letters.
const LIST_WITHIN: Duration = Duration::from_secs(4);
/// Dead letters of a page when the caller does not say, and at most.
const PAGE_DEFAULT: usize = 20;
const PAGE_MAX: usize = 100;
/// Keys whose parked events are retried at once.
const KEYS_AT_ONCE: usize = 4;
/// How long one request goes on to further keys; what is left needs another request.
const RETRY_ALL_WITHIN: Duration = Duration::from_secs(15);

/// The operations of this area.
pub(crate) fn ops() -> Vec<Op> {
    vec![
        Op::get("/v1/dead-letters", find)
            .named(TAG, "findDeadLetters", "List events that services cannot handle, newest first")
            .explained(
                "A service that does not answer is named in `unasked`, and its dead letters are \
                 missing; when `service` names it, its failure is the answer.",
            )
            .role("operator")
            .query::<Which>()
            .gives::<DeadLetters>(200, "A page of dead letters", examples::DEAD_LETTERS),
        Op::get("/v1/dead-letters/{letter}", open)
            .named(
                TAG,
                "getDeadLetter",
                "Read a dead letter, its message, and all events of its key",
            )
            .role("operator")
            .path_schema::<DeadLetterId>("letter")
            .gives::<DeadLetterDetails>(200, "The dead letter", examples::OPENED_DEAD_LETTER),
        Op::post("/v1/dead-letters/{letter}/retry", retry)
            .named(TAG, "retryDeadLetter", "Retry a dead letter")
            .explained(
                "Handles the parked events of its key in order, from the first to the last or to \
                 one that fails again. Each keeps its event id, so it takes effect once however \
                 often it is retried.",
            )
            .role("operator")
            .path_schema::<DeadLetterId>("letter")
            .gives::<Retried>(
                200,
                "What became of the parked events of its key",
                examples::REDRIVEN,
            ),
        Op::post("/v1/dead-letters/retry", retry_all)
            .named(TAG, "retryDeadLetters", "Retry every dead letter of a cause")
            .explained("With all parked events of their keys. Repeat it while `left` is not 0.")
            .role("operator")
            .takes::<RetryAll>(examples::RETRY_ALL)
            .gives::<RetriedAll>(
                200,
                "What became of the parked events, key by key",
                examples::RETRIED_ALL,
            ),
        Op::post("/v1/dead-letters/{letter}/discard", discard)
            .named(TAG, "discardDeadLetter", "Discard a dead letter")
            .explained(
                "The reason is kept, and the operator who gave it. The events parked behind it \
                 are then handled by themselves, up to one that fails. Where the service decides \
                 by the event, the saga that waits for it would stay open: that is refused with \
                 the events that would have followed and the state of the saga, unless \
                 `leave_open` is true.",
            )
            .role("operator")
            .path_schema::<DeadLetterId>("letter")
            .takes::<DiscardReason>(examples::DISCARD_REASON)
            .gives::<Retried>(
                200,
                "What became of the parked events of its key",
                examples::REDRIVEN,
            )
            .refuses(&[codes::SAGA_OPEN]),
    ]
}

/// Which dead letters.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Only of this service.
    service: Option<String>,
    /// Only those whose cause contains this.
    cause: Option<String>,
    /// `true` also for those that have ended, and for events that came too early and are retried
    /// by themselves.
    all: Option<bool>,
    /// `next_before` of the previous page.
    #[param(min_length = 1)]
    before: Option<String>,
    /// Entries wanted, 1 to 100; 20 when absent.
    #[param(minimum = 1, maximum = 100)]
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
    let mut items = found.dead_letters;
    items.retain(|item| before.as_ref().is_none_or(|before| Place::of(item) < *before));
    items.sort_by_cached_key(|item| Reverse(Place::of(item)));
    let has_more = items.len() > limit;
    items.truncate(limit);
    let last = items.last().filter(|_| has_more);
    let next_before = last.map(|item| Place::of(item).to_string());
    Ok(granted(&DeadLetters { items, next_before, unasked: found.unasked }))
}

async fn open(
    State(edge): State<Edge>,
    DeadLetterPath(id): DeadLetterPath,
    head: Head,
) -> Result<Response, Refused> {
    is_operator(&edge, &head).await?;
    let body = json(&FindDeadLetters { letter: Some(id.clone()), ended: true });
    let answered = edge.ask_service(id.service(), DEAD_LETTERS, body, &head).await?;
    let found: FoundDeadLetters = reply_of(&answered)?;
    Ok(granted(&found.opened.ok_or_else(|| unknown(&id))?))
}

async fn retry(
    State(edge): State<Edge>,
    DeadLetterPath(id): DeadLetterPath,
    head: Head,
) -> Result<Response, Refused> {
    is_operator(&edge, &head).await?;
    let body = json(&Redrive { letter: id.clone() });
    let answered = edge.ask_service(id.service(), REDRIVE, body, &head).await?;
    Ok(answer(answered, Copies::None))
}

async fn discard(
    State(edge): State<Edge>,
    DeadLetterPath(id): DeadLetterPath,
    call: Call,
) -> Result<Response, Refused> {
    is_operator(&edge, &call.head).await?;
    let DiscardReason { reason, leave_open } = mesh::parse(&call.body)?;
    is_line("reason", &reason)?;
    let body = json(&Discard { letter: id.clone(), reason, leave_open });
    let answered = edge.ask_service(id.service(), DISCARD, body, &call.head).await?;
    if answered.status != codes::SAGA_OPEN.status {
        return Ok(answer(answered, Copies::None));
    }
    let mut problem: Problem =
        serde_json::from_slice(&answered.body).map_err(|_| Problem::from(codes::INTERNAL))?;
    if let Some(saga) = saga_of(&edge, &call.head, &problem).await {
        problem = problem.with("saga", saga);
    }
    Err(problem.into())
}

/// The state of the saga that a dead letter belongs to, if audit answers.
async fn saga_of(edge: &Edge, head: &Head, problem: &Problem) -> Option<serde_json::Value> {
    let id = problem.extra.get("saga_id")?.as_str()?.to_owned();
    let body = json(&GetSaga { id });
    let request = edge.ask_service("audit", SAGA, body, head);
    let answered = tokio::time::timeout(LIST_WITHIN, request).await.ok()?.ok()?;
    let Saga { line, to_come, .. } = reply_of(&answered).ok()?;
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
    let firsts = first_of_keys(found.dead_letters);
    let until = Instant::now() + RETRY_ALL_WITHIN;
    let mut done = RetriedAll {
        lines: Vec::new(),
        unasked: Vec::new(),
        unasked_services: found.unasked,
        left: 0,
    };
    for some in firsts.chunks(KEYS_AT_ONCE) {
        if Instant::now() >= until {
            done.left += some.len() as u64;
            continue;
        }
        let each = some.iter().map(|id| retried(&edge, &call.head, id));
        for retried in join_all(each).await {
            match retried {
                Ok(redriven) => done.lines.push(redriven),
                Err(unasked) => done.unasked.push(unasked),
            }
        }
    }
    Ok(granted(&done))
}

/// One dead letter of each key: retrying it retries all parked events of the key.
fn first_of_keys(dead_letters: Vec<DeadLetter>) -> Vec<DeadLetterId> {
    let mut keys = HashSet::new();
    let parked = dead_letters.into_iter().filter(|item| item.state == DeadLetterState::Parked);
    parked
        .filter(|item| item.key == "-" || keys.insert((item.service.clone(), item.key.clone())))
        .map(|item| item.letter)
        .collect()
}

async fn retried(edge: &Edge, head: &Head, id: &DeadLetterId) -> Result<Retried, Unreachable> {
    let body = json(&Redrive { letter: id.clone() });
    let answered = edge.ask_service(id.service(), REDRIVE, body, head).await;
    answered
        .map_err(|Refused(problem)| problem)
        .and_then(|answered| reply_of(&answered))
        .map_err(|problem| Unreachable { letter: id.clone(), why: problem.to_string() })
}

/// The reply to a granted request, or why it was refused.
fn reply_of<T: DeserializeOwned>(answered: &Answered) -> Result<T, Problem> {
    let unreadable = || {
        let detail = format!("A service's answer ({}) cannot be read.", answered.status);
        Problem::new(codes::INTERNAL, detail)
    };
    match answered.is_granted() {
        true => serde_json::from_slice(&answered.body).map_err(|_| unreadable()),
        false => Err(serde_json::from_slice(&answered.body).unwrap_or_else(|_| unreadable())),
    }
}

/// Dead letters, those of each service in the order in which they were parked.
struct Found {
    dead_letters: Vec<DeadLetter>,
    unasked: Vec<UnreachableService>,
}

/// The dead letters of one service, or of all that answer, whose cause contains a text.
async fn matching(
    edge: &Edge,
    head: &Head,
    service: Option<&str>,
    cause: Option<&str>,
    ended: bool,
) -> Result<Found, Refused> {
    let body = json(&FindDeadLetters { letter: None, ended });
    let mut found = Found { dead_letters: Vec::new(), unasked: Vec::new() };
    if let Some(service) = service {
        if !KEEPERS.contains(&service) {
            let known = KEEPERS.join(", ");
            let what = format!("must be one of {known}, not `{}`", short(service));
            return Err(invalid("service", &what).into());
        }
        found.dead_letters = dead_letters_of(edge, head, service, body).await?;
    } else {
        let all = KEEPERS.iter().map(|service| dead_letters_of(edge, head, service, body.clone()));
        for (service, dead_letters) in KEEPERS.iter().zip(join_all(all).await) {
            match dead_letters {
                Ok(dead_letters) => found.dead_letters.extend(dead_letters),
                Err(problem) => found.unasked.push(UnreachableService {
                    service: (*service).to_owned(),
                    why: problem.to_string(),
                }),
            }
        }
    }
    let cause = cause.map(text::folded);
    found.dead_letters.retain(|item| {
        cause.as_ref().is_none_or(|cause| text::folded(&item.cause).contains(cause))
    });
    Ok(found)
}

async fn dead_letters_of(
    edge: &Edge,
    head: &Head,
    service: &str,
    body: Bytes,
) -> Result<Vec<DeadLetter>, Problem> {
    let request = edge.ask_service(service, DEAD_LETTERS, body, head);
    let answered = tokio::time::timeout(LIST_WITHIN, request).await.map_err(|_| {
        let detail = format!("The {service} service did not answer in time.");
        Problem::new(codes::UNAVAILABLE, detail).with("retry_after_secs", 1)
    })?;
    let found: FoundDeadLetters = reply_of(&answered.map_err(|Refused(problem)| problem)?)?;
    Ok(found.letters)
}

/// The place of a dead letter in the list, ordered by the time at which it was kept. As text it
/// is the cursor of a page.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    kept_at_nanos: i128,
    number: u64,
    service: String,
}

impl Place {
    fn of(dead_letter: &DeadLetter) -> Self {
        Self {
            kept_at_nanos: dead_letter.kept_at.map_or(0, |at| at.0.unix_timestamp_nanos()),
            number: dead_letter.letter.number(),
            service: dead_letter.letter.service().to_owned(),
        }
    }

    fn read(cursor: &str) -> Result<Self, Problem> {
        let read = || {
            let (nanos, id) = cursor.split_once('-')?;
            let id: DeadLetterId = id.parse().ok()?;
            let (number, service) = (id.number(), id.service().to_owned());
            Some(Self { kept_at_nanos: nanos.parse().ok()?, number, service })
        };
        read().ok_or_else(|| invalid("before", "must be the `next_before` of the previous page"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kept_at_nanos, DeadLetterId::new(&self.service, self.number))
    }
}

/// Lets only operators pass. The services check that again.
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

fn unknown(id: &DeadLetterId) -> Problem {
    Problem::new(codes::NOT_FOUND, format!("There is no dead letter {id}."))
}

fn granted<T: serde::Serialize>(what: &T) -> Response {
    answer(Answered { status: 200, body: json(what) }, Copies::None)
}

/// The id of a dead letter in the path, whose service keeps dead letters. A value that is no
/// such id names nothing.
struct DeadLetterPath(DeadLetterId);

impl<S: Send + Sync> FromRequestParts<S> for DeadLetterPath {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let (name, text) = path_parameter(parts, state).await?;
        let id = text.parse::<DeadLetterId>();
        let id = id.map_err(|why| Problem::about(codes::NOT_FOUND, &name, why.to_string()))?;
        match KEEPERS.contains(&id.service()) {
            true => Ok(Self(id)),
            false => Err(unknown(&id).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use events::Timestamp;

    use super::*;

    fn dead_letter(id: &str, key: &str, kept_at: i64) -> DeadLetter {
        let DeadLetters { mut items, .. } = serde_json::from_str(examples::DEAD_LETTERS).unwrap();
        let id: DeadLetterId = id.parse().unwrap();
        DeadLetter {
            service: id.service().to_owned(),
            letter: id,
            key: key.to_owned(),
            kept_at: Timestamp::from_unix_millis(kept_at),
            ..items.remove(0)
        }
    }

    #[test]
    fn a_place_in_the_list_parses_from_its_own_text() {
        let place = Place::of(&dead_letter("data-platform-7", "-", 1_500));
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
    fn dead_letters_are_ordered_by_time_and_then_in_the_order_of_parking() {
        let ordered =
            [("point-9", 1), ("point-1", 2), ("user-1", 2), ("point-2", 2), ("point-10", 2)];
        let places = ordered.map(|(id, at)| Place::of(&dead_letter(id, "-", at)));
        assert!(places.is_sorted(), "{places:?}");
    }

    #[test]
    fn one_dead_letter_is_retried_for_each_key_and_each_without_a_key() {
        let mut waiting = dead_letter("point-2", "b", 1);
        waiting.state = DeadLetterState::Waiting;
        let mut all = vec![dead_letter("point-1", "a", 1), waiting, dead_letter("point-3", "a", 1)];
        all.extend(["user-1", "user-2"].map(|id| dead_letter(id, "-", 1)));
        all.push(dead_letter("user-3", "a", 1));
        let firsts: Vec<_> = first_of_keys(all).iter().map(DeadLetterId::to_string).collect();
        assert_eq!(firsts, ["point-1", "user-1", "user-2", "user-3"]);
    }
}
