//! Streams and consumers as data: applied, checked, and compared with the services.
//!
//! The files are JetStream's own configuration, passed on to the broker as they are, so
//! the `nats` command takes the same ones and the broker itself refuses a field that it
//! does not know.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::ErrorCode;
use events::{event_of_subject, producer_of};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    Link, Wiring,
    nats::{error::BrokerError, link::stream_of},
};

/// The streams and consumers that the broker should have.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    /// Each stream's configuration, by its name.
    streams: BTreeMap<String, Map<String, Value>>,
    /// Each consumer's configuration, by its stream and its own name.
    consumers: BTreeMap<(String, String), Map<String, Value>>,
}

/// Why the topology could not be read, applied or checked.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// A file is invalid.
    #[error("{file}: {source}")]
    File {
        /// Its name.
        file: String,
        /// What is wrong with it.
        source: FileError,
    },
    /// The broker does not answer, or refuses.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// What is wrong with a file of the topology.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not a JSON object.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// The name of a consumer's file has no stream.
    #[error("is not named `<STREAM>.<service>`")]
    Name,
    /// The stream of a consumer has no file.
    #[error("there is no such stream")]
    NoStream,
    /// It names another stream or consumer than its name.
    #[error("`{field}` is {found:?}, not `{name}`")]
    OtherName {
        /// The field with the name.
        field: &'static str,
        /// What is there.
        found: Option<Value>,
        /// What the file's name says.
        name: String,
    },
}

/// One difference between the broker and the files.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Drift {
    /// The broker does not have it.
    #[error("{what} is missing")]
    Missing {
        /// `stream PAYMENT`, `consumer PAYMENT.point`.
        what: String,
    },
    /// No file describes it.
    #[error("{what} is on the broker, but in no file")]
    Unknown {
        /// As above.
        what: String,
    },
    /// A field has another value.
    #[error("{what}: {field} should be {expected}, but is {found}")]
    Differs {
        /// As above.
        what: String,
        /// The field's name in JetStream's configuration.
        field: String,
        /// As in the file.
        expected: Value,
        /// As on the broker.
        found: Value,
    },
}

/// A stream or a consumer, as the broker's API names it.
struct Resource<'a> {
    what: String,
    /// The end of its API subjects: `PAYMENT`, `PAYMENT.point`.
    path: String,
    kind: &'static str,
    config: &'a Map<String, Value>,
}

#[derive(Deserialize)]
struct Info {
    config: Map<String, Value>,
}

impl Topology {
    /// Reads the files, given as (name without ending, content): streams are named
    /// `<STREAM>`, consumers `<STREAM>.<service>`.
    ///
    /// # Errors
    /// Names the first file that is not a JSON object or does not match its name.
    pub fn parse<N: AsRef<str>, C: AsRef<[u8]>>(
        streams: &[(N, C)],
        consumers: &[(N, C)],
    ) -> Result<Self, TopologyError> {
        let mut topology = Self::default();
        for (name, content) in streams {
            let name = name.as_ref();
            let config = parse_file(name, content.as_ref(), "name", name)?;
            topology.streams.insert(name.to_owned(), config);
        }
        for (name, content) in consumers {
            let name = name.as_ref();
            let wrong = |source| TopologyError::File { file: name.into(), source };
            let (stream, service) = name.split_once('.').ok_or_else(|| wrong(FileError::Name))?;
            if !topology.streams.contains_key(stream) {
                return Err(wrong(FileError::NoStream));
            }
            let config = parse_file(name, content.as_ref(), "durable_name", service)?;
            topology.consumers.insert((stream.to_owned(), service.to_owned()), config);
        }
        Ok(topology)
    }

    /// The same with every stream kept by so many nodes of the broker, and its consumers as well:
    /// their files leave that to their streams.
    #[must_use]
    pub fn with_replicas(mut self, count: u8) -> Self {
        for config in self.streams.values_mut() {
            config.insert("num_replicas".to_owned(), count.into());
        }
        self
    }

    /// The names of the streams.
    pub fn streams(&self) -> impl Iterator<Item = &str> {
        self.streams.keys().map(String::as_str)
    }

