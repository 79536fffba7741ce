//! Escapes text from data before people see it.
//!
//! Set names, file names and foreign messages about a file go to a terminal, which obeys control
//! characters.
//!
//! **Invariant:** the result gives a terminal no command and does not change the direction of
//! writing.

use std::borrow::Cow;
use std::fmt::Write as _;

/// One line: every control character as an escape, such as `\n` or `\u{1b}`.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_command)
}

/// Several lines: line feeds and tabs stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_command(c) && c != '\n' && c != '\t')
}

fn is_command(c: char) -> bool {
    // The others end lines or set the direction of writing.
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, escapes: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&escapes) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if escapes(c) {
            write!(shown, "{}", c.escape_default()).expect("a String takes all");
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_to_a_terminal_become_escapes_and_all_else_stays() {
        for (text, as_line, as_lines) in [
            ("Pile-CC", "Pile-CC", "Pile-CC"),
            ("e\u{301} 漢 \u{200d}\\ \"", "e\u{301} 漢 \u{200d}\\ \"", "e\u{301} 漢 \u{200d}\\ \""),
            ("a\u{1b}[2Jb", r"a\u{1b}[2Jb", r"a\u{1b}[2Jb"),
            ("a\nb\tc\r", r"a\nb\tc\r", "a\nb\tc\\r"),
            ("\0\u{7f}\u{9b}", r"\u{0}\u{7f}\u{9b}", r"\u{0}\u{7f}\u{9b}"),
            ("\u{202e}x\u{2028}", r"\u{202e}x\u{2028}", r"\u{202e}x\u{2028}"),
        ] {
            assert_eq!(line(text), as_line);
            assert_eq!(lines(text), as_lines);
        }
    }
}
