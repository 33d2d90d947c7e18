//! The ids of trace, span and saga, in a line that is written while a request, a command or an
//! event is handled.

use std::fmt;

use mesh::trace::Here;
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext,
        format::{FormatEvent, FormatFields, Writer},
    },
    registry::LookupSpan,
};

/// A format of lines, with the ids added. Such a line has no colours.
pub struct WithIds<F> {
    format: F,
    kind: Kind,
}

/// How a line is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// As one JSON object; the ids are its last fields.
    Json,
    /// As text; the ids are at its end.
    Text,
}

impl<F> WithIds<F> {
    /// Adds them to lines of JSON.
    pub fn json(format: F) -> Self {
        Self { format, kind: Kind::Json }
    }

    /// Adds them to lines of text.
    pub fn text(format: F) -> Self {
        Self { format, kind: Kind::Text }
    }
}

impl<S, N, F> FormatEvent<S, N> for WithIds<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let ids = ids(&Here::now());
        if ids.is_empty() {
            return self.format.format_event(ctx, writer, event);
        }
        let mut line = String::new();
        self.format.format_event(ctx, Writer::new(&mut line), event)?;
        let text = line.trim_end();
        match (self.kind, text.strip_suffix('}')) {
            (Kind::Json, Some(open)) => {
                writer.write_str(open)?;
                for (name, id) in ids {
                    write!(writer, ",\"{name}\":\"{id}\"")?;
                }
                writer.write_str("}\n")
            }
            _ => {
                writer.write_str(text)?;
                for (name, id) in ids {
                    write!(writer, " {name}={id}")?;
                }
                writer.write_char('\n')
            }
        }
    }
}

/// The ids that are known; all of them consist of hexadecimal digits and hyphens.
fn ids(here: &Here) -> Vec<(&'static str, String)> {
    let all = [
        ("trace_id", here.span.trace_id()),
        ("span_id", here.span.span_id()),
        ("saga_id", here.saga_id.map(|saga_id| saga_id.to_string())),
    ];
    all.into_iter().filter_map(|(name, id)| Some((name, id?))).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex, PoisonError},
    };

    use events::SagaId;
    use mesh::trace::TraceParent;
    use serde_json::Value;
    use tracing_subscriber::fmt::MakeWriter;
    use uuid::Uuid;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        fn text(&self) -> String {
            let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            String::from_utf8(bytes.clone()).unwrap()
        }
    }

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Written {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn here() -> Here {
        let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        Here {
            span: TraceParent::from_header(Some(header)),
            saga_id: Some(SagaId(Uuid::from_u128(7))),
        }
    }

    fn say_inside_and_outside() {
        let inside = here().enter();
        tracing::warn!(name = "a \"quoted\" }", "inside");
        drop(inside);
        tracing::warn!("outside");
    }

    #[test]
    fn a_json_line_carries_the_ids_of_what_is_handled_and_no_others() {
        let written = Written::default();
        let log = tracing_subscriber::fmt().with_writer(written.clone()).json();
        let log = log.map_event_format(WithIds::json).finish();
        tracing::subscriber::with_default(log, say_inside_and_outside);
        let text = written.text();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines[0]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(lines[0]["span_id"], "b7ad6b7169203331");
        assert_eq!(lines[0]["saga_id"], Uuid::from_u128(7).to_string());
        assert_eq!(lines[0]["fields"]["name"], "a \"quoted\" }");
        assert_eq!(lines[1].get("trace_id"), None);
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn a_line_of_text_ends_with_the_ids() {
        let written = Written::default();
        let log = tracing_subscriber::fmt().with_writer(written.clone()).with_ansi(false);
        let log = log.map_event_format(WithIds::text).finish();
        tracing::subscriber::with_default(log, say_inside_and_outside);
        let text = written.text();
        let lines: Vec<&str> = text.lines().collect();
        let ids = "trace_id=0af7651916cd43dd8448eb211c80319c span_id=b7ad6b7169203331 saga_id=";
        assert!(lines[0].contains("inside") && lines[0].contains(ids), "{text}");
        assert!(lines[1].ends_with("outside"), "{text}");
    }
}
