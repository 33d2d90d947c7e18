//! The commands that report stalls and violations: each is emitted once.

use events::audit::{ReportStall, ReportViolation, Reported};
use mesh::{Caller, Context, Execute, Refusal};

use crate::{Config, UnitOfWork, unit_of_work::Keys};

impl Execute<ReportStall> for UnitOfWork {
    fn keys(command: &ReportStall, _caller: &Caller, keys: &mut Keys) {
        keys.stalls.push(command.stalled.clone());
    }

    fn execute(
        &mut self,
        command: &ReportStall,
        ctx: &mut Context<'_, Config>,
    ) -> Result<Reported, Refusal> {
        if self.note_stall(&command.stalled) {
            ctx.emit_in(command.stalled.saga_id, command.stalled.clone());
        }
        Ok(Reported {})
    }
}

impl Execute<ReportViolation> for UnitOfWork {
    fn keys(command: &ReportViolation, _caller: &Caller, keys: &mut Keys) {
        keys.violations.push(command.violation.violation_id);
    }

    fn execute(
        &mut self,
        command: &ReportViolation,
        ctx: &mut Context<'_, Config>,
    ) -> Result<Reported, Refusal> {
        if self.note_violation(ctx.id, &command.violation) {
            ctx.emit_in(command.violation.saga_id, command.violation.clone());
        }
        Ok(Reported {})
    }
}
