//! Kakao AlimTalk through a relay, with text messages as the fallback.
//!
//! Businesses reach Kakao through relays. The protocol here has the shape that is common among
//! them, with the names of NHN Cloud's (`alimtalk/v2.3`, `sms/v3.0`). One request carries many
//! messages of one template, and each message has a result of its own:
//!
//! ```text
//!  fresh ──────────── send ──┬─ accepted ─ (later) ─ status ──┬─ delivered
//!  tried before ─ find ──────┤                                ├─ on its way
//!                            └─ refused ──────────────────────┴─▶ text message
//! ```
//!
//! **Once.** A relay drops a request whose idempotency key it has seen in the last minutes, and
//! every message carries its id as `recipientGroupingKey`. A message that an earlier try may have
//! delivered to the relay is looked up under that key first, however long ago that was; so is
//! the text message in its place.

mod outcome;
mod wire;

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use events::notification::Channel;
use futures::{StreamExt, stream};
use reqwest::{
    Client, Method, RequestBuilder, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderValue},
};
use ring::digest::{SHA256, digest};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use self::outcome::Outcome;
use self::wire::{
    Found, FoundText, FoundTexts, Recipient, Results, SMS_BYTES_MAX, Send, SmsRecipient,
    SmsResults, SmsSend, Status, bytes_on_air, dialled, in_korea,
};
use super::{
    http,
    parcel::{AT_ONCE, Parcel, Round, Sent},
    unusable::Unusable,
};
use crate::domain::Delivery;

/// Messages of one request at most.
const PARCELS_MAX: usize = 100;
/// How much a relay's clock and ours may differ when a message is looked up.
const CLOCKS_DIFFER: Duration = Duration::from_secs(600);

/// Kakao AlimTalk through a relay.
#[derive(Clone)]
pub struct Alimtalk {
    client: Client,
    pub(super) url: Url,
    app_key: String,
    secret: HeaderValue,
    sender: String,
    sms_from: Option<String>,
}

impl std::fmt::Debug for Alimtalk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alimtalk").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

/// What is known of a message before it is sent.
enum Known {
    /// It was not sent before.
    Unsent(Parcel),
    /// It was sent before, with this outcome.
    Tried(Parcel, Outcome),
}

