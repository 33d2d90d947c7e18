//! The keyring of an issuer: Ed25519 keys that are rotated.
//!
//! Only the time of a key's creation is stored; its states follow from that and from its
//! successor. So a rotation only ever adds a key and drops obsolete ones:
//!
//! ```text
//!  made ──lead──▶ signs ──────▶ successor signs ──lead + longest token──▶ dropped
//!  └───────────────────── published in the key set ────────────────────┘
//! ```
//!
//! A new key is published for a while before it signs: by the time its first token is seen,
//! every instance has loaded it and every verifier can fetch it from any instance. The caller
//! decides where the records are stored, and under which lock two instances rotate.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use events::{Claims, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    signatures,
    token::{self, TokenError},
};

/// The lifetimes of keys and tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyLife {
    /// A successor is created after this long.
    pub rotate_secs: i64,
    /// A key is published this long before it signs; instances reload more often.
    pub lead_secs: i64,
    /// The longest lifetime of a token: the last one must stay verifiable for as long.
    pub token_secs: i64,
}

impl KeyLife {
    /// A new key each day, published ten minutes ahead, for tokens of at most this lifetime.
    pub const fn daily(token_secs: i64) -> Self {
        Self { rotate_secs: 86_400, lead_secs: 600, token_secs }
    }
}

/// A key as its owner stores it. Secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its name in token headers and in the key set: the RFC 7638 thumbprint.
    pub kid: String,
    /// The private key, PKCS #8 DER.
    #[serde(with = "in_base64")]
    pub pkcs8: Vec<u8>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl KeyRecord {
    /// Generates a new key.
    ///
    /// # Errors
    /// When the system provides no randomness.
    pub fn generate(now: Timestamp) -> Result<Self, KeyError> {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let pkcs8 = made.map_err(|_| KeyError::NoRandomness)?.as_ref().to_vec();
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|_| KeyError::Broken)?;
        Ok(Self { kid: thumbprint(&encode(pair.public_key())), pkcs8, created_at: now })
    }
}

impl fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRecord {{ kid: {:?}, created_at: {}, .. }}", self.kid, self.created_at)
    }
}

/// Why a key cannot be made or used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The system provides no randomness.
    #[error("no randomness for a new key")]
    NoRandomness,
    /// A stored key is not an Ed25519 private key.
    #[error("a stored key cannot be read")]
    Broken,
    /// There is no key yet; rotate first.
    #[error("the keyring is empty")]
    Empty,
}

/// What a rotation has to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// Whether to create a new key.
    pub add: bool,
    /// The keys whose tokens have all expired.
    pub drop: Vec<String>,
}

impl Due {
    /// Whether there is nothing to do.
    pub fn is_nothing(&self) -> bool {
        !self.add && self.drop.is_empty()
    }
}

/// What a rotation did: to be stored before anything is signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Store this.
    pub added: Option<KeyRecord>,
    /// Delete these.
    pub dropped: Vec<String>,
}

/// The keys of one issuer, oldest first.
#[derive(Clone)]
pub struct Keyring {
    life: KeyLife,
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    record: KeyRecord,
    /// The public key in base64url, as the key set has it.
    x: String,
    signing: EncodingKey,
    verifying: DecodingKey,
}

impl Keyring {
    /// Opens the stored keys. At the first start there are none, and [`Keyring::rotate`] creates
    /// one.
    ///
    /// # Errors
    /// `Broken` when a record is not an Ed25519 private key.
    pub fn open(mut records: Vec<KeyRecord>, life: KeyLife) -> Result<Self, KeyError> {
        records.sort_by(|a, b| (a.created_at, &a.kid).cmp(&(b.created_at, &b.kid)));
        let keys = records.into_iter().map(Key::open).collect::<Result<_, _>>()?;
        Ok(Self { life, keys })
    }

    /// The records to store, oldest first.
    pub fn records(&self) -> impl Iterator<Item = &KeyRecord> {
        self.keys.iter().map(|key| &key.record)
    }

    /// What is due at `now`. Nothing is changed.
    pub fn due(&self, now: Timestamp) -> Due {
        let add = self
            .keys
            .last()
            .is_none_or(|newest| now >= newest.created_at().plus_secs(self.life.rotate_secs));
        let gone_after_secs = 2 * self.life.lead_secs + self.life.token_secs;
        let drop = self
            .keys
            .windows(2)
            .filter(|pair| now > pair[1].created_at().plus_secs(gone_after_secs))
            .map(|pair| pair[0].record.kid.clone())
            .collect();
        Due { add, drop }
    }

    /// Does what is due, in memory; the caller stores the result.
    ///
    /// # Errors
    /// When no key can be created.
    pub fn rotate(&mut self, now: Timestamp) -> Result<Rotation, KeyError> {
        let due = self.due(now);
        let added = due.add.then(|| KeyRecord::generate(now)).transpose()?;
        if let Some(record) = &added {
            self.keys.push(Key::open(record.clone())?);
        }
        self.keys.retain(|key| !due.drop.contains(&key.record.kid));
        Ok(Rotation { added, dropped: due.drop })
    }

    /// Signs a token.
    ///
    /// # Errors
    /// When there is no key, or a broken one.
    pub fn sign<C: Claims>(&self, claims: &C, now: Timestamp) -> Result<String, KeyError> {
        let key = self.signer(now)?;
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(key.record.kid.clone());
        jsonwebtoken::encode(&header, &token::Sealed::new(claims), &key.signing)
            .map_err(|_| KeyError::Broken)
    }

