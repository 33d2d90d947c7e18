//! The `OTEL_*` variables that name a collector, as traces and metrics read them.

use std::{fmt, time::Duration};

/// How spans and metrics travel to a collector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Protobuf bodies over HTTP; port 4318 of a collector. The default of the specification.
    #[default]
    Http,
    /// gRPC; port 4317 of a collector.
    Grpc,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Http, Self::Grpc];

    /// Its name in `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http/protobuf",
            Self::Grpc => "grpc",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A variable has a value that means nothing here.
#[derive(Debug, thiserror::Error)]
#[error("{name}={value} is not supported; {help}")]
pub struct Unsupported {
    /// The variable.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// What may be there instead.
    pub help: String,
}

/// Variables by their names.
pub(crate) struct Variables<'a>(pub(crate) &'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    /// The value of a variable; an empty one counts as not set.
    pub(crate) fn set(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    /// The first of two that is set: the one for a single signal goes before the one for all.
    pub(crate) fn first(&self, names: [&'static str; 2]) -> Option<(&'static str, String)> {
        names.into_iter().find_map(|name| self.set(name).map(|value| (name, value)))
    }

    /// Whether they turn everything off, or the signal with this variable for its exporter.
    pub(crate) fn are_off(&self, exporter: &str) -> bool {
        self.set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || self.set(exporter).is_some_and(|value| value == "none")
    }

    /// The protocol that the first of two variables names, or the default.
    pub(crate) fn protocol(&self, names: [&'static str; 2]) -> Result<Protocol, Unsupported> {
        let Some((name, value)) = self.first(names) else { return Ok(Protocol::default()) };
        let known = Protocol::ALL.into_iter().find(|known| known.as_str() == value);
        known.ok_or_else(|| {
            let help =
                "use http/protobuf (port 4318 of a collector) or grpc (port 4317)".to_owned();
            Unsupported { name, value, help }
        })
    }

    /// A number above 0.
    pub(crate) fn number(&self, name: &'static str) -> Result<Option<u64>, Unsupported> {
        let Some(value) = self.set(name) else { return Ok(None) };
        match value.trim().parse() {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => {
                let help = "it is a whole number above 0".to_owned();
                Err(Unsupported { name, value, help })
            }
        }
    }

    /// A number of milliseconds above 0.
    pub(crate) fn millis(&self, name: &'static str) -> Result<Option<Duration>, Unsupported> {
        Ok(self.number(name)?.map(Duration::from_millis))
    }
}
