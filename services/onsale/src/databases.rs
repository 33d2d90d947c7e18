//! The databases that a sale is read from: what was reserved, what was paid, and what points moved.

use anyhow::{Context, Result};
use mesh::postgres;
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::config::Config;

/// The databases of the services that decide in a sale.
pub struct Databases {
    pub(crate) reservation: PgPool,
    pub(crate) payment: PgPool,
    pub(crate) point: PgPool,
}

impl Databases {
    /// Opens the databases named in `config`.
    ///
    /// # Errors
    /// When one is not configured or cannot be reached.
    pub async fn open(config: &Config) -> Result<Self> {
        let connect = async |service: &str| -> Result<PgPool> {
            PgPoolOptions::new()
                .max_connections(2)
                .connect(config.database_url(service)?)
                .await
                .with_context(|| format!("the database of {service}"))
        };
        Ok(Self {
            reservation: connect(reservation::NAME).await?,
            payment: connect(payment::NAME).await?,
            point: connect(point::NAME).await?,
        })
    }

    /// The databases by service.
    pub(crate) fn named(&self) -> [(&'static str, &PgPool); 3] {
        [
            (reservation::NAME, &self.reservation),
            (payment::NAME, &self.payment),
            (point::NAME, &self.point),
        ]
    }

    /// Events that are emitted and not published yet.
    pub(crate) async fn unpublished(&self) -> Result<u64> {
        let mut unpublished = 0;
        for (_, pool) in self.named() {
            let mut connection = pool.acquire().await?;
            unpublished += postgres::backlog(&mut connection).await?.events;
        }
        Ok(unpublished)
    }
}
