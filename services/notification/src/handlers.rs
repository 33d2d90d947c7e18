//! The handlers: one for each event consumed and each command.

use events::{
    Command, ScheduleId, Timestamp, UserId, codes,
    concert::ScheduleOpened,
    notification::{Channel, Locale, MessageKind, NotificationFailed, NotificationSent},
    payment::{PaymentCompleted, PaymentFailed, PaymentRefunded},
    reservation::{CancelReason, ReservationCancelled, ReservationCreated, ReservationExpired},
    user::UserWithdrawn,
};
use mesh::{Caller, Execute, Handle, HandleError, Refusal, metrics::Metric};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Config, Keys, UnitOfWork,
    domain::{Delivery, Standing, Verdict, after, message_id},
    unit_of_work::{Contact, Draft, End, Waiting},
    words::{Details, Show},
};

type Context<'a> = mesh::Context<'a, Config>;

/// Why the messages of a fan who has withdrawn do not go out.
pub(crate) const ACCOUNT_CLOSED: &str = "account_closed";

/// How messages ended. One that failed was sent on no channel.
pub(crate) static NOTIFICATIONS: Metric = Metric::counter(
    "onsale_notifications",
    "Messages to fans that were sent, or given up",
    &["channel", "result"],
);
/// The labels that are exported from the start.
pub(crate) const ENDS: &[&[&str]] = &[&["", "failed"]];

/// Command: record how a try ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct RecordDelivery {
    /// Which message.
    pub message_id: Uuid,
    /// How it ended.
    pub outcome: Delivery,
}

impl Command for RecordDelivery {
    const ENDPOINT: &'static str = "notification.record";
    type Reply = ();
}

/// Command: keep where the caller's messages go, after it was checked.
#[derive(Serialize, Deserialize)]
pub struct KeepContact {
    /// A number in E.164 form.
    pub phone: Option<String>,
    /// The language.
    pub locale: Locale,
}

impl Command for KeepContact {
    const ENDPOINT: &'static str = "notification.keep_contact";
    // A granted answer under an idempotency key is stored, and a number must not be.
    type Reply = ();
}

impl std::fmt::Debug for KeepContact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeepContact").field("locale", &self.locale).finish_non_exhaustive()
    }
}

/// What a message is about.
struct About {
    user_id: UserId,
    subject_id: Uuid,
    schedule_id: ScheduleId,
}

impl UnitOfWork {
    /// Writes a message, unless the fan has withdrawn. Whether there is one already shows when it
    /// is stored; nothing is emitted here, so nothing can be emitted twice.
    fn write(&mut self, kind: MessageKind, about: About, details: Details, ctx: &mut Context<'_>) {
        if self.contact(about.user_id).withdrawn {
            return;
        }
        let id = message_id(about.subject_id, kind);
        let draft = Draft {
            id,
            subject_id: about.subject_id,
            kind,
            user_id: about.user_id,
            schedule_id: about.schedule_id,
            listed_id: ctx.new_id(),
            saga_id: ctx.saga_id(),
            cause_id: ctx.cause_id(),
            details,
            at: ctx.now,
            traceparent: ctx.traceparent(),
        };
        self.drafts.entry(id).or_insert(draft);
    }

    /// Records how a message ended and emits it, in the saga of the event that caused it.
    fn end(&mut self, message_id: Uuid, end: End, ctx: &mut Context<'_>) {
        let Some(row) = self.waiting.change(&message_id).filter(|row| row.end.is_none()) else {
            return;
        };
        row.end = Some((end.clone(), ctx.now));
        let row = row.clone();
        ctx.concerns(row.traceparent.as_deref());
        match end {
            End::Sent(channel) => {
                ctx.count(&NOTIFICATIONS, &[channel.as_str(), "sent"]);
                let event = sent(message_id, &row, channel, ctx.now);
                ctx.emit_after(row.saga_id, row.cause_id, event);
            }
            End::Failed(reason) => {
                ctx.count(&NOTIFICATIONS, &["", "failed"]);
                let event = failed(message_id, &row, reason, ctx.now);
                ctx.emit_after(row.saga_id, row.cause_id, event);
            }
        }
    }
}

fn sent(message_id: Uuid, row: &Waiting, channel: Channel, at: Timestamp) -> NotificationSent {
    NotificationSent {
        message_id,
        user_id: row.user_id,
        subject_id: row.subject_id,
        kind: row.kind,
        schedule_id: row.schedule_id,
        channel,
        attempts: row.attempts,
        at,
    }
}

fn failed(message_id: Uuid, row: &Waiting, reason: String, at: Timestamp) -> NotificationFailed {
    NotificationFailed {
        message_id,
        user_id: row.user_id,
        subject_id: row.subject_id,
        kind: row.kind,
        schedule_id: row.schedule_id,
        reason,
        attempts: row.attempts,
        at,
    }
}

impl Handle<ScheduleOpened> for UnitOfWork {
    fn keys(_: &ScheduleOpened, _: &mut Keys) {}

    fn handle(&mut self, event: &ScheduleOpened, _: &mut Context<'_>) -> Result<(), HandleError> {
        let show = Show {
            title: event.title.clone(),
            venue: event.venue.clone(),
            starts_at: event.starts_at,
        };
        self.shows.insert(event.schedule_id, show);
        Ok(())
    }
}

impl Handle<ReservationCreated> for UnitOfWork {
    fn keys(event: &ReservationCreated, keys: &mut Keys) {
        keys.contacts.insert(event.user_id.0);
    }

    fn handle(
        &mut self,
        event: &ReservationCreated,
        ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        let about = About {
            user_id: event.user_id,
            subject_id: event.reservation_id.0,
            schedule_id: event.schedule_id,
        };
        let details = Details {
            seats: event.seats.iter().map(|priced| priced.seat.clone()).collect(),
            amount: Some(event.amount),
            until: Some(event.expires_at),
            ..Details::default()
        };
        self.write(MessageKind::ReservationMade, about, details, ctx);
        Ok(())
    }
}

