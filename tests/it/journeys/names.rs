//! Names and other texts: two spellings that look the same are the same name.

use events::{
    concert::{Concert, SeatMap, SeatPlan, SeatState},
    notification::Contact,
    reservation::Reservation,
};
use harness::mesh::{Mesh, eventually, run, shared};
use serde_json::{Value, json};
use uuid::Uuid;

const HEADER: &str = "section,row,seat,price\n";
/// The same seat name, decomposed as a Mac types it and composed as all others do.
const APART: &str = "R\u{1109}\u{1165}\u{11a8}";
const COMPOSED: &str = "R석";

async fn concert(mesh: &Mesh, title: &str, artist: &str) -> onsale::http::Answer {
    let body = json!({ "title": title, "artist": artist });
    let ask = mesh.http.post("/v1/concerts").token(&mesh.organizer.access_token);
    ask.json(&body).send().await.expect("an answer")
}

#[test]
fn a_seat_has_one_owner_whichever_spelling_a_request_uses() {
    run(async {
        let mesh = shared().await;
        let plan = format!("{HEADER}{APART},A,1,100\n{APART},A,2,100\n");
        let schedule = mesh.open(1, |opening| opening.seat_plan = plan).await.schedule_id;
        let (one, other) = (mesh.fan(0).await, mesh.fan(0).await);
        let hold = one.hold(schedule, &[&format!("{APART}-A-1")]).await;
        assert_eq!(hold.seats[0].seat.0, format!("{COMPOSED}-A-1"));
        let pass = other.admitted(schedule).await;
        for spelling in [APART, COMPOSED, "Ｒ석"] {
            let refused = other.ask_for(schedule, &[&format!("{spelling}-A-1")], &pass).await;
            assert_eq!(refused.code().as_deref(), Some("seat_taken"), "{spelling}");
        }
        let twice = [format!("{APART}-A-2"), format!("{COMPOSED}-A-2")];
        let refused = other.ask_for(schedule, &[&twice[0], &twice[1]], &pass).await;
        assert_eq!(refused.code().as_deref(), Some("invalid"));
        one.seat_becomes(schedule, &format!("{COMPOSED}-A-1"), SeatState::Held).await;
    });
}

#[test]
fn a_hall_keeps_its_names_and_a_seat_is_held_by_them() {
    run(async {
        let mesh = shared().await;
        let plan = format!(
            "{HEADER}VIP석 1층 A구역,A,1,100\nOrchestra-Left,A-A,1,100\nBox 3/4,1. Rang,King's,100\n\
             STANDING,,1-300,100\n"
        );
        let schedule = mesh.open(1, |opening| opening.seat_plan = plan).await;
        assert_eq!(schedule.seats_total, 303);
        let schedule = schedule.schedule_id;
        let path = format!("/v1/schedules/{schedule}");
        let fan = mesh.fan(0).await;
        let read: SeatPlan = fan.get(&format!("{path}/plan")).await.json().expect("a plan");
        let named: Vec<_> = read.seats.iter().map(|it| (&*it.section, &*it.row)).collect();
        let names = [("VIP석 1층 A구역", "A"), ("Orchestra-Left", "A-A"), ("Box 3/4", "1. Rang")];
        assert_eq!(named[..3], names);
        assert_eq!(named[3], ("STANDING", ""));

        let pass = fan.admitted(schedule).await;
        let twice = ["Orchestra-Left-A-A-1", "Orchestra_Left-A_A-1"];
        let refused = fan.ask_for(schedule, &twice, &pass).await;
        assert_eq!(refused.code().as_deref(), Some("invalid"), "one seat, named twice");
        let asked = [
            "VIP석  1층 A구역-A-1",
            "Orchestra-Left-A-A-1",
            "Box 3/4-1. Rang-King's",
            "STANDING-17",
        ];
        let held = fan.ask_for(schedule, &asked, &pass).await;
        let held: Reservation = held.json().expect("a hold");
        let ids: Vec<_> = held.seats.iter().map(|it| &*it.seat.0).collect();
        let expected = [
            "VIP석 1층 A구역-A-1",
            "Orchestra_Left-A_A-1",
            "Box 3/4-1. Rang-King's",
            "STANDING--17",
        ];
        assert_eq!(ids, expected);
        for seat in expected {
            fan.seat_becomes(schedule, seat, SeatState::Held).await;
        }
        let whole: SeatMap = fan.get(&format!("{path}/seats")).await.json().expect("a map");
        let counts: Vec<_> =
            whole.sections.iter().map(|it| (&*it.section, it.free, it.held)).collect();
        assert_eq!(
            counts[1..],
            [("Orchestra-Left", 0, 1), ("Box 3/4", 0, 1), ("STANDING", 299, 1)]
        );
        for section in ["Orchestra-Left", "Orchestra%2DLeft", "Orchestra_Left"] {
            let part = fan.get(&format!("{path}/seats?section={section}")).await;
            let part: SeatMap = part.json().expect("a map");
            assert_eq!((part.sections.len(), part.seats.len()), (1, 1), "{section}");
        }
    });
}

