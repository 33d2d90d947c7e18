//! Answers that were given under an `Idempotency-Key`.

use std::collections::HashMap;

use crate::batch::work::{Answered, Meta};

/// An answer that was given under an `Idempotency-Key`.
#[derive(Clone)]
pub(crate) struct KeptAnswer {
    /// Hash of key, caller and endpoint.
    pub(crate) scope: [u8; 32],
    /// Hash of the request.
    pub(crate) body: [u8; 32],
    /// The answer.
    pub(crate) answered: Answered,
}

/// An answer under an `Idempotency-Key`.
pub(crate) struct Stored {
    pub(crate) body: [u8; 32],
    pub(crate) answered: Answered,
    is_new: bool,
}

/// The answers under the keys of one batch, by scope.
#[derive(Default)]
pub(crate) struct Answers(HashMap<[u8; 32], Stored>);

impl Answers {
    /// Whether there is an answer under the command's idempotency key.
    pub(super) fn knows(&self, meta: &Meta) -> bool {
        meta.idempotency.as_ref().is_some_and(|key| self.0.contains_key(&key.scope))
    }

    /// The answer stored under the key, if it was given to the same request.
    pub(super) fn stored(&self, meta: &Meta) -> Option<Answered> {
        let key = meta.idempotency.as_ref()?;
        let stored = self.0.get(&key.scope)?;
        (stored.body == key.body).then(|| stored.answered.clone())
    }

    /// The answers given in this batch, ordered by scope.
    pub(crate) fn given_now(&self) -> Vec<(&[u8; 32], &Stored)> {
        let mut new: Vec<_> = self.0.iter().filter(|(_, stored)| stored.is_new).collect();
        new.sort_unstable_by_key(|(scope, _)| **scope);
        new
    }

    /// Stores the answer to a granted command.
    pub(super) fn given(&mut self, meta: &Meta, answered: &Answered) {
        if let Some(key) = &meta.idempotency {
            let stored = Stored { body: key.body, answered: answered.clone(), is_new: true };
            self.0.insert(key.scope, stored);
        }
    }
}

impl FromIterator<KeptAnswer> for Answers {
    fn from_iter<I: IntoIterator<Item = KeptAnswer>>(kept: I) -> Self {
        let answers = kept.into_iter().map(|KeptAnswer { scope, body, answered }| {
            (scope, Stored { body, answered, is_new: false })
        });
        Self(answers.collect())
    }
}