    /// Creates what is missing and updates what differs; nothing is ever deleted. Returns a
    /// line for each change.
    ///
    /// # Errors
    /// When the broker refuses: a file has an unknown field, a change is not possible, or the
    /// user has no permission.
    pub async fn apply(&self, link: &Link) -> Result<Vec<String>, TopologyError> {
        let mut done = Vec::new();
        for resource in self.resources() {
            let action = match resource.find(link).await? {
                None => "created",
                Some(found) if resource.drifts(&found).is_empty() => continue,
                Some(_) => "updated",
            };
            resource.put(link, action == "created").await?;
            done.push(format!("{} {action}", resource.what));
        }
        Ok(done)
    }

    /// Returns every difference between the broker and the files.
    ///
    /// # Errors
    /// When the broker does not answer or refuses.
    pub async fn check(&self, link: &Link) -> Result<Vec<Drift>, TopologyError> {
        let mut drifts = Vec::new();
        for resource in self.resources() {
            match resource.find(link).await? {
                Some(found) => drifts.extend(resource.drifts(&found)),
                None => drifts.push(Drift::Missing { what: resource.what }),
            }
        }
        for stream in names(link, "STREAM.NAMES", "streams").await? {
            if !self.streams.contains_key(&stream) {
                drifts.push(Drift::Unknown { what: format!("stream {stream}") });
                continue;
            }
            let subject = format!("CONSUMER.NAMES.{stream}");
            for consumer in names(link, &subject, "consumers").await? {
                if !self.consumers.contains_key(&(stream.clone(), consumer.clone())) {
                    drifts.push(Drift::Unknown { what: format!("consumer {stream}.{consumer}") });
                }
            }
        }
        Ok(drifts)
    }

    /// Returns what the broker does not have. It compares only names: cheap enough to run often.
    ///
    /// # Errors
    /// When the broker does not answer or refuses.
    pub async fn missing(&self, link: &Link) -> Result<Vec<String>, TopologyError> {
        let mut missing = Vec::new();
        let there = names(link, "STREAM.NAMES", "streams").await?;
        for stream in self.streams.keys() {
            let mut consumers = Vec::new();
            if there.contains(stream) {
                consumers = names(link, &format!("CONSUMER.NAMES.{stream}"), "consumers").await?;
            } else {
                missing.push(format!("stream {stream}"));
            }
            let of_stream = self.consumers.keys().filter(|(of, _)| of == stream);
            let gone = of_stream.filter(|(_, consumer)| !consumers.contains(consumer));
            missing.extend(gone.map(|(of, consumer)| format!("consumer {of}.{consumer}")));
        }
        Ok(missing)
    }

    /// Compares the files with what the services declare: the stream of its producer stores
    /// every emitted event, and every service has exactly the consumers for the events it
    /// consumes. Returns the mismatches.
    pub fn compare(&self, wirings: &[Wiring]) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut wanted: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
        for wiring in wirings {
            for (event, _) in &wiring.consumes {
                let place = (stream_of(producer_of(event)), wiring.service.to_owned());
                wanted.entry(place).or_default().insert(event);
            }
            let all = wiring.consumes.iter().chain(&wiring.answers).chain(&wiring.timers);
            let emitted: BTreeSet<&str> =
                all.flat_map(|(_, emits)| emits.iter().copied()).collect();
            wrong.extend(
                emitted.into_iter().filter(|event| !self.stores(event)).map(|event| {
                    format!("{} emits {event}, which no stream stores", wiring.service)
                }),
            );
        }
        for (place, events) in &wanted {
            let filters = self.consumers.get(place).map(filtered_events).unwrap_or_default();
            let (stream, service) = place;
            if filters.iter().map(String::as_str).ne(events.iter().copied()) {
                wrong.push(format!(
                    "consumer {stream}.{service} takes {filters:?}, but {service} consumes {events:?}"
                ));
            }
        }
        let unused = self.consumers.keys().filter(|place| !wanted.contains_key(*place));
        wrong.extend(unused.map(|(stream, service)| {
            format!("consumer {stream}.{service} is there, but {service} consumes nothing of it")
        }));
        wrong
    }

    /// Whether the stream of the event's producer stores it.
    fn stores(&self, event: &str) -> bool {
        let subject = format!("onsale.{}.>", producer_of(event));
        self.streams
            .get(&stream_of(producer_of(event)))
            .is_some_and(|config| strings(config, "subjects").any(|stored| stored == subject))
    }

    /// Streams before consumers, as they must be made.
    fn resources(&self) -> impl Iterator<Item = Resource<'_>> {
        let streams = self.streams.iter().map(|(name, config)| Resource {
            what: format!("stream {name}"),
            path: name.clone(),
            kind: "STREAM",
            config,
        });
        let consumers = self.consumers.iter().map(|((stream, name), config)| Resource {
            what: format!("consumer {stream}.{name}"),
            path: format!("{stream}.{name}"),
            kind: "CONSUMER",
            config,
        });
        streams.chain(consumers)
    }
}

