//! Valid tokens, and every way in which a token can be invalid.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use events::{
    Claims, ScheduleId, Timestamp, UserId, codes,
    queue::{PassClaims, TicketClaims},
    user,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ring::hmac;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    keys::{KeyLife, KeyRecord, Keyring},
    token::Sealed,
    *,
};

const LIFE: KeyLife = KeyLife { rotate_secs: 1_000, lead_secs: 10, token_secs: 100 };
const FAN: UserId = UserId(Uuid::from_u128(1));
const SHOW: ScheduleId = ScheduleId(Uuid::from_u128(2));

fn at(secs: i64) -> Timestamp {
    Timestamp(OffsetDateTime::UNIX_EPOCH).plus_secs(1_800_000_000 + secs)
}

fn ring(now: Timestamp) -> Keyring {
    Keyring::open(vec![KeyRecord::generate(now).unwrap()], LIFE).unwrap()
}

fn access(now: Timestamp) -> AccessClaims {
    AccessClaims::new(FAN, vec![user::Role::Fan], now, 60)
}

fn pass(now: Timestamp) -> PassClaims {
    PassClaims::new(FAN, SHOW, 7, now, now.plus_secs(60))
}

/// An issuer whose published keys can change, and which counts how often they are fetched.
#[derive(Clone, Default)]
struct Issuer {
    published: Arc<Mutex<Option<Value>>>,
    fetches: Arc<AtomicUsize>,
}

impl Issuer {
    fn publishing(ring: &Keyring) -> Self {
        let issuer = Self::default();
        issuer.publish(ring);
        issuer
    }

    fn publish(&self, ring: &Keyring) {
        *self.published.lock().unwrap() = Some(ring.jwks());
    }

    fn verifier(&self) -> Verifier {
        let issuer = self.clone();
        Verifier::new(Arc::new(move |_| {
            issuer.fetches.fetch_add(1, SeqCst);
            let set = issuer.published.lock().unwrap().clone();
            Box::pin(async move { set.ok_or_else(|| codes::UNAVAILABLE.into()) })
        }))
    }

    fn fetches(&self) -> usize {
        self.fetches.load(SeqCst)
    }
}

/// The token with one part replaced.
fn with_part(token: &str, part: usize, value: &[u8]) -> String {
    let encoded = URL_SAFE_NO_PAD.encode(value);
    let mut parts: Vec<&str> = token.split('.').collect();
    parts[part] = &encoded;
    parts.join(".")
}

async fn refusal(verifier: &Verifier, token: &str) -> String {
    verifier.access(token, at(1)).await.unwrap_err().code
}

#[tokio::test]
async fn a_valid_token_names_its_caller() {
    let ring = ring(at(0));
    let verifier = Issuer::publishing(&ring).verifier();
    let token = ring.sign(&access(at(0)), at(0)).unwrap();
    let caller = verifier.access(&token, at(1)).await.unwrap();
    assert_eq!(caller.user_id().unwrap(), FAN);
    assert!(caller.has(user::Role::Fan) && !caller.has(user::Role::Operator));
}

#[tokio::test]
async fn a_token_is_valid_until_it_expires_and_no_longer_even_when_it_is_cached() {
    let ring = ring(at(0));
    let verifier = Issuer::publishing(&ring).verifier();
    let token = ring.sign(&access(at(0)), at(0)).unwrap();
    assert!(verifier.access(&token, at(0)).await.is_ok());
    assert!(verifier.access(&token, at(60 + LEEWAY_SECS - 1)).await.is_ok());
    let refusal = verifier.access(&token, at(60 + LEEWAY_SECS)).await.unwrap_err();
    assert!(refusal.is(codes::TOKEN_EXPIRED));

    let fresh = Issuer::publishing(&ring).verifier();
    assert!(fresh.access(&token, at(62)).await.unwrap_err().is(codes::TOKEN_EXPIRED));
}

#[tokio::test]
async fn an_altered_token_is_forged_even_if_it_has_expired() {
    let ring = ring(at(0));
    let verifier = Issuer::publishing(&ring).verifier();
    let token = ring.sign(&access(at(0)), at(0)).unwrap();
    let mut body: Value = json!(access(at(-1_000)));
    body["iss"] = json!(AccessClaims::ISSUER);
    body["aud"] = json!(AccessClaims::AUDIENCE);
    body["roles"] = json!(["operator"]);
    let forged = with_part(&token, 1, body.to_string().as_bytes());
    assert_eq!(refusal(&verifier, &forged).await, "unauthenticated");
    assert_eq!(refusal(&verifier, &with_part(&token, 2, &[0; 64])).await, "unauthenticated");
}

#[tokio::test]
async fn the_algorithm_is_never_the_tokens_choice() {
    let ring = ring(at(0));
    let jwk = ring.jwks()["keys"][0].clone();
    let verifier = Issuer::publishing(&ring).verifier();
    let token = ring.sign(&access(at(0)), at(0)).unwrap();

    let none = json!({"alg": "none", "typ": "JWT", "kid": jwk["kid"]}).to_string();
    assert_eq!(refusal(&verifier, &with_part(&token, 0, none.as_bytes())).await, "unauthenticated");

    // The classic attack: the public key, which is no secret, used as an HMAC secret.
    let x = jwk["x"].as_str().unwrap();
    for secret in [URL_SAFE_NO_PAD.decode(x).unwrap(), x.as_bytes().to_vec()] {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = jwk["kid"].as_str().map(str::to_owned);
        let part = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let claims = json!(Sealed::new(&access(at(0))));
        let signed = format!("{}.{}", part(json!(header)), part(claims));
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let signature = hmac::sign(&secret, signed.as_bytes());
        let forged = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        assert_eq!(refusal(&verifier, &forged).await, "unauthenticated");
    }
}

