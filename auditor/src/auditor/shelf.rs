//! Keeps millions of small things in little memory.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher},
};

use uuid::Uuid;

/// Things in one chunk of a shelf.
const CHUNK: usize = 1_024;

/// A hasher for keys that are good hashes already.
#[derive(Default)]
pub(super) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u32(&mut self, half: u32) {
        self.0 = self.0.rotate_left(32) ^ u64::from(half);
    }

    /// The length of a key says nothing: all are equally long.
    fn write_usize(&mut self, _: usize) {}
}

/// The same number for the same key in every process.
pub(super) fn hash_of(key: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Things by key, each with a number of its own. They lie in chunks of fixed size, so that
/// growing copies none of them. The index keeps hashes of keys: with 64 bits, two of ten million
/// keys collide once in 400,000 lives of the auditor.
pub(super) struct Shelf<T> {
    index: HashMap<(u32, u32), u32, BuildHasherDefault<AsIs>>,
    chunks: Vec<Vec<T>>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { index: HashMap::default(), chunks: Vec::new() }
    }
}

impl<T> Shelf<T> {
    /// The number of the thing with this key; the thing is made when there is none.
    pub(super) fn place(&mut self, key: &(impl Hash + ?Sized), make: impl FnOnce() -> T) -> u32 {
        let hash = hash_of(key);
        let next = self.len() as u32;
        let at = *self.index.entry(((hash >> 32) as u32, hash as u32)).or_insert(next);
        if at == next {
            if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                self.chunks.push(Vec::with_capacity(CHUNK));
            }
            self.chunks.last_mut().expect("a chunk with room").push(make());
        }
        at
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        let last = self.chunks.last().map_or(0, Vec::len);
        self.chunks.len().saturating_sub(1) * CHUNK + last
    }

    /// The thing of this number.
    pub(super) fn get(&self, at: u32) -> &T {
        &self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    /// The thing of this number, to be changed.
    pub(super) fn get_mut(&mut self, at: u32) -> &mut T {
        &mut self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    /// All of them, in the order of their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}

/// An observed event: which one, when, and the values that another event must repeat.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mark {
    /// Nil when it was not observed.
    pub(super) event: Uuid,
    /// The points it names.
    pub(super) amount: i64,
    /// Seconds since 1970.
    pub(super) at: u32,
    /// A short hash of the other thing it names.
    pub(super) other: u32,
}

impl Mark {
    /// Whether the event was observed.
    pub(super) fn is_set(&self) -> bool {
        !self.event.is_nil()
    }

    /// The mark, if its event was observed.
    pub(super) fn observed(&self) -> Option<&Self> {
        self.is_set().then_some(self)
    }

    /// Sets the mark if no event was observed yet; else returns the mark of the other event that
    /// was.
    pub(super) fn set(&mut self, mark: Self) -> Option<Self> {
        if self.is_set() {
            return (self.event != mark.event).then_some(*self);
        }
        *self = mark;
        None
    }

    /// When the event was emitted, in seconds since 1970.
    pub(super) fn secs(&self) -> i64 {
        i64::from(self.at)
    }
}

/// A short hash of an id.
pub(super) fn short(id: Uuid) -> u32 {
    hash_of(&id) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_found_again_under_its_number() {
        let mut shelf = Shelf::default();
        let numbers: Vec<u32> = (0..5_000_u64).map(|key| shelf.place(&key, || key)).collect();
        assert_eq!(shelf.len(), 5_000);
        for (key, at) in numbers.into_iter().enumerate() {
            assert_eq!(*shelf.get(at), key as u64);
            assert_eq!(shelf.place(&(key as u64), || 0), at);
        }
        assert!(shelf.iter().copied().eq(0..5_000));
    }

    #[test]
    fn the_first_event_stays_and_a_repeat_is_not_another_one() {
        let of = |event| Mark { event: Uuid::from_u128(event), ..Mark::default() };
        let mut mark = Mark::default();
        assert!(mark.set(of(1)).is_none());
        assert!(mark.set(of(1)).is_none());
        assert_eq!(mark.set(of(2)).map(|first| first.event), Some(Uuid::from_u128(1)));
        assert_eq!(mark.event, Uuid::from_u128(1));
    }
}
