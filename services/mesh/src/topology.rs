//! Streams and consumers as data.
