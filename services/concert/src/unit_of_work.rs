//! The concerts and schedules that one batch touches.

use std::collections::{BTreeMap, BTreeSet};

use events::{
    ConcertId, ScheduleId, Timestamp, UserId,
    concert::{Admission, Cancellation, Concert, Schedule, ScheduleState, SeatBlock},
};
use mesh::postgres::{Rows, column};
use sqlx::{PgConnection, Row, postgres::PgRow, types::Json};
use text::search::beginnings;
use time::OffsetDateTime;

use crate::{
    Config,
    domain::Organizers,
    team::{self, Account, Entered, actor, role_name},
};

/// The keys of what a batch loads.
#[derive(Debug, Default)]
pub struct Keys {
    pub(crate) concerts: BTreeSet<ConcertId>,
    /// Concerts whose organizers may change.
    pub(crate) teams: BTreeSet<ConcertId>,
    pub(crate) schedules: BTreeSet<ScheduleId>,
    /// Accounts that may become organizers, or that an event is about.
    pub(crate) accounts: BTreeSet<UserId>,
    /// Accounts that were closed: their concerts lose them.
    pub(crate) gone: BTreeSet<UserId>,
}

/// The state of this service that one batch touches.
#[derive(Debug, Default)]
pub struct UnitOfWork {
    /// Each concert: its title and its organizers.
    pub(crate) concerts: Rows<ConcertId, Entered>,
    pub(crate) schedules: Rows<ScheduleId, Schedule>,
    pub(crate) accounts: Rows<UserId, Account>,
    new_concerts: Vec<(UserId, Concert)>,
    /// The seats of the new schedules.
    plans: BTreeMap<ScheduleId, Vec<SeatBlock>>,
}

impl UnitOfWork {
    /// Adds a concert with its first organizer.
    pub(crate) fn enter(&mut self, organizer_id: UserId, concert: Concert) {
        let first = events::concert::Organizer {
            user_id: organizer_id,
            since: concert.created_at,
            added_by: None,
        };
        let organizers = [(organizer_id, first)].into();
        let entered = Entered { title: concert.title.clone(), organizers };
        self.concerts.add(concert.concert_id, entered);
        self.new_concerts.push((organizer_id, concert));
    }

    /// Adds a schedule with its seats.
    pub(crate) fn open(&mut self, schedule: Schedule, seats: Vec<SeatBlock>) {
        self.plans.insert(schedule.schedule_id, seats);
        self.schedules.add(schedule.schedule_id, schedule);
    }

    /// The organizers of a concert, to be changed.
    pub(crate) fn team(&mut self, id: ConcertId) -> Option<&mut Organizers> {
        self.concerts.change(&id).map(|entered| &mut entered.organizers)
    }

    /// The loaded concerts of which this account is an organizer.
    pub(crate) fn concerts_of(&self, user_id: UserId) -> Vec<ConcertId> {
        let has_it = |(id, entered): (&ConcertId, &Entered)| {
            entered.organizers.contains_key(&user_id).then_some(*id)
        };
        self.concerts.iter().filter_map(has_it).collect()
    }
}

impl mesh::UnitOfWork for UnitOfWork {
    type Keys = Keys;
    type Config = Config;
    const KEY: &'static str = "reservation_id";

    /// Accounts are locked first, then schedules, then the concerts whose organizers may
    /// change. The batch that makes an account an organizer holds its row: an account that is
    /// closed meanwhile waits for it, and then finds the concert.
    async fn load(mut keys: Keys, tx: &mut PgConnection) -> sqlx::Result<Self> {
        let accounts = keys.accounts.union(&keys.gone).copied().collect();
        let mut unit = Self { accounts: team::accounts(&accounts, tx).await?, ..Self::default() };
        keys.teams.extend(team::concerts_of(&keys.gone, tx).await?);
        unit.schedules = schedules(&keys.schedules, tx).await?;
        keys.concerts.extend(unit.schedules.values().map(|schedule| schedule.concert_id));
        let concerts = keys.concerts.union(&keys.teams).copied().collect();
        unit.concerts = team::concerts(&concerts, !keys.teams.is_empty(), tx).await?;
        Ok(unit)
    }

    async fn save(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        team::save_accounts(&self.accounts.dirty(), tx).await?;
        insert_concerts(self.new_concerts, tx).await?;
        team::save(&self.concerts.dirty(), tx).await?;
        insert_schedules(&self.schedules.added(), &self.plans, tx).await?;
        cancel_schedules(&self.schedules.dirty(), tx).await
    }
}