#[test]
fn a_search_finds_what_people_see_and_has_no_wildcards() {
    run(async {
        let mesh = shared().await;
        // A mark of its own, so that the concerts of other tests are not found.
        let mark = format!("q{}", Uuid::now_v7().simple());
        for title in ["Cafe\u{301} 100% Live", "1000 Nights", "AC/DC a_b \\o/ it's", "東京事変"]
        {
            let entered: Concert =
                concert(mesh, title, &mark.to_uppercase()).await.json().expect("a concert");
            assert!(!entered.title.contains('\u{301}'), "{}", entered.title);
        }
        let found = async |asked: &str| -> Vec<String> {
            let query: String =
                format!("{mark} {asked}").bytes().map(|byte| format!("%{byte:02x}")).collect();
            let path = format!("/v1/concerts?q={query}");
            let page: Value =
                mesh.http.get(path).send().await.expect("an answer").json().expect("a page");
            let items = page["items"].as_array().expect("items");
            items.iter().map(|it| it["title"].as_str().expect("a title").to_owned()).collect()
        };
        assert_eq!(found("").await.len(), 4);
        for asked in ["CAFÉ", "cafe\u{301}", "ｃａｆé", "100%", "%", "live 100"] {
            assert_eq!(found(asked).await, ["Café 100% Live"], "{asked}");
        }
        for asked in ["_", "a_b", "\\", "\\o/", "'", "it’s", "dc", "ac/dc", "/dc"] {
            assert_eq!(found(asked).await, ["AC/DC a_b \\o/ it's"], "{asked}");
        }
        assert_eq!(found("事変").await, ["東京事変"]);
        for asked in ["*", "1_0", "10%0", "\\%", "\\_", ":*", "&", "!", "100\\", "ights"] {
            assert!(found(asked).await.is_empty(), "{asked}");
        }
    });
}

#[test]
fn two_spellings_of_one_address_are_one_account_and_any_keyboard_can_log_in() {
    run(async {
        let mesh = shared().await;
        let mark = Uuid::now_v7().simple().to_string();
        let send = async |path: &str, email: &str, password: &str| {
            let body = json!({ "email": email, "password": password });
            mesh.http
                .post(path)
                .json(&body)
                .send_patiently(std::time::Duration::from_secs(20))
                .await
        };
        let (typed, apart) = (
            "pässwörd-전화-123",
            "pa\u{308}sswo\u{308}rd-\u{110c}\u{1165}\u{11ab}\u{1112}\u{116a}-123",
        );
        let made = send("/v1/users", &format!("jose\u{301}.{mark}@bücher.example"), typed).await;
        assert_eq!(made.expect("an answer").status, 201);
        for spelling in ["josé.MARK@bücher.example", "JOSÉ.MARK@BÜCHER.EXAMPLE"] {
            for domain in ["bücher.example", "xn--bcher-kva.example", "ｂücher。example"] {
                let email = spelling.replace("MARK", &mark).replace("bücher.example", domain);
                let again = send("/v1/users", &email, typed).await.expect("an answer");
                assert_eq!(again.code().as_deref(), Some("email_taken"), "{email}");
                let session = send("/v1/sessions", &email, apart).await.expect("an answer");
                assert_eq!(session.status, 201, "{email}");
            }
        }
        for taken in [format!("try..{mark}@docomo.ne.jp"), format!("ends{mark}.@docomo.ne.jp")] {
            let made = send("/v1/users", &taken, "a long pass phrase").await.expect("an answer");
            assert_eq!(made.status, 201, "{taken}");
        }
    });
}

#[test]
fn a_seat_plan_is_accepted_as_a_spreadsheet_saves_it() {
    run(async {
        let mesh = shared().await;
        let concert: Concert = concert(mesh, "A hall", "A venue").await.json().expect("a concert");
        let path = format!(
            "/v1/concerts/{}/schedules?venue=Hall&starts_at={}",
            concert.concert_id,
            mesh::clock::now().plus_secs(86_400)
        );
        let utf16: Vec<u8> = format!("\u{feff}{HEADER}{COMPOSED},A,1,100\n")
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let korean = [HEADER.as_bytes(), b"R\xbc\xae,A,1,100\n"].concat();
        for (content_type, body) in [
            (
                "text/csv",
                format!("\u{feff}sep=;\r\nSeat;Row;Section;Price;\r\n1;A;{APART};100;\r\n;;;;\r\n")
                    .into_bytes(),
            ),
            ("text/csv; charset=utf8", format!("{HEADER}{COMPOSED},A,1,\"100\"\n").into_bytes()),
            ("text/csv", utf16),
            ("text/csv; charset=euc-kr", korean),
            ("application/vnd.ms-excel", format!("{HEADER}{COMPOSED},A,１,100.00\n").into_bytes()),
        ] {
            let ask = mesh.http.post(path.clone()).token(&mesh.organizer.access_token);
            let answer = ask.header("content-type", content_type).body(body).send().await;
            let answer = answer.expect("an answer");
            assert_eq!(answer.status, 201, "{content_type}: {answer:?}");
            let schedule = answer.json::<Value>().expect("a schedule")["schedule_id"].clone();
            let schedule = schedule.as_str().expect("an id").parse().expect("an id");
            let fan = mesh.fan(0).await;
            fan.hold(schedule, &[&format!("{COMPOSED}-A-1")]).await;
        }
    });
}

#[test]
fn a_telephone_number_is_kept_as_it_can_be_dialled() {
    run(async {
        let mesh = shared().await;
        let fan = mesh.fan(0).await;
        for phone in ["+8201012345678", "+82 10-1234-5678", "010-1234-5678", "０１０ 1234 5678"]
        {
            let ask = mesh.http.ask(hyper::Method::PUT, "/v1/me/contact").token(fan.token());
            let body = json!({ "phone": phone, "locale": "ko-KR" });
            let kept: Contact =
                ask.json(&body).send().await.expect("an answer").json().expect("a contact");
            assert_eq!(kept.phone.as_deref(), Some("+821012345678"), "{phone}");
        }
        eventually("the number is kept", || async {
            let kept: Contact = fan.get("/v1/me/contact").await.json().ok()?;
            (kept.phone.as_deref() == Some("+821012345678")).then_some(())
        })
        .await;
    });
}
