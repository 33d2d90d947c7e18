//! Keeps millions of small things in little memory.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use hashbrown::HashTable;
use uuid::Uuid;

/// Things in one chunk of a shelf.
const CHUNK: usize = 1_024;

/// A thing's id, and its name where several things share one id.
pub(super) type Key<'a> = (Uuid, &'a str);

/// A thing that has its key in it.
pub(super) trait Keyed {
    /// The key.
    fn key(&self) -> Key<'_>;
}

/// The same number for the same key in every process.
fn hash_of(key: Key<'_>) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key)
}

/// Things by key, each with a number of its own. They lie in chunks of fixed size, so that
/// growing copies none of them. The index has their numbers only: a key is compared with the key
/// in the thing, so two keys with one hash are still two.
pub(super) struct Shelf<T> {
    index: HashTable<u32>,
    chunks: Vec<Vec<T>>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { index: HashTable::new(), chunks: Vec::new() }
    }
}

impl<T: Keyed> Shelf<T> {
    /// The number of the thing with this key; the thing is made when there is none.
    pub(super) fn place(&mut self, key: Key<'_>, make: impl FnOnce() -> T) -> u32 {
        let next = self.len() as u32;
        let Self { index, chunks } = self;
        let key_of = |at: &u32| thing(chunks, *at).key();
        let entry = index.entry(hash_of(key), |at| key_of(at) == key, |at| hash_of(key_of(at)));
        let at = *entry.or_insert(next).get();
        if at == next {
            if chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                chunks.push(Vec::with_capacity(CHUNK));
            }
            chunks.last_mut().expect("a chunk with room").push(make());
        }
        at
    }
}

/// The thing of this number.
fn thing<T>(chunks: &[Vec<T>], at: u32) -> &T {
    &chunks[at as usize / CHUNK][at as usize % CHUNK]
}

impl<T> Shelf<T> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        let last = self.chunks.last().map_or(0, Vec::len);
        self.chunks.len().saturating_sub(1) * CHUNK + last
    }

    /// The thing of this number.
    pub(super) fn get(&self, at: u32) -> &T {
        thing(&self.chunks, at)
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

/// An observed event: which one, when, and the amount that another event must repeat.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mark {
    /// Nil when it was not observed.
    pub(super) event: Uuid,
    /// The points it names.
    pub(super) amount: i64,
    /// Seconds since 1970.
    pub(super) at: u32,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A thing with a number beside its key.
    struct Numbered(Uuid, String, usize);

    impl Keyed for Numbered {
        fn key(&self) -> Key<'_> {
            (self.0, &self.1)
        }
    }

    #[test]
    fn a_thing_is_found_again_under_its_number() {
        let mut shelf = Shelf::default();
        let keys: Vec<(Uuid, String)> = (0..5_000_u128)
            .map(|number| (Uuid::from_u128(number / 2), format!("A-{}", number % 2)))
            .collect();
        let mut place = |key: &(Uuid, String), number| {
            shelf.place((key.0, &key.1), || Numbered(key.0, key.1.clone(), number))
        };
        let numbers: Vec<u32> = keys.iter().enumerate().map(|(n, key)| place(key, n)).collect();
        let again: Vec<u32> = keys.iter().map(|key| place(key, 0)).collect();
        assert_eq!(again, numbers);
        assert_eq!(shelf.len(), 5_000);
        assert!(numbers.iter().enumerate().all(|(n, at)| shelf.get(*at).2 == n));
        assert!(shelf.iter().map(|thing| thing.2).eq(0..5_000));
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
