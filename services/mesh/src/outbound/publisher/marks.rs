//! The marks of published messages, and the generation that they belong to.

use std::collections::HashMap;

use super::{Publisher, Run};
use crate::{
    failpoint::crash::{Step, reach},
    store::engine::{Failure, Generation, Mark, Place},
};

impl Publisher {
    /// Begins a generation of marks on each connection to the broker; `None` without one.
    pub(super) async fn generation(
        &self,
        run: &mut Run<'_>,
    ) -> Result<Option<Generation>, Failure> {
        let epoch = self.link.epoch();
        match run.generation {
            Some((of, generation)) if of == epoch => Ok(Some(generation)),
            _ if !self.link.is_connected() => Ok(None),
            _ => {
                let generation = self.engine.store().begin_generation().await?;
                run.generation = Some((epoch, generation));
                Ok(Some(generation))
            }
        }
    }

    /// Writes the marks of messages acknowledged on the current connection. A message that was
    /// acknowledged on another may be gone, and its mark would lie below the position from which
    /// the next comparison begins.
    pub(super) async fn write_marks(&self, run: &mut Run<'_>) -> Result<(), Failure> {
        if run.marks.is_empty() || run.dies {
            return Ok(());
        }
        let Some(generation) = self.generation(run).await? else { return Ok(()) };
        let acknowledged = run.marks.len();
        let marks = of_connection(std::mem::take(&mut run.marks), self.link.epoch());
        run.is_in_doubt |= marks.len() < acknowledged;
        if marks.is_empty() {
            return Ok(());
        }
        if !self.engine.store().mark(&marks, generation).await? {
            self.mark_what_is_there(run, marks).await?;
        }
        reach(Step::Marked);
        Ok(())
    }

    /// Another instance has begun a generation: perhaps it knows a broker that has lost what was
    /// acknowledged here. Only what is in the stream now is marked; the rest is published again.
    async fn mark_what_is_there(&self, run: &mut Run<'_>, marks: Vec<Mark>) -> Result<(), Failure> {
        run.is_in_doubt = true;
        let (epoch, generation) = (self.link.epoch(), self.engine.store().generation().await?);
        run.generation = Some((epoch, generation));
        let sequences = marks.iter().map(|mark| mark.sequence);
        let (Some(first), Some(last)) = (sequences.clone().min(), sequences.max()) else {
            return Ok(());
        };
        // The marks are lost when the broker does not answer, which only repeats the messages.
        let there = self.link.places(first, last).await?;
        let marks = of_those_there(marks, &there);
        if !marks.is_empty() {
            self.engine.store().mark(&marks, generation).await?;
        }
        Ok(())
    }
}

/// The marks of messages that were acknowledged in this epoch.
fn of_connection(marks: Vec<(Mark, u64)>, epoch: u64) -> Vec<Mark> {
    marks.into_iter().filter(|(_, of)| *of == epoch).map(|(mark, _)| mark).collect()
}

/// The marks of messages that a stream has at their sequences; `there` are its messages.
fn of_those_there(mut marks: Vec<Mark>, there: &HashMap<u64, Place>) -> Vec<Mark> {
    marks.retain(|mark| there.get(&mark.sequence).is_some_and(|place| place.mark == *mark));
    marks
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn only_a_message_that_the_stream_has_itself_is_marked_in_a_newer_generation() {
        let mark = |sequence| Mark { id: Uuid::now_v7(), sequence };
        let [there, replaced, lost] = [mark(5), mark(6), mark(7)];
        let stored = |mark: Mark| (mark.sequence, Place { mark, stored_at: crate::clock::now() });
        let stream = HashMap::from([stored(there), stored(mark(6))]);
        assert_eq!(of_those_there(vec![there, replaced, lost], &stream), [there]);
    }

    #[test]
    fn an_acknowledgement_of_an_older_connection_sets_no_mark() {
        let mark = |sequence| Mark { id: Uuid::now_v7(), sequence };
        let marks = [(mark(7), 1), (mark(5), 2), (mark(6), 2)];
        assert_eq!(of_connection(marks.to_vec(), 2), [marks[1].0, marks[2].0]);
        assert_eq!(of_connection(marks.to_vec(), 3), []);
    }
}
