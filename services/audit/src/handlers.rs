//! What the service tells: stalls and violations, each once.

use events::audit::{ReportStall, ReportViolation, Reported};
use mesh::{Answer, Caller, Refusal, Turn};

use crate::{Book, Rules, book::Keys};

impl Answer<ReportStall> for Book {
    fn keys(command: &ReportStall, _caller: &Caller, keys: &mut Keys) {
        keys.stalls.push(command.stalled.clone());
    }

    fn answer(
        &mut self,
        command: &ReportStall,
        turn: &mut Turn<'_, Rules>,
    ) -> Result<Reported, Refusal> {
        if self.note_stall(&command.stalled) {
            turn.tell_in(command.stalled.saga_id, command.stalled.clone());
        }
        Ok(Reported {})
    }
}

impl Answer<ReportViolation> for Book {
    fn keys(command: &ReportViolation, _caller: &Caller, keys: &mut Keys) {
        keys.violations.push(command.violation.violation_id);
    }

    fn answer(
        &mut self,
        command: &ReportViolation,
        turn: &mut Turn<'_, Rules>,
    ) -> Result<Reported, Refusal> {
        if self.note_violation(turn.id, &command.violation) {
            turn.tell_in(command.violation.saga_id, command.violation.clone());
        }
        Ok(Reported {})
    }
}
