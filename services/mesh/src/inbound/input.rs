//! Reads what a caller sends strictly, and refuses it in our own words.
//!
//! Command bodies and URL queries are the only text that comes from outside. Each is first read
//! as a [`Tree`], then as the type that is expected. Nothing that is not understood is ignored:
//! an unknown member, a member that is given twice, a list instead of an object. A refusal names
//! the `field`, and says what was expected and what came. It never has the text of a library:
//! such texts describe the program, and change with it.
//!
//! | file | what it is |
//! |---|---|
//! | `tree` | JSON as a tree that keeps everything, and why a body is no JSON |
//! | `strict` | reads a tree as the expected type |
//! | `flaw` | what is wrong, and where |
//!
//! Events are not read here. They come from services, perhaps of a later version, and their
//! consumers ignore what they do not know.

mod flaw;
mod strict;
mod tree;

use events::{Problem, codes};
use serde::de::DeserializeOwned;

use self::{flaw::Flaw, strict::Strict, tree::Tree};

/// Reads a command's body. An empty body is an object without members.
///
/// # Errors
/// `bad_request` with `line` and `column` when it is not JSON; `invalid` with the `field` when
/// a member is unknown, missing, given twice or of the wrong type.
pub fn parse<C: DeserializeOwned>(body: &[u8]) -> Result<C, Problem> {
    let tree = Tree::of_json(body)?;
    C::deserialize(Strict(tree)).map_err(|flaw| flaw.problem(codes::INVALID))
}

/// Adds the members that the URL gives to a command's body. The body may repeat one of them, but
/// must not contradict it.
///
/// # Errors
/// As [`parse`].
pub fn complete(body: &[u8], given: &[(&str, String)]) -> Result<Vec<u8>, Problem> {
    let mut tree = Tree::of_json(body)?;
    let Tree::Object(members) = &mut tree else {
        return Err(Flaw::wanted("an object", &tree).problem(codes::INVALID));
    };
    for (name, value) in given {
        let is_same =
            |found: &Tree| matches!(found, Tree::Text(text) if text.eq_ignore_ascii_case(value));
        if members.iter().any(|(known, found)| known == name && !is_same(found)) {
            let what = format!("must be `{value}`, as in the address, or be left out");
            return Err(Problem::about(codes::INVALID, name, what));
        }
        members.retain(|(known, _)| known != name);
        members.push(((*name).to_owned(), Tree::Text(value.clone())));
    }
    Ok(serde_json::to_vec(&tree).expect("a tree is plain data"))
}

/// Reads the query parameters of a URL, whose values are all texts.
///
/// # Errors
/// `bad_request` with the `field` when one is unknown, missing, given twice or of the wrong type.
pub fn query<P: DeserializeOwned>(
    pairs: impl IntoIterator<Item = (String, String)>,
) -> Result<P, Problem> {
    let words = pairs.into_iter().map(|(name, value)| (name, Tree::Word(value)));
    let tree = Tree::Object(words.collect());
    P::deserialize(Strict(tree)).map_err(|flaw| flaw.problem(codes::BAD_REQUEST))
}

#[cfg(test)]
mod tests;
