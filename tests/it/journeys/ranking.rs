//! Ranking: sales are counted, a replay changes nothing, and a lost store is rebuilt.

use std::{future::pending, sync::Arc};

use ::ranking::Charts;
use events::{
    concert::Schedule,
    payment::PaymentState,
    ranking::{ConcertRanking, RankedConcert},
};
use harness::mesh::{Mesh, eventually, run};
use mesh::valkey::Valkey;
use onsale::replay;

#[test]
fn a_sold_out_club_is_ranked_and_a_replay_gives_the_same() {
    run(async {
        let mesh = Mesh::own().await;
        let club = mesh.open(3, |_| {}).await;
        let half_empty = mesh.open(3, |_| {}).await;
        let fan = mesh.fan(1_000).await;
        let hold = fan.hold(club.schedule_id, &["A-1-1", "A-1-2"]).await;
        fan.pay(&hold).await;
        let other = mesh.fan(1_000).await;
        let last = other.hold(club.schedule_id, &["A-1-3"]).await;
        other.pay(&last).await;
        // Cancelled before the other two are sold: this show was never sold out.
        let given_back = fan.hold(half_empty.schedule_id, &["A-1-1"]).await;
        let paid = fan.pay(&given_back).await;
        fan.delete(&format!("/v1/reservations/{}", given_back.reservation_id)).await;
        fan.payment_becomes(&paid, PaymentState::Refunded).await;
        let kept = fan.hold(half_empty.schedule_id, &["A-1-2", "A-1-3"]).await;
        fan.pay(&kept).await;

        // Only the places are compared: `at` differs from one answer to the next.
        let sold = until_sold(&mesh, &[(&club, 3), (&half_empty, 2)]).await;
        assert_eq!((sold[0].place, sold[1].place), (1, 2));
        let fastest = ranking(&mesh, "by=sell_out").await;
        assert_eq!(fastest.len(), 1, "{fastest:?}");
        assert_eq!(fastest[0].schedule_id, Some(club.schedule_id));
        assert!(fastest[0].sell_out_ms.is_some_and(|millis| millis >= 0));

        replay_agrees(&mesh).await;
        assert_eq!(until_sold(&mesh, &[(&club, 3), (&half_empty, 2)]).await, sold);
        assert_eq!(ranking(&mesh, "by=sell_out").await, fastest);

        // Valkey loses everything; the fleet rebuilds it automatically.
        let mut valkey = redis::Client::open(mesh.env.config.valkey_url.as_str())
            .expect("an address")
            .get_multiplexed_async_connection()
            .await
            .expect("a Valkey");
        redis::cmd("FLUSHALL").query_async::<()>(&mut valkey).await.expect("flushed");
        // While there is no ranking, the service may answer with the one of a moment ago.
        eventually("the ranking is whole again", || async {
            store(&mesh).is_whole().await.is_ok_and(|whole| whole).then_some(())
        })
        .await;
        assert_eq!(until_sold(&mesh, &[(&club, 3), (&half_empty, 2)]).await, sold);
        assert_eq!(ranking(&mesh, "by=sell_out").await, fastest);
        replay_agrees(&mesh).await;
        mesh.stop().await;
    });
}

fn store(mesh: &Mesh) -> Valkey<Charts> {
    Valkey::new(&mesh.env.config.valkey_url, Default::default()).expect("an address")
}

async fn replay_agrees(mesh: &Mesh) {
    let model = ::ranking::read_model(Arc::new(store(mesh)));
    let rebuilt = replay::replay(&mesh.env.config, ::ranking::NAME, model, pending())
        .await
        .expect("replayed");
    let difference = rebuilt.difference.as_ref().expect("something was live");
    assert!(difference.is_none(), "{rebuilt:?}");
    let total = rebuilt.total();
    assert_eq!((total.taken + total.repeats, total.left_out), (2 + 4 + 1, 0), "{rebuilt:?}");
    assert_eq!(rebuilt.unreadable, 0);
}

async fn ranking(mesh: &Mesh, query: &str) -> Vec<RankedConcert> {
    let path = format!("/v1/rankings/concerts?{query}");
    eventually("the ranking answers", || async {
        let answer = mesh.http.get(&path).send().await.expect("an answer");
        let ranking = answer.status.is_success().then(|| answer.json::<ConcertRanking>());
        Some(ranking?.expect("a ranking").places)
    })
    .await
}

/// The ranking, once these many seats are counted, most first.
async fn until_sold(mesh: &Mesh, expected: &[(&Schedule, i64)]) -> Vec<RankedConcert> {
    eventually("every sale is counted", || async {
        let places = ranking(mesh, "window=1h&limit=100").await;
        let seen = places.iter().map(|place| (place.concert_id, place.seats_sold));
        let wanted = expected.iter().map(|(schedule, seats)| (schedule.concert_id, Some(*seats)));
        seen.eq(wanted).then_some(places)
    })
    .await
}
