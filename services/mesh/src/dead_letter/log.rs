//! The log of dead letters, read: by the services for their own lines, and by the gateway
//! for operators.

use events::{
    Problem, codes,
    dead_letter::{DeadLetter, OpenedLetter},
};

use super::{
    key,
    line::{Letter, Pages},
};
use crate::{Asker, Fact, STORED_FACTS_MAX, link::headers};

/// The stream.
const STREAM: &str = "DEAD_LETTERS";

impl Asker {
    /// The dead letters of a service, or of all, and unless `ended` only those that still
    /// stand in a line.
    ///
    /// # Errors
    /// `unavailable` when JetStream does not answer.
    pub async fn dead_letters(
        &self,
        service: Option<&str>,
        ended: bool,
    ) -> Result<Vec<DeadLetter>, Problem> {
        let filter = match service {
            Some(service) => format!("dlq.{service}.>"),
            None => "dlq.>".to_owned(),
        };
        let pages = if ended { Pages::default() } else { Pages::brief() };
        let letters = self.read_log(&filter, pages).await?;
        Ok(letters.into_iter().map(|letter| letter.about).collect())
    }

    /// One dead letter with its message, and the line it stands in.
    ///
    /// # Errors
    /// `not_found`, or `unavailable` when JetStream does not answer.
    pub async fn dead_letter(&self, letter: u64) -> Result<OpenedLetter, Problem> {
        let line = self.line_of(letter).await?;
        let opened =
            line.iter().find(|one| one.about.letter == letter).ok_or_else(|| no_letter(letter))?;
        Ok(OpenedLetter {
            letter: opened.about.clone(),
            payload: String::from_utf8_lossy(opened.payload()).into_owned(),
            deliveries: line.iter().map(|one| one.about.clone()).collect(),
        })
    }

    /// The line that a letter stands or has stood in, ended letters included.
    pub(crate) async fn line_of(&self, letter: u64) -> Result<Vec<Letter>, Problem> {
        let entry = match letter {
            0 => None,
            letter => self.stored_at(STREAM, letter).await?,
        };
        let entry = entry.filter(|entry| entry.header(headers::DEAD_LETTER).is_none());
        let entry = entry.ok_or_else(|| no_letter(letter))?;
        let (service, key) = place_of(&entry).ok_or_else(|| no_letter(letter))?;
        let mut line = self.line(service, key, Pages::default()).await?;
        if key == key::NONE {
            // What has no key waits for nobody.
            line.retain(|one| one.about.letter == letter);
        }
        Ok(line)
    }

    /// The letters of a key.
    pub(crate) async fn line(
        &self,
        service: &str,
        key: &str,
        pages: Pages,
    ) -> Result<Vec<Letter>, Problem> {
        self.read_log(&format!("dlq.{service}.*.*.{key}"), pages).await
    }

    async fn read_log(&self, filter: &str, mut pages: Pages) -> Result<Vec<Letter>, Problem> {
        let mut after = 0;
        loop {
            let entries = self.stored_in(STREAM, filter, after, STORED_FACTS_MAX).await?;
            let Some(last) = entries.last() else { return Ok(pages.close()) };
            after = last.stream_seq();
            entries.into_iter().for_each(|entry| pages.turn(entry));
        }
    }
}

/// The service and the key that an entry of the log belongs to.
fn place_of(entry: &Fact) -> Option<(&str, &str)> {
    let mut tokens = entry.subject().strip_prefix("dlq.")?.split('.');
    let (service, key) = (tokens.next()?, tokens.nth(2)?);
    Some((service, key))
}

fn no_letter(letter: u64) -> Problem {
    Problem::new(codes::NOT_FOUND, format!("There is no letter {letter}."))
}
