//! What a caller sends, read strictly and refused in our own words.
//!
//! Bodies of commands and queries of addresses are the only text that strangers write. Each is
//! first read as a [`Tree`], then as the type that is wanted. What is not understood is never
//! passed over in silence: a member that there is not, one that stands there twice, a list for
//! an object. A refusal names the `field`, and says what was wanted and what came. Nothing of it
//! is the text of a library: those speak of the program, and change with it.
//!
//! | file | what it is |
//! |---|---|
//! | `tree` | JSON as a tree that forgets nothing, and why a body is no JSON |
//! | `strict` | a tree as the type that is wanted |
//! | `flaw` | what is wrong, and where |
//!
//! Events are not read here. They come from services, perhaps of a later version, and their
//! consumers pass over what they do not know.

mod flaw;
mod strict;
mod tree;

use events::{Problem, codes};
use serde::de::DeserializeOwned;

use self::{flaw::Flaw, strict::Strict, tree::Tree};

/// What a refusal calls the body as a whole.
pub(crate) const BODY: &str = "body";

/// Reads a command's body. One without content is an object without members.
///
/// # Errors
/// `bad_request` with `line` and `column` when it is not JSON; `invalid` with the `field` when
/// a member is unknown, missing, there twice or of the wrong kind.
pub fn parse<C: DeserializeOwned>(body: &[u8]) -> Result<C, Problem> {
    let tree = Tree::of_json(body)?;
    C::deserialize(Strict(tree)).map_err(|flaw| flaw.problem(codes::INVALID))
}

/// A command's body with members that the address gives. A body may repeat one of them, and
/// may not contradict it.
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
            let what = format!("is `{value}` by the address, and may be left out here");
            return Err(Problem::about(codes::INVALID, name, what));
        }
        members.retain(|(known, _)| known != name);
        members.push(((*name).to_owned(), Tree::Text(value.clone())));
    }
    Ok(serde_json::to_vec(&tree).expect("a tree is plain data"))
}

/// Reads the parameters of an address, which are texts.
///
/// # Errors
/// `bad_request` with the `field` when one is unknown, missing, there twice or of the wrong
/// kind.
pub fn query<P: DeserializeOwned>(
    pairs: impl IntoIterator<Item = (String, String)>,
) -> Result<P, Problem> {
    let words = pairs.into_iter().map(|(name, value)| (name, Tree::Word(value)));
    let tree = Tree::Object(words.collect());
    P::deserialize(Strict(tree)).map_err(|flaw| flaw.problem(codes::BAD_REQUEST))
}

#[cfg(test)]
mod tests;
