//! Added tokens: where they occur in a text, and their ids.
//!
//! The `tokenizers` crate looks for all added tokens of a kind at once, from left to right, the
//! leftmost match first, of those the longest, and continues after it. A match that does not
//! count (a special token to be read as text, or one that is not a word of its own) still hides
//! whatever overlaps it.
//!
//! **Invariant:** sections cover the text from its start to its end, in order, and none is empty.

use std::ops::Range;

use super::token_search::Finder;

/// An added token as a [`Matcher`] looks for it.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    /// Its text.
    pub(crate) pattern: String,
    pub(crate) id: u32,
    /// It is found and yet text.
    pub(crate) is_text: bool,
    pub(crate) single_word: bool,
    pub(crate) lstrip: bool,
    pub(crate) rstrip: bool,
}

/// A part of a text: an added token, or text for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) id: Option<u32>,
    pub(crate) range: Range<usize>,
}

/// The added tokens that are looked for in the same text.
pub(crate) struct Matcher {
    finder: Finder,
    tokens: Vec<Token>,
    /// In the text a space represents a marker, which is not white space.
    space_is_marker: bool,
}

impl Matcher {
    /// None if there is nothing to be found; the reason if the patterns cannot be looked for.
    pub(crate) fn new(
        tokens: Vec<Token>,
        space_is_marker: bool,
    ) -> Result<Option<Matcher>, String> {
        if tokens.iter().all(|token| token.is_text) {
            return Ok(None);
        }
        let patterns: Vec<&str> = tokens.iter().map(|token| token.pattern.as_str()).collect();
        let finder = Finder::new(&patterns)
            .map_err(|err| format!("its added tokens cannot be looked for: {err}"))?;
        Ok(Some(Matcher { finder, tokens, space_is_marker }))
    }

    /// The tokens that it looks for.
    pub(crate) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Calls `take` with each section of `text`.
    pub(crate) fn sections(&self, text: &str, mut take: impl FnMut(Section)) {
        let mut taken_end = 0;
        for found in self.finder.find_iter(text) {
            let token = &self.tokens[found.pattern().as_usize()];
            let (mut start, mut end) = (found.start(), found.end());
            if token.is_text {
                continue;
            }
            let word_before = text[..start].chars().next_back().is_some_and(is_word);
            let word_after = text[end..].chars().next().is_some_and(is_word);
            if token.single_word && (word_before || word_after) {
                continue;
            }
            let is_space = |c: char| c.is_whitespace() && !(self.space_is_marker && c == ' ');
            if token.lstrip {
                start = text[..start].trim_end_matches(is_space).len().max(taken_end);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start_matches(is_space).len();
            }
            if taken_end < start {
                take(Section { id: None, range: taken_end..start });
            }
            take(Section { id: Some(token.id), range: start..end });
            taken_end = end;
        }
        if taken_end < text.len() {
            take(Section { id: None, range: taken_end..text.len() });
        }
    }
}

/// `\w` of the `regex` crate, which the `tokenizers` crate asks.
pub(crate) fn is_word(c: char) -> bool {
    regex_syntax::is_word_character(c)
}
