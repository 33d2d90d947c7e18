//! The command handlers, one impl for each command.

use events::{
    ConcertId, Problem, ScheduleId, codes,
    concert::{
        Actor, AddOrganizer, CancelSchedule, Concert, CreateConcert, OpenSchedule, Organizer,
        OrganizerAdded, OrganizerRemoved, Organizers, RemoveOrganizer, Schedule, ScheduleCancelled,
        ScheduleOpened,
    },
    user::Role,
};
use mesh::{Caller, Context, Execute, Refusal};

use crate::{
    Config, domain,
    plan::{self, Flaw, PlanError},
    team::Entered,
    unit_of_work::{Keys, UnitOfWork},
};

impl UnitOfWork {
    fn concert(&self, id: ConcertId) -> Result<&Entered, Problem> {
        self.concerts
            .get(&id)
            .ok_or_else(|| Problem::new(codes::NOT_FOUND, "There is no such concert."))
    }

    /// The role in which the caller may change a concert.
    fn actor(&self, id: ConcertId, caller: &Caller) -> Result<Actor, Problem> {
        let organizers = &self.concert(id)?.organizers;
        domain::actor(organizers, caller.user_id()?, caller.has(Role::Operator))
    }

    fn organizers(&self, concert_id: ConcertId) -> Result<Organizers, Problem> {
        Ok(domain::listed(concert_id, &self.concert(concert_id)?.organizers))
    }
}

impl Execute<CreateConcert> for UnitOfWork {
    fn keys(_command: &CreateConcert, _caller: &Caller, _keys: &mut Keys) {}

    fn execute(
        &mut self,
        command: &CreateConcert,
        ctx: &mut Context<'_, Config>,
    ) -> Result<Concert, Refusal> {
        let organizer_id = ctx.caller.user_id()?;
        let concert = domain::concert(command, ConcertId(ctx.id), ctx.now)?;
        self.enter(organizer_id, concert.clone());
        Ok(concert)
    }
}

impl Execute<OpenSchedule> for UnitOfWork {
    fn keys(command: &OpenSchedule, _caller: &Caller, keys: &mut Keys) {
        keys.concerts.insert(command.concert_id);
    }

    fn execute(
        &mut self,
        command: &OpenSchedule,
        ctx: &mut Context<'_, Config>,
    ) -> Result<Schedule, Refusal> {
        let by = self.actor(command.concert_id, ctx.caller)?;
        let title = self.concert(command.concert_id)?.title.clone();
        let plan = plan::parse(&command.seat_plan).map_err(Problem::from)?;
        let schedule = domain::schedule(command, ScheduleId(ctx.id), plan.seats_total, ctx.now)?;
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
        check_size(&opened, ctx.config.opened_bytes_max)?;
        self.open(schedule.clone(), plan.blocks);
        ctx.emit(opened);
        Ok(schedule)
    }
}

/// An event that is too large for the broker would stay in the outbox for ever.
fn check_size(opened: &ScheduleOpened, bytes_max: usize) -> Result<(), Problem> {
    let bytes = serde_json::to_vec(opened).expect("events are plain data").len();
    if bytes <= bytes_max {
        return Ok(());
    }
    Err(PlanError::of_the_whole(Flaw::TooLarge { bytes, max: bytes_max }).into())
}

impl Execute<CancelSchedule> for UnitOfWork {
    fn keys(command: &CancelSchedule, _caller: &Caller, keys: &mut Keys) {
        keys.schedules.insert(command.schedule_id);
    }

    fn execute(
        &mut self,
        command: &CancelSchedule,
        ctx: &mut Context<'_, Config>,
    ) -> Result<Schedule, Refusal> {
        ctx.caller.user_id()?;
        let schedule = self
            .schedules
            .get(&command.schedule_id)
            .ok_or_else(|| Problem::new(codes::NOT_FOUND, "There is no such schedule."))?;
        let by = self.actor(schedule.concert_id, ctx.caller)?;
        let (cancelled, how) = domain::cancel(schedule, command, by, ctx.now)?;
        ctx.emit(ScheduleCancelled {
            schedule_id: cancelled.schedule_id,
            concert_id: cancelled.concert_id,
            reason: how.reason.clone(),
            by: how.by,
        });
        self.schedules.put(cancelled.schedule_id, cancelled.clone());
        Ok(cancelled)
    }
}

