//! One impl per command answered.

use events::{
    ConcertId, Problem, ScheduleId, codes,
    concert::{
        Actor, AddOrganizer, CancelSchedule, Concert, CreateConcert, OpenSchedule, Organizer,
        OrganizerAdded, OrganizerRemoved, Organizers, RemoveOrganizer, Schedule, ScheduleCancelled,
        ScheduleOpened,
    },
    user::Role,
};
use mesh::{Answer, Caller, Refusal, Turn};

use crate::{
    Rules,
    book::{Book, Entered, Keys},
    domain,
    plan::{self, PlanError},
};

impl Book {
    fn concert(&self, id: ConcertId) -> Result<&Entered, Problem> {
        self.concerts
            .get(&id)
            .ok_or_else(|| Problem::new(codes::NOT_FOUND, "There is no such concert."))
    }

    /// By which right the caller acts on a concert.
    fn actor(&self, id: ConcertId, caller: &Caller) -> Result<Actor, Problem> {
        let organizers = &self.concert(id)?.organizers;
        domain::actor(organizers, caller.user_id()?, caller.has(Role::Operator))
    }

    fn organizers(&self, concert_id: ConcertId) -> Result<Organizers, Problem> {
        Ok(domain::listed(concert_id, &self.concert(concert_id)?.organizers))
    }
}

impl Answer<CreateConcert> for Book {
    fn keys(_command: &CreateConcert, _caller: &Caller, _keys: &mut Keys) {}

    fn answer(
        &mut self,
        command: &CreateConcert,
        turn: &mut Turn<'_, Rules>,
    ) -> Result<Concert, Refusal> {
        let organizer_id = turn.caller.user_id()?;
        let concert = domain::concert(command, ConcertId(turn.id), turn.now)?;
        self.enter(organizer_id, concert.clone());
        Ok(concert)
    }
}

impl Answer<OpenSchedule> for Book {
    fn keys(command: &OpenSchedule, _caller: &Caller, keys: &mut Keys) {
        keys.concerts.insert(command.concert_id);
    }

    fn answer(
        &mut self,
        command: &OpenSchedule,
        turn: &mut Turn<'_, Rules>,
    ) -> Result<Schedule, Refusal> {
        let by = self.actor(command.concert_id, turn.caller)?;
        let title = self.concert(command.concert_id)?.title.clone();
        let plan = plan::parse(&command.seat_plan).map_err(Problem::from)?;
        let schedule = domain::schedule(command, ScheduleId(turn.id), plan.seats_total, turn.now)?;
        let opened = ScheduleOpened {
            schedule_id: schedule.schedule_id,
            concert_id: schedule.concert_id,
            title,
            venue: schedule.venue.clone(),
            starts_at: schedule.starts_at,
            opens_at: schedule.opens_at,
            refund_until: Some(schedule.refund_until),
            admission: schedule.admission,
            hold_secs: schedule.hold_secs,
            seats_per_fan_max: schedule.seats_per_fan_max,
            seats: plan.blocks.clone(),
            by: Some(by),
        };
        check_size(&opened, turn.rules.opened_bytes_max)?;
        self.open(schedule.clone(), plan.blocks);
        turn.tell(opened);
        Ok(schedule)
    }
}

/// A fact that the broker does not carry would stand at the head of the outbox for ever.
fn check_size(opened: &ScheduleOpened, bytes_max: usize) -> Result<(), Problem> {
    let bytes = serde_json::to_vec(opened).expect("facts are plain data").len();
    if bytes <= bytes_max {
        return Ok(());
    }
    Err(PlanError::of_the_whole(format!(
        "the plan takes {bytes} bytes to tell, at most {bytes_max} are allowed: \
         shorten names, and keep seats of one row and price together"
    ))
    .into())
}

impl Answer<CancelSchedule> for Book {
    fn keys(command: &CancelSchedule, _caller: &Caller, keys: &mut Keys) {
        keys.schedules.insert(command.schedule_id);
    }

    fn answer(
        &mut self,
        command: &CancelSchedule,
        turn: &mut Turn<'_, Rules>,
    ) -> Result<Schedule, Refusal> {
        turn.caller.user_id()?;
        let schedule = self
            .schedules
            .get(&command.schedule_id)
            .ok_or_else(|| Problem::new(codes::NOT_FOUND, "There is no such schedule."))?;
        let by = self.actor(schedule.concert_id, turn.caller)?;
        let (cancelled, how) = domain::cancel(schedule, command, by, turn.now)?;
        turn.tell(ScheduleCancelled {
            schedule_id: cancelled.schedule_id,
            concert_id: cancelled.concert_id,
            reason: how.reason.clone(),
            by: how.by,
        });
        self.cancel(cancelled.clone(), how);
        Ok(cancelled)
    }
}

