//! What `/metrics` serves: the documented names, the right values, no ids, nothing stale.

mod documented;
mod pushed;
mod readers;
mod sale;
mod stale;

use harness::{mesh::Mesh, openmetrics::Exposition};
use onsale::{health::Listener, http::Http};

/// The metrics of a mesh, as a scraper reads them.
struct Scraper {
    http: Http,
    _listener: Listener,
}

impl Scraper {
    async fn of(mesh: &Mesh) -> Self {
        let listener = Listener::open(([127, 0, 0, 1], 0).into()).await.expect("a port");
        listener.watch(&mesh.fleet);
        Self { http: Http::new(format!("http://{}", listener.addr())), _listener: listener }
    }

    /// One scrape, which must be valid.
    async fn scrape(&self) -> Exposition {
        let answer = self.http.get("/metrics").send().await.expect("an answer");
        assert_eq!(answer.status, 200);
        let kind = answer.headers.get("content-type").and_then(|kind| kind.to_str().ok());
        let expected = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(kind, Some(expected));
        let text = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
        Exposition::read(&text).unwrap_or_else(|why| panic!("{why}"))
    }
}
