//! Dead letters, for operators. The log is read here; services decide over their letters.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use axum::{
    extract::{FromRequestParts, Path, State},
    http::request::Parts,
    response::Response,
};
use events::{
    Problem, codes,
    dead_letter::{
        DISCARD, DeadLetter, DeadLetters, Discard, DiscardReason, LetterState, OpenedLetter,
        REASON_CHARS_MAX, REDRIVE, Redrive, Redriven, RetriedAll, RetryAll, Unasked,
    },
    user::Role,
};
use futures::future::join_all;
use mesh::{Allow, Answered, clock};
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::IntoParams;

use crate::{
    Edge,
    call::{Call, Head, Params, json},
    examples,
    op::Op,
    problem::{Copies, Refused, answer},
};

const TAG: &str = "dead letters";
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
            .role("operator")
            .query::<Which>()
            .gives::<DeadLetters>(200, "Some of the letters", examples::DEAD_LETTERS),
        Op::get("/v1/dead-letters/{letter}", open)
            .named(TAG, "getDeadLetter", "Read a letter, its message, and the line of its key")
            .role("operator")
            .path_number("letter")
            .gives::<OpenedLetter>(200, "The letter", examples::OPENED_LETTER),
        Op::post("/v1/dead-letters/{letter}/retry", retry)
            .named(TAG, "retryDeadLetter", "Try a letter again")
            .explained(
                "Takes the letters of its key in, in order, from the first to the last or to one \
                 that fails again. Each keeps its event's id, so it takes effect once however \
                 often it is tried.",
            )
            .role("operator")
            .path_number("letter")
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
                "The reason is kept, and who gave it. The letters that waited behind it are \
                 taken in, up to one that was tried before.",
            )
            .role("operator")
            .path_number("letter")
            .takes::<DiscardReason>(examples::DISCARD_REASON)
            .gives::<Redriven>(200, "What became of the line", examples::REDRIVEN),
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
    /// `true` for those that have ended as well.
    all: Option<bool>,
    /// `next_before` of the page before.
    before: Option<u64>,
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
        return Err(invalid(&format!("A limit is 1 to {PAGE_MAX}.")).into());
    }
    let all = which.all.unwrap_or(false);
    let mut items = matching(&edge, which.service.as_deref(), which.cause.as_deref(), all).await?;
    items.retain(|letter| which.before.is_none_or(|before| letter.letter < before));
    items.sort_by_key(|letter| std::cmp::Reverse(letter.letter));
    let has_more = items.len() > limit;
    items.truncate(limit);
    let next_before = has_more.then(|| items.last().map(|letter| letter.letter)).flatten();
    Ok(granted(&DeadLetters { items, next_before }))
}

async fn open(
    State(edge): State<Edge>,
    Number(letter): Number,
    head: Head,
) -> Result<Response, Refused> {
    is_operator(&edge, &head).await?;
    Ok(granted(&edge.asker().dead_letter(letter).await?))
}

async fn retry(
    State(edge): State<Edge>,
    Number(letter): Number,
    head: Head,
) -> Result<Response, Refused> {
    is_operator(&edge, &head).await?;
    let service = edge.asker().dead_letter(letter).await?.letter.service;
    let asked = edge.ask_service(&service, REDRIVE, json(&Redrive { letter }), &head).await?;
    Ok(answer(asked, Copies::None))
}

async fn discard(
    State(edge): State<Edge>,
    Number(letter): Number,
    call: Call,
) -> Result<Response, Refused> {
    is_operator(&edge, &call.head).await?;
    let DiscardReason { reason } = mesh::parse(&call.body)?;
    is_line("reason", &reason)?;
    let service = edge.asker().dead_letter(letter).await?.letter.service;
    let body = json(&Discard { letter, reason });
    let asked = edge.ask_service(&service, DISCARD, body, &call.head).await?;
    Ok(answer(asked, Copies::None))
}

