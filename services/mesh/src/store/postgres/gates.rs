//! Gates: advisory locks of users, for two decisions about a user that must not miss each other
//! though they lock no row in common.
//!
//! What is decided often takes the gate shared, so such decisions never wait for each other; what
//! is decided rarely takes it exclusively. What the gate protects is read by a later statement.

use std::collections::{BTreeMap, BTreeSet};

use events::UserId;
use sqlx::PgConnection;

/// The class of the advisory locks; nothing else in a service's database uses it.
pub const GATES: i32 = 1;

/// The gates of these users, in order. There are few gates, so that a large batch does not fill
/// the lock table.
///
/// A statement that runs anyway takes them shared with
/// `pg_advisory_xact_lock_shared(GATES, gate)`.
pub fn gates(users: impl IntoIterator<Item = UserId>) -> Vec<i32> {
    let gate = |user: UserId| i32::from(user.0.as_bytes()[15]);
    users.into_iter().map(gate).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Takes some gates exclusively, and in the same order those that the batch needs shared.
///
/// # Errors
/// When the database does not answer, or another transaction keeps a gate too long.
pub async fn close_gates(
    exclusive: impl IntoIterator<Item = UserId>,
    shared: impl IntoIterator<Item = UserId>,
    tx: &mut PgConnection,
) -> sqlx::Result<()> {
    let mut wanted: BTreeMap<i32, bool> =
        gates(shared).into_iter().map(|gate| (gate, false)).collect();
    wanted.extend(gates(exclusive).into_iter().map(|gate| (gate, true)));
    sqlx::query(
        "select case when alone then pg_advisory_xact_lock($1, gate)
                     else pg_advisory_xact_lock_shared($1, gate) end
         from unnest($2::int4[], $3::bool[]) as wanted (gate, alone)",
    )
    .bind(GATES)
    .bind(wanted.keys().copied().collect::<Vec<_>>())
    .bind(wanted.values().copied().collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_gate_is_taken_once_and_in_order_however_many_users_share_it() {
        let users = [0x302, 0x201, 0x102, 0x1ff].map(|n| UserId(Uuid::from_u128(n)));
        assert_eq!(gates(users), [0x01, 0x02, 0xff]);
    }
}
