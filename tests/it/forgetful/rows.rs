//! Rows of the outbox that are written, published and forgotten without a publisher.

use std::future::IntoFuture;

use async_nats::jetstream;
use events::Timestamp;
use time::OffsetDateTime;
use uuid::Uuid;

use super::environment::{EMITTER, Environment, refunded};

impl Environment {
    /// Leaves rows as a service does that is killed before it can publish them. Returns their ids.
    pub async fn leave(&self, count: usize) -> Vec<Uuid> {
        let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
        let subject = || events::subject("point.refunded", 1, Some(Uuid::now_v7().into()));
        sqlx::query(
            "insert into mesh.outbox (id, subject, events, body, leased_until)
             select *, now() from unnest($1::uuid[], $2::text[], $3::integer[], $4::bytea[])",
        )
        .bind(&ids)
        .bind((0..count).map(|_| subject()).collect::<Vec<_>>())
        .bind(vec![1; count])
        .bind((0..count).map(|_| body()).collect::<Vec<_>>())
        .execute(&self.pools[0])
        .await
        .unwrap();
        ids
    }

    /// Leases the comparison to an instance that does not compare, for longer than the service pauses
    /// between two comparisons. Returns the end of the lease.
    pub async fn lease_to_another(&self) -> Timestamp {
        let lease = "insert into mesh.comparison (instance, leased_until)
             values ($1, clock_timestamp() + interval '15 seconds')
             on conflict (is_only) do update
             set instance = excluded.instance, leased_until = excluded.leased_until
             returning leased_until";
        let lease = sqlx::query_scalar(lease).bind(Uuid::now_v7());
        let until: OffsetDateTime = lease.fetch_one(&self.pools[0]).await.unwrap();
        until.into()
    }

    /// Clears the marks of rows, as a comparison does that finds them lost.
    pub async fn forget(&self, rows: &[Uuid]) {
        let clear = sqlx::query("update mesh.outbox set stream_seq = null where id = any($1)");
        clear.bind(rows).execute(&self.pools[0]).await.unwrap();
    }

    /// Publishes rows in this order and marks them, without anything else that a publisher does.
    pub async fn publish(&self, rows: &[Uuid]) {
        let seed = self.servers.nkey_seed(EMITTER).to_owned();
        let client = async_nats::ConnectOptions::with_nkey(seed)
            .custom_inbox_prefix(format!("_INBOX_{EMITTER}"))
            .connect(self.servers.nats.url())
            .await
            .unwrap();
        let jetstream = jetstream::new(client);
        let rows: Vec<(Uuid, String, Vec<u8>)> = sqlx::query_as(
            "select id, subject, body from mesh.outbox join unnest($1::uuid[])
                     with ordinality as given (id, number) using (id) order by number",
        )
        .bind(rows)
        .fetch_all(&self.pools[0])
        .await
        .unwrap();
        let mut sent = Vec::new();
        for (id, subject, body) in rows {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Msg-Id", id.to_string());
            let ack = jetstream.publish_with_headers(subject, headers, body.into()).await.unwrap();
            sent.push((id, ack.into_future()));
        }
        let (mut ids, mut sequences) = (Vec::new(), Vec::new());
        for (id, ack) in sent {
            ids.push(id);
            sequences.push(ack.await.unwrap().sequence as i64);
        }
        sqlx::query(
            "update mesh.outbox as o set stream_seq = m.seq
             from unnest($1::uuid[], $2::bigint[]) as m (id, seq) where o.id = m.id",
        )
        .bind(ids)
        .bind(sequences)
        .execute(&self.pools[0])
        .await
        .unwrap();
    }
}

/// The body of a message with one event that the consumer reads.
fn body() -> Vec<u8> {
    let [id, about] = [(); 2].map(|()| Uuid::now_v7());
    let data = serde_json::to_string(&refunded(about)).unwrap();
    let now = mesh::clock::now();
    format!(
        r#"[{{"specversion":"1.0","id":"{id}","source":"/onsale/point","type":"onsale.point.refunded.v1","time":"{now}","subject":"{about}","sagaid":"{id}","data":{data}}}]"#
    )
    .into_bytes()
}
