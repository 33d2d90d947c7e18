//! Rebuilds what Valkey has lost: from the state of its owners, and from the streams, which keep
//! events for a week.

use std::{future::Future, sync::Arc, time::Duration};

use events::{
    ScheduleId,
    concert::ScheduleState,
    state::{SeatStated, StateSales, StateSchedules, StateSeats},
};
use futures::{
    Stream, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use mesh::{
    Link, MeshClient, STORED_MESSAGES_MAX, Service, StoredEvent, clock,
    engine::Failure,
    valkey::{self, LuaModule, Sources, Valkey},
};
use queue::{Known, Room};
use tracing::{info, warn};

/// How often a store is checked.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// How soon a rebuild is retried at first, and how many times.
const SOON: Duration = Duration::from_millis(50);
const SOON_TRIES: u32 = 40;
/// Schedules whose seats are requested at once.
const REQUESTED_AT_ONCE: usize = 8;
/// The services whose events a room is rebuilt from.
const PRODUCERS: [&str; 5] = ["concert", "user", "reservation", "payment", "queue"];

/// A store that is rebuilt when it has lost its data.
pub trait Kept: Send + Sync + 'static {
    /// What is in it.
    const WHAT: &'static str;

    /// Whether it has all of its data.
    fn is_whole(&self) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Rebuilds it; returns from how many entries.
    fn rebuild(&self, client: &MeshClient) -> impl Future<Output = Result<u64, Failure>> + Send;
}

/// Watches a store and rebuilds it whenever it is found empty. Until then its service refuses to
/// answer rather than to guess.
pub async fn keep_rebuilt<K: Kept>(kept: K, link: Link) {
    let client = MeshClient::new(link);
    let mut failures = 0;
    loop {
        // A store that does not answer is the runtime's concern; it is checked again.
        if matches!(kept.is_whole().await, Ok(false)) {
            failures += 1;
            match kept.rebuild(&client).await {
                Ok(count) => info!(count, "{} is rebuilt", K::WHAT),
                // Another instance is rebuilding it.
                Err(Failure::Contended(_)) => {}
                // Where all services start together, its owners may need a moment longer.
                Err(_) if failures < SOON_TRIES => {
                    tokio::time::sleep(SOON).await;
                    continue;
                }
                Err(error) => warn!(%error, "{} cannot be rebuilt yet", K::WHAT),
            }
        } else {
            failures = 0;
        }
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

impl Kept for Arc<Valkey<Room>> {
    const WHAT: &'static str = "the room";

    async fn is_whole(&self) -> Result<bool, Failure> {
        Valkey::is_whole(self).await
    }

    async fn rebuild(&self, client: &MeshClient) -> Result<u64, Failure> {
        rebuild_room(self, client).await
    }
}

/// Rebuilds the waiting rooms; returns from how many entries.
pub(crate) async fn rebuild_room(room: &Valkey<Room>, client: &MeshClient) -> Result<u64, Failure> {
    let now = clock::now();
    let wanted = queue::schedules_wanted(now);
    let schedules: Vec<_> = client.query_state(wanted).try_concat().await?;
    let ids: Vec<_> = schedules.iter().map(|stated| stated.schedule.schedule_id).collect();
    let schedules = schedules.into_iter().map(Known::Schedule).collect();
    let events = stream::iter(PRODUCERS).flat_map(|producer| emitted(client, producer));
    // The seats come last: they are stated as of a moment after all that was read.
    let seats = seats(client, stream::iter(ids.into_iter().map(Ok)).boxed());
    let seats = seats.map_ok(|(schedule_id, page)| {
        page.into_iter().map(|seat| Known::Seat(schedule_id, seat)).collect()
    });
    let known = stream::iter([Ok(schedules)]).chain(events).chain(seats);
    queue::rebuild(room, known, now).await
}

/// Everything of a service's stream that a room is rebuilt from, page by page.
fn emitted(
    client: &MeshClient,
    producer: &'static str,
) -> impl Stream<Item = Result<Vec<Known>, Failure>> + Send + use<> {
    let client = client.clone();
    stream::try_unfold(0, move |after| {
        let client = client.clone();
        async move {
            let page = client.stored_since(producer, after, STORED_MESSAGES_MAX).await;
            let page = page.map_err(|problem| Failure::Unavailable(problem.to_string()))?;
            let Some(last) = page.last() else { return Ok(None) };
            let is_wanted = |event: &&StoredEvent| queue::REBUILT_FROM.contains(&event.name());
            let known = |event: &StoredEvent| {
                Known::Event(event.subject().to_owned(), event.payload().clone())
            };
            let position = last.position();
            Ok(Some((page.iter().filter(is_wanted).map(known).collect(), position)))
        }
    })
}

/// The seats of schedules, page by page, of several schedules at a time.
fn seats<'a>(
    client: &MeshClient,
    schedules: BoxStream<'a, Result<ScheduleId, Failure>>,
) -> BoxStream<'a, Result<(ScheduleId, Vec<SeatStated>), Failure>> {
    let client = client.clone();
    let pages = move |schedule_id| {
        let pages = client.query_state(StateSeats { schedule_id, after: None });
        pages.map_ok(move |page| (schedule_id, page)).boxed()
    };
    schedules.map_ok(pages).try_flatten_unordered(REQUESTED_AT_ONCE).boxed()
}

