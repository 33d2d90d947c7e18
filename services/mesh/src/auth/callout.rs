//! Accounts over NATS: a client that connects to the broker with an access token gets an inbox
//! that no other client can read (NATS's "auth callout").
//!
//! The broker sends a request for every connection that has no key of `nats.conf`. The answer
//! is a NATS user JWT, signed with the key of the issuer: the account of the connection, what it
//! may publish and subscribe to, and until when. It is valid as long as the token; then the
//! broker closes the connection.

use std::{sync::Arc, time::Duration};

use async_nats::{HeaderMap, Message};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use events::{Problem, UserId, codes, user::Role};
use futures::StreamExt;
use nkeys::KeyPair;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use crate::{Caller, Link, clock};

/// The subject of the broker's requests.
const REQUESTS: &str = "$SYS.REQ.USER.AUTH";
/// The prefix of the broker's reply subjects; requests with any other are not answered.
const REPLIES: &str = "$SYS._INBOX.";
/// The broker's account that every client is in.
const ACCOUNT: &str = "ONSALE";
/// Maximum number of connections being authorized at once; more requests wait in the link.
const AUTHORIZING_MAX: usize = 64;
/// Time limit for one authorization. The broker waits two seconds for the answer.
const AUTHORIZE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Pause before the subscription to the broker's requests is tried again.
const JOIN_AGAIN: Duration = Duration::from_secs(1);
/// Maximum number of subscriptions of one connection.
const SUBSCRIPTIONS_MAX: u32 = 128;

/// Authorizes accounts that connect over NATS.
pub struct Callout {
    answers: Link,
    verifier: Link,
    issuer: KeyPair,
}

/// The seed of the issuer is malformed.
#[derive(Debug, thiserror::Error)]
#[error("the issuer's seed: {0}")]
pub struct SeedError(#[source] nkeys::error::Error);

/// The broker's request about a connection, as far as it matters here.
#[derive(Deserialize)]
struct AuthRequest {
    nats: Connection,
}

#[derive(Deserialize)]
struct Connection {
    server_id: Server,
    /// The key that the broker made for this connection: the answer is valid for no other.
    user_nkey: String,
    connect_opts: Credentials,
}

#[derive(Deserialize)]
struct Server {
    id: String,
}

/// The client's credentials: a token, given as such or as a password or a name. The `nats`
/// command has one flag for names and tokens.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Credentials {
    auth_token: String,
    pass: String,
    user: String,
}

impl Callout {
    /// Answers on `answers`, whose user may do so, and verifies tokens as `verifier` does.
    ///
    /// # Errors
    /// When the issuer's seed is malformed.
    pub fn new(answers: Link, verifier: Link, issuer_seed: &str) -> Result<Self, SeedError> {
        let issuer = KeyPair::from_seed(issuer_seed.trim()).map_err(SeedError)?;
        Ok(Self { answers, verifier, issuer })
    }

    /// Answers for as long as it is polled.
    pub async fn run(self) {
        let group = self.verifier.service().to_owned();
        let requests = loop {
            match self.answers.join(REQUESTS, group.clone()).await {
                Ok(requests) => break requests,
                Err(error) => error!(%error, "accounts cannot connect over NATS"),
            }
            tokio::time::sleep(JOIN_AGAIN).await;
        };
        info!("accounts can connect over NATS");
        let callout = Arc::new(self);
        let answered = requests.for_each_concurrent(AUTHORIZING_MAX, |message| {
            let callout = callout.clone();
            async move {
                // In a task of its own: a panic in one does not keep the others from an answer.
                let answered = tokio::spawn(async move { callout.answer(message).await });
                if let Err(error) = answered.await {
                    error!(%error, "a connection was not authorized");
                }
            }
        });
        answered.await;
        error!("accounts cannot connect over NATS any more: the connection is closed");
    }