impl Answer<AddOrganizer> for Book {
    fn keys(command: &AddOrganizer, _caller: &Caller, keys: &mut Keys) {
        keys.teams.insert(command.concert_id);
        keys.accounts.insert(command.user_id);
    }

    /// Who is one already stays as they are.
    fn answer(
        &mut self,
        command: &AddOrganizer,
        turn: &mut Turn<'_, Rules>,
    ) -> Result<Organizers, Refusal> {
        let &AddOrganizer { concert_id, user_id } = command;
        let by = self.actor(concert_id, turn.caller)?;
        if self.concert(concert_id)?.organizers.contains_key(&user_id) {
            return Ok(self.organizers(concert_id)?);
        }
        let account = self.accounts.get(&user_id).copied().unwrap_or_default();
        if account.is_gone || !account.is_organizer {
            let why = "There is no account of this id with the role `organizer`.";
            let none = Problem::new(codes::NOT_FOUND, why).with("field", "user_id");
            // The role may have been granted a moment ago.
            return Err(if account.is_gone { none.into() } else { Refusal::NotYet(none) });
        }
        let added = Organizer { user_id, since: turn.now, added_by: Some(by) };
        self.team(concert_id).and_then(|team| team.insert(user_id, added));
        turn.tell(OrganizerAdded { concert_id, user_id, by, at: turn.now });
        Ok(self.organizers(concert_id)?)
    }
}

impl Answer<RemoveOrganizer> for Book {
    fn keys(command: &RemoveOrganizer, _caller: &Caller, keys: &mut Keys) {
        keys.teams.insert(command.concert_id);
    }

    fn answer(
        &mut self,
        command: &RemoveOrganizer,
        turn: &mut Turn<'_, Rules>,
    ) -> Result<Organizers, Refusal> {
        let &RemoveOrganizer { concert_id, user_id } = command;
        let by = self.actor(concert_id, turn.caller)?;
        let mut left = self.concert(concert_id)?.organizers.clone();
        domain::remove(&mut left, user_id)?;
        turn.tell(OrganizerRemoved {
            concert_id,
            user_id,
            by: Some(by),
            left: left.len() as u32,
            at: turn.now,
        });
        if let Some(team) = self.team(concert_id) {
            *team = left;
        }
        Ok(self.organizers(concert_id)?)
    }
}

#[cfg(test)]
mod tests {
    use events::{
        Event, SeatId, Timestamp, UserId,
        concert::{Admission, ScheduleState},
        user::Role,
    };
    use uuid::Uuid;

    use super::*;

    const PLAN: &str = "section,row,seat,price\nA,1,1,100\nA,1,2,100\nA,2,1,50\n";

    fn now() -> Timestamp {
        Timestamp::from_unix_millis(1_800_000_000_000).expect("a time")
    }

    fn organizer(number: u128) -> Caller {
        Caller::User {
            user_id: UserId(Uuid::from_u128(number)),
            roles: vec![Role::Fan, Role::Organizer],
            expires_at: now().plus_secs(60),
        }
    }

    fn concert_id() -> ConcertId {
        ConcertId(Uuid::from_u128(10))
    }

    fn schedule_id() -> ScheduleId {
        ScheduleId(Uuid::from_u128(20))
    }

    fn asked(seat_plan: &str) -> OpenSchedule {
        OpenSchedule {
            concert_id: concert_id(),
            venue: "Harbour Hall".into(),
            starts_at: now().plus_secs(86_400),
            opens_at: None,
            refund_until: None,
            admission: Admission::default(),
            hold_secs: Some(3),
            seats_per_fan_max: Some(2),
            seat_plan: seat_plan.into(),
        }
    }

    /// Lets `caller` ask; gives the answer and what was told.
    fn ask<C: events::Command>(
        book: &mut Book,
        caller: &Caller,
        id: Uuid,
        command: &C,
    ) -> (Result<C::Reply, Refusal>, Vec<mesh::Told>)
    where
        Book: Answer<C>,
    {
        let rules = Rules::default();
        let mut turn = Turn::at(now(), &rules, caller, id);
        let answer = book.answer(command, &mut turn);
        (answer, turn.told().to_vec())
    }

    fn refused<T>(answer: Result<T, Refusal>) -> Problem {
        match answer {
            Err(Refusal::No(problem)) => problem,
            Err(Refusal::NotYet(_)) => panic!("refused for now only"),
            Ok(_) => panic!("granted"),
        }
    }

