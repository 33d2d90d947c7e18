//! `Idempotency-Key`: whose a key is, and what was asked under it.
//!
//! A key belongs to its caller, so that nobody can take or block another's. Whoever has not
//! logged in is known by what the request is about: the address that signs up, the token that
//! is exchanged. And a request is what it asks for, not how it is spelt: blanks, the order of
//! members, an id in capitals, a moment in another zone are the same request.

use events::{Command, Problem, UserId, codes};
use sha2::{Digest, Sha256};

use crate::{Caller, Idempotency};

/// What a refusal calls it.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// Characters of a key at most.
const CHARS_MAX: usize = 255;

/// Refuses what is no key.
///
/// # Errors
/// `invalid`.
pub fn check_key(key: &str) -> Result<(), Problem> {
    if (1..=CHARS_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    let what = format!("must have 1 to {CHARS_MAX} visible ASCII characters and no blank");
    Err(Problem::about(codes::INVALID, IDEMPOTENCY_KEY, what))
}

/// A key that stands for another request.
pub(crate) fn reused() -> Problem {
    let what = "was used with another request; use a new one for a new request";
    Problem::about(codes::IDEMPOTENCY_KEY_REUSED, IDEMPOTENCY_KEY, what)
}

/// The key under which a command came.
pub(crate) struct Key {
    endpoint: &'static str,
    user: Option<UserId>,
    text: String,
}

impl Key {
    /// A caller's key for an endpoint.
    ///
    /// # Errors
    /// `invalid` when it has the wrong shape.
    pub(crate) fn new(
        endpoint: &'static str,
        caller: &Caller,
        text: String,
    ) -> Result<Self, Problem> {
        check_key(&text)?;
        Ok(Self { endpoint, user: caller.user_id().ok(), text })
    }

    /// What the key stands for, with this command.
    pub(crate) fn of<C: Command>(&self, command: &C) -> Idempotency {
        let asked = serde_json::to_vec(command).expect("commands are plain data");
        // The key is in it as well: what was asked may have a password in it, and whoever
        // reads the store must not be able to try passwords.
        let key = [self.text.as_bytes(), b"\0"].concat();
        let body: [u8; 32] = Sha256::new().chain_update(key).chain_update(&asked).finalize().into();
        let who = match self.user {
            Some(user) => user.to_string(),
            None => {
                let owner = command.owner().map_or(asked, String::into_bytes);
                let digest = Sha256::digest(owner);
                format!("-{}", uuid::Uuid::from_slice(&digest[..16]).expect("16 bytes"))
            }
        };
        let scope = Sha256::digest(format!("{who} {} {}", self.endpoint, self.text)).into();
        Idempotency { scope, body }
    }
}

#[cfg(test)]
mod tests {
    use events::{
        concert::OpenSchedule,
        payment::Pay,
        point::Charge,
        user::{Jwks, LogIn, Refresh, Register},
    };
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::input::parse;

    fn fan(number: u128) -> Caller {
        Caller::User {
            user_id: UserId(Uuid::from_u128(number)),
            roles: vec![],
            expires_at: events::Timestamp(time::OffsetDateTime::UNIX_EPOCH),
        }
    }

    fn asked<C: Command>(caller: &Caller, key: &str, body: &str) -> Idempotency {
        let command: C = parse(body.as_bytes()).expect(body);
        Key::new(C::ENDPOINT, caller, key.to_owned()).unwrap().of(&command)
    }

    #[test]
    fn a_key_is_its_callers_and_its_endpoints() {
        let charge = |caller: &Caller, key| asked::<Charge>(caller, key, r#"{"amount":1}"#);
        let mine = charge(&fan(1), "k");
        assert_eq!(mine, charge(&fan(1), "k"));
        assert_ne!(mine.scope, charge(&fan(2), "k").scope);
        assert_ne!(mine.scope, charge(&fan(1), "K").scope);
        let id = json!({ "reservation_id": Uuid::from_u128(7) }).to_string();
        assert_ne!(mine.scope, asked::<Pay>(&fan(1), "k", &id).scope);
    }

    #[test]
    fn the_key_of_whoever_has_not_logged_in_is_that_of_the_address_or_the_token() {
        let sign_up = |email: &str, password: &str| {
            let body = json!({ "email": email, "password": password }).to_string();
            asked::<Register>(&Caller::Anonymous, "signup-1", &body)
        };
        let mine = sign_up("a@example.com", "one");
        assert_ne!(mine.scope, sign_up("b@example.com", "one").scope);
        assert_eq!(mine.scope, sign_up(" A@example.com", "one").scope);
        let other_password = sign_up("a@example.com", "two");
        assert_eq!(mine.scope, other_password.scope);
        assert_ne!(mine.body, other_password.body);
        let refresh = |token: &str| {
            let body = json!({ "refresh_token": token }).to_string();
            asked::<Refresh>(&Caller::Anonymous, "r1", &body)
        };
        assert_eq!(refresh("x"), refresh("x"));
        assert_ne!(refresh("x").scope, refresh("X").scope);
        let body = r#"{"email":"a@example.com","password":"one"}"#;
        assert_ne!(asked::<LogIn>(&Caller::Anonymous, "signup-1", body).scope, mine.scope);
        // Where nothing names an owner, the request does.
        assert_eq!(
            asked::<Jwks>(&Caller::Anonymous, "k", "{}"),
            asked::<Jwks>(&Caller::Anonymous, "k", ""),
        );
    }

    #[test]
    fn a_request_is_what_it_asks_for_however_it_is_spelt() {
        let first = r#"{"concert_id":"019a5c3e-7a10-7c41-9d0e-3b1f5e2a7c01","venue":"Hälle",
            "starts_at":"2030-06-01T10:00:00Z","seat_plan":"x","hold_secs":null}"#;
        let again = r#"{ "seat_plan":"x", "starts_at":"2030-06-01T19:00:00.000+09:00",
            "venue":"H\u00e4lle","concert_id":"019A5C3E-7A10-7C41-9D0E-3B1F5E2A7C01",
            "admission":{"pass_secs":300,"per_second":100,"active_max":1000} }
            "#;
        let other = first.replace("Hälle", "Halle");
        let asked = |body: &str| asked::<OpenSchedule>(&fan(1), "k", body);
        assert_eq!(asked(first), asked(again));
        assert_ne!(asked(first).body, asked(&other).body);
    }

    #[test]
    fn a_key_of_the_wrong_shape_is_invalid() {
        for bad in ["", "a b", &"x".repeat(256), "snowman ☃"] {
            let refused = Key::new("e", &Caller::Anonymous, bad.to_owned()).err().expect(bad);
            assert!(refused.is(codes::INVALID) && refused.extra["field"] == IDEMPOTENCY_KEY);
        }
    }
}
