//! Pure decisions on concerts, schedules and organizers. Seat plans are in [`crate::plan`], the
//! seat map is in [`crate::map`].

use std::collections::BTreeMap;

use events::{
    ConcertId, Problem, ScheduleId, Timestamp, UserId, codes,
    concert::{
        self, Actor, CancelSchedule, Cancellation, Concert, CreateConcert, OpenSchedule, Organizer,
        Schedule, ScheduleState,
    },
    user::Role,
};

/// Seconds a hold lives when the organizer gives no number.
pub const HOLD_SECS_DEFAULT: u32 = 300;
/// Seats one fan may have when the organizer gives no number.
pub const SEATS_PER_FAN_DEFAULT: u32 = 4;
/// Days ahead that a show can be put on sale at most.
pub const AHEAD_DAYS_MAX: i64 = 3_650;

/// The concert that a command describes.
///
/// # Errors
/// `invalid` with the `field`.
pub fn concert(
    command: &CreateConcert,
    concert_id: ConcertId,
    now: Timestamp,
) -> Result<Concert, Problem> {
    Ok(Concert {
        concert_id,
        title: line("title", &command.title, 1, 200)?,
        artist: line("artist", &command.artist, 1, 200)?,
        description: lines("description", &command.description, 5_000)?,
        created_at: now,
    })
}

/// The schedule that a command describes. Admission that should have begun in the past begins
/// now.
///
/// # Errors
/// `invalid` with the `field`.
pub fn schedule(
    command: &OpenSchedule,
    schedule_id: ScheduleId,
    seats_total: usize,
    now: Timestamp,
) -> Result<Schedule, Problem> {
    let opens_at = command.opens_at.map_or(now, |at| at.max(now));
    if command.starts_at <= opens_at {
        let why = "must be in the future, and after `opens_at`";
        return Err(invalid("starts_at", why));
    }
    if command.starts_at > now.plus_secs(AHEAD_DAYS_MAX * 24 * 3_600) {
        let why = format!("must be within {AHEAD_DAYS_MAX} days from now");
        return Err(invalid("starts_at", &why));
    }
    let refund_until = command.refund_until.unwrap_or(command.starts_at);
    if refund_until > command.starts_at {
        return Err(invalid("refund_until", "must not be after `starts_at`"));
    }
    let admission = command.admission;
    within("admission.per_second", admission.per_second, 100_000)?;
    within("admission.active_max", admission.active_max, 1_000_000)?;
    within("admission.pass_secs", admission.pass_secs, 3_600)?;
    let hold_secs = command.hold_secs.unwrap_or(HOLD_SECS_DEFAULT);
    let seats_per_fan_max = command.seats_per_fan_max.unwrap_or(SEATS_PER_FAN_DEFAULT);
    Ok(Schedule {
        schedule_id,
        concert_id: command.concert_id,
        venue: line("venue", &command.venue, 1, 200)?,
        starts_at: command.starts_at,
        opens_at,
        refund_until,
        state: ScheduleState::Open,
        cancelled: None,
        admission,
        hold_secs: within("hold_secs", hold_secs, 3_600)?,
        seats_per_fan_max: within("seats_per_fan_max", seats_per_fan_max, 100)?,
        seats_total: seats_total as i64,
    })
}

/// Whether a schedule is on sale at `now`: sales end with the start of the show.
pub fn state_at(schedule: &Schedule, now: Timestamp) -> ScheduleState {
    match schedule.cancelled {
        Some(_) => ScheduleState::Cancelled,
        None if now >= schedule.starts_at => ScheduleState::Closed,
        None => ScheduleState::Open,
    }
}

/// Cancels a schedule, and returns it as it is then. This is allowed while the show runs, for
/// it may have to be broken off.
///
/// # Errors
/// `already_cancelled`, or `invalid` with the `field`.
pub fn cancel(
    schedule: &Schedule,
    command: &CancelSchedule,
    by: Actor,
    now: Timestamp,
) -> Result<(Schedule, Cancellation), Problem> {
    let reason = line("reason", &command.reason, 0, 500)?;
    if schedule.cancelled.is_some() {
        return Err(codes::ALREADY_CANCELLED.into());
    }
    let cancellation = Cancellation { at: now, reason, by: Some(by) };
    let state = ScheduleState::Cancelled;
    let cancelled = Some(cancellation.clone());
    Ok((Schedule { state, cancelled, ..schedule.clone() }, cancellation))
}

/// The organizers of a concert by account.
pub type Organizers = BTreeMap<UserId, Organizer>;

