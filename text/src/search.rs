//! Search: the words of a query, and the index entries of a text.
//!
//! A search compares what people see: it ignores case and width, whether letters are composed,
//! and which apostrophe is used. Every sign is an ordinary character; there are no wildcards.

use icu_casemap::CaseMapper;
use icu_properties::{
    CodePointMapData,
    props::{LineBreak, Script},
};
use unicode_normalization::UnicodeNormalization;

use crate::{
    judge::{is_blank, is_hidden, is_letter_or_digit, is_mark},
    kept::one_blank,
};

/// Characters of a word that are compared: different words hardly ever have a longer prefix in common.
const WORD_CHARS_MAX: usize = 100;

/// A text in the form in which it is compared with others.
pub fn folded(text: &str) -> String {
    let wide: String = text.nfkc().collect();
    let folded = CaseMapper::new().fold_string(&wide);
    let plain = folded.nfkc().filter(|c| !is_hidden(*c)).map(plain).collect::<String>();
    one_blank(&plain)
}

/// Replaces signs that typesetters have several of by the one on a keyboard.
fn plain(c: char) -> char {
    match c {
        '\u{2018}' | '\u{2019}' | '\u{201b}' | '\u{2bc}' | '\u{2032}' => '\'',
        '\u{201c}' | '\u{201d}' | '\u{201f}' | '\u{2033}' => '"',
        '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
        c if c.is_control() || is_blank(c) => ' ',
        c => c,
    }
}

/// The words of a query, signs included. A text matches if it has an entry that begins with each
/// of them.
pub fn words(query: &str) -> Vec<String> {
    folded(query).split(' ').filter(|word| !word.is_empty()).map(cut).collect()
}

/// The index entries of a text: from each point where a reader may begin, up to the next blank.
/// Such a point is the beginning of a word, every sign, and every character of a script that
/// puts no blanks between its words.
pub fn beginnings(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for word in folded(text).split(' ') {
        let mut before = None;
        for (at, c) in word.char_indices() {
            let begins = match before {
                None => true,
                Some(before) => {
                    !is_mark(c)
                        && (!is_letter_or_digit(c)
                            || !(is_letter_or_digit(before) || is_mark(before))
                            || is_without_blanks(c))
                }
            };
            if begins {
                found.push(cut(&word[at..]));
            }
            before = Some(c);
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn cut(word: &str) -> String {
    word.chars().take(WORD_CHARS_MAX).collect()
}

/// Whether the script of this letter is written without blanks between words: Han, Kana, and
/// the scripts of South-East Asia.
fn is_without_blanks(c: char) -> bool {
    let script = CodePointMapData::<Script>::new().get(c);
    matches!(script, Script::Han | Script::Hiragana | Script::Katakana)
        || CodePointMapData::<LineBreak>::new().get(c) == LineBreak::ComplexContext
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(query: &str, text: &str) -> bool {
        let found = beginnings(text);
        words(query).iter().all(|word| found.iter().any(|it| it.starts_with(word.as_str())))
    }

    #[test]
    fn a_search_compares_what_people_see() {
        for (query, text) in [
            ("uber", "Uber-Tour"),
            ("ÜBER", "U\u{308}ber-Tour"),
            ("u\u{308}ber", "Über-Tour"),
            ("STRASSE", "Straße"),
            ("straße", "STRASSE"),
            ("ａｂｃ", "ABC live"),
            ("abc", "ＡＢＣ"),
            ("don't", "Don’t stop"),
            ("jay-z", "JAY–Z"),
            ("οδος", "ΟΔΟΣ"),
            ("밤의", "밤의 페리"),
            ("ferry night", "Night Ferry"),
            ("ni fer", "Night Ferry"),
            ("fer\u{200b}ry", "Ferry"),
            ("हिन्दी", "हिन्दी गीत"),
        ] {
            assert!(finds(query, text), "{query} in {text}");
        }
    }

    #[test]
    fn a_word_is_found_by_its_beginning_and_not_inside() {
        assert!(!finds("erry", "Ferry"));
        assert!(!finds("ferryman", "Ferry"));
        assert!(!finds("ferry day", "Night Ferry"));
        assert!(finds("dc", "AC/DC"));
        assert!(finds("ac/d", "AC/DC"));
        assert!(!finds("acdc", "AC/DC"));
        assert!(finds("26", "Tour '26"));
        assert!(finds("事変", "東京事変"), "no blank says where a word begins");
        assert!(finds("ライブ", "夏のライブ"));
    }

    #[test]
    fn a_sign_is_no_wildcard() {
        for sign in ["%", "_", "\\", "*", "?", "'", "\"", ":*", "&", "|", "!", "(", "☃", "+"] {
            assert!(!finds(sign, "Night Ferry 100 a b"), "{sign}");
            assert!(finds(sign, &format!("100{sign} live")), "{sign}");
            assert!(finds(&format!("100{sign}"), &format!("the 100{sign} tour")), "{sign}");
            assert!(!finds(&format!("1{sign}0"), "100 live"), "{sign}");
        }
        assert!(finds("!!!", "!!! (Chk Chk Chk)"));
        assert!(!finds("100%", "1000 nights"));
    }

    #[test]
    fn a_query_without_a_visible_character_has_no_words() {
        for nothing in ["", " ", "\u{200b}", "\0", "\u{3164}"] {
            assert!(words(nothing).is_empty(), "{nothing:?}");
        }
    }

    #[test]
    fn a_long_text_has_a_bounded_number_of_entries() {
        let signs = "%".repeat(400);
        assert_eq!(beginnings(&signs).len(), WORD_CHARS_MAX);
        assert!(finds(&signs, &signs));
    }
}
