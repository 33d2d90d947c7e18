//! One entry per fact heard and per command answered.

use events::{
    Command, ScheduleId, Timestamp, UserId, codes,
    concert::ScheduleOpened,
    notification::{Channel, Locale, MessageKind, NotificationFailed, NotificationSent},
    payment::{PaymentCompleted, PaymentFailed, PaymentRefunded},
    reservation::{CancelReason, ReservationCancelled, ReservationCreated, ReservationExpired},
    user::UserWithdrawn,
};
use mesh::{Answer, Caller, Hear, Miss, Refusal};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Book, Keys, Rules,
    book::{Contact, Draft, End, Waiting},
    domain::{Delivery, Standing, Verdict, after, message_id},
    words::{Details, Show},
};

type Turn<'a> = mesh::Turn<'a, Rules>;

/// Why the messages of a fan who has withdrawn do not go out.
pub(crate) const ACCOUNT_CLOSED: &str = "account_closed";

/// Note how a try ended.
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

/// Keep where the caller's messages go: what was checked of it.
#[derive(Serialize, Deserialize)]
pub struct KeepContact {
    /// A number in E.164 form.
    pub phone: Option<String>,
    /// The language.
    pub locale: Locale,
}

impl Command for KeepContact {
    const ENDPOINT: &'static str = "notification.keep_contact";
    // What is granted under an idempotency key is remembered, and a number must not be.
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

impl Book {
    /// Writes a message, unless the fan has withdrawn. That there is one already shows when
    /// it is stored; nothing is told, so nothing can be told twice.
    fn write(&mut self, kind: MessageKind, about: About, details: Details, turn: &mut Turn<'_>) {
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
            listed_id: turn.new_id(),
            saga_id: turn.saga_id(),
            cause_id: turn.cause_id(),
            details,
            at: turn.now,
        };
        self.drafts.entry(id).or_insert(draft);
    }