async fn schedules(
    wanted: &BTreeSet<ScheduleId>,
    tx: &mut PgConnection,
) -> sqlx::Result<Rows<ScheduleId, Schedule>> {
    if wanted.is_empty() {
        return Ok(Rows::default());
    }
    let rows = sqlx::query(
        "select * from schedules where schedule_id = any($1) order by schedule_id for update",
    )
    .bind(wanted.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    rows.iter().map(|row| schedule(row).map(|it| (it.schedule_id, it))).collect()
}

/// A row of `schedules`.
pub(crate) fn schedule(row: &PgRow) -> sqlx::Result<Schedule> {
    let at = |name| row.try_get(name).map(Timestamp);
    let number = |name| row.try_get(name).map(|value: i32| value.unsigned_abs());
    let cancelled_at: Option<OffsetDateTime> = row.try_get("cancelled_at")?;
    let refund_until: Option<OffsetDateTime> = row.try_get("refund_until")?;
    let starts_at = at("starts_at")?;
    let cancelled = match cancelled_at {
        None => None,
        Some(at) => Some(Cancellation {
            at: Timestamp(at),
            reason: row.try_get("cancel_reason")?,
            by: actor(row.try_get("cancelled_by")?, row.try_get("cancelled_as")?)?,
        }),
    };
    Ok(Schedule {
        schedule_id: ScheduleId(row.try_get("schedule_id")?),
        concert_id: ConcertId(row.try_get("concert_id")?),
        venue: row.try_get("venue")?,
        starts_at,
        opens_at: at("opens_at")?,
        refund_until: refund_until.map_or(starts_at, Timestamp),
        state: match cancelled {
            None => ScheduleState::Open,
            Some(_) => ScheduleState::Cancelled,
        },
        cancelled,
        admission: Admission {
            per_second: number("per_second")?,
            active_max: number("active_max")?,
            pass_secs: number("pass_secs")?,
        },
        hold_secs: number("hold_secs")?,
        seats_per_fan_max: number("seats_per_fan_max")?,
        seats_total: row.try_get("seats_total")?,
    })
}

async fn insert_concerts(new: Vec<(UserId, Concert)>, tx: &mut PgConnection) -> sqlx::Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into concerts
             (concert_id, organizer_id, title, artist, description, created_at, words)
         select concert_id, organizer_id, title, artist, description, created_at,
                array_to_tsvector(string_to_array(words, ' '))
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[],
                     $6::timestamptz[], $7::text[])
             as new (concert_id, organizer_id, title, artist, description, created_at, words)",
    )
    .bind(column(&new, |(_, concert)| concert.concert_id.0))
    .bind(column(&new, |(organizer, _)| organizer.0))
    .bind(column(&new, |(_, concert)| concert.title.clone()))
    .bind(column(&new, |(_, concert)| concert.artist.clone()))
    .bind(column(&new, |(_, concert)| concert.description.clone()))
    .bind(column(&new, |(_, concert)| concert.created_at.0))
    .bind(column(&new, |(_, it)| beginnings(&format!("{} {}", it.title, it.artist)).join(" ")))
    .execute(tx)
    .await?;
    Ok(())
}

async fn insert_schedules(
    new: &[(&ScheduleId, &Schedule)],
    plans: &BTreeMap<ScheduleId, Vec<SeatBlock>>,
    tx: &mut PgConnection,
) -> sqlx::Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let ids = column(new, |(id, _)| id.0);
    let number = |read: fn(&Schedule) -> u32| column(new, |(_, it)| read(it) as i32);
    sqlx::query(
        "insert into schedules
             (schedule_id, concert_id, venue, starts_at, opens_at, seats_total,
              per_second, active_max, pass_secs, hold_secs, seats_per_fan_max, refund_until)
         select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[],
                              $5::timestamptz[], $6::bigint[], $7::integer[], $8::integer[],
                              $9::integer[], $10::integer[], $11::integer[],
                              $12::timestamptz[])",
    )
    .bind(&ids)
    .bind(column(new, |(_, schedule)| schedule.concert_id.0))
    .bind(column(new, |(_, schedule)| schedule.venue.as_str()))
    .bind(column(new, |(_, schedule)| schedule.starts_at.0))
    .bind(column(new, |(_, schedule)| schedule.opens_at.0))
    .bind(column(new, |(_, schedule)| schedule.seats_total))
    .bind(number(|schedule| schedule.admission.per_second))
    .bind(number(|schedule| schedule.admission.active_max))
    .bind(number(|schedule| schedule.admission.pass_secs))
    .bind(number(|schedule| schedule.hold_secs))
    .bind(number(|schedule| schedule.seats_per_fan_max))
    .bind(column(new, |(_, schedule)| schedule.refund_until.0))
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "insert into seat_plans (schedule_id, blocks)
         select * from unnest($1::uuid[], $2::jsonb[])",
    )
    .bind(ids)
    .bind(column(new, |(id, _)| Json(&plans[*id])))
    .execute(tx)
    .await?;
    Ok(())
}

/// A schedule changes once: when it is cancelled.
async fn cancel_schedules(
    dirty: &[(&ScheduleId, &Schedule)],
    tx: &mut PgConnection,
) -> sqlx::Result<()> {
    let how = |(id, it): &(&ScheduleId, &Schedule)| Some((**id, it.cancelled.clone()?));
    let cancelled: Vec<(ScheduleId, Cancellation)> = dirty.iter().filter_map(how).collect();
    if cancelled.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update schedules set cancelled_at = new.cancelled_at, cancel_reason = new.reason,
             cancelled_by = new.by, cancelled_as = new.role
         from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::uuid[], $5::text[])
             as new (schedule_id, cancelled_at, reason, by, role)
         where schedules.schedule_id = new.schedule_id",
    )
    .bind(column(&cancelled, |(schedule_id, _)| schedule_id.0))
    .bind(column(&cancelled, |(_, how)| how.at.0))
    .bind(column(&cancelled, |(_, how)| how.reason.as_str()))
    .bind(column(&cancelled, |(_, how)| how.by.map(|by| by.user_id.0)))
    .bind(column(&cancelled, |(_, how)| how.by.map(|by| role_name(by.role))))
    .execute(tx)
    .await?;
    Ok(())
}
