//! Whoever runs a service is told when it cannot do its work.

use harness::mesh::{Mesh, eventually, run};
use onsale::{health::Listener, http::Http};

#[test]
fn a_service_without_its_database_is_alive_but_not_ready_until_it_is_back() {
    run(async {
        let mesh = Mesh::own().await;
        let listener = Listener::open(([127, 0, 0, 1], 0).into()).await.expect("a port");
        let http = Http::new(format!("http://{}", listener.addr()));
        let becomes = async |status: u16| {
            eventually(&format!("/readyz answers {status}"), || async {
                let answer = http.get("/readyz").send().await.expect("an answer");
                (answer.status == status).then_some(())
            })
            .await;
        };
        becomes(503).await;
        listener.watch(&mesh.fleet);
        becomes(200).await;
        let postgres = mesh.stage.servers.as_ref().expect("our own servers").postgres.clone();
        postgres.kill();
        becomes(503).await;
        assert_eq!(http.get("/healthz").send().await.expect("an answer").status, 200);
        postgres.restart().await.expect("PostgreSQL again");
        becomes(200).await;
        mesh.stop().await;
    });
}