impl Resource<'_> {
    /// Its configuration on the broker, if it is there.
    async fn find(&self, link: &Link) -> Result<Option<Map<String, Value>>, TopologyError> {
        let subject = format!("{}.INFO.{}", self.kind, self.path);
        let unknown = [ErrorCode::STREAM_NOT_FOUND, ErrorCode::CONSUMER_NOT_FOUND];
        match link.jetstream_request::<Info>(subject, self.what.clone()).await {
            Ok(info) => Ok(Some(info.config)),
            Err(BrokerError::Refused { source, .. }) if unknown.contains(&source.error_code()) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn put(&self, link: &Link, new: bool) -> Result<(), TopologyError> {
        let (subject, body) = if self.kind == "STREAM" {
            let verb = if new { "CREATE" } else { "UPDATE" };
            (format!("STREAM.{verb}.{}", self.path), Value::Object(self.config.clone()))
        } else {
            let stream = self.path.split('.').next().unwrap_or_default();
            let action = if new { "create" } else { "update" };
            let body = json!({ "stream_name": stream, "config": self.config, "action": action });
            (format!("CONSUMER.CREATE.{}", self.path), body)
        };
        let what = self.what.clone();
        let _: Value = link.jetstream_request_with(subject, what, &body).await?;
        Ok(())
    }

    /// Each field that differs from the file. A field that the file does not name must have its
    /// default.
    fn drifts(&self, found: &Map<String, Value>) -> Vec<Drift> {
        let fields: BTreeSet<&String> = self.config.keys().chain(found.keys()).collect();
        let value = |map: &Map<String, Value>, field: &str| {
            map.get(field).filter(|value| !is_default(value)).cloned().unwrap_or_default()
        };
        let metadata = |field: &str| field == "metadata" && !self.config.contains_key(field);
        fields
            .into_iter()
            // The broker stores its own version there.
            .filter(|field| !metadata(field))
            .map(|field| (field, value(self.config, field), value(found, field)))
            .filter(|(_, expected, found)| expected != found)
            .map(|(field, expected, found)| Drift::Differs {
                what: self.what.clone(),
                field: field.clone(),
                expected,
                found,
            })
            .collect()
    }
}

async fn names(link: &Link, subject: &str, key: &str) -> Result<Vec<String>, TopologyError> {
    // The broker lists up to 1,024 at once; a mesh has far fewer.
    let answer: Value = link.jetstream_request(subject.to_owned(), key.to_owned()).await?;
    let listed = answer.get(key).and_then(Value::as_array);
    let names = listed.into_iter().flatten().filter_map(Value::as_str);
    Ok(names.map(ToOwned::to_owned).collect())
}

/// Parses a file: a JSON object whose `field` equals the file's name.
fn parse_file(
    file: &str,
    content: &[u8],
    field: &'static str,
    name: &str,
) -> Result<Map<String, Value>, TopologyError> {
    let wrong = |source| TopologyError::File { file: file.to_owned(), source };
    let config: Map<String, Value> =
        serde_json::from_slice(content).map_err(|error| wrong(error.into()))?;
    match config.get(field) {
        Some(Value::String(found)) if found == name => Ok(config),
        found => {
            let (found, name) = (found.cloned(), name.to_owned());
            Err(wrong(FileError::OtherName { field, found, name }))
        }
    }
}

/// The events that a consumer's filters match. A filter that is not one event in all its
/// schedules stays as it is, so that it equals no event.
fn filtered_events(config: &Map<String, Value>) -> BTreeSet<String> {
    strings(config, "filter_subjects")
        .map(|filter| match event_of_subject(filter) {
            Some(event) if *filter == format!("onsale.{event}.v1.>") => event.to_owned(),
            _ => filter.to_owned(),
        })
        .collect()
}

fn strings<'a>(config: &'a Map<String, Value>, key: &str) -> impl Iterator<Item = &'a str> {
    config.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// Whether JetStream fills this value in where the configuration has none.