/// State that is read and decides nothing: built by replay, the first time as any other.
pub struct ReadModel<L: LuaModule> {
    /// Where it is stored.
    pub valkey: Arc<Valkey<L>>,
    /// The events it is built from.
    pub table: Service<Valkey<L>>,
    /// What else it is built from.
    pub sources: fn(&MeshClient) -> Sources<'static>,
}

/// The rankings: the owners state schedules and sales; the streams have the exact times of sales
/// that were returned.
pub fn ranking(valkey: Arc<Valkey<ranking::Charts>>) -> ReadModel<ranking::Charts> {
    let sources = |client: &MeshClient| Sources {
        before: client
            .query_state(StateSchedules::default())
            .map_ok(|page| page.iter().flat_map(ranking::schedule_stated).collect())
            .boxed(),
        streams: ranking::ORDER,
        after: client
            .query_state(StateSales::default())
            .map_ok(|page| page.iter().flat_map(ranking::sale_stated).collect())
            .boxed(),
    };
    ReadModel { valkey, table: ranking::service(), sources }
}

/// The seat maps: the owner of the seats states which are not free.
pub fn seat_maps(valkey: Arc<Valkey<concert::SeatMaps>>) -> ReadModel<concert::SeatMaps> {
    let sources = |client: &MeshClient| {
        let schedules = client
            .query_state(StateSchedules::default())
            .map_ok(|page| stream::iter(page).map(|stated| Ok(stated.schedule.schedule_id)))
            .try_flatten();
        let stated = seats(client, schedules.boxed())
            .map_ok(|(schedule_id, seats)| concert::seats::stated(schedule_id, &seats));
        // A show that was called off stays off, however long ago that was.
        let off = client.query_state(StateSchedules::default()).map_ok(|page| {
            let schedules = page.iter().map(|stated| &stated.schedule);
            let off = schedules.filter(|schedule| schedule.state == ScheduleState::Cancelled);
            off.map(|schedule| concert::seats::schedule_cancelled(schedule.schedule_id)).collect()
        });
        Sources { before: off.boxed(), streams: concert::REBUILT_FROM, after: stated.boxed() }
    };
    ReadModel { valkey, table: concert::map_service(), sources }
}

impl<L: LuaModule> Kept for ReadModel<L> {
    const WHAT: &'static str = L::NAME;

    async fn is_whole(&self) -> Result<bool, Failure> {
        self.valkey.is_whole().await
    }

    async fn rebuild(&self, client: &MeshClient) -> Result<u64, Failure> {
        let sources = (self.sources)(client);
        let rebuilt = valkey::rebuild(&self.valkey, &self.table, sources, client, |_| {}).await?;
        Ok(rebuilt.total().taken + rebuilt.stated.taken)
    }
}