    async fn answer(&self, message: Message) {
        let reply = message.reply.as_ref().filter(|reply| reply.starts_with(REPLIES));
        let (Some(reply), Some(request)) = (reply, read(&message.payload)) else {
            warn!(subject = %message.subject, "this is not a request of the broker");
            return;
        };
        let Connection { server_id, user_nkey, connect_opts } = request.nats;
        let account = tokio::time::timeout(AUTHORIZE_TIMEOUT, self.account(&connect_opts)).await;
        let account = account.unwrap_or_else(|_| Err(codes::TIMED_OUT.into()));
        let verdict = account.and_then(|caller| self.user_jwt(&user_nkey, &caller));
        let body = match verdict {
            Ok(jwt) => json!({ "jwt": jwt }),
            Err(problem) => {
                debug!(%problem, "a connection is refused");
                json!({ "error": problem.to_string() })
            }
        };
        let answer =
            self.sign(&user_nkey, &server_id.id, body, "authorization_response", json!({}));
        let sent = match answer {
            Ok(answer) => {
                self.answers.publish(reply.clone(), None, HeaderMap::new(), answer.into()).await
            }
            Err(problem) => return warn!(%problem, "the broker cannot be answered"),
        };
        if let Err(error) = sent {
            warn!(%error, "the broker cannot be answered");
        }
    }

    /// The account behind the client's access token.
    async fn account(&self, credentials: &Credentials) -> Result<Caller, Problem> {
        let Credentials { auth_token, pass, user } = credentials;
        let token = [auth_token, pass, user].into_iter().find(|text| !text.is_empty());
        let token = token.ok_or_else(|| {
            Problem::new(codes::UNAUTHENTICATED, "Connect with a key, or with an access token.")
        })?;
        self.verifier.verifier().access(token, clock::now()).await
    }

    /// The user JWT of a connection: what its account may do, for as long as its token is valid.
    fn user_jwt(&self, user_nkey: &str, caller: &Caller) -> Result<String, Problem> {
        let Caller::User { user_id, expires_at, .. } = caller else {
            return Err(codes::UNAUTHENTICATED.into());
        };
        let rights = json!({
            "pub": { "allow": ["cmd.>"] },
            "sub": { "allow": readable_by(*user_id, caller.has(Role::Operator)) },
            "subs": SUBSCRIPTIONS_MAX,
            "data": -1,
            "payload": -1,
        });
        let times = json!({
            "name": format!("account {user_id}"),
            "exp": expires_at.unix_millis() / 1_000,
        });
        self.sign(user_nkey, ACCOUNT, rights, "user", times)
    }

    /// A signed JWT in NATS's own format, about a user of the broker.
    fn sign(
        &self,
        user_nkey: &str,
        audience: &str,
        mut body: Value,
        kind: &str,
        mut claims: Value,
    ) -> Result<String, Problem> {
        body["type"] = kind.into();
        body["version"] = 2.into();
        claims["iss"] = self.issuer.public_key().into();
        claims["sub"] = user_nkey.into();
        claims["aud"] = audience.into();
        claims["iat"] = (clock::now().unix_millis() / 1_000).into();
        claims["jti"] = Uuid::now_v7().to_string().into();
        claims["nats"] = body;
        let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
        let [header, claims] =
            [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = self.issuer.sign(signed.as_bytes());
        let signature =
            signature.map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// The subjects that a connection of an account may subscribe to: its answers, and what is
/// public. Events are about all accounts, so only operators follow them here; other accounts
/// follow their own events over HTTP.
fn readable_by(account: UserId, is_operator: bool) -> Vec<String> {
    let mut subjects = vec![format!("_INBOX_account.{account}.>")];
    match is_operator {
        true => subjects.push("live.>".to_owned()),
        false => subjects.extend(["live.concert.>", "live.onsale.concert.>"].map(str::to_owned)),
    }
    subjects
}

/// Reads the broker's request. The signature is not verified: only the broker may publish here.
fn read(payload: &[u8]) -> Option<AuthRequest> {
    let claims = std::str::from_utf8(payload).ok()?.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_the_broker_is_read() {
        let claims = json!({ "nats": {
            "server_id": { "name": "n", "id": "NA" },
            "user_nkey": "UA",
            "connect_opts": { "auth_token": "t", "protocol": 1 },
        } });
        let request = format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let request = read(request.as_bytes()).unwrap().nats;
        let read = (request.server_id.id, request.user_nkey, request.connect_opts.auth_token);
        assert_eq!(read, ("NA".into(), "UA".into(), "t".into()));
        assert!(super::read(b"rubbish").is_none() && super::read(b"a.b.c").is_none());
    }

    #[test]
    fn an_account_reads_its_own_answers_and_what_is_public() {
        let account = UserId(Uuid::nil());
        let own = format!("_INBOX_account.{account}.>");
        let fan = readable_by(account, false);
        assert_eq!(fan[0], own);
        assert!(fan[1..].iter().all(|subject| subject.contains("concert")), "{fan:?}");
        assert_eq!(readable_by(account, true), [own, "live.>".to_owned()]);
    }
}
