//! The concerts and schedules that one batch touches.

use std::collections::{BTreeMap, BTreeSet};

use events::{
    ConcertId, ScheduleId, Timestamp, UserId,
    concert::{Actor, Admission, Cancellation, Concert, Schedule, ScheduleState, SeatBlock},
    user::Role,
};
use sqlx::{PgConnection, Row, postgres::PgRow, types::Json};
use text::search::beginnings;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Config, team};

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
    pub(crate) concerts: BTreeMap<ConcertId, Entered>,
    pub(crate) schedules: BTreeMap<ScheduleId, Schedule>,
    pub(crate) accounts: BTreeMap<UserId, team::Account>,
    new_concerts: Vec<(UserId, Concert)>,
    new_schedules: Vec<(Schedule, Vec<SeatBlock>)>,
    cancelled: Vec<(ScheduleId, Cancellation)>,
    changed_teams: BTreeSet<ConcertId>,
    changed_accounts: BTreeSet<UserId>,
}

/// What the handlers need to know of a concert.
#[derive(Debug, Default)]
pub(crate) struct Entered {
    pub(crate) title: String,
    pub(crate) organizers: crate::domain::Organizers,
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
        self.concerts.insert(concert.concert_id, entered);
        self.changed_teams.insert(concert.concert_id);
        self.new_concerts.push((organizer_id, concert));
    }

    /// Adds a schedule with its seats.
    pub(crate) fn open(&mut self, schedule: Schedule, seats: Vec<SeatBlock>) {
        self.schedules.insert(schedule.schedule_id, schedule.clone());
        self.new_schedules.push((schedule, seats));
    }

    /// Marks a schedule as cancelled.
    pub(crate) fn cancel(&mut self, cancelled: Schedule, cancellation: Cancellation) {
        self.cancelled.push((cancelled.schedule_id, cancellation));
        self.schedules.insert(cancelled.schedule_id, cancelled);
    }

    /// The organizers of a concert, marked as changed.
    pub(crate) fn team(&mut self, id: ConcertId) -> Option<&mut crate::domain::Organizers> {
        let entered = self.concerts.get_mut(&id)?;
        self.changed_teams.insert(id);
        Some(&mut entered.organizers)
    }

    /// The loaded concerts of which this account is an organizer.
    pub(crate) fn concerts_of(&self, user_id: UserId) -> Vec<ConcertId> {
        let has_it = |(id, entered): (&ConcertId, &Entered)| {
            entered.organizers.contains_key(&user_id).then_some(*id)
        };
        self.concerts.iter().filter_map(has_it).collect()
    }

    /// An account, marked as changed.
    pub(crate) fn account(&mut self, user_id: UserId) -> &mut team::Account {
        self.changed_accounts.insert(user_id);
        self.accounts.entry(user_id).or_default()
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
        let mut unit = Self { accounts: team::accounts(&keys, tx).await?, ..Self::default() };
        keys.teams.extend(team::concerts_of(&keys.gone, tx).await?);
        unit.schedules = schedules(&keys.schedules, tx).await?;
        keys.concerts.extend(unit.schedules.values().map(|schedule| schedule.concert_id));
        unit.concerts = team::concerts(&keys, tx).await?;
        Ok(unit)
    }

    async fn save(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let changed = |id: &UserId| Some((*id, *self.accounts.get(id)?));
        team::save_accounts(self.changed_accounts.iter().filter_map(changed).collect(), tx).await?;
        insert_concerts(self.new_concerts, tx).await?;
        let changed = |id: &ConcertId| Some((*id, &self.concerts.get(id)?.organizers));
        team::save(self.changed_teams.iter().filter_map(changed).collect(), tx).await?;
        insert_schedules(self.new_schedules, tx).await?;
        cancel_schedules(self.cancelled, tx).await
    }
}

async fn schedules(
    wanted: &BTreeSet<ScheduleId>,
    tx: &mut PgConnection,
) -> sqlx::Result<BTreeMap<ScheduleId, Schedule>> {
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
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

/// The actor in two columns: the account and its role.
pub(crate) fn actor(by: Option<Uuid>, role: Option<String>) -> sqlx::Result<Option<Actor>> {
    let (Some(by), Some(role)) = (by, role) else { return Ok(None) };
    let role = match role.as_str() {
        "organizer" => Role::Organizer,
        "operator" => Role::Operator,
        other => return Err(sqlx::Error::Decode(format!("unknown actor role `{other}`").into())),
    };
    Ok(Some(Actor { user_id: UserId(by), role }))
}

/// A role as it is stored.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Fan => "fan",
        Role::Organizer => "organizer",
        Role::Operator => "operator",
    }
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
    new: Vec<(Schedule, Vec<SeatBlock>)>,
    tx: &mut PgConnection,
) -> sqlx::Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let ids = column(&new, |(schedule, _)| schedule.schedule_id.0);
    let number = |read: fn(&Schedule) -> u32| column(&new, |(it, _)| read(it) as i32);
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
    .bind(column(&new, |(schedule, _)| schedule.concert_id.0))
    .bind(column(&new, |(schedule, _)| schedule.venue.clone()))
    .bind(column(&new, |(schedule, _)| schedule.starts_at.0))
    .bind(column(&new, |(schedule, _)| schedule.opens_at.0))
    .bind(column(&new, |(schedule, _)| schedule.seats_total))
    .bind(number(|schedule| schedule.admission.per_second))
    .bind(number(|schedule| schedule.admission.active_max))
    .bind(number(|schedule| schedule.admission.pass_secs))
    .bind(number(|schedule| schedule.hold_secs))
    .bind(number(|schedule| schedule.seats_per_fan_max))
    .bind(column(&new, |(schedule, _)| schedule.refund_until.0))
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "insert into seat_plans (schedule_id, blocks)
         select * from unnest($1::uuid[], $2::jsonb[])",
    )
    .bind(ids)
    .bind(new.into_iter().map(|(_, blocks)| Json(blocks)).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

async fn cancel_schedules(
    cancelled: Vec<(ScheduleId, Cancellation)>,
    tx: &mut PgConnection,
) -> sqlx::Result<()> {
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
    .bind(column(&cancelled, |(_, how)| how.reason.clone()))
    .bind(column(&cancelled, |(_, how)| how.by.map(|by| by.user_id.0)))
    .bind(column(&cancelled, |(_, how)| how.by.map(|by| role_name(by.role))))
    .execute(tx)
    .await?;
    Ok(())
}

/// One column of the rows, as an array for `unnest`.
pub(crate) fn column<T, V>(rows: &[T], read: impl Fn(&T) -> V) -> Vec<V> {
    rows.iter().map(read).collect()
}