#[tokio::test]
async fn a_token_is_only_valid_as_its_own_kind() {
    let ring = ring(at(0));
    let verifier = Issuer::publishing(&ring).verifier();
    let a_pass = ring.sign(&pass(at(0)), at(0)).unwrap();
    let ticket = TicketClaims { sub: FAN, schedule: SHOW, ticket: 9 };
    let a_ticket = ring.sign(&ticket, at(0)).unwrap();
    let an_access = ring.sign(&access(at(0)), at(0)).unwrap();
    assert_eq!(refusal(&verifier, &a_pass).await, "unauthenticated");
    assert_eq!(refusal(&verifier, &a_ticket).await, "unauthenticated");
    for other in [&an_access, &a_ticket] {
        let pass = verifier.verify::<PassClaims>(other, at(1)).await;
        assert_eq!(pass, Err(TokenError::Forged));
    }
    assert_eq!(verifier.verify(&a_pass, at(1)).await, Ok(pass(at(0))));
    assert_eq!(ring.verify(&a_ticket, at(100_000)), Ok(ticket));
    assert_eq!(ring.verify::<TicketClaims>(&a_pass, at(0)), Err(TokenError::Forged));
}

#[tokio::test]
async fn a_text_that_is_no_token_is_refused() {
    let verifier = Issuer::publishing(&ring(at(0))).verifier();
    let long = "a.b.c".repeat(10_000);
    for text in ["", ".", "..", "a.b.c", "e30.e30.e30", "\u{0}", "🎫.🎫.🎫", &long] {
        assert_eq!(refusal(&verifier, text).await, "unauthenticated", "{text:.20}");
    }
}

#[tokio::test]
async fn a_token_without_issuer_or_key_id_is_refused() {
    let record = KeyRecord::generate(at(0)).unwrap();
    let ring = Keyring::open(vec![record.clone()], LIFE).unwrap();
    let verifier = Issuer::publishing(&ring).verifier();
    let key = EncodingKey::from_ed_der(&record.pkcs8);
    let mut header = Header::new(Algorithm::EdDSA);
    let claims = access(at(0));
    let anonymous = jsonwebtoken::encode(&header, &Sealed::new(&claims), &key).unwrap();
    assert_eq!(refusal(&verifier, &anonymous).await, "unauthenticated");
    header.kid = Some(record.kid);
    let bare = jsonwebtoken::encode(&header, &claims, &key).unwrap();
    assert_eq!(refusal(&verifier, &bare).await, "unauthenticated");
}

#[tokio::test]
async fn forged_key_ids_fetch_the_set_once_a_second_at_most() {
    let issuer = Issuer::publishing(&ring(at(0)));
    let verifier = issuer.verifier();
    for _ in 0..50 {
        let token = ring(at(0)).sign(&access(at(0)), at(0)).unwrap();
        assert_eq!(refusal(&verifier, &token).await, "unauthenticated");
    }
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn callers_that_need_the_same_new_key_wait_for_one_fetch() {
    let ring = ring(at(0));
    let issuer = Issuer::publishing(&ring);
    let verifier = issuer.verifier();
    let token = ring.sign(&access(at(0)), at(0)).unwrap();
    let all = futures::future::join_all((0..50).map(|_| verifier.access(&token, at(0)))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn a_token_of_an_unreachable_issuer_is_unverifiable_but_not_forged() {
    let ring = ring(at(0));
    let issuer = Issuer::default();
    let verifier = issuer.verifier();
    let token = ring.sign(&access(at(0)), at(0)).unwrap();
    assert_eq!(refusal(&verifier, &token).await, "unavailable");
    assert_eq!(refusal(&verifier, &token).await, "unavailable");
    assert_eq!(issuer.fetches(), 1);
    issuer.publish(&ring);
    assert!(verifier.access(&token, at(3)).await.is_ok());
}

#[tokio::test]
async fn a_rotated_key_is_fetched_when_it_first_signs_and_a_removed_one_is_dropped() {
    let mut ring = ring(at(0));
    let issuer = Issuer::publishing(&ring);
    let verifier = issuer.verifier();
    let early = ring.sign(&access(at(1_000)), at(1_000)).unwrap();
    assert!(verifier.access(&early, at(1_000)).await.is_ok());

    ring.rotate(at(1_000)).unwrap();
    issuer.publish(&ring);
    let late = ring.sign(&access(at(1_010)), at(1_010)).unwrap();
    assert!(verifier.access(&late, at(1_010)).await.is_ok());
    assert!(verifier.access(&early, at(1_010)).await.is_ok());

    // The first key is removed before its time, as after a theft.
    let left = ring.records().last().unwrap().clone();
    issuer.publish(&Keyring::open(vec![left], LIFE).unwrap());
    verifier.gate::<AccessClaims>().keys.refresh(at(1_020)).await.unwrap();
    assert!(verifier.access(&late, at(1_020)).await.is_ok());
    let refusal = verifier.access(&early, at(1_020)).await.unwrap_err();
    assert!(refusal.is(codes::UNAUTHENTICATED));
}
