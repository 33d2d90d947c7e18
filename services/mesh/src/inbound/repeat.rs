//! `Idempotency-Key`: the scope of a key, and the request it stands for.
//!
//! A key belongs to its caller, so that no caller can use or block the key of another. A caller
//! without a token is identified by what the request is about: the address that signs up, the
//! token that is exchanged. Two requests are the same when they mean the same: blanks, the order
//! of members, an id in capitals or a time in another zone make no difference.

use events::{Command, Problem, UserId, codes};
use sha2::{Digest, Sha256};

use crate::{Caller, Idempotency};

/// The header's name in a refusal.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// Maximum length of a key in characters.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;

/// Refuses a malformed key.
///
/// # Errors
/// `invalid`.
pub fn check_key(key: &str) -> Result<(), Problem> {
    if (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.len())
        && key.bytes().all(|b| b.is_ascii_graphic())
    {
        return Ok(());
    }
    let what =
        format!("must have 1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible ASCII characters and no blank");
    Err(Problem::about(codes::INVALID, IDEMPOTENCY_KEY, what))
}

/// The refusal of a key that was used with another request.
pub(crate) fn reused() -> Problem {
    let what = "was used with another request; use a new one for a new request";
    Problem::about(codes::IDEMPOTENCY_KEY_REUSED, IDEMPOTENCY_KEY, what)
}

/// The idempotency key of a command.
pub(crate) struct Key {
    endpoint: &'static str,
    user: Option<UserId>,
    text: String,
}

impl Key {
    /// A caller's key for an endpoint.
    ///
    /// # Errors
    /// `invalid` when it is malformed.
    pub(crate) fn new(
        endpoint: &'static str,
        caller: &Caller,
        text: String,
    ) -> Result<Self, Problem> {
        check_key(&text)?;
        Ok(Self { endpoint, user: caller.user_id().ok(), text })
    }

    /// The key's scope, and the digest of this command.
    pub(crate) fn of<C: Command>(&self, command: &C) -> Idempotency {
        let request = serde_json::to_vec(command).expect("commands are plain data");
        // The digest covers the key as well: a request may contain a password, and a reader of
        // the store must not be able to guess passwords by their digest.
        let key = [self.text.as_bytes(), b"\0"].concat();
        let body: [u8; 32] =
            Sha256::new().chain_update(key).chain_update(&request).finalize().into();
        let caller = match self.user {
            Some(user) => user.to_string(),
            None => {
                let owner = command.owner().map_or(request, String::into_bytes);
                let digest = Sha256::digest(owner);
                format!("-{}", uuid::Uuid::from_slice(&digest[..16]).expect("16 bytes"))
            }
        };
        let scope = Sha256::digest(format!("{caller} {} {}", self.endpoint, self.text)).into();
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
    use crate::inbound::input::parse;

    fn fan(number: u128) -> Caller {
        Caller::User {
            user_id: UserId(Uuid::from_u128(number)),
            roles: vec![],
            expires_at: events::Timestamp(time::OffsetDateTime::UNIX_EPOCH),
        }
    }

    fn sent<C: Command>(caller: &Caller, key: &str, body: &str) -> Idempotency {
        let command: C = parse(body.as_bytes()).expect(body);
        Key::new(C::ENDPOINT, caller, key.to_owned()).unwrap().of(&command)
    }

    #[test]
    fn a_key_is_scoped_to_its_caller_and_its_endpoint() {
        let charge = |caller: &Caller, key| sent::<Charge>(caller, key, r#"{"amount":1}"#);
        let mine = charge(&fan(1), "k");
        assert_eq!(mine, charge(&fan(1), "k"));
        assert_ne!(mine.scope, charge(&fan(2), "k").scope);
        assert_ne!(mine.scope, charge(&fan(1), "K").scope);
        let id = json!({ "reservation_id": Uuid::from_u128(7) }).to_string();
        assert_ne!(mine.scope, sent::<Pay>(&fan(1), "k", &id).scope);
    }

    #[test]
    fn the_key_of_an_anonymous_caller_is_scoped_to_the_address_or_the_token() {
        let sign_up = |email: &str, password: &str| {
            let body = json!({ "email": email, "password": password }).to_string();
            sent::<Register>(&Caller::Anonymous, "signup-1", &body)
        };
        let mine = sign_up("a@example.com", "one");
        assert_ne!(mine.scope, sign_up("b@example.com", "one").scope);
        assert_eq!(mine.scope, sign_up(" A@example.com", "one").scope);
        let other_password = sign_up("a@example.com", "two");
        assert_eq!(mine.scope, other_password.scope);
        assert_ne!(mine.body, other_password.body);
        let refresh = |token: &str| {
            let body = json!({ "refresh_token": token }).to_string();
            sent::<Refresh>(&Caller::Anonymous, "r1", &body)
        };
        assert_eq!(refresh("x"), refresh("x"));
        assert_ne!(refresh("x").scope, refresh("X").scope);
        let body = r#"{"email":"a@example.com","password":"one"}"#;
        assert_ne!(sent::<LogIn>(&Caller::Anonymous, "signup-1", body).scope, mine.scope);
        // Where the request names no owner, the whole request is the scope.
        assert_eq!(
            sent::<Jwks>(&Caller::Anonymous, "k", "{}"),
            sent::<Jwks>(&Caller::Anonymous, "k", ""),
        );
    }

    #[test]
    fn two_spellings_of_a_request_are_the_same_request() {
        let first = r#"{"concert_id":"019a5c3e-7a10-7c41-9d0e-3b1f5e2a7c01","venue":"Hälle",
            "starts_at":"2030-06-01T10:00:00Z","seat_plan":"x","hold_secs":null}"#;
        let again = r#"{ "seat_plan":"x", "starts_at":"2030-06-01T19:00:00.000+09:00",
            "venue":"H\u00e4lle","concert_id":"019A5C3E-7A10-7C41-9D0E-3B1F5E2A7C01",
            "admission":{"pass_secs":300,"per_second":100,"active_max":1000} }
            "#;
        let other = first.replace("Hälle", "Halle");
        let sent = |body: &str| sent::<OpenSchedule>(&fan(1), "k", body);
        assert_eq!(sent(first), sent(again));
        assert_ne!(sent(first).body, sent(&other).body);
    }

    #[test]
    fn a_malformed_key_is_invalid() {
        for bad in ["", "a b", &"x".repeat(256), "snowman ☃"] {
            let refused = Key::new("e", &Caller::Anonymous, bad.to_owned()).err().expect(bad);
            assert!(refused.is(codes::INVALID) && refused.extra["field"] == IDEMPOTENCY_KEY);
        }
    }
}
