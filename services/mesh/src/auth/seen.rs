//! A bounded cache of verified tokens; entries that are not used again are evicted.

use std::{collections::HashMap, mem};

use sha2::{Digest, Sha256};

/// A token's name: its SHA-256, so that no token is kept in memory.
pub(super) type Name = [u8; 32];

/// The name of a token.
pub(super) fn digest(token: &str) -> Name {
    Sha256::digest(token).into()
}

/// The cache, in two generations. An entry that is used moves into the young one. When that is
/// full it becomes the old one, and the previous old one, with all that was not used since, is
/// dropped. Every step takes constant time.
pub(super) struct Seen<C> {
    young: HashMap<Name, (u64, C)>,
    old: HashMap<Name, (u64, C)>,
    generation_max: usize,
}

impl<C> Default for Seen<C> {
    fn default() -> Self {
        Self::holding(65_536)
    }
}

impl<C> Seen<C> {
    /// Room for `max` entries.
    pub(super) fn holding(max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), generation_max: max.div_ceil(2) }
    }

    /// Caches claims that were verified with this edition of the keys.
    pub(super) fn put(&mut self, name: Name, edition: u64, claims: C) {
        if self.young.len() >= self.generation_max {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(name, (edition, claims));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

impl<C: Clone> Seen<C> {
    /// The claims of a token, unless it was verified with another edition of the keys.
    pub(super) fn get(&mut self, name: &Name, edition: u64) -> Option<C> {
        if let Some((of, claims)) = self.young.get(name) {
            return (*of == edition).then(|| claims.clone());
        }
        let (of, claims) = self.old.remove(name)?;
        if of != edition {
            return None;
        }
        self.put(*name, edition, claims.clone());
        Some(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_exceeds_its_bound() {
        let mut seen = Seen::holding(100);
        for n in 0..10_000 {
            seen.put(digest(&format!("{n}")), 0, n);
            assert!(seen.len() <= 100);
        }
    }

    #[test]
    fn an_entry_that_is_used_stays() {
        let mut seen = Seen::holding(10);
        seen.put(digest("mine"), 0, 0);
        for n in 0..1_000 {
            seen.put(digest(&format!("{n}")), 0, n);
            assert_eq!(seen.get(&digest("mine"), 0), Some(0));
        }
        assert_eq!(seen.get(&digest("1"), 0), None);
    }

    #[test]
    fn a_token_verified_with_another_edition_of_the_keys_is_not_found() {
        let mut seen = Seen::holding(10);
        seen.put(digest("mine"), 0, 0);
        assert_eq!(seen.get(&digest("mine"), 1), None);
    }
}
