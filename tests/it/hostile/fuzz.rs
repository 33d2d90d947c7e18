//! What is parsed, with mutated input: it never panics, and what was understood is understood
//! again in the same way after it was written.
//!
//! Each target begins with the files of `tests/hostile/corpus/<target>/` and with what the project
//! has of its kind. An input that fails is written there, as small as it could be made; it is
//! committed with the repair. `PROPTEST_CASES` and `PROPTEST_RNG_SEED` make a longer or another
//! run.

use std::{cell::Cell, env, path::PathBuf, sync::Arc};

use bytes::Bytes;
use concert::plan;
use events::{Envelope, UserId, concert::OpenSchedule, reservation::Reserve, user::Register};
use flows::Flows;
use harness::{event_types, mesh::run, project};
use mesh::{
    auth::{AccessClaims, Verifier},
    clock,
    keys::{KeyLife, KeyRecord, Keyring},
    topology::Topology,
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner},
};
use serde_json::Value;
use uuid::Uuid;

/// Inputs of each target, unless the environment says otherwise.
const CASES: u32 = 400;
/// The seed, unless the environment says otherwise.
const SEED: u64 = 20_260_501;
/// Where inputs are kept.
const CORPUS: &str = "tests/hostile/corpus";
/// Pieces that parsers have trouble with.
static PIECES: [&[u8]; 24] = [
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b"[[[[[[[[",
    b",",
    b":",
    b"\n",
    b"\r",
    b"-",
    b"1e999",
    b"99999999999999999999",
    b"null",
    "☃".as_bytes(),
    "é".as_bytes(),
    b";",
    b"=",
];

/// The row of a seat that has none.
const NO_ROW: &str = "without a row";

/// One change of an input.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Insert(Index, &'static [u8]),
    Cut(Index, Index),
    Repeat(Index, Index),
    Swap(Index, Index),
    Truncate(Index),
}

impl Change {
    fn make(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            bytes.push(b'x');
        }
        let span = |a: &Index, b: &Index, len: usize| {
            let (a, b) = (a.index(len), b.index(len));
            a.min(b)..a.max(b)
        };
        match self {
            Self::Set(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Self::Insert(at, piece) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, piece.iter().copied());
            }
            Self::Cut(a, b) => drop(bytes.drain(span(a, b, bytes.len()))),
            Self::Repeat(a, b) => {
                let span = span(a, b, bytes.len());
                let piece = bytes[span.clone()].to_vec();
                bytes.splice(span.start..span.start, piece);
            }
            Self::Swap(a, b) => {
                let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
                bytes.swap(a, b);
            }
            Self::Truncate(at) => bytes.truncate(at.index(bytes.len())),
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<Index>;
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (index(), select(&PIECES[..])).prop_map(|(at, piece)| Change::Insert(at, piece)),
        (index(), index()).prop_map(|(a, b)| Change::Cut(a, b)),
        (index(), index()).prop_map(|(a, b)| Change::Repeat(a, b)),
        (index(), index()).prop_map(|(a, b)| Change::Swap(a, b)),
        index().prop_map(Change::Truncate),
    ]
}

/// The kept inputs of a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let files = project::tree(&format!("{CORPUS}/{target}"));
    let read = |path: PathBuf| std::fs::read(project::root().join(path)).expect("a file");
    let found: Vec<_> = files.into_iter().map(read).collect();
    assert!(!found.is_empty(), "there is no {CORPUS}/{target}");
    found
}

/// Tries every seed as it is, and then mutated ones.
fn fuzz(target: &str, more: Vec<Vec<u8>>, check: impl Fn(&[u8])) {
    let mut seeds = corpus(target);
    seeds.extend(more);
    seeds.iter().for_each(|seed| check(seed));
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    if env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(SEED);
    }
    let input = (select(seeds), vec(change(), 0..8)).prop_map(|(mut bytes, changes)| {
        changes.iter().for_each(|change| change.make(&mut bytes));
        bytes
    });
    let tried = Cell::new(0_u32);
    let outcome = TestRunner::new(config.clone()).run(&input, |bytes| {
        tried.set(tried.get() + 1);
        check(&bytes);
        Ok::<_, TestCaseError>(())
    });
    match outcome {
        Ok(()) => assert!(tried.get() >= config.cases, "only {} inputs", tried.get()),
        Err(TestError::Fail(reason, bytes)) => {
            let file = format!("{CORPUS}/{target}/{}", Uuid::now_v7());
            std::fs::write(project::root().join(&file), &bytes).expect("a file");
            panic!("{target}: {reason}; the input is kept in {file}");
        }
        Err(error) => panic!("{target}: {error}"),
    }
}

