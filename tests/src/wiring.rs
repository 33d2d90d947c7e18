//! What every service declares of itself.

use mesh::Wiring;

/// The wiring of every service that speaks on the mesh.
pub fn all() -> [Wiring; 6] {
    [
        user::service().wiring(),
        concert::service().wiring(),
        queue::service().wiring(),
        reservation::service().wiring(),
        payment::service().wiring(),
        point::service().wiring(),
    ]
}