impl Handle<ReservationExpired> for UnitOfWork {
    fn keys(event: &ReservationExpired, keys: &mut Keys) {
        keys.contacts.insert(event.user_id.0);
    }

    fn handle(
        &mut self,
        event: &ReservationExpired,
        ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        let about = About {
            user_id: event.user_id,
            subject_id: event.reservation_id.0,
            schedule_id: event.schedule_id,
        };
        let details =
            Details { seats: event.seats.clone(), until: Some(ctx.now), ..Details::default() };
        self.write(MessageKind::HoldExpired, about, details, ctx);
        Ok(())
    }
}

impl Handle<ReservationCancelled> for UnitOfWork {
    fn keys(event: &ReservationCancelled, keys: &mut Keys) {
        keys.contacts.insert(event.user_id.0);
    }

    /// A fan who cancelled knows it; a show that is cancelled is news.
    fn handle(
        &mut self,
        event: &ReservationCancelled,
        ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        if event.reason != CancelReason::ShowCancelled {
            return Ok(());
        }
        let about = About {
            user_id: event.user_id,
            subject_id: event.reservation_id.0,
            schedule_id: event.schedule_id,
        };
        let details = Details {
            seats: event.seats.clone(),
            amount: Some(event.refund),
            ..Details::default()
        };
        self.write(MessageKind::ShowCancelled, about, details, ctx);
        Ok(())
    }
}

macro_rules! payment_message {
    ($event:ident, $kind:ident, $reason:expr) => {
        impl Handle<$event> for UnitOfWork {
            fn keys(event: &$event, keys: &mut Keys) {
                keys.contacts.insert(event.user_id.0);
            }

            fn handle(&mut self, event: &$event, ctx: &mut Context<'_>) -> Result<(), HandleError> {
                let about = About {
                    user_id: event.user_id,
                    subject_id: event.payment_id.0,
                    schedule_id: event.schedule_id,
                };
                let reason: fn(&$event) -> Option<events::payment::PaymentFailure> = $reason;
                let details = Details {
                    amount: Some(event.amount),
                    reason: reason(event),
                    ..Details::default()
                };
                self.write(MessageKind::$kind, about, details, ctx);
                Ok(())
            }
        }
    };
}

payment_message!(PaymentCompleted, PaymentCompleted, |_| None);
payment_message!(PaymentFailed, PaymentFailed, |event| Some(event.reason));
payment_message!(PaymentRefunded, MoneyReturned, |_| None);

impl Handle<UserWithdrawn> for UnitOfWork {
    fn keys(event: &UserWithdrawn, keys: &mut Keys) {
        keys.contacts.insert(event.user_id.0);
        keys.leaving.insert(event.user_id.0);
    }

    /// Deletes the contact. A message that another batch writes at this moment is found when it
    /// is to be sent: the sender checks the contact again.
    fn handle(&mut self, event: &UserWithdrawn, ctx: &mut Context<'_>) -> Result<(), HandleError> {
        let contact = Contact { withdrawn: true, ..Contact::default() };
        self.set_contact(event.user_id, contact);
        self.drafts.retain(|_, draft| draft.user_id != event.user_id);
        let theirs: Vec<Uuid> = self
            .waiting
            .iter()
            .filter(|(_, row)| row.user_id == event.user_id)
            .map(|(id, _)| *id)
            .collect();
        for id in theirs {
            self.end(id, End::Failed(ACCOUNT_CLOSED.into()), ctx);
        }
        Ok(())
    }
}

impl Execute<KeepContact> for UnitOfWork {
    fn keys(_: &KeepContact, caller: &Caller, keys: &mut Keys) {
        keys.contacts.extend(caller.user_id().map(|id| id.0));
    }

    fn execute(&mut self, command: &KeepContact, ctx: &mut Context<'_>) -> Result<(), Refusal> {
        let user_id = ctx.caller.user_id()?;
        // The token outlives the account by some minutes.
        if self.contact(user_id).withdrawn {
            return Err(Refusal::No(codes::ACCOUNT_CLOSING.into()));
        }
        let (phone, locale) = (command.phone.clone(), command.locale);
        self.set_contact(user_id, Contact { phone, locale, withdrawn: false });
        Ok(())
    }
}

impl Execute<RecordDelivery> for UnitOfWork {
    fn keys(command: &RecordDelivery, _: &Caller, keys: &mut Keys) {
        keys.tried.insert(command.message_id);
    }

    /// A message may have ended meanwhile: its lease ran out and another sender was faster, or
    /// its fan has withdrawn. Then there is nothing to record.
    fn execute(&mut self, command: &RecordDelivery, ctx: &mut Context<'_>) -> Result<(), Refusal> {
        let id = command.message_id;
        let Some(row) = self.waiting.change(&id).filter(|row| row.end.is_none()) else {
            return Ok(());
        };
        let standing = Standing { id, created_at: row.created_at, attempts: row.attempts };
        let verdict = after(&command.outcome, standing, ctx.now, &ctx.config.pace);
        if !matches!(verdict, Verdict::Again { tried: false, .. }) {
            row.attempts = row.attempts.saturating_add(1);
        }
        match verdict {
            Verdict::Sent(channel) => self.end(id, End::Sent(channel), ctx),
            Verdict::Failed(reason) => self.end(id, End::Failed(reason), ctx),
            Verdict::Again { next_at, receipt, reason, .. } => {
                row.next_at = next_at;
                row.receipt = receipt.or_else(|| row.receipt.take());
                row.last_error = reason.or_else(|| row.last_error.take());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
