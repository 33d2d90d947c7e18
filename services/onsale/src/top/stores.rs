//! What the databases and Valkey show: the sale, outboxes, parked events, sagas.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use events::{ScheduleId, Timestamp};
use mesh::{
    engine::{Backlog, Engine, Show},
    parked::ParkedState,
    postgres::{self, Positions},
    valkey::Valkey,
};
use sqlx::{PgPool, Row as _, postgres::PgPoolOptions};
use uuid::Uuid;

use super::look::{OnSale, Part, Payments, Room, Sagas};
use crate::{
    config::Config,
    registry::{self, WITH_DATABASE, WITH_VALKEY},
};

/// How long a database may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_millis(1_500);
/// Parked events in Valkey that are counted at most.
const PARKED_MAX: usize = 1_000;
/// Schedules that are shown.
const SCHEDULES_MAX: usize = 8;
/// Schedules among which those with the longest queues are looked for.
const CANDIDATES_MAX: i64 = 1_000;
/// Rooms that are read.
const ROOMS_MAX: usize = 1_000;
/// The payments that are counted.
const PAYMENTS_SECS: i64 = 60;

/// What the store of a service shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    pub(super) unpublished: u64,
    pub(super) since: Option<Timestamp>,
    pub(super) parked: u64,
    pub(super) dead: u64,
    /// How far it has read whole streams, by the service that emits them.
    pub(super) positions: Vec<(&'static str, u64)>,
}

/// What is shown of the sale.
pub(super) struct Sale {
    pub(super) schedules: Part<Vec<OnSale>>,
    pub(super) total: u64,
    pub(super) seats: Part<()>,
    pub(super) rooms: Part<()>,
}

/// The databases and Valkey.
pub(super) struct Stores {
    /// By service, or why there is none.
    pools: BTreeMap<&'static str, Result<PgPool, String>>,
    engines: BTreeMap<&'static str, Result<Box<dyn Engine>, String>>,
    room: Result<Valkey<queue::Room>, String>,
    /// The streams that each service reads by position.
    follows: BTreeMap<&'static str, BTreeSet<&'static str>>,
}

impl Stores {
    pub(super) fn new(config: &Config) -> Self {
        let pools = WITH_DATABASE.map(|service| (service, pool(config, service)));
        let engines = WITH_VALKEY.map(|service| (service, engine(config, service)));
        let room = match config.valkey_url.as_str() {
            "" => Err("ONSALE_VALKEY_URL is not set".to_owned()),
            url => Valkey::new(url, queue::Config::default()).map_err(|error| error.to_string()),
        };
        let mut follows: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for wiring in registry::wirings() {
            // Two halves of a service are two wirings.
            follows.entry(wiring.service).or_default().extend(wiring.read_streams());
        }
        Self { pools: pools.into(), engines: engines.into(), room, follows }
    }

    fn pool(&self, service: &str) -> Result<&PgPool> {
        let pool = self.pools.get(service).context("it has no database")?;
        pool.as_ref().map_err(|why| anyhow!("{why}"))
    }

    /// What the stores of a service show; a service may have two.
    pub(super) async fn stored(&self, service: &'static str, within: Duration) -> Part<Stored> {
        let in_database = async {
            match self.pools.contains_key(service) {
                true => self.in_database(service).await.map(Some),
                false => Ok(None),
            }
        };
        let in_valkey = async {
            match self.engines.get(service) {
                Some(Ok(engine)) => in_valkey(engine.as_ref()).await.map(Some),
                Some(Err(why)) => Err(anyhow!("{why}")),
                None => Ok(None),
            }
        };
        let both = async { tokio::try_join!(in_database, in_valkey) };
        limited(within, service, both).await.map(|(first, second)| {
            let (first, second) = (first.unwrap_or_default(), second.unwrap_or_default());
            Stored {
                unpublished: first.unpublished + second.unpublished,
                since: first.since.into_iter().chain(second.since).min(),
                parked: first.parked + second.parked,
                dead: first.dead + second.dead,
                positions: first.positions,
            }
        })
    }

    async fn in_database(&self, service: &str) -> Result<Stored> {
        let pool = self.pool(service)?;
        let mut connection = pool.acquire().await?;
        let Backlog { events, since } = postgres::backlog(&mut connection).await?;
        let (dead, parked): (i64, i64) = sqlx::query_as(
            "select count(*) filter (where state = 'dead'), count(*) filter (where state <> 'dead')
             from mesh.parked where ended_at is null",
        )
        .fetch_one(&mut *connection)
        .await?;
        drop(connection);
        let positions = match self.follows.get(service) {
            Some(follows) if !follows.is_empty() => {
                let read = Positions::load(pool).await.map_err(|error| anyhow!("{error}"))?;
                follows.iter().map(|producer| (*producer, read.of(producer))).collect()
            }
            _ => Vec::new(),
        };
        let (parked, dead) = (parked.unsigned_abs(), dead.unsigned_abs());
        Ok(Stored { unpublished: events, since, parked, dead, positions })
    }

