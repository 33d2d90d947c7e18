use super::*;

/// A letter of payment.requested of the key `k`, or of another subject.
fn letter(seq: u64, stream: &str, at: u64, waits: bool) -> Fact {
    let mut headers = vec![
        (headers::DEAD_STREAM, stream.to_owned()),
        (headers::DEAD_SEQUENCE, at.to_string()),
        (headers::DEAD_CAUSE, "poison".to_owned()),
    ];
    if waits {
        headers.push((headers::DEAD_WAITS, "1".to_owned()));
    }
    Fact::kept(seq, "dlq.point.payment.requested.k", headers, "{}")
}

fn record(seq: u64, of: u64, became: LetterState, body: &str) -> Fact {
    let headers = vec![
        (headers::DEAD_LETTER, of.to_string()),
        (headers::DEAD_BECAME, spelt(became).to_owned()),
    ];
    Fact::kept(seq, "dlq.point.payment.requested.k", headers, body)
}

fn read_all(mut pages: Pages, log: Vec<Fact>) -> Vec<DeadLetter> {
    log.into_iter().for_each(|entry| pages.turn(entry));
    pages.close().into_iter().map(|letter| letter.about).collect()
}

fn numbers(letters: &[DeadLetter]) -> Vec<u64> {
    letters.iter().map(|letter| letter.letter).collect()
}

#[test]
fn those_that_wait_name_the_parked_one_before_them() {
    let log = vec![letter(1, "P", 10, false), letter(2, "P", 11, true), letter(3, "R", 5, true)];
    let line = read_all(Pages::default(), log);
    let behind: Vec<_> = line.iter().map(|letter| letter.behind).collect();
    assert_eq!(behind, [None, Some(1), Some(1)]);
    assert_eq!((line[0].fact.as_str(), line[0].key.as_str()), ("payment.requested", "k"));
}

#[test]
fn letters_of_one_stream_stand_as_they_lay_in_it() {
    let log = vec![
        letter(1, "P", 10, false),
        letter(2, "P", 14, true),
        letter(3, "R", 5, true),
        letter(4, "P", 12, true),
    ];
    assert_eq!(numbers(&read_all(Pages::default(), log)), [1, 4, 3, 2]);
}

#[test]
fn a_message_kept_twice_is_one_letter_until_it_has_ended() {
    let resolved = record(3, 1, LetterState::Resolved, r#"{"attempts":4}"#);
    let log = vec![letter(1, "P", 10, false), letter(2, "P", 10, true), resolved];
    let line = read_all(Pages::default(), log.clone());
    assert_eq!(numbers(&line), [1]);
    assert_eq!((line[0].state, line[0].attempts), (LetterState::Resolved, 4));
    assert!(read_all(Pages::brief(), log.clone()).is_empty());
    let again = [log, vec![letter(4, "P", 10, true)]].concat();
    assert_eq!(numbers(&read_all(Pages::brief(), again)), [4]);
}

#[test]
fn the_first_end_is_the_end() {
    let by = "018f0000-0000-7000-8000-000000000001";
    let said = format!(r#"{{"by":"{by}","why":"a test","attempts":1}}"#);
    let log = vec![
        letter(1, "P", 10, false),
        record(2, 1, LetterState::Parked, r#"{"why":"still poison","attempts":2}"#),
        record(3, 1, LetterState::Discarded, &said),
        record(4, 1, LetterState::Resolved, "{}"),
    ];
    let line = read_all(Pages::default(), log);
    assert_eq!(line[0].state, LetterState::Discarded);
    assert_eq!((line[0].cause.as_str(), line[0].attempts), ("still poison", 2));
    let said: Vec<_> = line[0].history.iter().filter_map(|event| event.why.as_deref()).collect();
    assert_eq!(said, ["still poison", "a test"]);
    assert_eq!(line[0].history[1].by.map(|id| id.to_string()).as_deref(), Some(by));
}

#[test]
fn what_is_no_letter_is_passed_over() {
    let strange = Fact::kept(1, "dlq.point.told", vec![], "{}");
    let of_nothing = record(2, 99, LetterState::Resolved, "{}");
    assert!(read_all(Pages::default(), vec![strange, of_nothing]).is_empty());
}
