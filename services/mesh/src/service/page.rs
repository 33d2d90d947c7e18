//! Pages of lists, newest first, by ids that grow with time.

use events::{PAGE_DEFAULT, PAGE_MAX, Page, Problem, codes};
use uuid::Uuid;

/// Where a page begins and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Only entries below this id; the greatest possible id for the first page.
    pub before: Uuid,
    /// Number of entries wanted, 1 to 100.
    pub limit: u32,
}

impl Cut {
    /// Reads `cursor` and `limit` from a request.
    ///
    /// # Errors
    /// `invalid` when the cursor is not one of ours or the limit is out of range.
    pub fn new(cursor: Option<&str>, limit: Option<u32>) -> Result<Self, Problem> {
        let before = match cursor {
            None => Uuid::max(),
            Some(text) => text.parse().map_err(|_| {
                Problem::about(codes::INVALID, "cursor", "must be a `next_cursor` of this list")
            })?,
        };
        let limit = limit.unwrap_or(PAGE_DEFAULT);
        if !(1..=PAGE_MAX).contains(&limit) {
            let what = format!("must be 1 to {PAGE_MAX}, not {limit}");
            return Err(Problem::about(codes::INVALID, "limit", what));
        }
        Ok(Self { before, limit })
    }

    /// Number of rows to fetch: one more than wanted, to see whether there is a next page.
    pub fn rows(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// Makes the page from the fetched rows; `id` reads an entry's id.
    pub fn page<T>(&self, mut items: Vec<T>, id: impl Fn(&T) -> Uuid) -> Page<T> {
        let more = items.len() > self.limit as usize;
        items.truncate(self.limit as usize);
        let next_cursor = items.last().filter(|_| more).map(|last| id(last).to_string());
        Page { items, next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_page_has_no_next_cursor() {
        let cut = Cut::new(None, Some(2)).unwrap();
        let ids = [Uuid::from_u128(3), Uuid::from_u128(2), Uuid::from_u128(1)];
        let page = cut.page(ids.to_vec(), |id| *id);
        assert_eq!(page.next_cursor, Some(ids[1].to_string()));
        let cut = Cut::new(page.next_cursor.as_deref(), Some(2)).unwrap();
        assert_eq!(cut.before, ids[1]);
        assert_eq!(cut.page(vec![ids[2]], |id| *id).next_cursor, None);
    }

    #[test]
    fn a_foreign_cursor_or_limit_is_invalid() {
        assert!(Cut::new(Some("page two"), None).unwrap_err().is(codes::INVALID));
        assert!(Cut::new(None, Some(0)).is_err());
        assert!(Cut::new(None, Some(101)).is_err());
    }
}