/// An account with a relay of AlimTalk messages.
#[derive(Clone)]
pub struct Relay {
    /// Its address.
    pub url: String,
    /// The account, in the path of each request.
    pub app_key: String,
    /// The secret of the account, in a header of each request.
    pub secret: String,
    /// The Kakao channel that messages come from.
    pub sender: String,
    /// The registered number that text messages come from when AlimTalk is refused. Without one,
    /// a refused message has failed.
    pub sms_from: Option<String>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Alimtalk {
    pub(crate) fn new(relay: Relay) -> Result<Self, Unusable> {
        let mut secret = HeaderValue::from_str(&relay.secret).map_err(|_| Unusable::RelaySecret)?;
        secret.set_sensitive(true);
        Ok(Self {
            client: http::client()?,
            url: http::address(&relay.url)?,
            app_key: relay.app_key,
            secret,
            sender: relay.sender,
            sms_from: relay.sms_from,
        })
    }

    pub(super) async fn send(&self, parcels: Vec<Parcel>, round: Round) -> Sent {
        let mut sent = Sent::default();
        let known = stream::iter(parcels).map(|parcel| self.look_up(parcel, round));
        let known: Vec<Known> = known.buffer_unordered(AT_ONCE).collect().await;
        let (mut unsent, mut refused) = (BTreeMap::<_, Vec<Parcel>>::new(), Vec::new());
        for known in known {
            match known {
                Known::Unsent(parcel) => unsent.entry(parcel.words.code).or_default().push(parcel),
                Known::Tried(parcel, outcome) => outcome.sort(parcel, &mut sent, &mut refused),
            }
        }
        let posts = stream::iter(requests(unsent)).map(|parcels| self.post(parcels, round));
        let results: Vec<Vec<(Parcel, Outcome)>> = posts.buffer_unordered(AT_ONCE).collect().await;
        for (parcel, outcome) in results.into_iter().flatten() {
            outcome.sort(parcel, &mut sent, &mut refused);
        }
        let texts = stream::iter(refused).map(|(parcel, why)| self.text(parcel, why, round));
        sent.deliveries.extend(texts.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await);
        sent
    }

    /// Looks up what became of a message that was sent before; a fresh one is unsent.
    async fn look_up(&self, parcel: Parcel, round: Round) -> Known {
        if parcel.receipt.is_none() && !parcel.again {
            return Known::Unsent(parcel);
        }
        let outcome = if round.is_open() {
            let found = match &parcel.receipt {
                Some(receipt) => self.status(receipt, round).await.map(Some),
                None => self.find(&parcel, round).await,
            };
            match found {
                Ok(None) => return Known::Unsent(parcel),
                Ok(Some(status)) => status.outcome(),
                Err(delivery) => Outcome::Ended(delivery),
            }
        } else {
            Outcome::Ended(Delivery::Untried)
        };
        Known::Tried(parcel, outcome)
    }

    async fn status(&self, receipt: &str, round: Round) -> Result<Status, Delivery> {
        let path = ["alimtalk", "v2.3", "appkeys", &self.app_key, "messages"];
        let parts = path.into_iter().chain(receipt.split('/'));
        let answer: wire::StatusAnswer = self.call(self.request(Method::GET, parts), round).await?;
        answer.header.check()?;
        Ok(answer.message)
    }

    /// Finds a message by its own key, wherever the earlier try has stopped.
    async fn find(&self, parcel: &Parcel, round: Round) -> Result<Option<Status>, Delivery> {
        let path = ["alimtalk", "v2.3", "appkeys", &self.app_key, "messages"];
        let answer: Found = self.call(self.search(&path, parcel, round), round).await?;
        answer.header.check()?;
        let messages = answer.message_search_result_response.messages;
        Ok(messages
            .into_iter()
            .find(|status| status.recipient_grouping_key == parcel.id.to_string()))
    }

    /// Finds the text message in place of a message, by the same key.
    async fn find_text(
        &self,
        parcel: &Parcel,
        kind: &str,
        round: Round,
    ) -> Result<Option<FoundText>, Delivery> {
        let path = ["sms", "v3.0", "appKeys", &self.app_key, "sender", kind];
        let answer: FoundTexts = self.call(self.search(&path, parcel, round), round).await?;
        Ok(answer.texts()?.into_iter().find(|text| text.is_of(parcel.id)))
    }

    /// A request for whatever has this message's key, from when it was written until now.
    fn search(&self, path: &[&str], parcel: &Parcel, round: Round) -> RequestBuilder {
        let slack = CLOCKS_DIFFER.as_secs() as i64;
        let mut url = self.path(path.iter().copied());
        url.query_pairs_mut()
            .append_pair("recipientGroupingKey", &parcel.id.to_string())
            .append_pair("startCreateDate", &in_korea(parcel.created_at.plus_secs(-slack)))
            .append_pair("endCreateDate", &in_korea(round.now.plus_secs(slack)));
        self.client.get(url).header("X-Secret-Key", self.secret.clone())
    }

    /// Sends messages of one template.
    async fn post(&self, parcels: Vec<Parcel>, round: Round) -> Vec<(Parcel, Outcome)> {
        if !round.is_open() {
            return all(parcels, &Delivery::Untried);
        }
        let send = Send {
            sender_key: &self.sender,
            template_code: parcels.first().map_or("", |parcel| parcel.words.code),
            recipient_list: parcels.iter().map(Recipient::of).collect(),
        };
        let path = ["alimtalk", "v2.3", "appkeys", &self.app_key, "messages"];
        let ids: Vec<u8> = parcels.iter().flat_map(|parcel| *parcel.id.as_bytes()).collect();
        let key = URL_SAFE_NO_PAD.encode(digest(&SHA256, &ids));
        let request = self.request(Method::POST, path.into_iter());
        let answer: Result<Results, Delivery> = self.call(keyed(request, &key, &send), round).await;
        let answer = answer.and_then(|answer| answer.header.check().map(|()| answer));
        match answer {
            Ok(answer) => answer.of(parcels),
            Err(delivery) => all(parcels, &delivery),
        }
    }

    /// Sends a text message in place of one that Kakao refused.
    async fn text(&self, parcel: Parcel, why: String, round: Round) -> (Uuid, Delivery) {
        let (Some(from), Some(phone)) = (&self.sms_from, &parcel.phone) else {
            return (parcel.id, Delivery::Refused(why));
        };
        if !round.is_open() {
            return (parcel.id, Delivery::Untried);
        }
        let is_long = bytes_on_air(&parcel.words.text) > SMS_BYTES_MAX;
        let kind = if is_long { "mms" } else { "sms" };
        if parcel.again {
            match self.find_text(&parcel, kind, round).await {
                Ok(None) => {}
                Ok(Some(found)) => return (parcel.id, found.delivery(&why)),
                Err(delivery) => return (parcel.id, delivery),
            }
        }
        let send = SmsSend {
            title: is_long.then_some(parcel.words.title),
            body: &parcel.words.text,
            send_no: from,
            recipient_list: [SmsRecipient {
                recipient_no: dialled(phone),
                recipient_grouping_key: parcel.id,
            }],
        };
        let path = ["sms", "v3.0", "appKeys", &self.app_key, "sender", kind];
        let request = self.request(Method::POST, path.into_iter());
        let request = keyed(request, &parcel.id.to_string(), &send);
        let delivery = match http::ask(request, round.within, round.now).await {
            // The relay knows the key: an earlier try has arrived.
            Ok(answer) if answer.status == StatusCode::CONFLICT => Delivery::Taken(Channel::Sms),
            Ok(answer) => read::<SmsResults>(&answer).map_or_else(|e| e, |a| a.delivery(&why)),
            Err(delivery) => delivery,
        };
        (parcel.id, delivery)
    }

    fn path<'a>(&'a self, parts: impl Iterator<Item = &'a str>) -> Url {
        let mut url = self.url.clone();
        // An address with a host always has a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    fn request<'a>(
        &'a self,
        method: Method,
        parts: impl Iterator<Item = &'a str>,
    ) -> RequestBuilder {
        self.client.request(method, self.path(parts)).header("X-Secret-Key", self.secret.clone())
    }

