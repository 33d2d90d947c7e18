//! What every service declares about itself.

pub use onsale::fleet::wirings as all;
