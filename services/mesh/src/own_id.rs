//! Ids that callers propose, made their own.
//!
//! A gateway proposes the id of what a command makes, so that it can wait for its end before it
//! asks. Anybody else may propose one too, and what is proposed could be another's payment, whose
//! saga would then tell of things that are none of it. So the service takes of a proposal only
//! the moment, and derives the rest from the caller as well.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use events::UserId;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// What becomes of an id that this user proposes.
pub fn own_id(user: UserId, proposed: Uuid) -> Uuid {
    let digest =
        Sha256::digest([user.0.as_bytes(), proposed.as_bytes()].map(|id| &id[..]).concat());
    let millis = u64::try_from(proposed.as_u128() >> 80).expect("48 bits");
    let mut rest = [0; 10];
    rest.copy_from_slice(&digest[..10]);
    Builder::from_unix_timestamp_millis(millis, &rest).into_uuid()
}

/// Whose an access token says to be. Nothing is verified: whoever lies is refused by the
/// service, and has only misled itself.
pub fn claimed_user(token: &str) -> Option<UserId> {
    #[derive(Deserialize)]
    struct Claimed {
        sub: UserId,
    }
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<Claimed>(&claims).ok().map(|claimed| claimed.sub)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_proposers_own_and_always_the_same() {
        let (fan, other) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let proposed = Uuid::now_v7();
        let id = own_id(fan, proposed);
        assert_eq!(id, own_id(fan, proposed));
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id.as_u128() >> 80, proposed.as_u128() >> 80, "the same moment");
        for stolen in [proposed, id] {
            assert_ne!(own_id(other, stolen), id);
            assert_ne!(own_id(other, stolen), stolen);
        }
    }

    #[test]
    fn whose_a_token_is_can_be_read_in_it() {
        let claims = r#"{"iss":"onsale/user","sub":"019a5c3e-7a10-7c41-9d0e-3b1f5e2a7c01"}"#;
        let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        let user = claimed_user(&token).expect("a user");
        assert_eq!(user.to_string(), "019a5c3e-7a10-7c41-9d0e-3b1f5e2a7c01");
        for none in ["", "a", "a.b.c", "e30.e30.", "...."] {
            assert_eq!(claimed_user(none), None, "{none}");
        }
    }
}