    /// Verifies a token of this keyring, for an issuer that reads tokens it has signed.
    ///
    /// # Errors
    /// What is wrong with the token.
    pub fn verify<C: Claims>(&self, token: &str, now: Timestamp) -> Result<C, TokenError> {
        token::verify(token, now, |kid| {
            self.keys.iter().find(|key| key.record.kid == kid).map(|key| key.verifying.clone())
        })
    }

    /// 32 bytes that only a holder of these keys can derive from `text`, for as long as the
    /// same key signs.
    ///
    /// # Errors
    /// When there is no key.
    pub fn derive(&self, text: &[u8], now: Timestamp) -> Result<[u8; 32], KeyError> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.signer(now)?.record.pkcs8);
        hmac::sign(&key, text).as_ref().try_into().map_err(|_| KeyError::Broken)
    }

    /// The public halves, as a JSON Web Key Set (RFC 8037).
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self
            .keys
            .iter()
            .map(|Key { record, x, .. }| {
                json!({
                    "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
                    "kid": record.kid, "x": x,
                })
            })
            .collect();
        json!({ "keys": keys })
    }

    /// The newest key that has been published long enough; the oldest when none has.
    fn signer(&self, now: Timestamp) -> Result<&Key, KeyError> {
        self.keys
            .iter()
            .rev()
            .find(|key| now >= key.created_at().plus_secs(self.life.lead_secs))
            .or(self.keys.first())
            .ok_or(KeyError::Empty)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.records()).finish()
    }
}

impl Key {
    fn open(record: KeyRecord) -> Result<Self, KeyError> {
        signatures::install();
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&record.pkcs8)
            .map_err(|_| KeyError::Broken)?;
        let x = encode(pair.public_key());
        let signing = EncodingKey::from_ed_der(&record.pkcs8);
        let verifying = DecodingKey::from_ed_components(&x).map_err(|_| KeyError::Broken)?;
        Ok(Self { record, x, signing, verifying })
    }

    fn created_at(&self) -> Timestamp {
        self.record.created_at
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// RFC 7638: the SHA-256 of the key's required members in alphabetical order.
fn thumbprint(x: &str) -> String {
    encode(Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#)))
}

mod in_base64 {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::AccessClaims;

    const LIFE: KeyLife = KeyLife { rotate_secs: 1_000, lead_secs: 10, token_secs: 100 };

    fn at(secs: i64) -> Timestamp {
        Timestamp(time::OffsetDateTime::UNIX_EPOCH).plus_secs(secs)
    }

    fn kid_that_signs(ring: &Keyring, now: Timestamp) -> String {
        let claims = AccessClaims::new(events::UserId(uuid::Uuid::nil()), vec![], now, 60);
        let token = ring.sign(&claims, now).unwrap();
        jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
    }

    #[test]
    fn the_first_key_signs_at_once_and_a_successor_only_after_it_was_published() {
        let mut ring = Keyring::open(vec![], LIFE).unwrap();
        let first = ring.rotate(at(0)).unwrap().added.unwrap().kid;
        assert_eq!(kid_that_signs(&ring, at(0)), first);
        assert!(ring.due(at(999)).is_nothing());

        let second = ring.rotate(at(1_000)).unwrap().added.unwrap().kid;
        assert_eq!(kid_that_signs(&ring, at(1_009)), first);
        assert_eq!(kid_that_signs(&ring, at(1_010)), second);
    }

    #[test]
    fn an_earlier_key_stays_published_until_its_last_token_has_expired() {
        let mut ring = Keyring::open(vec![], LIFE).unwrap();
        let first = ring.rotate(at(0)).unwrap().added.unwrap().kid;
        ring.rotate(at(1_000)).unwrap();
        assert_eq!(ring.due(at(1_120)), Due::default());
        assert_eq!(ring.rotate(at(1_121)).unwrap().dropped, [first]);
        assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_key_without_a_successor_is_never_dropped() {
        let mut ring = Keyring::open(vec![], LIFE).unwrap();
        ring.rotate(at(0)).unwrap();
        let due = ring.due(at(1_000_000));
        assert!(due.add && due.drop.is_empty());
    }

    #[test]
    fn a_stored_keyring_opens_again_as_it_was() {
        let mut ring = Keyring::open(vec![], LIFE).unwrap();
        ring.rotate(at(0)).unwrap();
        ring.rotate(at(1_000)).unwrap();
        let stored = serde_json::to_string(&ring.records().collect::<Vec<_>>()).unwrap();
        let again = Keyring::open(serde_json::from_str(&stored).unwrap(), LIFE).unwrap();
        assert_eq!(again.jwks(), ring.jwks());
        assert_eq!(kid_that_signs(&again, at(5)), kid_that_signs(&ring, at(5)));
        assert_eq!(again.derive(b"x", at(5)), ring.derive(b"x", at(5)));
    }

    #[test]
    fn a_private_key_is_not_printed() {
        let record = KeyRecord::generate(at(0)).unwrap();
        let ring = Keyring::open(vec![record.clone()], LIFE).unwrap();
        assert!(!format!("{record:?} {ring:?}").contains("pkcs8"));
        assert!(!ring.jwks().to_string().contains("\"d\""));
    }

    #[test]
    fn a_record_that_is_not_a_key_is_refused() {
        let record = KeyRecord { kid: "k".into(), pkcs8: vec![1, 2, 3], created_at: at(0) };
        assert_eq!(Keyring::open(vec![record], LIFE).unwrap_err(), KeyError::Broken);
    }
}
