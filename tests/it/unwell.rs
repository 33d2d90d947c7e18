//! Servers that are up but do not work: silent servers, a broker that cannot write, a store that
//! cannot be used; and what `onsale doctor` finds.

pub mod doctor;
mod doctor_faults;
pub mod process;
mod silent;
mod store;
mod unwritable;

use harness::mesh::Mesh;
use servers::Servers;

/// The servers of a test's own mesh.
fn servers(mesh: &Mesh) -> &Servers {
    mesh.env.servers.as_ref().expect("servers of our own")
}

/// The problems that `/readyz` of the gateway's process reports; empty when it is ready.
async fn faults(mesh: &Mesh) -> Vec<String> {
    let answer = mesh.http.get("/readyz").send().await.expect("an answer");
    if answer.status == 200 {
        return Vec::new();
    }
    assert_eq!(answer.status, 503);
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).expect("a problem");
    let faults = problem["ails"].as_array().expect("what is wrong");
    faults.iter().map(|ail| ail.as_str().expect("in words").to_owned()).collect()
}
