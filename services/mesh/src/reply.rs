//! Answers to commands, on their way back to whoever asked.

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::warn;

use crate::{Link, link::headers, work::Answered};

/// Where an answer goes.
#[derive(Debug, Clone)]
pub(crate) struct ReplyTo {
    /// The subject that its caller listens to.
    pub(crate) subject: Subject,
    /// The place of its command in a bundle; `None` for one that came by itself.
    pub(crate) at: Option<usize>,
}

/// An answer to a command of a bundle, as it travels.
#[derive(Serialize, Deserialize)]
pub(crate) struct Bundled<'a> {
    /// The command's place in its bundle.
    pub(crate) at: usize,
    /// HTTP status.
    pub(crate) status: u16,
    /// The reply, or a problem.
    #[serde(borrow)]
    pub(crate) body: &'a RawValue,
}

/// Answers that are sent together: those of one bundle are one message.
#[derive(Default)]
pub(crate) struct Replies {
    alone: Vec<(Subject, Answered)>,
    bundled: Vec<(Subject, Vec<(usize, Answered)>)>,
}

impl Replies {
    /// Adds an answer.
    pub(crate) fn add(&mut self, to: ReplyTo, answered: Answered) {
        let ReplyTo { subject, at } = to;
        let Some(at) = at else { return self.alone.push((subject, answered)) };
        // A batch holds the commands of a few bundles at most.
        match self.bundled.iter_mut().find(|(of, _)| *of == subject) {
            Some((_, answers)) => answers.push((at, answered)),
            None => self.bundled.push((subject, vec![(at, answered)])),
        }
    }

    /// Sends them.
    pub(crate) async fn send(self, link: &Link) {
        for (subject, answered) in self.alone {
            let mut map = HeaderMap::new();
            map.insert(headers::STATUS, answered.status.to_string());
            if !answered.is_granted() {
                // The `nats` command and the statistics of NATS services know these two.
                map.insert("Nats-Service-Error-Code", answered.status.to_string());
                map.insert("Nats-Service-Error", "see the problem in the body");
            }
            let sent = link.client().publish_with_headers(subject, map, answered.body).await;
            complain(link, sent);
        }
        for (subject, answers) in self.bundled {
            complain(link, link.client().publish(subject, encode(&answers)).await);
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

fn complain(link: &Link, sent: Result<(), async_nats::PublishError>) {
    if let Err(error) = sent {
        warn!(service = link.service(), %error, "an answer could not be sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_one_bundle_are_one_message() {
        let mut replies = Replies::default();
        let answered = |status, body: &'static str| Answered { status, body: body.into() };
        let to = |subject: &'static str, at| ReplyTo { subject: subject.into(), at };
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