/// The role in which a user may change a concert: as one of its organizers, or as an operator
/// in their place.
///
/// # Errors
/// `forbidden` for any other user.
pub fn actor(
    organizers: &Organizers,
    user_id: UserId,
    is_operator: bool,
) -> Result<Actor, Problem> {
    if organizers.contains_key(&user_id) {
        return Ok(Actor { user_id, role: Role::Organizer });
    }
    if is_operator {
        return Ok(Actor { user_id, role: Role::Operator });
    }
    Err(Problem::new(codes::FORBIDDEN, "You are not one of the concert's organizers."))
}

/// Removes an organizer on command; the last one stays.
///
/// # Errors
/// `not_found` for an account that is not an organizer, `last_organizer` for the only one.
pub fn remove(organizers: &mut Organizers, user_id: UserId) -> Result<(), Problem> {
    if !organizers.contains_key(&user_id) {
        let why = "This account is not one of the concert's organizers.";
        return Err(Problem::new(codes::NOT_FOUND, why));
    }
    if organizers.len() == 1 {
        return Err(codes::LAST_ORGANIZER.into());
    }
    organizers.remove(&user_id);
    Ok(())
}

/// The organizers of a concert as they are shown, the earliest first.
pub fn listed(concert_id: ConcertId, organizers: &Organizers) -> concert::Organizers {
    let mut organizers: Vec<Organizer> = organizers.values().cloned().collect();
    organizers.sort_by_key(|organizer| organizer.since);
    concert::Organizers { concert_id, organizers }
}

/// One line of text, as it is stored.
fn line(field: &str, value: &str, min: usize, max: usize) -> Result<String, Problem> {
    text::line(value, min..=max).map_err(|flaw| invalid(field, &flaw.to_string()))
}

/// Any number of lines, as they are stored.
fn lines(field: &str, value: &str, max: usize) -> Result<String, Problem> {
    text::lines(value, max).map_err(|flaw| invalid(field, &flaw.to_string()))
}

fn within(field: &str, value: u32, max: u32) -> Result<u32, Problem> {
    if (1..=max).contains(&value) {
        return Ok(value);
    }
    Err(invalid(field, &format!("must be 1 to {max}, not {value}")))
}

/// The problem of a field whose value is not allowed.
pub fn invalid(field: &str, why: &str) -> Problem {
    Problem::about(codes::INVALID, field, why)
}

#[cfg(test)]
mod tests {
    use events::concert::Admission;
    use uuid::Uuid;

    use super::*;

    const DAY_SECS: i64 = 24 * 3_600;

    fn now() -> Timestamp {
        Timestamp::from_unix_millis(1_800_000_000_000).expect("a time")
    }

    fn create_concert() -> CreateConcert {
        CreateConcert {
            title: " Night Ferry ".into(),
            artist: "The Tugboats".into(),
            description: "Two sets.\nNo support act.".into(),
        }
    }

    fn open_schedule() -> OpenSchedule {
        OpenSchedule {
            concert_id: ConcertId(Uuid::from_u128(1)),
            venue: "Harbour Hall".into(),
            starts_at: now().plus_secs(DAY_SECS),
            opens_at: Some(now().plus_secs(60)),
            refund_until: None,
            admission: Admission::default(),
            hold_secs: None,
            seats_per_fan_max: None,
            seat_plan: String::new(),
        }
    }

    fn opened(command: &OpenSchedule) -> Result<Schedule, Problem> {
        schedule(command, ScheduleId(Uuid::from_u128(2)), 50, now())
    }

