//! Which characters a text may have.
//!
//! A character without a glyph of its own is refused, unless it is part of its neighbours'
//! glyph: a joiner in a family of emoji or between letters of a script that needs it, or a
//! selector after the character whose form it selects.

use icu_properties::{
    CodePointMapData, CodePointSetData, CodePointSetDataBorrowed,
    props::{
        BidiControl, DefaultIgnorableCodePoint, Emoji, ExtendedPictographic, GeneralCategory,
        GeneralCategoryGroup, Ideographic, NoncharacterCodePoint, PrependedConcatenationMark,
        RegionalIndicator, VariationSelector, WhiteSpace,
    },
};
use unicode_segmentation::UnicodeSegmentation;

use crate::Flaw;

/// Code points of one character at most. A family of emoji has up to 10; letters have fewer,
/// even in the scripts with the most marks.
const CLUSTER_MAX: usize = 16;

const HIDDEN: CodePointSetDataBorrowed<'static> =
    CodePointSetData::new::<DefaultIgnorableCodePoint>();
const BIDI: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<BidiControl>();
const BLANK: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<WhiteSpace>();
const EMOJI: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<Emoji>();
const PICTOGRAPH: CodePointSetDataBorrowed<'static> =
    CodePointSetData::new::<ExtendedPictographic>();
const FLAG: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<RegionalIndicator>();
const IDEOGRAPH: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<Ideographic>();
const SELECTOR: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<VariationSelector>();
const NONCHARACTER: CodePointSetDataBorrowed<'static> =
    CodePointSetData::new::<NoncharacterCodePoint>();
const ABOVE_OTHERS: CodePointSetDataBorrowed<'static> =
    CodePointSetData::new::<PrependedConcatenationMark>();

const ZERO_WIDTH_NON_JOINER: char = '\u{200c}';
const ZERO_WIDTH_JOINER: char = '\u{200d}';
/// Braille without a dot: a symbol by its category, but invisible.
const BRAILLE_BLANK: char = '\u{2800}';
const KEYCAP: char = '\u{20e3}';
const BLACK_FLAG: char = '\u{1f3f4}';
/// Characters that replace what could not be decoded.
const REPLACEMENTS: [char; 2] = ['\u{fffc}', '\u{fffd}'];

/// Whether this character looks like an empty space.
pub(crate) fn is_blank(c: char) -> bool {
    BLANK.contains(c) || c == BRAILLE_BLANK
}

/// Whether this character is invisible by itself.
pub(crate) fn is_hidden(c: char) -> bool {
    HIDDEN.contains(c) || is_in(c, GeneralCategoryGroup::Format) && !ABOVE_OTHERS.contains(c)
}

/// Whether this selects one of several forms of the character before it.
pub(crate) fn is_selector(c: char) -> bool {
    SELECTOR.contains(c)
}

pub(crate) fn is_mark(c: char) -> bool {
    is_in(c, GeneralCategoryGroup::Mark)
}

pub(crate) fn is_letter_or_digit(c: char) -> bool {
    is_in(c, GeneralCategoryGroup::Letter.union(GeneralCategoryGroup::Number))
}

fn is_in(c: char, group: GeneralCategoryGroup) -> bool {
    group.contains(CodePointMapData::<GeneralCategory>::new().get(c))
}

/// Whether a text is one line or may have several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Line,
    Lines,
}

/// Refuses invisible characters, characters that are no text, and marks that are on no letter.
/// The text must be in a normal form.
pub(crate) fn check(text: &str, shape: Shape) -> Result<(), Flaw> {
    if text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Ok(());
    }
    for (at, cluster) in text.grapheme_indices(true) {
        let before = text[..at].chars().next_back();
        let after = text[at + cluster.len()..].chars().next();
        check_cluster(cluster, before, after, shape)?;
    }
    Ok(())
}

fn check_cluster(
    cluster: &str,
    before: Option<char>,
    after: Option<char>,
    shape: Shape,
) -> Result<(), Flaw> {
    let chars: Vec<char> = cluster.chars().collect();
    if chars.len() > CLUSTER_MAX {
        return Err(Flaw::new(format!("has a character with {} marks on it", chars.len() - 1)));
    }
    for (nth, c) in chars.iter().copied().enumerate() {
        let before = if nth == 0 { before } else { Some(chars[nth - 1]) };
        let after = chars.get(nth + 1).copied().or(after);
        check_char(c, shape)?;
        if is_hidden(c) && !is_part_of(c, &chars, before, after) {
            return Err(hidden(c));
        }
    }
    let is_base = |c: char| !is_mark(c) && !is_blank(c) && !is_hidden(c);
    if chars.iter().any(|c| is_mark(*c)) && !chars.iter().any(|c| is_base(*c)) {
        let mark = chars.iter().find(|c| is_mark(**c)).map_or(0, |c| u32::from(*c));
        return Err(Flaw::new(format!("has a mark (U+{mark:04X}) that is on no letter")));
    }
    Ok(())
}