#[test]
fn an_envelope_that_is_read_is_written_and_read_as_the_same() {
    let recorded = event_types::ALL.iter().map(|event| event.recorded().to_string().into_bytes());
    fuzz("envelope", recorded.collect(), |bytes| {
        let Ok(envelope) = Envelope::decode(bytes) else { return };
        let _ = (envelope.name(), events::event_of_subject(&envelope.kind));
        let mut written = Vec::new();
        envelope.encode(&mut written);
        let again = Envelope::decode(&written).expect("what was written is read");
        let mut once_more = Vec::new();
        again.encode(&mut once_more);
        assert_eq!(written, once_more);
        assert_eq!((again.id, again.sagaid), (envelope.id, envelope.sagaid));
        for event in event_types::ALL.iter().filter(|event| event.name == envelope.name()) {
            let Ok(understood) = (event.read)(envelope.data.get().as_bytes()) else { continue };
            let written = understood.written.to_string();
            let again = (event.read)(written.as_bytes()).expect("what was written is read");
            assert_eq!(again.written, understood.written);
        }
    });
}

#[test]
fn a_seat_plan_that_is_read_is_written_and_read_as_the_same() {
    let venues = ["venues/arena.csv", "venues/club.csv"].map(|file| {
        let text = project::read(file);
        text.lines().take(40).map(|line| format!("{line}\n")).collect::<String>().into_bytes()
    });
    fuzz("seat_plan", venues.into(), |bytes| {
        let Ok(plan) = plan::parse(&String::from_utf8_lossy(bytes)) else { return };
        let mut again = plan::parse(&written(&plan)).expect("what was written is read");
        let standing = again.blocks.iter_mut().filter(|block| block.row == NO_ROW);
        standing.for_each(|block| block.row.clear());
        assert_eq!(again, plan);
        let ids = plan.blocks.iter().flat_map(events::concert::SeatBlock::ids);
        let ids: std::collections::BTreeSet<_> = ids.map(|id| id.0).collect();
        assert_eq!(ids.len(), plan.seats_total, "each seat has an id of its own");
    });
}

/// A plan as the parser reads it, one line a seat. A line without a row is a whole standing area,
/// so its seats get a row here.
fn written(plan: &plan::Plan) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let lines = plan.blocks.iter().flat_map(|block| {
        let row = if block.row.is_empty() { NO_ROW } else { &block.row };
        block.seats.iter().map(move |seat| {
            let names = [block.section.as_str(), row, seat.as_str()].map(quoted);
            format!("{},{}\n", names.join(","), block.price)
        })
    });
    ["section,row,seat,price\n".to_owned()].into_iter().chain(lines).collect()
}

#[test]
fn a_token_that_was_changed_is_never_accepted() {
    let record = KeyRecord::generate(clock::now()).expect("a key");
    let ring = Keyring::open(vec![record], KeyLife::daily(900)).expect("a key");
    let user = UserId(Uuid::now_v7());
    let claims = AccessClaims::new(user, vec![], clock::now(), 86_400);
    let good = ring.sign(&claims, clock::now()).expect("signed");
    let jwks = ring.jwks();
    let verifier = Verifier::new(Arc::new(move |_| {
        let jwks = jwks.clone();
        Box::pin(async move { Ok(jwks) })
    }));
    let verify = |token: &str| run(verifier.access(token, clock::now()));
    assert!(verify(&good).is_ok());
    fuzz("token", vec![good.clone().into_bytes(); 4], |bytes| {
        let token = String::from_utf8_lossy(bytes);
        assert!(token == good || verify(&token).is_err(), "{token} is accepted");
    });
}

#[test]
fn flows_are_read_or_refused() {
    let text = project::read("jetstream/flows.toml");
    // The whole file, and each of its entries.
    let entries = text.split("\n\n").map(|entry| entry.as_bytes().to_vec());
    let seeds = entries.chain([text.clone().into_bytes()]).collect();
    fuzz("flows", seeds, |bytes| drop(Flows::parse(&String::from_utf8_lossy(bytes))));
}

#[test]
fn streams_and_consumers_are_read_or_refused() {
    let files = project::tree("jetstream").into_iter();
    let json = files.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    let seeds = json.map(|path| project::read(path).into_bytes()).collect();
    fuzz("topology", seeds, |bytes| {
        let file = |name: &str| (name.to_owned(), Bytes::copy_from_slice(bytes));
        for name in ["PAYMENT", "PAYMENT.point", "", ".", "☃"] {
            let _ = Topology::parse(&[file(name)], &[]);
            let _ = Topology::parse(&[file("PAYMENT")], &[file(name)]);
        }
    });
}

#[test]
fn a_command_that_is_read_is_written_and_read_as_the_same() {
    fuzz("request", vec![], |bytes| {
        let _ = mesh::input::complete(bytes, &[("concert_id", Uuid::nil().to_string())]);
        let _ = mesh::input::query::<Value>(vec![(
            String::from_utf8_lossy(bytes).into_owned(),
            String::from_utf8_lossy(bytes).into_owned(),
        )]);
        if let Ok(command) = mesh::parse::<Reserve>(bytes) {
            let written = serde_json::to_vec(&command).expect("plain data");
            assert_eq!(mesh::parse::<Reserve>(&written).expect("it is read"), command);
        }
        if let Ok(command) = mesh::parse::<OpenSchedule>(bytes) {
            let written = serde_json::to_vec(&command).expect("plain data");
            assert_eq!(mesh::parse::<OpenSchedule>(&written).expect("it is read"), command);
        }
        let _ = mesh::parse::<Register>(bytes);
    });
}
