//! What happened in a saga, and what is still to come, from its events alone.
//!
//! [`Progress`] is the running total of one saga: small, and the same in whatever order its
//! events are handled and however often. [`saga`] is the whole story.
//!
//! A saga awaits what a step *must* lead to, and nothing else: the event that follows names the
//! one it follows from, in the same saga. A saga does not await what may follow, what timers
//! emit, or the end of a thing's lifetime. A hold is confirmed in the saga of its payment and
//! cancelled in one of its own, so a saga that awaited the end of its hold would stall although
//! all is well.

mod progress;
mod story;

pub use progress::Progress;
pub use story::saga;

#[cfg(test)]
mod tests;
