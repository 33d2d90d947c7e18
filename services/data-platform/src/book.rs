//! The page of the service's state that one batch touches.

use sqlx::PgConnection;

use crate::Rules;

/// What a batch works on.
#[derive(Debug, Default)]
pub struct Book {}

impl mesh::Book for Book {
    type Keys = ();
    type Rules = Rules;

    async fn load(_keys: (), _tx: &mut PgConnection) -> sqlx::Result<Self> {
        Ok(Self::default())
    }

    async fn save(self, _tx: &mut PgConnection) -> sqlx::Result<()> {
        Ok(())
    }
}
