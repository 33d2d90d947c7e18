//! A line of styled text that is cut to a width.

use anstyle::Style;
use unicode_width::UnicodeWidthChar;

/// A line of styled text.
#[derive(Debug, Clone, Default)]
pub(super) struct Line(Vec<(Style, String)>);

impl Line {
    /// Adds a text.
    pub(super) fn add(mut self, style: Style, text: impl AsRef<str>) -> Self {
        self.0.push((style, printable(text.as_ref())));
        self
    }

    /// Adds a plain text.
    pub(super) fn plain(self, text: impl AsRef<str>) -> Self {
        self.add(Style::new(), text)
    }

    /// Adds a text in a column of this width, to the left of it.
    pub(super) fn left(self, style: Style, text: &str, width: usize) -> Self {
        let text = cut(&printable(text), width);
        let blanks = " ".repeat(width.saturating_sub(columns(&text)));
        self.add(style, text).plain(blanks)
    }

    /// Adds a text in a column of this width, to the right of it.
    pub(super) fn right(self, style: Style, text: &str, width: usize) -> Self {
        let blanks = " ".repeat(width.saturating_sub(columns(text)));
        self.plain(blanks).add(style, text)
    }

    /// The line as it is written: not wider than `width`, with or without its styles.
    pub(super) fn rendered(&self, width: u16, is_styled: bool) -> String {
        let mut left = usize::from(width);
        let mut line = String::new();
        for (style, text) in &self.0 {
            let text = cut(text, left);
            left = left.saturating_sub(columns(&text));
            match is_styled && *style != Style::new() && !text.is_empty() {
                true => line.push_str(&format!("{style}{text}{style:#}")),
                false => line.push_str(&text),
            }
        }
        line
    }
}

/// Columns that a text takes on a terminal.
fn columns(text: &str) -> usize {
    text.chars().filter_map(UnicodeWidthChar::width).sum()
}

/// A text that takes at most `width` columns.
fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let (mut left, mut short) = (width.saturating_sub(1), String::new());
    for one in text.chars() {
        let wide = one.width().unwrap_or(0);
        if wide > left {
            break;
        }
        left -= wide;
        short.push(one);
    }
    if width > 0 {
        short.push('…');
    }
    short
}

/// A text that cannot control the terminal: some of it was written by others.
fn printable(text: &str) -> String {
    let is_safe = |one: char| {
        !one.is_control() && !matches!(one, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|one| if is_safe(one) { one } else { ' ' }).collect()
}

#[cfg(test)]
mod tests {
    use anstyle::AnsiColor;

    use super::*;

    #[test]
    fn a_line_is_as_wide_as_the_screen_at_most_and_cannot_control_it() {
        let line = Line::default().add(AnsiColor::Red.on_default(), "ab").plain("공연 \x1b[2J");
        assert_eq!(line.rendered(20, false), "ab공연  [2J");
        assert_eq!(line.rendered(5, false), "ab공…");
        assert_eq!(columns(&line.rendered(6, false)), 5, "half of a wide character is not shown");
        assert_eq!(line.rendered(2, true), "\x1b[31mab\x1b[0m");
        assert_eq!(line.rendered(0, true), "");
    }

    #[test]
    fn columns_stand_below_each_other_in_any_script() {
        let narrow = Line::default().left(Style::new(), "ab", 6).right(Style::new(), "1", 3);
        let wide = Line::default().left(Style::new(), "공연장소", 6).right(Style::new(), "12", 3);
        assert_eq!(narrow.rendered(80, false), "ab      1");
        assert_eq!(wide.rendered(80, false), "공연…  12");
    }
}
