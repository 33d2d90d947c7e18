//! Accounts over NATS: who comes to the broker with an access token is let in with an inbox
//! that nobody else reads (NATS's "auth callout").
//!
//! The broker asks here about every connection that brings no key of `nats.conf`. The answer is
//! a paper of NATS's own, signed with the key of the issuer: whose connection it is, what it may
//! send and listen to, and until when. It holds as long as the token; then the broker ends the
//! connection.

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

/// Where the broker asks.
const ASKED: &str = "$SYS.REQ.USER.AUTH";
/// What its answer's subject begins with; nothing else is answered.
const ANSWERED: &str = "$SYS._INBOX.";
/// The account of the broker that everybody is in.
const ACCOUNT: &str = "ONSALE";
/// Connections that are being judged at most; more wait in the connection.
const JUDGED_MAX: usize = 64;
/// The broker waits two seconds for the answer.
const JUDGED_WITHIN: Duration = Duration::from_millis(1_500);
/// How soon the broker is asked again to be asked by it.
const JOIN_AGAIN: Duration = Duration::from_secs(1);
/// Subscriptions of one connection at most.
const SUBSCRIPTIONS_MAX: u32 = 128;

/// Lets accounts in.
pub struct Callout {
    door: Link,
    verifier: Link,
    issuer: KeyPair,
}

/// What the broker says of a connection, as far as it matters here.
#[derive(Deserialize)]
struct Asked {
    nats: Connection,
}

#[derive(Deserialize)]
struct Connection {
    server_id: Server,
    /// The key that the broker has made for this connection: the answer is good for no other.
    user_nkey: String,
    connect_opts: Brought,
}

#[derive(Deserialize)]
struct Server {
    id: String,
}

/// What the client has brought: a token, or a password or a name that is one. The `nats` command
/// has one flag for names and tokens.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Brought {
    auth_token: String,
    pass: String,
    user: String,
}

impl Callout {
    /// Answers on `door`, as the user that may, and verifies tokens as `verifier` does.
    ///
    /// # Errors
    /// When the seed of the issuer is none.
    pub fn new(door: Link, verifier: Link, issuer_seed: &str) -> Result<Self, String> {
        let issuer = KeyPair::from_seed(issuer_seed.trim());
        let issuer = issuer.map_err(|error| format!("the issuer's seed: {error}"))?;
        Ok(Self { door, verifier, issuer })
    }

    /// Answers for as long as it is polled.
    pub async fn run(self) {
        let group = self.verifier.service().to_owned();
        let asked = loop {
            match self.door.join(ASKED, group.clone()).await {
                Ok(asked) => break asked,
                Err(error) => error!(error, "no account can be let in over NATS"),
            }
            tokio::time::sleep(JOIN_AGAIN).await;
        };
        info!("accounts are let in over NATS");
        let callout = Arc::new(self);
        let judged = asked.for_each_concurrent(JUDGED_MAX, |message| {
            let callout = callout.clone();
            async move {
                // In a task of its own: whatever becomes of one, the others are answered.
                let judged = tokio::spawn(async move { callout.judge(message).await });
                if let Err(error) = judged.await {
                    error!(%error, "a connection was not judged");
                }
            }
        });
        judged.await;
        error!("no account can be let in over NATS any more: the connection is closed");
    }

    async fn judge(&self, message: Message) {
        let reply = message.reply.as_ref().filter(|reply| reply.starts_with(ANSWERED));
        let (Some(reply), Some(asked)) = (reply, read(&message.payload)) else {
            warn!(subject = %message.subject, "this is no question of the broker");
            return;
        };
        let Connection { server_id, user_nkey, connect_opts } = asked.nats;
        let judged = tokio::time::timeout(JUDGED_WITHIN, self.account(&connect_opts)).await;
        let judged = judged.unwrap_or_else(|_| Err(codes::TIMED_OUT.into()));
        let verdict = judged.and_then(|caller| self.paper(&user_nkey, &caller));
        let body = match verdict {
            Ok(paper) => json!({ "jwt": paper }),
            Err(problem) => {
                debug!(%problem, "a connection is turned away");
                json!({ "error": problem.to_string() })
            }
        };
        let answer =
            self.sign(&user_nkey, &server_id.id, body, "authorization_response", json!({}));
        let sent = match answer {
            Ok(answer) => {
                self.door.publish(reply.clone(), None, HeaderMap::new(), answer.into()).await
            }
            Err(problem) => return warn!(%problem, "the broker cannot be answered"),
        };
        if let Err(error) = sent {
            warn!(error, "the broker cannot be answered");
        }
    }

    /// Whose access token the client has brought.
    async fn account(&self, brought: &Brought) -> Result<Caller, Problem> {
        let Brought { auth_token, pass, user } = brought;
        let token = [auth_token, pass, user].into_iter().find(|text| !text.is_empty());
        let token = token.ok_or_else(|| {
            Problem::new(codes::UNAUTHENTICATED, "Connect with a key, or with an access token.")
        })?;
        self.verifier.verifier().access(token, clock::now()).await
    }

    /// What the account behind a connection may do, for as long as its token is good.
    fn paper(&self, user_nkey: &str, caller: &Caller) -> Result<String, Problem> {
        let Caller::User { user_id, expires_at, .. } = caller else {
            return Err(codes::UNAUTHENTICATED.into());
        };
        let rights = json!({
            "pub": { "allow": ["cmd.>"] },
            "sub": { "allow": consumed_by(*user_id, caller.has(Role::Operator)) },
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

    /// A JWT as NATS writes them, about a user of the broker.
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

/// What a connection of an account may listen to: its answers, and what is public. Events are
/// about everybody, so only operators follow them here; everybody else follows their own over
/// HTTP.
fn consumed_by(account: UserId, is_operator: bool) -> Vec<String> {
    let mut subjects = vec![format!("_INBOX_account.{account}.>")];
    match is_operator {
        true => subjects.push("live.>".to_owned()),
        false => subjects.extend(["live.concert.>", "live.onsale.concert.>"].map(str::to_owned)),
    }
    subjects
}

/// Reads what the broker says. It is not asked for its signature: nobody else may send here.
fn read(payload: &[u8]) -> Option<Asked> {
    let claims = std::str::from_utf8(payload).ok()?.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_of_the_broker_is_read() {
        let claims = json!({ "nats": {
            "server_id": { "name": "n", "id": "NA" },
            "user_nkey": "UA",
            "connect_opts": { "auth_token": "t", "protocol": 1 },
        } });
        let asked = format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let asked = read(asked.as_bytes()).unwrap().nats;
        let read = (asked.server_id.id, asked.user_nkey, asked.connect_opts.auth_token);
        assert_eq!(read, ("NA".into(), "UA".into(), "t".into()));
        assert!(super::read(b"rubbish").is_none() && super::read(b"a.b.c").is_none());
    }

    #[test]
    fn an_account_hears_its_own_answers_and_what_is_public() {
        let account = UserId(Uuid::nil());
        let own = format!("_INBOX_account.{account}.>");
        let fan = consumed_by(account, false);
        assert_eq!(fan[0], own);
        assert!(fan[1..].iter().all(|subject| subject.contains("concert")), "{fan:?}");
        assert_eq!(consumed_by(account, true), [own, "live.>".to_owned()]);
    }
}
