//! Access tokens that must be refused.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use events::{
    Timestamp, UserId,
    queue::PassClaims,
    user::{Role, Session},
};
use harness::mesh::Mesh;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mesh::{
    auth::AccessClaims,
    clock,
    keys::{KeyLife, KeyRecord, Keyring},
};
use ring::hmac;
use serde_json::{Value, json};
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

/// Forges tokens with the user service's own key, so that each one is wrong for another reason
/// than its key.
pub struct Forger {
    record: KeyRecord,
    public: String,
    fan: UserId,
    good: String,
}

impl Forger {
    /// Takes the key out of the service's database, where no client can read it.
    pub async fn of(mesh: &Mesh, session: &Session) -> Self {
        let url = mesh.env.config.database_url("user").expect("a database");
        let pool = PgPool::connect(url).await.expect("a connection");
        let (kid, pkcs8, created_at): (String, Vec<u8>, OffsetDateTime) =
            sqlx::query_as("select kid, pkcs8, created_at from signing_keys")
                .fetch_one(&pool)
                .await
                .expect("one key");
        let record = KeyRecord { kid, pkcs8, created_at: Timestamp(created_at) };
        let public = ring(record.clone()).jwks()["keys"][0]["x"].as_str().expect("x").to_owned();
        let forger =
            Self { record, public, fan: session.user_id, good: session.access_token.clone() };
        let again = forger.signed(&forger.header(), &forger.claims());
        assert_eq!(again.split('.').next(), forger.good.split('.').next(), "the same key signs");
        forger
    }

    /// A token that has expired.
    pub fn expired(&self) -> String {
        let then = clock::now().plus_secs(-3_600);
        let claims = AccessClaims::new(self.fan, vec![Role::Fan, Role::Operator], then, 900);
        ring(self.record.clone()).sign(&claims, clock::now()).expect("signed")
    }

    /// A good token. It shows that the others are refused for what is wrong with them.
    pub fn good(&self) -> String {
        self.signed(&self.header(), &self.claims())
    }

    /// Every forged token, with what is wrong with it.
    pub fn forged(&self) -> Vec<(&'static str, String)> {
        let mut all = self.malformed();
        all.extend(self.badly_signed());
        all.extend(self.badly_claimed());
        all
    }

    fn malformed(&self) -> Vec<(&'static str, String)> {
        let [head, claims, _] = parts(&self.good);
        vec![
            ("no token", String::new()),
            ("rubbish", "rubbish".into()),
            ("three empty parts", "..".into()),
            ("three parts of rubbish", "a.b.c".into()),
            ("without a signature", format!("{head}.{claims}")),
            ("with a fourth part", format!("{}.x", self.good)),
            ("longer than any of ours", format!("{}{}", self.good, "A".repeat(5_000))),
        ]
    }

    fn badly_signed(&self) -> Vec<(&'static str, String)> {
        let [head, _, signature] = parts(&self.good);
        let kid = self.record.kid.clone();
        let mut operator = self.claims();
        operator["roles"] = json!(["operator"]);
        let other = KeyRecord::generate(clock::now()).expect("a key");
        let disguised = KeyRecord { kid: kid.clone(), ..other.clone() };
        let claims = AccessClaims::new(self.fan, vec![Role::Operator], clock::now(), 900);
        let none = |alg: &str| part(&json!({ "alg": alg, "typ": "JWT", "kid": kid }));
        let with_alg = |alg| Header { alg, kid: Some(kid.clone()), ..Header::default() };
        let hmac = |secret: &[u8]| {
            let signed =
                format!("{}.{}", part(&json!(with_alg(Algorithm::HS256))), part(&operator));
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
        };
        let public = URL_SAFE_NO_PAD.decode(&self.public).expect("base64");
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": self.public }).to_string();
        let operator_part = part(&operator);
        vec![
            ("with other claims", format!("{head}.{operator_part}.{signature}")),
            ("with an empty signature", format!("{head}.{operator_part}.")),
            ("signed with zeros", format!("{head}.{operator_part}.{}", zeros())),
            ("signed with another key", sign(disguised, &claims)),
            ("signed with a key of its own", sign(other, &claims)),
            ("alg none", format!("{}.{operator_part}.", none("none"))),
            ("alg None with a signature", format!("{}.{operator_part}.{signature}", none("None"))),
            (
                "alg ES256 with our signature",
                format!("{}.{operator_part}.{signature}", none("ES256")),
            ),
            ("HS256 with the public key's bytes", hmac(&public)),
            ("HS256 with the public key's text", hmac(self.public.as_bytes())),
            ("HS256 with the public JWK", hmac(jwk.as_bytes())),
            ("without a key id", self.signed(&Header::new(Algorithm::EdDSA), &operator)),
        ]
    }

    /// Tokens signed with the right key, but with claims that no access token has.
    fn badly_claimed(&self) -> Vec<(&'static str, String)> {
        let changed = |name: &str, value: Value| {
            let mut claims = self.claims();
            claims[name] = value;
            self.signed(&self.header(), &claims)
        };
        let pass = PassClaims::new(
            self.fan,
            events::ScheduleId(Uuid::now_v7()),
            1,
            clock::now(),
            clock::now().plus_secs(900),
        );
        vec![
            ("for another audience", changed("aud", json!("onsale/pass"))),
            ("of another issuer", changed("iss", json!("onsale/queue"))),
            ("without an end", changed("exp", Value::Null)),
            ("ending at a word", changed("exp", json!("tomorrow"))),
            ("ending beyond all time", changed("exp", json!(i64::MAX))),
            ("with a subject that is no id", changed("sub", json!("nobody"))),
            ("with a role that there is not", changed("roles", json!(["god"]))),
            ("with too much in it", changed("padding", json!("x".repeat(5_000)))),
            ("a pass", sign(self.record.clone(), &pass)),
        ]
    }

    fn claims(&self) -> Value {
        let now = clock::now().unix_millis() / 1_000;
        json!({
            "iss": "onsale/user", "aud": "onsale", "sub": self.fan, "roles": ["fan"],
            "iat": now, "exp": now + 900,
        })
    }

    fn header(&self) -> Header {
        Header { kid: Some(self.record.kid.clone()), ..Header::new(Algorithm::EdDSA) }
    }

    fn signed(&self, header: &Header, claims: &Value) -> String {
        let key = EncodingKey::from_ed_der(&self.record.pkcs8);
        jsonwebtoken::encode(header, claims, &key).expect("signed")
    }
}

fn ring(record: KeyRecord) -> Keyring {
    Keyring::open(vec![record], KeyLife::daily(900)).expect("a key")
}

fn sign<C: events::Claims>(record: KeyRecord, claims: &C) -> String {
    ring(record).sign(claims, clock::now()).expect("signed")
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn zeros() -> String {
    URL_SAFE_NO_PAD.encode([0; 64])
}

fn parts(token: &str) -> [&str; 3] {
    let parts: Vec<&str> = token.split('.').collect();
    parts.try_into().expect("a JWT has three parts")
}