    /// The schedules on sale, with their seats and rooms.
    pub(super) async fn sale(&self, now: Timestamp, within: Duration) -> Sale {
        let (schedules, rooms) = tokio::join!(
            limited(within, concert::NAME, self.schedules(now)),
            limited(within, queue::NAME, self.rooms(now))
        );
        let no_rooms = BTreeMap::new();
        let known = rooms.seen().unwrap_or(&no_rooms);
        let mut total = 0;
        let mut schedules = schedules.map(|mut all: Vec<OnSale>| {
            total = all.len() as u64;
            for one in &mut all {
                one.room = known.get(&one.schedule_id).copied();
                if rooms.seen().is_some() {
                    one.room.get_or_insert_default();
                }
            }
            let waiting = |one: &OnSale| one.room.map_or(0, |room| room.waiting);
            all.sort_by_key(|one| std::cmp::Reverse((waiting(one), one.opens_at)));
            all.truncate(SCHEDULES_MAX);
            all
        });
        let shown = schedules.seen().map(Vec::as_slice).unwrap_or_default();
        let ids: Vec<Uuid> = shown.iter().map(|one| one.schedule_id.0).collect();
        let seats = limited(within, reservation::NAME, self.seats(ids)).await;
        if let (Part::Seen(schedules), Some(seats)) = (&mut schedules, seats.seen()) {
            for one in schedules {
                one.taken = seats.get(&one.schedule_id).copied();
            }
        }
        Sale { schedules, total, seats: seats.map(drop), rooms: rooms.map(drop) }
    }

    /// What may be bought now, and what opens within the hour.
    async fn schedules(&self, now: Timestamp) -> Result<Vec<OnSale>> {
        let rows = sqlx::query(
            "select schedule_id, title, venue, opens_at, seats_total
             from schedules join concerts using (concert_id)
             where cancelled_at is null and starts_at > $1
                 and opens_at < $1 + interval '1 hour'
             order by opens_at desc limit $2",
        )
        .bind(now.0)
        .bind(CANDIDATES_MAX)
        .fetch_all(self.pool(concert::NAME)?)
        .await?;
        let read = |row: sqlx::postgres::PgRow| {
            Ok(OnSale {
                schedule_id: ScheduleId(row.try_get(0)?),
                title: row.try_get(1)?,
                venue: row.try_get(2)?,
                opens_at: Timestamp(row.try_get(3)?),
                seats: row.try_get::<i64, _>(4)?.unsigned_abs(),
                taken: None,
                room: None,
            })
        };
        rows.into_iter().map(read).collect()
    }

    async fn rooms(&self, now: Timestamp) -> Result<BTreeMap<ScheduleId, Room>> {
        let store = self.room.as_ref().map_err(|why| anyhow!("{why}"))?;
        let rooms = queue::rooms(store, ROOMS_MAX, now).await;
        let rooms = rooms.map_err(|problem| anyhow!("{}", problem.detail))?;
        let room = |one: queue::RoomState| Room {
            waiting: one.waiting,
            admitted: one.admitted,
            expected_wait_secs: one.expected_wait_secs,
        };
        Ok(rooms.into_iter().map(|one| (one.schedule_id, room(one))).collect())
    }

    /// Seats held and sold of these schedules, by the service that decides.
    async fn seats(&self, schedules: Vec<Uuid>) -> Result<BTreeMap<ScheduleId, (u64, u64)>> {
        let rows: Vec<(Uuid, i64, i64)> = sqlx::query_as(
            "select seats.schedule_id, count(*) filter (where state = 'PENDING'),
                 count(*) filter (where state = 'CONFIRMED')
             from seats left join reservations on reservations.id = seats.reservation_id
             where seats.schedule_id = any($1) group by 1",
        )
        .bind(schedules)
        .fetch_all(self.pool(reservation::NAME)?)
        .await?;
        let seats = |(schedule, held, sold): (Uuid, i64, i64)| {
            (ScheduleId(schedule), (held.unsigned_abs(), sold.unsigned_abs()))
        };
        Ok(rows.into_iter().map(seats).collect())
    }