    fn refused_field<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
        let problem = result.expect_err("a refusal");
        assert!(problem.is(codes::INVALID), "{problem}");
        problem.extra["field"].as_str().expect("a name").to_owned()
    }

    #[test]
    fn a_concert_is_stored_without_blanks_around_its_texts() {
        let id = ConcertId(Uuid::from_u128(1));
        let concert = concert(&create_concert(), id, now()).expect("good");
        assert_eq!(concert.title, "Night Ferry");
        assert_eq!(concert.description, "Two sets.\nNo support act.");
        assert_eq!((concert.concert_id, concert.created_at), (id, now()));
    }

    #[test]
    fn a_concert_with_a_text_out_of_bounds_is_refused() {
        let id = ConcertId(Uuid::from_u128(1));
        let long = |length| "가".repeat(length);
        let wrong: [(&str, CreateConcert); 7] = [
            ("title", CreateConcert { title: "  ".into(), ..create_concert() }),
            ("title", CreateConcert { title: long(201), ..create_concert() }),
            ("title", CreateConcert { title: "a\u{0}b".into(), ..create_concert() }),
            ("artist", CreateConcert { artist: String::new(), ..create_concert() }),
            ("artist", CreateConcert { artist: "two\nlines".into(), ..create_concert() }),
            ("description", CreateConcert { description: long(5_001), ..create_concert() }),
            ("description", CreateConcert { description: "a\u{0}b".into(), ..create_concert() }),
        ];
        for (field, command) in wrong {
            assert_eq!(refused_field(concert(&command, id, now())), field);
        }
        let longest =
            CreateConcert { title: long(200), description: long(5_000), ..create_concert() };
        assert!(concert(&longest, id, now()).is_ok());
    }

    #[test]
    fn a_schedule_gets_defaults_for_fields_that_are_not_given() {
        let schedule = opened(&open_schedule()).expect("good");
        assert_eq!(schedule.hold_secs, 300);
        assert_eq!(schedule.seats_per_fan_max, 4);
        assert_eq!(schedule.seats_total, 50);
        assert_eq!(schedule.state, ScheduleState::Open);
        assert_eq!(schedule.opens_at, now().plus_secs(60));
    }

    #[test]
    fn admission_begins_now_when_its_start_is_not_given_or_past() {
        for opens_at in [None, Some(now().plus_secs(-3_600)), Some(now())] {
            let command = OpenSchedule { opens_at, ..open_schedule() };
            assert_eq!(opened(&command).expect("good").opens_at, now());
        }
    }

    #[test]
    fn a_show_starts_after_its_sale_and_not_too_far_ahead() {
        let at = |secs| OpenSchedule { starts_at: now().plus_secs(secs), ..open_schedule() };
        for secs in [-DAY_SECS, 0, 59, 60, AHEAD_DAYS_MAX * DAY_SECS + 1] {
            assert_eq!(refused_field(opened(&at(secs))), "starts_at", "{secs}");
        }
        assert!(opened(&at(61)).is_ok());
        assert!(opened(&at(AHEAD_DAYS_MAX * DAY_SECS)).is_ok());
    }

    #[test]
    fn the_numbers_of_a_schedule_have_bounds() {
        type Set = fn(&mut OpenSchedule, u32);
        let bounds: [(&str, u32, Set); 5] = [
            ("admission.per_second", 100_000, |it, n| it.admission.per_second = n),
            ("admission.active_max", 1_000_000, |it, n| it.admission.active_max = n),
            ("admission.pass_secs", 3_600, |it, n| it.admission.pass_secs = n),
            ("hold_secs", 3_600, |it, n| it.hold_secs = Some(n)),
            ("seats_per_fan_max", 100, |it, n| it.seats_per_fan_max = Some(n)),
        ];
        for (field, max, set) in bounds {
            let with = |number| {
                let mut command = open_schedule();
                set(&mut command, number);
                opened(&command)
            };
            assert_eq!(refused_field(with(0)), field);
            assert_eq!(refused_field(with(max + 1)), field);
            assert!(with(1).is_ok() && with(max).is_ok(), "{field}");
        }
    }

    #[test]
    fn a_venue_needs_a_valid_name() {
        for venue in [String::new(), "x".repeat(201), "a\tb".into()] {
            assert_eq!(refused_field(opened(&OpenSchedule { venue, ..open_schedule() })), "venue");
        }
    }

    #[test]
    fn tickets_can_be_refunded_until_the_start_by_default_and_never_after_it() {
        let with = |refund_until| opened(&OpenSchedule { refund_until, ..open_schedule() });
        let starts_at = open_schedule().starts_at;
        assert_eq!(with(None).expect("good").refund_until, starts_at);
        for until in [starts_at, now().plus_secs(3_600), now().plus_secs(-1)] {
            assert_eq!(with(Some(until)).expect("good").refund_until, until);
        }
        assert_eq!(refused_field(with(Some(starts_at.plus_millis(1)))), "refund_until");
    }

    #[test]
    fn a_schedule_closes_at_the_very_start_of_its_show() {
        let open = opened(&open_schedule()).expect("good");
        assert_eq!(state_at(&open, open.starts_at.plus_millis(-1)), ScheduleState::Open);
        assert_eq!(state_at(&open, open.starts_at), ScheduleState::Closed);
        let off = schedule_cancelled(&open, "").expect("granted").0;
        for at in [now(), open.starts_at] {
            assert_eq!(state_at(&off, at), ScheduleState::Cancelled);
        }
    }

    const BOSS: Actor = Actor { user_id: UserId(Uuid::from_u128(1)), role: Role::Organizer };

    fn schedule_cancelled(
        schedule: &Schedule,
        reason: &str,
    ) -> Result<(Schedule, Cancellation), Problem> {
        let command =
            CancelSchedule { schedule_id: schedule.schedule_id, reason: reason.to_owned() };
        cancel(schedule, &command, BOSS, now())
    }

    #[test]
    fn a_schedule_is_cancelled_once_and_records_by_whom() {
        let open = opened(&open_schedule()).expect("good");
        let (cancelled, how) = schedule_cancelled(&open, " Storm. ").expect("granted");
        assert_eq!(cancelled.state, ScheduleState::Cancelled);
        assert_eq!(cancelled.cancelled, Some(how.clone()));
        assert_eq!((how.reason.as_str(), how.by, how.at), ("Storm.", Some(BOSS), now()));
        let again = schedule_cancelled(&cancelled, "").expect_err("refused");
        assert!(again.is(codes::ALREADY_CANCELLED));
    }

    #[test]
    fn a_reason_may_be_absent_and_has_500_characters_at_most() {
        let open = opened(&open_schedule()).expect("good");
        assert_eq!(schedule_cancelled(&open, "").expect("granted").1.reason, "");
        assert_eq!(refused_field(schedule_cancelled(&open, &"x".repeat(501))), "reason");
    }

    fn organizers(numbers: &[u128]) -> Organizers {
        let entry = |number: &u128| {
            let user_id = UserId(Uuid::from_u128(*number));
            (user_id, Organizer { user_id, since: now(), added_by: None })
        };
        numbers.iter().map(entry).collect()
    }

    #[test]
    fn only_organizers_and_operators_may_change_a_concert() {
        let user = |number| UserId(Uuid::from_u128(number));
        let team = organizers(&[1, 2]);
        for (number, is_operator, role) in
            [(1, false, Role::Organizer), (2, true, Role::Organizer), (3, true, Role::Operator)]
        {
            let actor = actor(&team, user(number), is_operator).expect("granted");
            assert_eq!(actor, Actor { user_id: user(number), role });
        }
        assert!(actor(&team, user(3), false).expect_err("refused").is(codes::FORBIDDEN));
        // Without organizers, only operators are left.
        assert!(actor(&organizers(&[]), user(1), false).is_err());
        assert!(actor(&organizers(&[]), user(3), true).is_ok());
    }

    #[test]
    fn a_concert_keeps_its_last_organizer() {
        let mut team = organizers(&[1, 2]);
        let user = |number| UserId(Uuid::from_u128(number));
        assert!(remove(&mut team, user(3)).expect_err("refused").is(codes::NOT_FOUND));
        remove(&mut team, user(1)).expect("granted");
        assert!(remove(&mut team, user(2)).expect_err("refused").is(codes::LAST_ORGANIZER));
        assert_eq!(team.len(), 1);
    }

    #[test]
    fn texts_with_invisible_characters_are_refused() {
        let id = ConcertId(Uuid::from_u128(1));
        for hidden in ["\u{200b}", "\u{3164}", "a\u{202e}b", "a\u{ad}b", "\u{2800}"] {
            let hidden = || hidden.to_owned();
            let title = CreateConcert { title: hidden(), ..create_concert() };
            assert_eq!(refused_field(concert(&title, id, now())), "title");
            let artist = CreateConcert { artist: hidden(), ..create_concert() };
            assert_eq!(refused_field(concert(&artist, id, now())), "artist");
            let schedule = OpenSchedule { venue: hidden(), ..open_schedule() };
            assert_eq!(refused_field(opened(&schedule)), "venue");
        }
        let open = opened(&open_schedule()).expect("good");
        let reason = "\u{202e}mrotS".to_owned();
        let command = CancelSchedule { schedule_id: open.schedule_id, reason };
        assert_eq!(refused_field(cancel(&open, &command, BOSS, now())), "reason");
    }

    #[test]
    fn a_text_is_stored_in_one_form_and_counted_as_people_count() {
        let id = ConcertId(Uuid::from_u128(1));
        // 200 syllables of three letters each, as a Mac types them.
        let title = "\u{1112}\u{1161}\u{11ab}".repeat(200);
        let concert =
            concert(&CreateConcert { title, ..create_concert() }, id, now()).expect("good");
        assert_eq!(concert.title, "한".repeat(200));
    }
}