impl Execute<AddOrganizer> for UnitOfWork {
    fn keys(command: &AddOrganizer, _caller: &Caller, keys: &mut Keys) {
        keys.teams.insert(command.concert_id);
        keys.accounts.insert(command.user_id);
    }

    /// An account that is an organizer already stays unchanged.
    fn execute(
        &mut self,
        command: &AddOrganizer,
        ctx: &mut Context<'_, Config>,
    ) -> Result<Organizers, Refusal> {
        let &AddOrganizer { concert_id, user_id } = command;
        let by = self.actor(concert_id, ctx.caller)?;
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
        let added = Organizer { user_id, since: ctx.now, added_by: Some(by) };
        self.team(concert_id).and_then(|team| team.insert(user_id, added));
        ctx.emit(OrganizerAdded { concert_id, user_id, by, at: ctx.now });
        Ok(self.organizers(concert_id)?)
    }
}

impl Execute<RemoveOrganizer> for UnitOfWork {
    fn keys(command: &RemoveOrganizer, _caller: &Caller, keys: &mut Keys) {
        keys.teams.insert(command.concert_id);
    }

    fn execute(
        &mut self,
        command: &RemoveOrganizer,
        ctx: &mut Context<'_, Config>,
    ) -> Result<Organizers, Refusal> {
        let &RemoveOrganizer { concert_id, user_id } = command;
        let by = self.actor(concert_id, ctx.caller)?;
        let mut left = self.concert(concert_id)?.organizers.clone();
        domain::remove(&mut left, user_id)?;
        ctx.emit(OrganizerRemoved {
            concert_id,
            user_id,
            by: Some(by),
            left: left.len() as u32,
            at: ctx.now,
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

    fn open_schedule(seat_plan: &str) -> OpenSchedule {
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

    /// Executes `command` for `caller`; returns the answer and the emitted events.
    fn execute<C: events::Command>(
        unit: &mut UnitOfWork,
        caller: &Caller,
        id: Uuid,
        command: &C,
    ) -> (Result<C::Reply, Refusal>, Vec<mesh::Emitted>)
    where
        UnitOfWork: Execute<C>,
    {
        let config = Config::default();
        let mut ctx = Context::at(now(), &config, caller, id);
        let answer = unit.execute(command, &mut ctx);
        (answer, ctx.emitted().to_vec())
    }

    fn refused<T>(answer: Result<T, Refusal>) -> Problem {
        match answer {
            Err(Refusal::No(problem)) => problem,
            Err(Refusal::NotYet(_)) => panic!("refused for now only"),
            Ok(_) => panic!("granted"),
        }
    }

    /// A unit of work with the concert of organizer 1.
    fn unit() -> UnitOfWork {
        let mut unit = UnitOfWork::default();
        let command = CreateConcert {
            title: "Night Ferry".into(),
            artist: "The Tugboats".into(),
            description: String::new(),
        };
        let (answer, emitted) = execute(&mut unit, &organizer(1), concert_id().0, &command);
        assert_eq!(answer.expect("granted").concert_id, concert_id());
        assert!(emitted.is_empty());
        unit
    }

    /// A unit of work with the schedule of organizer 1.
    fn opened() -> UnitOfWork {
        let mut unit = unit();
        let (answer, _) = execute(&mut unit, &organizer(1), schedule_id().0, &open_schedule(PLAN));
        answer.expect("granted");
        unit
    }

    #[test]
    fn an_opened_schedule_is_emitted_with_all_its_seats() {
        let mut unit = unit();
        let (answer, emitted) =
            execute(&mut unit, &organizer(1), schedule_id().0, &open_schedule(PLAN));
        let schedule = answer.expect("granted");
        assert_eq!((schedule.schedule_id, schedule.seats_total), (schedule_id(), 3));
        let [emitted] = &emitted[..] else { panic!("one event") };
        assert_eq!(emitted.subject, events::subject(ScheduleOpened::NAME, 1, Some(schedule_id())));
        let event: ScheduleOpened = serde_json::from_slice(&emitted.payload).expect("an event");
        assert_eq!((event.title.as_str(), event.hold_secs), ("Night Ferry", 3));
        assert_eq!((event.opens_at, event.seats_per_fan_max), (now(), 2));
        let ids: Vec<_> = event.seats.iter().flat_map(|block| block.ids()).collect();
        assert_eq!(ids, ["A-1-1", "A-1-2", "A-2-1"].map(|id| SeatId(id.into())));
    }

    #[test]
    fn a_malformed_plan_stores_and_emits_nothing() {
        let mut unit = unit();
        let before = format!("{unit:?}");
        let plan = "section,row,seat,price\nA,1,1,100\nA,1,2,cheap\n";
        let (answer, emitted) =
            execute(&mut unit, &organizer(1), schedule_id().0, &open_schedule(plan));
        let problem = refused(answer);
        assert!(problem.is(codes::SEAT_PLAN_INVALID));
        assert_eq!((&problem.extra["line"], &problem.extra["column"]), (&3.into(), &4.into()));
        assert!(emitted.is_empty());
        assert_eq!(format!("{unit:?}"), before);
    }

    #[test]
    fn a_plan_too_large_for_one_event_is_refused_at_once() {
        let mut unit = unit();
        let caller = organizer(1);
        let config = Config { opened_bytes_max: 300 };
        let mut ctx = Context::at(now(), &config, &caller, schedule_id().0);
        let answer = unit.execute(&open_schedule(PLAN), &mut ctx);
        assert!(refused(answer).is(codes::SEAT_PLAN_INVALID));
        assert!(ctx.emitted().is_empty() && unit.schedules.dirty().is_empty());
    }

    #[test]
    fn only_the_organizer_of_a_concert_opens_its_schedules() {
        let mut unit = unit();
        let (answer, emitted) =
            execute(&mut unit, &organizer(2), schedule_id().0, &open_schedule(PLAN));
        assert!(refused(answer).is(codes::FORBIDDEN));
        let (answer, _) =
            execute(&mut unit, &Caller::Anonymous, schedule_id().0, &open_schedule(PLAN));
        assert!(refused(answer).is(codes::UNAUTHENTICATED));
        assert!(emitted.is_empty() && unit.schedules.dirty().is_empty());
    }

    #[test]
    fn an_unknown_concert_or_schedule_is_not_found() {
        let mut unit = UnitOfWork::default();
        let (answer, _) = execute(&mut unit, &organizer(1), schedule_id().0, &open_schedule(PLAN));
        assert!(refused(answer).is(codes::NOT_FOUND));
        let command = CancelSchedule { schedule_id: schedule_id(), reason: String::new() };
        let (answer, _) = execute(&mut unit, &organizer(1), Uuid::nil(), &command);
        assert!(refused(answer).is(codes::NOT_FOUND));
    }

    #[test]
    fn a_schedule_is_cancelled_by_its_organizer_once() {
        let mut unit = opened();
        let command = CancelSchedule { schedule_id: schedule_id(), reason: "Storm".into() };
        let (answer, emitted) = execute(&mut unit, &organizer(2), Uuid::nil(), &command);
        assert!(refused(answer).is(codes::FORBIDDEN));
        assert!(emitted.is_empty());

        let (answer, emitted) = execute(&mut unit, &organizer(1), Uuid::nil(), &command);
        assert_eq!(answer.expect("granted").state, ScheduleState::Cancelled);
        let event: ScheduleCancelled =
            serde_json::from_slice(&emitted[0].payload).expect("an event");
        assert_eq!((event.concert_id, event.reason.as_str()), (concert_id(), "Storm"));

        // Also for the next message of the same batch.
        let (answer, emitted) = execute(&mut unit, &organizer(1), Uuid::nil(), &command);
        assert!(refused(answer).is(codes::ALREADY_CANCELLED));
        assert!(emitted.is_empty());
    }
}