fn is_default(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64().is_some_and(|number| number <= 0),
        Value::String(text) => text.is_empty() || text == "none",
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = r#"{"name":"POINT","subjects":["onsale.point.>"],"allow_direct":true}"#;

    fn topology(filters: &str) -> Topology {
        let consumer = format!(r#"{{"durable_name":"payment","filter_subjects":{filters}}}"#);
        let streams = [("POINT", STREAM.to_owned())];
        Topology::parse(&streams, &[("POINT.payment", consumer)]).unwrap()
    }

    fn payment() -> Wiring {
        Wiring {
            service: "payment",
            consumes: vec![("point.refunded", &["point.charged"])],
            answers: vec![],
            timers: vec![],
            follows: vec![],
        }
    }

    #[test]
    fn consumers_that_match_the_services_are_not_reported() {
        let fitting = topology(r#"["onsale.point.refunded.v1.>"]"#);
        assert_eq!(fitting.compare(&[payment()]), Vec::<String>::new());
    }

    #[test]
    fn a_filter_for_anything_but_the_consumed_events_is_reported() {
        for filters in [
            r#"[]"#,
            r#"["onsale.point.>"]"#,
            r#"["onsale.point.refunded.v2.>"]"#,
            r#"["onsale.point.refunded.v1.>","onsale.point.debited.v1.>"]"#,
        ] {
            let wrong = topology(filters).compare(&[payment()]);
            assert_eq!(wrong.len(), 1, "{filters}: {wrong:?}");
            assert!(wrong[0].starts_with("consumer POINT.payment takes"), "{wrong:?}");
        }
    }

    #[test]
    fn an_unused_consumer_and_an_event_in_no_stream_are_reported() {
        let topology = topology(r#"["onsale.point.refunded.v1.>"]"#);
        let unused = Wiring { consumes: vec![], ..payment() };
        assert_eq!(topology.compare(&[unused]).len(), 1);
        let unstored = Wiring { timers: vec![("late", &["payment.failed"])], ..payment() };
        let wrong = topology.compare(&[unstored]);
        assert_eq!(wrong, ["payment emits payment.failed, which no stream stores"]);
    }

    #[test]
    fn every_stream_is_kept_by_as_many_nodes_as_wanted() {
        let topology = topology("[]").with_replicas(3);
        assert_eq!(topology.streams["POINT"]["num_replicas"], 3);
    }

    #[test]
    fn a_file_must_match_its_name() {
        let error = Topology::parse(&[("PAYMENT", STREAM)], &[]).unwrap_err();
        assert!(error.to_string().starts_with("PAYMENT: `name` is"), "{error}");
        let orphan = [("QUEUE.payment", r#"{"durable_name":"payment"}"#)];
        assert!(Topology::parse(&[("POINT", STREAM)], &orphan).is_err());
    }

    #[test]
    fn a_field_that_no_file_names_is_a_drift_unless_it_has_its_default() {
        let topology = topology("[]");
        let resource = topology.resources().next().unwrap();
        let mut found = topology.streams["POINT"].clone();
        found.insert("max_msgs".into(), json!(-1));
        found.insert("metadata".into(), json!({ "_nats.ver": "2.15.1" }));
        assert_eq!(resource.drifts(&found), []);
        found.insert("sealed".into(), json!(true));
        found.insert("allow_direct".into(), json!(false));
        let drifts: Vec<String> = resource.drifts(&found).iter().map(ToString::to_string).collect();
        assert_eq!(
            drifts,
            [
                "stream POINT: allow_direct should be true, but is null",
                "stream POINT: sealed should be null, but is true"
            ]
        );
    }
}
