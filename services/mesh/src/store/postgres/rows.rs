//! The rows of one table that a batch touches: which of them are new, which have changed, and
//! their columns for `unnest`.
//!
//! A unit of work keeps one [`Rows`] per table. Its `load` fills it, its handlers read and change
//! it, and its `save` writes what [`Rows::added`], [`Rows::changed`] or [`Rows::dirty`] returns, in
//! one statement:
//!
//! ```
//! # use mesh::postgres::{Rows, column};
//! # async fn save(wallets: &Rows<uuid::Uuid, i64>, tx: &mut sqlx::PgConnection) -> sqlx::Result<()> {
//! let changed = wallets.changed();
//! if !changed.is_empty() {
//!     sqlx::query(
//!         "update wallets w set balance = c.balance
//!          from unnest($1::uuid[], $2::int8[]) as c (user_id, balance)
//!          where w.user_id = c.user_id",
//!     )
//!     .bind(column(&changed, |(user_id, _)| **user_id))
//!     .bind(column(&changed, |(_, balance)| **balance))
//!     .execute(tx)
//!     .await?;
//! }
//! # Ok(())
//! # }
//! ```

use std::{collections::BTreeMap, ops::Index};

/// A value, and what the database has in its place.
#[derive(Debug, Clone)]
struct Row<V> {
    value: V,
    stored: Stored<V>,
}

/// What the database has in the place of a value.
#[derive(Debug, Clone)]
enum Stored<V> {
    /// Nothing yet.
    Nothing,
    /// The same value.
    Same,
    /// The value from before the change.
    Older(V),
}

/// The rows of one table by key, in the order of their keys. Rows are locked and written in this
/// order, so two batches cannot deadlock.
#[derive(Debug, Clone)]
pub struct Rows<K, V>(BTreeMap<K, Row<V>>);

impl<K, V> Default for Rows<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// Rows as the database has them.
impl<K: Ord, V> FromIterator<(K, V)> for Rows<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(stored: I) -> Self {
        let row = |(key, value)| (key, Row { value, stored: Stored::Same });
        Self(stored.into_iter().map(row).collect())
    }
}

impl<K: Ord, V> Rows<K, V> {
    /// Adds a row as the database has it.
    pub fn load(&mut self, key: K, value: V) {
        self.0.insert(key, Row { value, stored: Stored::Same });
    }

    /// Adds a row that the database does not have yet. A row that is there already is replaced,
    /// and inserted once more: use [`Rows::put`] where there may be one.
    pub fn add(&mut self, key: K, value: V) {
        self.0.insert(key, Row { value, stored: Stored::Nothing });
    }

    /// The row of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key).map(|row| &row.value)
    }

    /// Whether there is a row of this key.
    pub fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// All rows with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, row)| (key, &row.value))
    }

    /// All rows.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values().map(|row| &row.value)
    }

    /// The row of a key as the database has it.
    pub fn stored(&self, key: &K) -> Option<&V> {
        let row = self.0.get(key)?;
        match &row.stored {
            Stored::Nothing => None,
            Stored::Same => Some(&row.value),
            Stored::Older(value) => Some(value),
        }
    }

    /// The rows to insert.
    pub fn added(&self) -> Vec<(&K, &V)> {
        self.pick(|row| matches!(row.stored, Stored::Nothing))
    }

    fn pick(&self, wanted: impl Fn(&Row<V>) -> bool) -> Vec<(&K, &V)> {
        let rows = self.0.iter().filter(|(_, row)| wanted(row));
        rows.map(|(key, row)| (key, &row.value)).collect()
    }
}

/// A row that is known to be there.
impl<K: Ord, V> Index<&K> for Rows<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        &self.0[key].value
    }
}

impl<K: Ord, V: Clone> Rows<K, V> {
    /// The row of a key, to be changed. It is written if it then differs from the stored one.
    pub fn change(&mut self, key: &K) -> Option<&mut V> {
        self.0.get_mut(key).map(Row::change)
    }

    /// Replaces the row of a key, or adds it.
    pub fn put(&mut self, key: K, value: V) {
        match self.0.get_mut(&key) {
            Some(row) => *row.change() = value,
            None => self.add(key, value),
        }
    }
}

impl<K: Ord, V: PartialEq> Rows<K, V> {
    /// The rows to update: those that differ from what the database has.
    pub fn changed(&self) -> Vec<(&K, &V)> {
        self.pick(Row::has_changed)
    }

    /// The rows to insert or to update, for a statement that does both.
    pub fn dirty(&self) -> Vec<(&K, &V)> {
        self.pick(|row| matches!(row.stored, Stored::Nothing) || row.has_changed())
    }
}

impl<V: Clone> Row<V> {
    fn change(&mut self) -> &mut V {
        if let Stored::Same = self.stored {
            self.stored = Stored::Older(self.value.clone());
        }
        &mut self.value
    }
}

impl<V: PartialEq> Row<V> {
    fn has_changed(&self) -> bool {
        matches!(&self.stored, Stored::Older(stored) if *stored != self.value)
    }
}

/// One column of these rows, as an array for `unnest`.
pub fn column<'a, R, T>(rows: &'a [R], read: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> Rows<u8, &'static str> {
        [(2, "two"), (1, "one")].into_iter().collect()
    }

    #[test]
    fn rows_that_are_only_read_are_not_written() {
        let rows = stored();
        assert_eq!((rows.get(&1), rows[&2]), (Some(&"one"), "two"));
        assert!(rows.contains(&2) && !rows.contains(&3));
        assert!(rows.added().is_empty() && rows.changed().is_empty() && rows.dirty().is_empty());
    }

    #[test]
    fn a_new_row_is_inserted_as_it_is_in_the_end() {
        let mut rows = stored();
        rows.put(0, "nil");
        *rows.change(&0).unwrap() = "zero";
        assert_eq!(rows.added(), [(&0, &"zero")]);
        assert_eq!(rows.stored(&0), None);
        assert!(rows.changed().is_empty());
        assert_eq!(rows.dirty(), rows.added());
    }

    #[test]
    fn a_changed_row_is_updated_and_what_was_read_is_kept() {
        let mut rows = stored();
        rows.put(2, "deux");
        *rows.change(&2).unwrap() = "zwei";
        assert_eq!(rows.changed(), [(&2, &"zwei")]);
        assert_eq!((rows.stored(&2), rows.stored(&1)), (Some(&"two"), Some(&"one")));
        assert!(rows.added().is_empty());
        assert_eq!(rows.dirty(), rows.changed());
    }

    #[test]
    fn a_row_that_is_as_it_was_read_is_not_updated() {
        let mut rows = stored();
        rows.put(1, "one");
        *rows.change(&2).unwrap() = "deux";
        *rows.change(&2).unwrap() = "two";
        assert!(rows.dirty().is_empty());
        assert!(rows.change(&3).is_none());
    }

    #[test]
    fn rows_are_written_in_the_order_of_their_keys() {
        let mut rows = stored();
        rows.put(3, "three");
        rows.put(1, "changed");
        rows.put(2, "changed");
        assert_eq!(column(&rows.dirty(), |(key, _)| **key), [1, 2, 3]);
        assert_eq!(column(&rows.changed(), |(key, _)| **key), [1, 2]);
    }
}
