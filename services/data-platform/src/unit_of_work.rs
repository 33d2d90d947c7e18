//! The page of the service's state that one batch touches.

use sqlx::PgConnection;

use crate::Config;

/// What a batch works on.
#[derive(Debug, Default)]
pub struct UnitOfWork {}

impl mesh::UnitOfWork for UnitOfWork {
    type Keys = ();
    type Config = Config;

    async fn load(_keys: (), _tx: &mut PgConnection) -> sqlx::Result<Self> {
        Ok(Self::default())
    }

    async fn save(self, _tx: &mut PgConnection) -> sqlx::Result<()> {
        Ok(())
    }
}