async fn retry_all(State(edge): State<Edge>, call: Call) -> Result<Response, Refused> {
    is_operator(&edge, &call.head).await?;
    let RetryAll { service, cause } = mesh::parse(&call.body)?;
    is_line("cause", &cause)?;
    let mut letters = matching(&edge, service.as_deref(), Some(&cause), false).await?;
    letters.retain(|letter| letter.state == LetterState::Parked);
    // One letter for each line: trying it tries the whole line.
    let mut lines = BTreeSet::new();
    let is_new = |letter: &DeadLetter| {
        letter.key == "-" || lines.insert((letter.service.clone(), letter.key.clone()))
    };
    let firsts: Vec<DeadLetter> = letters.into_iter().filter(is_new).collect();
    let until = Instant::now() + RETRY_ALL_WITHIN;
    let mut done = RetriedAll { lines: Vec::new(), unasked: Vec::new(), left: 0 };
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

async fn retried(edge: &Edge, head: &Head, letter: &DeadLetter) -> Result<Redriven, Unasked> {
    let unasked = |why: String| Unasked { letter: letter.letter, why };
    let body = json(&Redrive { letter: letter.letter });
    let asked = edge.ask_service(&letter.service, REDRIVE, body, head).await;
    let answered = asked.map_err(|Refused(problem)| unasked(problem.to_string()))?;
    if !answered.is_granted() {
        return Err(unasked(read::<Problem>(&answered).map_or_else(
            || format!("it was answered {}", answered.status),
            |problem| problem.to_string(),
        )));
    }
    read(&answered).ok_or_else(|| unasked("its service's answer cannot be read".into()))
}

fn read<T: DeserializeOwned>(answered: &Answered) -> Option<T> {
    serde_json::from_slice(&answered.body).ok()
}

/// Letters of a service, or all, with a part of a cause.
async fn matching(
    edge: &Edge,
    service: Option<&str>,
    cause: Option<&str>,
    all: bool,
) -> Result<Vec<DeadLetter>, Problem> {
    if let Some(service) = service {
        let is_name = |b: u8| b.is_ascii_lowercase() || b == b'-';
        if !(1..=32).contains(&service.len()) || !service.bytes().all(is_name) {
            return Err(invalid("There is no such service."));
        }
    }
    let mut letters = edge.asker().dead_letters(service, all).await?;
    let cause = cause.map(str::to_lowercase);
    letters.retain(|letter| {
        cause.as_ref().is_none_or(|cause| letter.cause.to_lowercase().contains(cause))
    });
    Ok(letters)
}

/// Lets only operators pass. The services that are asked look again.
async fn is_operator(edge: &Edge, head: &Head) -> Result<(), Problem> {
    let caller = edge.link().verifier().access(head.token()?, clock::now()).await?;
    Allow::Role(Role::Operator).check(&caller)
}

fn is_line(what: &str, text: &str) -> Result<(), Problem> {
    let chars = text.trim().chars().count();
    if chars == 0 || chars > REASON_CHARS_MAX || text.chars().any(char::is_control) {
        let detail = format!("A {what} is one line of 1 to {REASON_CHARS_MAX} characters.");
        return Err(invalid(&detail));
    }
    Ok(())
}

fn invalid(detail: &str) -> Problem {
    Problem::new(codes::INVALID, detail)
}

fn granted<T: serde::Serialize>(what: &T) -> Response {
    answer(Answered { status: 200, body: json(what) }, Copies::None)
}

/// The number of a letter in the path. What is no number names nothing.
struct Number(u64);

impl<S: Send + Sync> FromRequestParts<S> for Number {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let number = Path::<String>::from_request_parts(parts, state).await;
        let number = number.ok().and_then(|Path(text)| text.parse().ok());
        let unknown = || Problem::new(codes::NOT_FOUND, "A letter in the path is not a number.");
        Ok(Self(number.ok_or_else(unknown)?))
    }
}
