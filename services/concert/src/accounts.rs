//! What this service needs to know of accounts, read from the stream of `user`: which of them
//! can become organizers of a concert, and which were closed.

use events::{
    Command, Event, SagaId, UserId,
    concert::OrganizerRemoved,
    user::{Role, UserRoleGranted, UserWithdrawn},
};
use mesh::{
    Caller, Context, Execute, Meta, QueryContext, Read, Refusal, StoredEvent, engine::Failure,
    postgres::Postgres,
};
use serde::{Deserialize, Serialize};

use crate::{
    Config,
    team::Account,
    unit_of_work::{Keys, UnitOfWork},
};

/// The events it is read from.
pub(crate) const FOLLOWED: [&str; 2] = [UserRoleGranted::NAME, UserWithdrawn::NAME];

/// Records what an event says of an account; a closed account leaves its concerts.
#[derive(Debug, Serialize, Deserialize)]
pub struct NoteAccount {
    user_id: UserId,
    is_gone: bool,
}

impl Command for NoteAccount {
    const ENDPOINT: &'static str = "concert.note_account";
    type Reply = ();
}

impl NoteAccount {
    /// The note that an event gives; `None` for an event that does not matter here.
    fn of(event: &StoredEvent) -> Option<Self> {
        let read = match event.name() {
            UserRoleGranted::NAME => serde_json::from_slice(event.payload())
                .map(|granted: UserRoleGranted| (granted.role == Role::Organizer, granted.user_id))
                .map(|(matters, user_id)| matters.then_some(Self { user_id, is_gone: false })),
            UserWithdrawn::NAME => serde_json::from_slice(event.payload())
                .map(|gone: UserWithdrawn| Some(Self { user_id: gone.user_id, is_gone: true })),
            _ => Ok(None),
        };
        let event = event.name();
        read.inspect_err(|error| tracing::warn!(event, %error, "an event cannot be decoded"))
            .ok()?
    }
}

/// Records what was read, and then saves the reader's position: also behind events that do not
/// matter here, or a comparison of that position with the stream would report a reader that has
/// stopped. A repeated note changes nothing and the order of notes does not matter, so they go
/// into a batch together.
pub(crate) async fn take(
    ctx: QueryContext<Postgres<UnitOfWork>>,
    read: &Read,
) -> Result<(), Failure> {
    if !read.has_moved() {
        return Ok(());
    }
    let notes =
        read.events.iter().filter_map(NoteAccount::of).map(|note| async {
            ctx.decide(note, &Meta::inside(SagaId(mesh::clock::new_id()))).await
        });
    let noted = futures::future::try_join_all(notes).await;
    noted.map_err(|problem| Failure::Unavailable(problem.to_string()))?;
    ctx.unit(async {
        let mut tx = ctx.pool().begin().await?;
        read.settle(&mut tx).await?;
        Ok(tx.commit().await?)
    })
    .await
}

impl Execute<NoteAccount> for UnitOfWork {
    fn keys(command: &NoteAccount, _caller: &Caller, keys: &mut Keys) {
        let keys = if command.is_gone { &mut keys.gone } else { &mut keys.accounts };
        keys.insert(command.user_id);
    }

    /// The shows of a closed account go on under the other organizers, or under the operators
    /// when it was the last one.
    fn execute(
        &mut self,
        command: &NoteAccount,
        ctx: &mut Context<'_, Config>,
    ) -> Result<(), Refusal> {
        let &NoteAccount { user_id, is_gone } = command;
        let known = self.accounts.get(&user_id).copied().unwrap_or_default();
        let noted = match is_gone {
            true => Account { is_gone: true, ..known },
            false => Account { is_organizer: true, ..known },
        };
        if noted != known {
            self.accounts.put(user_id, noted);
        }
        if !is_gone {
            return Ok(());
        }
        for concert_id in self.concerts_of(user_id) {
            let Some(team) = self.team(concert_id) else { continue };
            team.remove(&user_id);
            let left = team.len() as u32;
            ctx.emit(OrganizerRemoved { concert_id, user_id, by: None, left, at: ctx.now });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use events::{Timestamp, concert::CreateConcert};
    use uuid::Uuid;

    use super::*;

    fn note(unit: &mut UnitOfWork, user_id: UserId, is_gone: bool) -> Vec<mesh::Emitted> {
        let config = Config::default();
        let now = Timestamp::from_unix_millis(1_800_000_000_000).expect("a time");
        let mut ctx = Context::at(now, &config, &Caller::Mesh, Uuid::nil());
        assert!(unit.execute(&NoteAccount { user_id, is_gone }, &mut ctx).is_ok());
        ctx.emitted().to_vec()
    }

    #[test]
    fn a_closed_account_leaves_its_concerts_once_whichever_event_comes_first() {
        let user_id = UserId(Uuid::from_u128(1));
        let config = Config::default();
        let now = Timestamp::from_unix_millis(1_800_000_000_000).expect("a time");
        let caller =
            Caller::User { user_id, roles: vec![Role::Organizer], expires_at: now.plus_secs(60) };
        let mut unit = UnitOfWork::default();
        let mut ctx = Context::at(now, &config, &caller, Uuid::from_u128(10));
        let entered = CreateConcert {
            title: "Night Ferry".into(),
            artist: "The Tugboats".into(),
            description: String::new(),
        };
        assert!(unit.execute(&entered, &mut ctx).is_ok());
        let emitted = note(&mut unit, user_id, true);
        let gone: OrganizerRemoved = serde_json::from_slice(&emitted[0].payload).expect("an event");
        assert_eq!((gone.user_id, gone.by, gone.left), (user_id, None, 0));
        assert!(note(&mut unit, user_id, true).is_empty());
        note(&mut unit, user_id, false);
        let known = unit.accounts[&user_id];
        assert!(known.is_gone && known.is_organizer);
    }
}