    /// The payments requested in the last minute. Their ids begin with the time of the request.
    pub(super) async fn payments(&self, now: Timestamp, within: Duration) -> Part<Payments> {
        let millis = now.plus_secs(-PAYMENTS_SECS).unix_millis().max(0);
        let counted = async {
            let [completed, failed, compensated, refunded, running]: [i64; 5] = sqlx::query(
                "select count(*) filter (where state = 'COMPLETED'),
                     count(*) filter (where state = 'FAILED'
                         and reason in ('insufficient_balance', 'no_wallet')),
                     count(*) filter (where state = 'FAILED'
                         and reason not in ('insufficient_balance', 'no_wallet')),
                     count(*) filter (where state = 'REFUNDED'),
                     count(*) filter (where state = 'REQUESTED')
                 from payments where id >= $1",
            )
            .bind(Uuid::from_u128((millis as u128) << 80))
            .fetch_one(self.pool(payment::NAME)?)
            .await
            .and_then(|row| {
                let mut counts = [0; 5];
                for (at, count) in counts.iter_mut().enumerate() {
                    *count = row.try_get(at)?;
                }
                Ok(counts)
            })?;
            let [completed, failed, compensated, refunded, running] =
                [completed, failed, compensated, refunded, running].map(i64::unsigned_abs);
            Ok(Payments { completed, failed, compensated, refunded, running })
        };
        limited(within, payment::NAME, counted).await
    }

    /// How many sagas are open and stalled, and how many violations there are.
    pub(super) async fn sagas(&self, within: Duration) -> Part<Sagas> {
        let counted = async {
            let (open, stalled, violations): (i64, i64, i64) = sqlx::query_as(
                "select (select count(*) from sagas where next_due_at is not null),
                     (select count(distinct saga_id) from stalls join sagas using (saga_id)
                      where next_due_at < now()),
                     (select count(*) from violations)",
            )
            .fetch_one(self.pool(audit::NAME)?)
            .await?;
            let [open, stalled, violations] = [open, stalled, violations].map(i64::unsigned_abs);
            Ok(Sagas { open, stalled, violations })
        };
        limited(within, audit::NAME, counted).await
    }

    pub(super) async fn close(&self) {
        for pool in self.pools.values().flatten() {
            pool.close().await;
        }
    }
}

/// What was seen in time.
async fn limited<T>(
    limit: Duration,
    service: &'static str,
    seen: impl Future<Output = Result<T>>,
) -> Part<T> {
    let seen = match mesh::deadline::within(limit, "the store", seen).await {
        Ok(seen) => seen,
        Err(late) => Err(anyhow!("{late}")),
    };
    seen.with_context(|| service.to_owned()).into()
}

fn pool(config: &Config, service: &str) -> Result<PgPool, String> {
    let url = config.database_url(service).map_err(|error| error.to_string())?;
    // A look must not hold anything up: its statements end before the next one.
    let url = url.parse::<sqlx::postgres::PgConnectOptions>().map_err(|error| error.to_string())?;
    let options = url.options([("statement_timeout", "2s")]);
    let pool = PgPoolOptions::new().max_connections(2).acquire_timeout(CONNECT_WITHIN);
    Ok(pool.connect_lazy_with(options))
}

fn engine(config: &Config, service: &str) -> Result<Box<dyn Engine>, String> {
    let url = match config.valkey_url.as_str() {
        "" => return Err("ONSALE_VALKEY_URL is not set".to_owned()),
        url => url,
    };
    let opened: Result<Box<dyn Engine>, mesh::engine::Failure> = match service {
        queue::NAME => Valkey::<queue::Room>::new(url, queue::Config::default())
            .map(|engine| Box::new(engine) as Box<dyn Engine>),
        ranking::NAME => Valkey::<ranking::Charts>::new(url, ranking::Config::default())
            .map(|engine| Box::new(engine) as Box<dyn Engine>),
        _ => {
            // Only its outbox and parked events are read, and nothing is drawn.
            let nowhere = PgPoolOptions::new().connect_lazy_with(Default::default());
            Valkey::<concert::SeatMaps>::new(url, concert::MapConfig::new(nowhere))
                .map(|engine| Box::new(engine) as Box<dyn Engine>)
        }
    };
    opened.map_err(|error| error.to_string())
}

async fn in_valkey(engine: &dyn Engine) -> Result<Stored> {
    let store = engine.store();
    let Backlog { events, since } = store.backlog().await.map_err(|error| anyhow!("{error}"))?;
    let open = store.parked(Show::All(false, PARKED_MAX)).await;
    let open = open.map_err(|error| anyhow!("{error}"))?;
    let dead = open.iter().filter(|one| one.state == ParkedState::Dead).count() as u64;
    let parked = open.len() as u64 - dead;
    Ok(Stored { unpublished: events, since, parked, dead, positions: Vec::new() })
}