    /// A book with the concert of organizer 1.
    fn book() -> Book {
        let mut book = Book::default();
        let command = CreateConcert {
            title: "Night Ferry".into(),
            artist: "The Tugboats".into(),
            description: String::new(),
        };
        let (answer, told) = ask(&mut book, &organizer(1), concert_id().0, &command);
        assert_eq!(answer.expect("granted").concert_id, concert_id());
        assert!(told.is_empty());
        book
    }

    /// A book with the schedule of organizer 1.
    fn opened() -> Book {
        let mut book = book();
        let (answer, _) = ask(&mut book, &organizer(1), schedule_id().0, &asked(PLAN));
        answer.expect("granted");
        book
    }

    #[test]
    fn an_opened_schedule_is_told_with_all_its_seats() {
        let mut book = book();
        let (answer, told) = ask(&mut book, &organizer(1), schedule_id().0, &asked(PLAN));
        let schedule = answer.expect("granted");
        assert_eq!((schedule.schedule_id, schedule.seats_total), (schedule_id(), 3));
        let [told] = &told[..] else { panic!("one fact") };
        assert_eq!(told.subject, events::subject(ScheduleOpened::FACT, 1, Some(schedule_id())));
        let fact: ScheduleOpened = serde_json::from_slice(&told.payload).expect("a fact");
        assert_eq!((fact.title.as_str(), fact.hold_secs), ("Night Ferry", 3));
        assert_eq!((fact.opens_at, fact.seats_per_fan_max), (now(), 2));
        let ids: Vec<_> = fact.seats.iter().flat_map(|block| block.ids()).collect();
        assert_eq!(ids, ["A-1-1", "A-1-2", "A-2-1"].map(|id| SeatId(id.into())));
    }

    #[test]
    fn a_malformed_plan_stores_and_tells_nothing() {
        let mut book = book();
        let before = format!("{book:?}");
        let plan = "section,row,seat,price\nA,1,1,100\nA,1,2,cheap\n";
        let (answer, told) = ask(&mut book, &organizer(1), schedule_id().0, &asked(plan));
        let problem = refused(answer);
        assert!(problem.is(codes::SEAT_PLAN_INVALID));
        assert_eq!((&problem.extra["line"], &problem.extra["column"]), (&3.into(), &4.into()));
        assert!(told.is_empty());
        assert_eq!(format!("{book:?}"), before);
    }

    #[test]
    fn a_plan_too_large_to_be_told_is_refused_at_once() {
        let mut book = book();
        let caller = organizer(1);
        let rules = Rules { opened_bytes_max: 300 };
        let mut turn = Turn::at(now(), &rules, &caller, schedule_id().0);
        let answer = book.answer(&asked(PLAN), &mut turn);
        assert!(refused(answer).is(codes::SEAT_PLAN_INVALID));
        assert!(turn.told().is_empty() && book.schedules.is_empty());
    }

    #[test]
    fn only_the_organizer_of_a_concert_opens_its_schedules() {
        let mut book = book();
        let (answer, told) = ask(&mut book, &organizer(2), schedule_id().0, &asked(PLAN));
        assert!(refused(answer).is(codes::FORBIDDEN));
        let (answer, _) = ask(&mut book, &Caller::Anonymous, schedule_id().0, &asked(PLAN));
        assert!(refused(answer).is(codes::UNAUTHENTICATED));
        assert!(told.is_empty() && book.schedules.is_empty());
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let mut book = Book::default();
        let (answer, _) = ask(&mut book, &organizer(1), schedule_id().0, &asked(PLAN));
        assert!(refused(answer).is(codes::NOT_FOUND));
        let command = CancelSchedule { schedule_id: schedule_id(), reason: String::new() };
        let (answer, _) = ask(&mut book, &organizer(1), Uuid::nil(), &command);
        assert!(refused(answer).is(codes::NOT_FOUND));
    }

    #[test]
    fn a_schedule_is_cancelled_by_its_organizer_once() {
        let mut book = opened();
        let command = CancelSchedule { schedule_id: schedule_id(), reason: "Storm".into() };
        let (answer, told) = ask(&mut book, &organizer(2), Uuid::nil(), &command);
        assert!(refused(answer).is(codes::FORBIDDEN));
        assert!(told.is_empty());

        let (answer, told) = ask(&mut book, &organizer(1), Uuid::nil(), &command);
        assert_eq!(answer.expect("granted").state, ScheduleState::Cancelled);
        let fact: ScheduleCancelled = serde_json::from_slice(&told[0].payload).expect("a fact");
        assert_eq!((fact.concert_id, fact.reason.as_str()), (concert_id(), "Storm"));

        // Also for the next message of the same batch.
        let (answer, told) = ask(&mut book, &organizer(1), Uuid::nil(), &command);
        assert!(refused(answer).is(codes::ALREADY_CANCELLED));
        assert!(told.is_empty());
    }
}
