//! What every service declares about itself.

pub use onsale::registry::wirings as all;
