//! The stored signing keys.

use mesh::keys::{KeyRecord, Rotation};
use sqlx::{PgConnection, PgExecutor};
use time::OffsetDateTime;

/// The stored signing keys.
pub async fn load(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<KeyRecord>> {
    let rows: Vec<(String, Vec<u8>, OffsetDateTime)> =
        sqlx::query_as("select kid, pkcs8, created_at from signing_keys").fetch_all(db).await?;
    Ok(rows
        .into_iter()
        .map(|(kid, pkcs8, at)| KeyRecord { kid, pkcs8, created_at: at.into() })
        .collect())
}

/// Locks the rotation of the signing keys until the transaction ends.
pub async fn lock(tx: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock(hashtext('user.signing_keys'))").execute(tx).await?;
    Ok(())
}

/// Stores the result of a rotation.
pub async fn save(tx: &mut PgConnection, rotation: &Rotation) -> sqlx::Result<()> {
    if let Some(key) = &rotation.added {
        sqlx::query("insert into signing_keys (kid, pkcs8, created_at) values ($1, $2, $3)")
            .bind(&key.kid)
            .bind(&key.pkcs8)
            .bind(key.created_at.0)
            .execute(&mut *tx)
            .await?;
    }
    sqlx::query("delete from signing_keys where kid = any($1)")
        .bind(&rotation.dropped)
        .execute(tx)
        .await?;
    Ok(())
}
