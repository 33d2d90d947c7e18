//! The history of a run, in order, shown for what is wrong.

use events::Timestamp;
use mesh::{memory::DecodedCommand, message::Message};

use crate::{faults::Fault, people::Wish};

/// At most this many lines are shown.
const LINES_MAX: usize = 80;
/// The length of an id, in characters.
const ID_CHARS: usize = 36;

/// The history of a run.
#[derive(Default)]
pub struct Trace(Vec<(Timestamp, What)>);

enum What {
    EndpointSpec(Box<(Wish, DecodedCommand)>),
    Emitted(&'static str, Message),
    Fault(Fault, &'static str),
}

impl Trace {
    /// A command is sent, by a fan or a timer.
    pub fn asked(&mut self, at: Timestamp, wish: &Wish, asking: &DecodedCommand) {
        self.0.push((at, What::EndpointSpec(Box::new((wish.clone(), asking.clone())))));
    }

    /// A service has emitted a message.
    pub fn emitted(&mut self, at: Timestamp, service: &'static str, message: &Message) {
        self.0.push((at, What::Emitted(service, message.clone())));
    }

    /// A fault happens to a service.
    pub fn fault(&mut self, at: Timestamp, fault: Fault, service: &'static str) {
        self.0.push((at, What::Fault(fault, service)));
    }

    /// The entries about the first thing that is wrong, and the faults in between.
    pub fn of(&self, wrong: &[String]) -> Vec<String> {
        let ids: Vec<&str> = wrong.iter().take(1).flat_map(|line| ids_in(line)).collect();
        let has = |text: &str| ids.iter().any(|id| text.contains(id));
        let lines = self.0.iter().filter_map(|(at, what)| {
            let text = match what {
                What::Fault(fault, service) => Some(format!("! {fault:?} ({service})")),
                What::EndpointSpec(asked) => {
                    let (wish, asking) = &**asked;
                    let text = format!("{wish:?} as {:?}", asking.id);
                    has(&text).then(|| format!("? {text}"))
                }
                What::Emitted(service, message) => {
                    let body = String::from_utf8_lossy(&message.body);
                    let events = body.split("{\"specversion\"").skip(1);
                    let of: Vec<&str> = events.filter(|event| has(event)).collect();
                    (!of.is_empty()).then(|| {
                        let data = of.iter().filter_map(|event| event.split("\"data\":").nth(1));
                        let data: Vec<&str> = data.collect();
                        format!("{service}: {} {}", message.subject, data.join(" "))
                    })
                }
            };
            text.map(|text| format!("{at} {text}"))
        });
        lines.take(LINES_MAX).collect()
    }
}

/// The UUIDs in a line.
fn ids_in(line: &str) -> impl Iterator<Item = &str> {
    let starts = (0..line.len()).filter(|at| line.is_char_boundary(*at));
    let words = starts.filter_map(|at| line.get(at..at + ID_CHARS));
    words.filter(|word| uuid::Uuid::try_parse(word).is_ok())
}