    /// Notes how a message ended and tells it, in the saga of the fact that asked for it.
    fn end(&mut self, message_id: Uuid, end: End, turn: &mut Turn<'_>) {
        let Some(row) = self.waiting.get_mut(&message_id).filter(|row| row.end.is_none()) else {
            return;
        };
        row.end = Some((end.clone(), turn.now));
        row.changed = true;
        let row = row.clone();
        match end {
            End::Sent(channel) => {
                let fact = sent(message_id, &row, channel, turn.now);
                turn.tell_after(row.saga_id, row.cause_id, fact);
            }
            End::Failed(reason) => {
                let fact = failed(message_id, &row, reason, turn.now);
                turn.tell_after(row.saga_id, row.cause_id, fact);
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

impl Hear<ScheduleOpened> for Book {
    fn keys(_: &ScheduleOpened, _: &mut Keys) {}

    fn hear(&mut self, fact: &ScheduleOpened, _: &mut Turn<'_>) -> Result<(), Miss> {
        let show = Show {
            title: fact.title.clone(),
            venue: fact.venue.clone(),
            starts_at: fact.starts_at,
        };
        self.shows.insert(fact.schedule_id, show);
        Ok(())
    }
}

impl Hear<ReservationCreated> for Book {
    fn keys(fact: &ReservationCreated, keys: &mut Keys) {
        keys.contacts.insert(fact.user_id.0);
    }

    fn hear(&mut self, fact: &ReservationCreated, turn: &mut Turn<'_>) -> Result<(), Miss> {
        let about = About {
            user_id: fact.user_id,
            subject_id: fact.reservation_id.0,
            schedule_id: fact.schedule_id,
        };
        let details = Details {
            seats: fact.seats.iter().map(|priced| priced.seat.clone()).collect(),
            amount: Some(fact.amount),
            until: Some(fact.expires_at),
            ..Details::default()
        };
        self.write(MessageKind::ReservationMade, about, details, turn);
        Ok(())
    }
}

impl Hear<ReservationExpired> for Book {
    fn keys(fact: &ReservationExpired, keys: &mut Keys) {
        keys.contacts.insert(fact.user_id.0);
    }

    fn hear(&mut self, fact: &ReservationExpired, turn: &mut Turn<'_>) -> Result<(), Miss> {
        let about = About {
            user_id: fact.user_id,
            subject_id: fact.reservation_id.0,
            schedule_id: fact.schedule_id,
        };
        let details =
            Details { seats: fact.seats.clone(), until: Some(turn.now), ..Details::default() };
        self.write(MessageKind::HoldExpired, about, details, turn);
        Ok(())
    }
}

impl Hear<ReservationCancelled> for Book {
    fn keys(fact: &ReservationCancelled, keys: &mut Keys) {
        keys.contacts.insert(fact.user_id.0);
    }

    /// Whoever gave it up knows; a show that is called off is news.
    fn hear(&mut self, fact: &ReservationCancelled, turn: &mut Turn<'_>) -> Result<(), Miss> {
        if fact.reason != CancelReason::ShowCancelled {
            return Ok(());
        }
        let about = About {
            user_id: fact.user_id,
            subject_id: fact.reservation_id.0,
            schedule_id: fact.schedule_id,
        };
        let details =
            Details { seats: fact.seats.clone(), amount: Some(fact.refund), ..Details::default() };
        self.write(MessageKind::ShowCancelled, about, details, turn);
        Ok(())
    }
}

macro_rules! payment_message {
    ($fact:ident, $kind:ident, $reason:expr) => {
        impl Hear<$fact> for Book {
            fn keys(fact: &$fact, keys: &mut Keys) {
                keys.contacts.insert(fact.user_id.0);
            }

            fn hear(&mut self, fact: &$fact, turn: &mut Turn<'_>) -> Result<(), Miss> {
                let about = About {
                    user_id: fact.user_id,
                    subject_id: fact.payment_id.0,
                    schedule_id: fact.schedule_id,
                };
                let reason: fn(&$fact) -> Option<events::payment::PaymentFailure> = $reason;
                let details = Details {
                    amount: Some(fact.amount),
                    reason: reason(fact),
                    ..Details::default()
                };
                self.write(MessageKind::$kind, about, details, turn);
                Ok(())
            }
        }
    };
}

payment_message!(PaymentCompleted, PaymentCompleted, |_| None);
payment_message!(PaymentFailed, PaymentFailed, |fact| Some(fact.reason));
payment_message!(PaymentRefunded, MoneyReturned, |_| None);

impl Hear<UserWithdrawn> for Book {
    fn keys(fact: &UserWithdrawn, keys: &mut Keys) {
        keys.contacts.insert(fact.user_id.0);
        keys.leaving.insert(fact.user_id.0);
    }

    /// Forgets the contact. A message that another lane writes at this moment is found when
    /// it is to be sent: the sender looks at the contact again.
    fn hear(&mut self, fact: &UserWithdrawn, turn: &mut Turn<'_>) -> Result<(), Miss> {
        let contact = Contact { withdrawn: true, ..Contact::default() };
        self.set_contact(fact.user_id, contact);
        self.drafts.retain(|_, draft| draft.user_id != fact.user_id);
        let theirs: Vec<Uuid> = self
            .waiting
            .iter()
            .filter(|(_, row)| row.user_id == fact.user_id)
            .map(|(id, _)| *id)
            .collect();
        for id in theirs {
            self.end(id, End::Failed(ACCOUNT_CLOSED.into()), turn);
        }
        Ok(())
    }
}

impl Answer<KeepContact> for Book {
    fn keys(_: &KeepContact, caller: &Caller, keys: &mut Keys) {
        keys.contacts.extend(caller.user_id().map(|id| id.0));
    }

    fn answer(&mut self, command: &KeepContact, turn: &mut Turn<'_>) -> Result<(), Refusal> {
        let user_id = turn.caller.user_id()?;
        // The token outlives the account by some minutes.
        if self.contact(user_id).withdrawn {
            return Err(Refusal::No(codes::ACCOUNT_CLOSING.into()));
        }
        let (phone, locale) = (command.phone.clone(), command.locale);
        self.set_contact(user_id, Contact { phone, locale, withdrawn: false });
        Ok(())
    }
}

impl Answer<RecordDelivery> for Book {
    fn keys(command: &RecordDelivery, _: &Caller, keys: &mut Keys) {
        keys.tried.insert(command.message_id);
    }

    /// A message may be over meanwhile: its lease ran out and another sender was faster, or
    /// its fan has withdrawn. Then there is nothing to note.
    fn answer(&mut self, command: &RecordDelivery, turn: &mut Turn<'_>) -> Result<(), Refusal> {
        let id = command.message_id;
        let Some(row) = self.waiting.get_mut(&id).filter(|row| row.end.is_none()) else {
            return Ok(());
        };
        let standing = Standing { id, created_at: row.created_at, attempts: row.attempts };
        let verdict = after(&command.outcome, standing, turn.now, &turn.rules.pace);
        if !matches!(verdict, Verdict::Again { tried: false, .. }) {
            row.attempts = row.attempts.saturating_add(1);
        }
        match verdict {
            Verdict::Sent(channel) => self.end(id, End::Sent(channel), turn),
            Verdict::Failed(reason) => self.end(id, End::Failed(reason), turn),
            Verdict::Again { next_at, receipt, reason, .. } => {
                row.next_at = next_at;
                row.receipt = receipt.or_else(|| row.receipt.take());
                row.last_error = reason.or_else(|| row.last_error.take());
                row.changed = true;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