    async fn call<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        round: Round,
    ) -> Result<T, Delivery> {
        read(&http::ask(request, round.within, round.now).await?)
    }
}

/// A request that is refused as a whole (a wrong secret, a limit, an outage page) is not the
/// fault of its messages: an operator or the relay fixes the cause, and the messages are sent
/// then.
fn read<T: DeserializeOwned>(answer: &http::Answer) -> Result<T, Delivery> {
    if !answer.status.is_success() {
        return Err(answer.later());
    }
    serde_json::from_slice(&answer.body)
        .map_err(|_| Delivery::later("the answer is not in a relay's format"))
}

fn keyed(request: RequestBuilder, key: &str, body: &impl Serialize) -> RequestBuilder {
    request
        .header("X-NC-API-IDEMPOTENCY-KEY", key)
        .header(CONTENT_TYPE, "application/json;charset=UTF-8")
        .body(serde_json::to_vec(body).expect("requests are plain data"))
}

fn all(parcels: Vec<Parcel>, delivery: &Delivery) -> Vec<(Parcel, Outcome)> {
    let ended = |parcel| (parcel, Outcome::Ended(delivery.clone()));
    parcels.into_iter().map(ended).collect()
}

/// Groups messages into requests: one template each, and not too many messages.
fn requests(unsent: BTreeMap<&str, Vec<Parcel>>) -> Vec<Vec<Parcel>> {
    let mut requests = Vec::new();
    for mut parcels in unsent.into_values() {
        while !parcels.is_empty() {
            let rest = parcels.split_off(parcels.len().min(PARCELS_MAX));
            requests.push(std::mem::replace(&mut parcels, rest));
        }
    }
    requests
}
