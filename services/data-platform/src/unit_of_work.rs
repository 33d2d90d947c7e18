//! The unit of work: empty, because the service's batches touch no state.

use sqlx::PgConnection;

use crate::Config;

/// The empty unit of work.
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
