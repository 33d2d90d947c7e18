//! Where the auditor keeps millions of small things in little memory.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher},
};

use uuid::Uuid;

/// Things on one board of a shelf.
const BOARD: usize = 1_024;

/// Takes a key that is a good hash already.
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

/// Things by key, each with a number of its own. They lie on boards of fixed size, so that
/// growing copies none of them, and the index keeps hashes of keys: with 64 bits, two of ten
/// million keys meet once in 400,000 lives of the auditor.
pub(super) struct Shelf<T> {
    index: HashMap<(u32, u32), u32, BuildHasherDefault<AsIs>>,
    boards: Vec<Vec<T>>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { index: HashMap::default(), boards: Vec::new() }
    }
}

impl<T> Shelf<T> {
    /// The number of the thing with this key; it is made when there is none.
    pub(super) fn place(&mut self, key: &(impl Hash + ?Sized), make: impl FnOnce() -> T) -> u32 {
        let hash = hash_of(key);
        let next = self.len() as u32;
        let at = *self.index.entry(((hash >> 32) as u32, hash as u32)).or_insert(next);
        if at == next {
            if self.boards.last().is_none_or(|board| board.len() == BOARD) {
                self.boards.push(Vec::with_capacity(BOARD));
            }
            self.boards.last_mut().expect("a board with room").push(make());
        }
        at
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        let last = self.boards.last().map_or(0, Vec::len);
        self.boards.len().saturating_sub(1) * BOARD + last
    }

    /// The thing of this number.
    pub(super) fn get(&self, at: u32) -> &T {
        &self.boards[at as usize / BOARD][at as usize % BOARD]
    }

    /// The thing of this number, to be changed.
    pub(super) fn get_mut(&mut self, at: u32) -> &mut T {
        &mut self.boards[at as usize / BOARD][at as usize % BOARD]
    }

    /// All of them, in the order of their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.boards.iter().flatten()
    }
}

/// A fact that was heard: which, when, and what it says that another must say too.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mark {
    /// Nil when it was not heard.
    pub(super) event: Uuid,
    /// Points it speaks of.
    pub(super) amount: i64,
    /// Seconds since 1970.
    pub(super) at: u32,
    /// A short hash of the other thing it speaks of.
    pub(super) other: u32,
}

impl Mark {
    /// Whether the fact was heard.
    pub(super) fn is_set(&self) -> bool {
        !self.event.is_nil()
    }

    /// The mark, if its fact was heard.
    pub(super) fn heard(&self) -> Option<&Self> {
        self.is_set().then_some(self)
    }

    /// Sets what was not heard yet; else the one that was heard before.
    pub(super) fn set(&mut self, heard: Self) -> Option<Self> {
        if self.is_set() {
            return (self.event != heard.event).then_some(*self);
        }
        *self = heard;
        None
    }

    /// Told at.
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
    fn what_was_heard_first_stays_and_a_repeat_is_no_other() {
        let heard = |event| Mark { event: Uuid::from_u128(event), ..Mark::default() };
        let mut mark = Mark::default();
        assert!(mark.set(heard(1)).is_none());
        assert!(mark.set(heard(1)).is_none());
        assert_eq!(mark.set(heard(2)).map(|first| first.event), Some(Uuid::from_u128(1)));
        assert_eq!(mark.event, Uuid::from_u128(1));
    }
}
