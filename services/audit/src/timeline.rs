//! What happened in a saga, and what is still to come, from its facts alone.
//!
//! [`Progress`] is the running total of one saga: small, and the same in whatever order its
//! facts are heard and however often. [`saga`] is the whole story.
//!
//! A saga waits for what a step *must* lead to, and for nothing else: the fact that follows
//! names the one it follows from, in the same saga. What may come, what time brings, and the
//! end of a thing's lifetime are not waited for. A hold is confirmed in the saga of its
//! payment and cancelled in one of its own, so a saga that waited for the end of its hold would
//! stall although all is well.

mod progress;
mod story;

pub use progress::Progress;
pub use story::saga;

#[cfg(test)]
mod tests;
