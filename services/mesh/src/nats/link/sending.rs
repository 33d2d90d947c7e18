//! Publishing, requests and subscriptions over a connection, each with a timeout.

use std::{sync::atomic::Ordering, time::Duration};

use async_nats::{Client, HeaderMap, Message, Subscriber, subject::ToSubject};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::Deserialize;
use tracing::warn;

use super::{BROKER, Link, SEND_TIMEOUT};
use crate::{deadline::within, nats::error::BrokerError, service::context::Announcement};

/// How long the broker may take to answer a health request.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long further nodes of the broker may take to answer, after one that reports an error.
const OTHERS_WITHIN: Duration = Duration::from_millis(200);
/// The pause before the second health request after an unfavourable answer.
const HEALTH_AGAIN: Duration = Duration::from_millis(300);
/// Unanswered health requests in a row after which the broker is taken to be configured without.
const UNANSWERED_MAX: u32 = 3;
/// The subject on which the broker's system account answers health requests (`nats.conf`).
const HEALTH_SUBJECT: &str = "broker.health";

impl Link {
    /// The error that the broker reports of itself; `None` while it is healthy, and where this
    /// user may not ask. Of several nodes one that is healthy is enough: the others work without
    /// one that is catching up or whose disk is full. An unfavourable answer is asked for twice: a
    /// stream that is being deleted causes one for a moment.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn broker_fault(&self) -> Result<Option<String>, BrokerError> {
        if !self.is_whole() {
            return Err(BrokerError::NotConnected);
        }
        if self.broker_says().await?.is_none() {
            return Ok(None);
        }
        tokio::time::sleep(HEALTH_AGAIN).await;
        self.broker_says().await
    }

    async fn broker_says(&self) -> Result<Option<String>, BrokerError> {
        let unanswered = &self.0.unanswered;
        if unanswered.load(Ordering::Relaxed) >= UNANSWERED_MAX {
            return self.jetstream_answers().await.map(|()| None);
        }
        let fault = match self.nodes_say().await {
            Ok(fault) => fault,
            Err(cause) => {
                self.jetstream_answers().await.map_err(|_| cause)?;
                // It answers other requests: its configuration may not allow this one.
                if unanswered.fetch_add(1, Ordering::Relaxed) + 1 == UNANSWERED_MAX {
                    warn!(service = self.service(), "the broker does not answer health requests");
                }
                return Ok(None);
            }
        };
        unanswered.store(0, Ordering::Relaxed);
        Ok(fault)
    }

    /// The error that the nodes of the broker report, unless one of them is healthy. How many there
    /// are is not known here.
    async fn nodes_say(&self) -> Result<Option<String>, BrokerError> {
        let inbox = self.client().new_inbox();
        let mut answers = self.subscribe(inbox.clone()).await?;
        self.publish(HEALTH_SUBJECT, Some(inbox), HeaderMap::new(), Bytes::new()).await?;
        let (mut limit, mut fault) = (HEALTH_TIMEOUT, None);
        loop {
            match within(limit, BROKER, answers.next()).await {
                // The broker itself says so when nobody answers.
                Ok(Some(answer)) if answer.status.is_some() => {
                    return Err(BrokerError::NoResponders);
                }
                Ok(Some(answer)) => match error_in(&answer.payload) {
                    None => return Ok(None),
                    said => fault = fault.or(said),
                },
                Ok(None) => return fault.map(Some).ok_or(BrokerError::Disconnected),
                Err(late) => return fault.map(Some).ok_or(late.into()),
            }
            limit = OTHERS_WITHIN;
        }
    }

    async fn jetstream_answers(&self) -> Result<(), BrokerError> {
        let answered = self.request("$JS.API.INFO", Bytes::new(), HEALTH_TIMEOUT).await;
        answered.map(drop)
    }

    /// Publishes a message. When this returns, the client has accepted it and no more than that.
    pub(crate) async fn publish(
        &self,
        subject: impl ToSubject,
        reply: Option<String>,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(), BrokerError> {
        self.send_on(self.client(), subject, reply, headers, body).await
    }

    /// Publishes an answer, as the NATS user for answers.
    pub(crate) async fn answer(
        &self,
        subject: impl ToSubject,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(), BrokerError> {
        self.send_on(self.answers(), subject, None, headers, body).await
    }

    async fn send_on(
        &self,
        client: &Client,
        subject: impl ToSubject,
        reply: Option<String>,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(), BrokerError> {
        let sent = async {
            match (reply, headers.is_empty()) {
                (None, true) => client.publish(subject, body).await,
                (None, false) => client.publish_with_headers(subject, headers, body).await,
                (Some(reply), true) => client.publish_with_reply(subject, reply, body).await,
                (Some(reply), false) => {
                    client.publish_with_reply_and_headers(subject, reply, headers, body).await
                }
            }
        };
        Ok(within(SEND_TIMEOUT, BROKER, sent).await??)
    }

    /// Publishes an announcement, which is stored nowhere.
    pub(crate) async fn announce(&self, announcement: Announcement) -> Result<(), BrokerError> {
        let Announcement { subject, payload } = announcement;
        self.publish(subject, None, HeaderMap::new(), payload.into()).await
    }

    /// Sends a request and waits for the answer.
    pub(crate) async fn request(
        &self,
        subject: impl ToSubject,
        body: Bytes,
        limit: Duration,
    ) -> Result<Message, BrokerError> {
        let request = async_nats::Request::new().payload(body);
        self.send_request(subject, request, limit).await
    }

    /// The same with headers.
    pub(crate) async fn send_request(
        &self,
        subject: impl ToSubject,
        request: async_nats::Request,
        limit: Duration,
    ) -> Result<Message, BrokerError> {
        let answered = self.client().send_request(subject, request.timeout(Some(limit)));
        // The client's own timeout begins when it has accepted the request.
        let answered = within(limit + SEND_TIMEOUT, BROKER, answered).await?;
        answered.map_err(|error| BrokerError::of_request(error, limit))
    }

    /// Subscribes to a subject in a queue group.
    pub(crate) async fn join(
        &self,
        subject: impl ToSubject,
        group: String,
    ) -> Result<Subscriber, BrokerError> {
        Self::join_on(self.client(), subject, group).await
    }

    /// The same, as the NATS user for answers.
    pub(crate) async fn join_to_answer(
        &self,
        subject: impl ToSubject,
        group: String,
    ) -> Result<Subscriber, BrokerError> {
        Self::join_on(self.answers(), subject, group).await
    }

    async fn join_on(
        client: &Client,
        subject: impl ToSubject,
        group: String,
    ) -> Result<Subscriber, BrokerError> {
        let joined = client.queue_subscribe(subject, group);
        Ok(within(SEND_TIMEOUT, BROKER, joined).await??)
    }

    /// Subscribes to a subject.
    pub(crate) async fn subscribe(
        &self,
        subject: impl ToSubject,
    ) -> Result<Subscriber, BrokerError> {
        Ok(within(SEND_TIMEOUT, BROKER, self.client().subscribe(subject)).await??)
    }

    /// The same, as the NATS user for answers.
    pub(crate) async fn subscribe_to_answer(
        &self,
        subject: impl ToSubject,
    ) -> Result<Subscriber, BrokerError> {
        Ok(within(SEND_TIMEOUT, BROKER, self.answers().subscribe(subject)).await??)
    }
}

/// The error in the answer of one node to a health request.
fn error_in(answer: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        #[serde(default)]
        error: String,
    }
    let answer = serde_json::from_slice::<Answer>(answer).ok()?;
    Some(answer.data.error).filter(|error| !error.is_empty())
}
