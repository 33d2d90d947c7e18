//! onsale
