//! What every service declares of itself.

pub use onsale::fleet::wirings as all;