fn check_char(c: char, shape: Shape) -> Result<(), Flaw> {
    let code = u32::from(c);
    let is_end = matches!(c, '\n' | '\t');
    match c {
        '\u{2028}' | '\u{2029}' | '\n' | '\r' if shape == Shape::Line => {
            Err(Flaw::new("has more than one line"))
        }
        c if c.is_control() && !(shape == Shape::Lines && is_end) => {
            Err(Flaw::new(format!("has a control character (U+{code:04X})")))
        }
        c if REPLACEMENTS.contains(&c) => Err(Flaw::new(format!(
            "has a replacement for a character that could not be read (U+{code:04X})"
        ))),
        c if NONCHARACTER.contains(c) || is_in(c, GeneralCategoryGroup::PrivateUse) => {
            Err(Flaw::new(format!("has a character without a defined meaning (U+{code:04X})")))
        }
        _ => Ok(()),
    }
}

fn hidden(c: char) -> Flaw {
    let code = u32::from(c);
    match BIDI.contains(c) {
        true => {
            Flaw::new(format!("has a character that changes the direction of text (U+{code:04X})"))
        }
        false => Flaw::new(format!("has a character that cannot be seen (U+{code:04X})")),
    }
}

/// Whether a hidden character is part of the glyph of its neighbours.
fn is_part_of(c: char, cluster: &[char], before: Option<char>, after: Option<char>) -> bool {
    let (Some(before), first) = (before, cluster[0]) else { return false };
    let is_pictograph = PICTOGRAPH.contains(first) || FLAG.contains(first);
    match c {
        ZERO_WIDTH_JOINER if is_pictograph => after.is_some_and(|c| PICTOGRAPH.contains(c)),
        ZERO_WIDTH_JOINER | ZERO_WIDTH_NON_JOINER => {
            is_joined(before) && after.is_some_and(is_joined)
        }
        '\u{fe0e}' | '\u{fe0f}' => {
            EMOJI.contains(before) && (!before.is_ascii() || after == Some(KEYCAP))
        }
        '\u{180b}'..='\u{180f}' => ('\u{1800}'..='\u{18af}').contains(&before),
        c if is_selector(c) => IDEOGRAPH.contains(before),
        '\u{e0020}'..='\u{e007f}' => first == BLACK_FLAG,
        _ => false,
    }
}

/// Letters whose form depends on their neighbours: those of Arabic, of the scripts of India, and
/// of the blocks between them in Unicode.
fn is_joined(c: char) -> bool {
    ('\u{600}'..='\u{1cff}').contains(&c) && (is_letter_or_digit(c) || is_mark(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invisible_character_is_refused_and_named_by_its_code() {
        for c in [
            '\u{ad}',
            '\u{34f}',
            '\u{115f}',
            '\u{180e}',
            '\u{200b}',
            '\u{2060}',
            '\u{2063}',
            '\u{3164}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e01ef}',
        ] {
            for text in [format!("a{c}b"), format!("{c}"), format!("가{c}")] {
                let flaw = check(&text, Shape::Line).expect_err("refused").to_string();
                assert!(flaw.contains(&format!("U+{:04X}", u32::from(c))), "{text:?}: {flaw}");
            }
        }
    }

    #[test]
    fn a_character_that_changes_the_direction_is_refused() {
        for c in ['\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}']
        {
            let flaw = check(&format!("a{c}b"), Shape::Lines).expect_err("refused").to_string();
            assert!(flaw.contains("direction"), "{flaw}");
        }
    }

    #[test]
    fn a_character_that_is_no_text_is_refused() {
        for c in ['\0', '\u{7f}', '\u{9b}', '\u{e000}', '\u{f8ff}', '\u{fffd}', '\u{ffff}'] {
            assert!(check(&format!("a{c}b"), Shape::Lines).is_err(), "{c:?}");
        }
        assert!(check("a\nb\tc", Shape::Lines).is_ok());
        for text in ["a\nb", "a\tb", "a\u{2028}b", "a\rb"] {
            assert!(check(text, Shape::Line).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_mark_must_be_on_a_letter() {
        for text in ["\u{301}a", "a \u{301}", "\u{20dd}"] {
            assert!(check(text, Shape::Line).expect_err("refused").to_string().contains("mark"));
        }
        let tower = format!("a{}", "\u{301}".repeat(40));
        assert!(check(&tower, Shape::Line).is_err());
        assert!(check("x\u{301}", Shape::Line).is_ok(), "a letter without a code point of its own");
    }

    #[test]
    fn scripts_and_emoji_keep_the_hidden_characters_of_their_glyphs() {
        for text in [
            "👩\u{200d}🎤 Live",
            "❤\u{fe0f}",
            "1\u{fe0f}\u{20e3}",
            "🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
            "🏳\u{fe0f}\u{200d}🌈",
            "🇰🇷",
            "می\u{200c}خواهم",
            "क\u{94d}\u{200d}ष",
            "辻\u{e0100}",
            "한국의 밤",
            "ᄒᆞᆫ글",
            "Sigur Rós – ( )",
            "!!!",
        ] {
            assert_eq!(check(text, Shape::Line), Ok(()), "{text}");
        }
        for text in ["a\u{200d}b", "A\u{fe0f}", "1\u{fe0f}", "a\u{200c}", "🎤\u{200d}"] {
            assert!(check(text, Shape::Line).is_err(), "{text:?}");
        }
    }
}
