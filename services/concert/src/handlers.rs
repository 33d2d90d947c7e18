//! One impl per fact heard and command answered.

use events::{
    ConcertId, Problem, ReservationId, ScheduleId, SeatId, codes,
    concert::{
        CancelSchedule, Concert, CreateConcert, OpenSchedule, Schedule, ScheduleCancelled,
        ScheduleOpened,
    },
    reservation::{
        ReservationCancelled, ReservationConfirmed, ReservationCreated, ReservationExpired,
    },
};
use mesh::{Answer, Caller, Hear, Miss, Refusal, Turn};

use crate::{
    Rules,
    book::{Book, Keys},
    domain::{self, Mark, Stage},
    plan::{self, PlanError},
};

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
        keys.concerts.push(command.concert_id);
    }

    fn answer(
        &mut self,
        command: &OpenSchedule,
        turn: &mut Turn<'_, Rules>,
    ) -> Result<Schedule, Refusal> {
        let user_id = turn.caller.user_id()?;
        let (organizer_id, title) = self
            .concerts
            .get(&command.concert_id)
            .ok_or_else(|| Problem::new(codes::NOT_FOUND, "There is no such concert."))?;
        domain::owned_by(*organizer_id, user_id)?;
        let plan = plan::parse(&command.seat_plan).map_err(Problem::from)?;
        let schedule =
            domain::schedule(command, ScheduleId(turn.id), plan.seats_total, turn.now)?;
        let opened = ScheduleOpened {
            schedule_id: schedule.schedule_id,
            concert_id: schedule.concert_id,
            title: title.clone(),
            venue: schedule.venue.clone(),
            starts_at: schedule.starts_at,
            opens_at: schedule.opens_at,
            admission: schedule.admission,
            hold_secs: schedule.hold_secs,
            seats_per_fan_max: schedule.seats_per_fan_max,
            seats: plan.blocks.clone(),
        };
        check_size(&opened, turn.rules.opened_bytes_max)?;
        self.open(user_id, schedule.clone(), plan.blocks);
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
        keys.schedules.push(command.schedule_id);
    }

    fn answer(
        &mut self,
        command: &CancelSchedule,
        turn: &mut Turn<'_, Rules>,
    ) -> Result<Schedule, Refusal> {
        let user_id = turn.caller.user_id()?;
        let (organizer_id, schedule) = self
            .schedules
            .get(&command.schedule_id)
            .ok_or_else(|| Problem::new(codes::NOT_FOUND, "There is no such schedule."))?;
        domain::owned_by(*organizer_id, user_id)?;
        let (cancelled, reason) = domain::cancel(schedule, command)?;
        self.cancel(cancelled.schedule_id, turn.now, reason.clone());
        turn.tell(ScheduleCancelled {
            schedule_id: cancelled.schedule_id,
            concert_id: cancelled.concert_id,
            reason,
        });
        Ok(cancelled)
    }
}

impl Hear<ReservationCreated> for Book {
    fn keys(_fact: &ReservationCreated, _keys: &mut Keys) {}

    fn hear(
        &mut self,
        fact: &ReservationCreated,
        _turn: &mut Turn<'_, Rules>,
    ) -> Result<(), Miss> {
        let mark = Mark {
            hold_version: fact.hold_version,
            stage: Stage::Held,
            reservation_id: fact.reservation_id,
        };
        self.mark(fact.schedule_id, fact.seats.iter().map(|priced| &priced.seat), mark);
        Ok(())
    }
}

/// What the later facts of a reservation have in common.
macro_rules! hear_stage {
    ($($fact:ty => $stage:expr;)+) => {$(
        impl Hear<$fact> for Book {
            fn keys(_fact: &$fact, _keys: &mut Keys) {}

            fn hear(&mut self, fact: &$fact, _turn: &mut Turn<'_, Rules>) -> Result<(), Miss> {
                let mark = Mark {
                    hold_version: fact.hold_version,
                    stage: $stage,
                    reservation_id: fact.reservation_id,
                };
                self.mark(fact.schedule_id, &fact.seats, mark);
                Ok(())
            }
        }
    )+};
}
hear_stage! {
    ReservationConfirmed => Stage::Sold;
    ReservationExpired => Stage::Freed;
    ReservationCancelled => Stage::Freed;
}
