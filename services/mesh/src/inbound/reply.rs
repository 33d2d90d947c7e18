//! Answers to commands and queries, sent back to their callers.

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::warn;

use crate::{
    Link,
    batch::work::Answered,
    inbound::counts::{Asked, Tally},
    nats::{error::BrokerError, link::headers},
};

/// Where an answer goes.
#[derive(Clone)]
pub(crate) struct ReplyTo {
    /// The reply subject of the request.
    pub(crate) subject: Subject,
    /// The index of its command in a bundle; `None` for one that came by itself.
    pub(crate) at: Option<usize>,
    /// Where the request is counted.
    pub(crate) asked: Asked,
}

impl ReplyTo {
    /// Counts a request that gets this answer, or would get it if anyone still waited.
    pub(crate) fn count(&self, answered: &Answered) {
        Tally::default().count(&self.asked, answered);
    }
}

/// The prefix of every inbox: `_INBOX_<identity>.`.
const INBOX: &str = "_INBOX_";
/// The identity whose inbox is read by all clients with the same key.
const SHARED: &str = "client";

/// The inbox that an answer goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inbox {
    /// Only the caller reads it.
    Own,
    /// Other clients read it as well: only public answers and refusals go there.
    Shared,
}

/// The inbox that a reply subject names; `None` when it is not an inbox. The caller chooses the
/// reply subject: without this check a service could be made to publish under the subject of a
/// stream. The broker refuses that as well, by the permissions of the user for answers.
pub(crate) fn inbox(subject: &str) -> Option<Inbox> {
    let (owner, rest) = subject.strip_prefix(INBOX)?.split_once('.')?;
    let is_name = |c: char| c.is_ascii_lowercase() || c == '-';
    let is_token = |token: &str| {
        let is_plain = |c: char| c.is_ascii_graphic() && c != '*' && c != '>';
        !token.is_empty() && token.chars().all(is_plain)
    };
    if owner.is_empty() || !owner.chars().all(is_name) || !rest.split('.').all(is_token) {
        return None;
    }
    Some(if owner == SHARED { Inbox::Shared } else { Inbox::Own })
}

/// An answer to a command of a bundle, as it travels.
#[derive(Serialize, Deserialize)]
pub(crate) struct Bundled<'a> {
    /// The command's index in its bundle.
    pub(crate) at: usize,
    /// HTTP status.
    pub(crate) status: u16,
    /// The reply, or a problem.
    #[serde(borrow)]
    pub(crate) body: &'a RawValue,
}

/// Answers that are sent together: those to one bundle are one message.
#[derive(Default)]
pub(crate) struct Replies {
    tally: Tally,
    alone: Vec<(Subject, Answered)>,
    bundled: Vec<(Subject, Vec<(usize, Answered)>)>,
}

impl Replies {
    /// Adds an answer.
    pub(crate) fn add(&mut self, to: ReplyTo, answered: Answered) {
        self.tally.count(&to.asked, &answered);
        let ReplyTo { subject, at, .. } = to;
        let Some(at) = at else { return self.alone.push((subject, answered)) };
        // A batch holds the commands of a few bundles at most.
        match self.bundled.iter_mut().find(|(of, _)| *of == subject) {
            Some((_, answers)) => answers.push((at, answered)),
            None => self.bundled.push((subject, vec![(at, answered)])),
        }
    }

    /// Sends them. They are counted first: who has an answer finds it in the statistics.
    pub(crate) async fn send(self, link: &Link) {
        drop(self.tally);
        for (subject, answered) in self.alone {
            let mut map = HeaderMap::new();
            map.insert(headers::STATUS, answered.status.to_string());
            if !answered.is_granted() {
                // The `nats` command and the statistics of NATS services read these two.
                map.insert("Nats-Service-Error-Code", answered.status.to_string());
                map.insert("Nats-Service-Error", "see the problem in the body");
            }
            warn_if_unsent(link, link.answer(subject, map, answered.body).await);
        }
        for (subject, answers) in self.bundled {
            let sent = link.answer(subject, HeaderMap::new(), encode(&answers)).await;
            warn_if_unsent(link, sent);
        }
    }
}

/// Sends a single answer.
pub(crate) async fn reply(link: &Link, to: ReplyTo, answered: Answered) {
    let mut replies = Replies::default();
    replies.add(to, answered);
    replies.send(link).await;
}

fn encode(answers: &[(usize, Answered)]) -> Bytes {
    let bundled = |(at, answered): &(usize, Answered)| -> serde_json::Result<Vec<u8>> {
        let body = serde_json::from_slice(&answered.body).unwrap_or(RawValue::NULL);
        serde_json::to_vec(&Bundled { at: *at, status: answered.status, body })
    };
    let answers = answers.iter().map(|answer| bundled(answer).expect("plain data"));
    let mut json = vec![b'['];
    for (index, answer) in answers.enumerate() {
        json.extend((index > 0).then_some(b','));
        json.extend(answer);
    }
    json.push(b']');
    json.into()
}

fn warn_if_unsent(link: &Link, sent: Result<(), BrokerError>) {
    if let Err(error) = sent {
        warn!(service = link.service(), %error, "an answer could not be sent");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::inbound::counts::Counts;

    #[test]
    fn only_an_inbox_gets_an_answer() {
        for own in ["_INBOX_gateway.a.1", "_INBOX_account.018f.x", "_INBOX_data-platform.a"] {
            assert_eq!(inbox(own), Some(Inbox::Own), "{own}");
        }
        assert_eq!(inbox("_INBOX_client.abc.1"), Some(Inbox::Shared));
        for none in [
            "onsale.point.charged.v1.-",
            "dlq.point.x",
            "live.onsale.point.charged.v1.-",
            "cmd.payment.pay",
            "$JS.API.STREAM.PURGE.POINT",
            "$SYS._INBOX.a.b",
            "_INBOX.abc",
            "_INBOX_",
            "_INBOX_.a",
            "_INBOX_client",
            "_INBOX_client.",
            "_INBOX_client..a",
            "_INBOX_client.a.",
            "_INBOX_client.>",
            "_INBOX_client.*.a",
            "_INBOX_client.a b",
            "_INBOX_*.a",
            "_inbox_client.a",
            " _INBOX_client.a",
            "",
        ] {
            assert_eq!(inbox(none), None, "{none}");
        }
    }

    #[test]
    fn the_answers_to_one_bundle_are_one_message() {
        let mut replies = Replies::default();
        let answered = |status, body: &'static str| Answered { status, body: body.into() };
        let counts = Arc::<Counts>::default();
        let to = |subject: &'static str, at| ReplyTo {
            subject: subject.into(),
            at,
            asked: Asked::now(&counts),
        };
        replies.add(to("a.1", Some(2)), answered(202, r#"{"x":1}"#));
        replies.add(to("b", None), answered(404, "{}"));
        replies.add(to("a.2", Some(0)), answered(200, "null"));
        replies.add(to("a.1", Some(0)), answered(409, "{}"));
        assert_eq!((replies.alone.len(), replies.bundled.len()), (1, 2));
        let (subject, answers) = &replies.bundled[0];
        assert_eq!(subject.as_str(), "a.1");
        let encoded = encode(answers);
        let read: Vec<Bundled<'_>> = serde_json::from_slice(&encoded).unwrap();
        let read: Vec<_> = read.iter().map(|one| (one.at, one.status, one.body.get())).collect();
        assert_eq!(read, [(2, 202, r#"{"x":1}"#), (0, 409, "{}")]);
    }
}
