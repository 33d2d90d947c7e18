//! Organizers: a concert has several of them, and an operator may act in their place.

use events::{
    Page,
    concert::{Concert, Organizers, Schedule, ScheduleState},
    payment::PaymentState,
    user::{Role, Session, Withdrawal, WithdrawalState},
};
use harness::mesh::{Mesh, eventually, run, shared};
use onsale::{
    development::box_office,
    http::{Answer, Ask},
};
use serde_json::json;

async fn organizer(mesh: &Mesh) -> Session {
    box_office::organizer(&mesh.http, &mesh.env.operator).await.expect("an organizer")
}

async fn operator(mesh: &Mesh) -> Session {
    let ask = mesh.http.post("/v1/sessions").json(&mesh.env.operator);
    ask.send().await.expect("sent").json().expect("a session")
}

async fn asked(ask: Ask<'_>, who: &Session) -> Answer {
    ask.token(&who.access_token).send().await.expect("sent")
}

/// The path of an account among the organizers of a show's concert.
fn of(show: &Schedule, who: &Session) -> String {
    format!("/v1/concerts/{}/organizers/{}", show.concert_id, who.user_id)
}

async fn listed(mesh: &Mesh, show: &Schedule) -> Schedule {
    let path = format!("/v1/concerts/{}/schedules", show.concert_id);
    let page: Page<Schedule> =
        mesh.http.get(path).send().await.expect("sent").json().expect("a page");
    page.items.into_iter().find(|it| it.schedule_id == show.schedule_id).expect("listed")
}

async fn team(mesh: &Mesh, show: &Schedule, who: &Session) -> Organizers {
    let path = format!("/v1/concerts/{}/organizers", show.concert_id);
    asked(mesh.http.get(path), who).await.json().expect("organizers")
}

/// A show of an organizer of its own.
async fn show_of(mesh: &Mesh, boss: &Session) -> Schedule {
    let shared_show = mesh.open(1, |_| {}).await;
    let entered = json!({ "title": "A concert", "artist": "A band" });
    let answer = asked(mesh.http.post("/v1/concerts").json(&entered), boss).await;
    let concert: Concert = answer.json().expect("a concert");
    let opening = json!({
        "venue": "A hall", "starts_at": shared_show.starts_at,
        "seat_plan": "section,row,seat,price\nA,1,1,100\n",
    });
    let path = format!("/v1/concerts/{}/schedules", concert.concert_id);
    asked(mesh.http.post(path).json(&opening), boss).await.json().expect("a show")
}

#[test]
fn an_operator_cancels_the_show_of_an_organizer_who_has_left_and_the_show_names_who_and_why() {
    run(async {
        let mesh = shared().await;
        let (boss, operator) = (organizer(mesh).await, operator(mesh).await);
        let show = show_of(mesh, &boss).await;
        let fan = mesh.fan(100).await;
        let hold = fan.hold(show.schedule_id, &["A-1-1"]).await;
        let payment = fan.pay(&hold).await;
        let ask = mesh.http.delete("/v1/users/me").header("prefer", "wait=20");
        let left: Withdrawal = asked(ask, &boss).await.json().expect("an outcome");
        assert_eq!(left.state, WithdrawalState::Completed);
        // No organizer is left: only operators can act on the concert.
        eventually("the organizer is gone from the concert", || async {
            team(mesh, &show, &operator).await.organizers.is_empty().then_some(())
        })
        .await;

        let path = format!("/v1/schedules/{}?reason=Storm.", show.schedule_id);
        let off = asked(mesh.http.delete(path), &operator).await;
        assert_eq!(off.status, 202);
        fan.payment_becomes(&payment, PaymentState::Refunded).await;
        let shown = listed(mesh, &show).await;
        let how = shown.cancelled.expect("how it was cancelled");
        let by = how.by.expect("who did it");
        assert_eq!((shown.state, how.reason.as_str()), (ScheduleState::Cancelled, "Storm."));
        assert_eq!((by.user_id, by.role), (operator.user_id, Role::Operator));

        // The operator adds another organizer.
        let heir = organizer(mesh).await;
        let added = asked(mesh.http.ask(hyper::Method::PUT, of(&show, &heir)), &operator).await;
        let added: Organizers = added.json().expect("organizers");
        assert_eq!(added.organizers[0].user_id, heir.user_id);
        assert_eq!(added.organizers[0].added_by.map(|by| by.role), Some(Role::Operator));
        mesh.receipt_is_clean(show.schedule_id).await;
    });
}

#[test]
fn a_colleague_who_was_added_acts_on_the_concert_until_removed_and_the_last_one_stays() {
    run(async {
        let mesh = shared().await;
        let (boss, colleague) = (organizer(mesh).await, organizer(mesh).await);
        let show = show_of(mesh, &boss).await;
        let add = |who| mesh.http.ask(hyper::Method::PUT, of(&show, who));
        let remove = |who| mesh.http.delete(of(&show, who));
        let refused = asked(add(&colleague), &colleague).await;
        assert_eq!(refused.code().as_deref(), Some("forbidden"), "no organizer adds themselves");
        let refused = asked(remove(&boss), &boss).await;
        assert_eq!(refused.code().as_deref(), Some("last_organizer"));

        let team: Organizers = asked(add(&colleague), &boss).await.json().expect("organizers");
        let ids: Vec<_> = team.organizers.iter().map(|it| it.user_id).collect();
        assert_eq!(ids, [boss.user_id, colleague.user_id]);
        let again: Organizers = asked(add(&colleague), &boss).await.json().expect("organizers");
        assert_eq!(again, team, "twice is once");
        asked(remove(&boss), &colleague).await.json::<Organizers>().expect("removed");
        let path = format!("/v1/schedules/{}", show.schedule_id);
        let refused = asked(mesh.http.delete(&path), &boss).await;
        assert_eq!(refused.code().as_deref(), Some("forbidden"));
        let off: Schedule = asked(mesh.http.delete(&path), &colleague).await.json().expect("off");
        let by = off.cancelled.and_then(|how| how.by).expect("who did it");
        assert_eq!((by.user_id, by.role), (colleague.user_id, Role::Organizer));
    });
}

#[test]
fn an_operator_may_do_what_an_organizer_may() {
    run(async {
        let mesh = shared().await;
        let (boss, operator) = (organizer(mesh).await, operator(mesh).await);
        let show = show_of(mesh, &boss).await;
        let opening = json!({
            "venue": "Another hall", "starts_at": show.starts_at,
            "seat_plan": "section,row,seat,price\nA,1,1,100\n",
        });
        let path = format!("/v1/concerts/{}/schedules", show.concert_id);
        let more = asked(mesh.http.post(path).json(&opening), &operator).await;
        more.json::<Schedule>().expect("another show of the same concert");
        let entered = json!({ "title": "Another concert", "artist": "A band" });
        let own = asked(mesh.http.post("/v1/concerts").json(&entered), &operator).await;
        own.json::<Concert>().expect("a concert of their own");
        // A fan may do none of this.
        let fan = mesh.fan(0).await;
        for path in [of(&show, &boss), format!("/v1/schedules/{}", show.schedule_id)] {
            assert_eq!(fan.delete(&path).await.code().as_deref(), Some("forbidden"));
        }
    });
}
