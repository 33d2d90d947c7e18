//! Ids proposed by callers, bound to the caller.
//!
//! The gateway proposes the id of what a command creates, so that it can wait for the outcome
//! before it sends the command. Any other client may propose an id too, and it could be the id
//! of another account's payment, whose saga would then contain foreign events. So a service
//! takes only the timestamp from a proposal, and derives the rest from the caller as well.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use events::UserId;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// The id that a service makes of the one this user proposes.
pub fn own_id(user: UserId, proposed: Uuid) -> Uuid {
    let digest =
        Sha256::digest([user.0.as_bytes(), proposed.as_bytes()].map(|id| &id[..]).concat());
    let millis = u64::try_from(proposed.as_u128() >> 80).expect("48 bits");
    let mut rest = [0; 10];
    rest.copy_from_slice(&digest[..10]);
    Builder::from_unix_timestamp_millis(millis, &rest).into_uuid()
}

/// The user that an access token claims to be of. Nothing is verified: a caller with a forged
/// token is refused by the service, and has only misled itself.
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
    fn an_id_depends_on_its_proposer_and_is_always_the_same() {
        let (fan, other) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let proposed = Uuid::now_v7();
        let id = own_id(fan, proposed);
        assert_eq!(id, own_id(fan, proposed));
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id.as_u128() >> 80, proposed.as_u128() >> 80, "the same timestamp");
        for stolen in [proposed, id] {
            assert_ne!(own_id(other, stolen), id);
            assert_ne!(own_id(other, stolen), stolen);
        }
    }

    #[test]
    fn the_user_of_a_token_is_read_from_its_claims() {
        let claims = r#"{"iss":"onsale/user","sub":"019a5c3e-7a10-7c41-9d0e-3b1f5e2a7c01"}"#;
        let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        let user = claimed_user(&token).expect("a user");
        assert_eq!(user.to_string(), "019a5c3e-7a10-7c41-9d0e-3b1f5e2a7c01");
        for none in ["", "a", "a.b.c", "e30.e30.", "...."] {
            assert_eq!(claimed_user(none), None, "{none}");
        }
    }
}
