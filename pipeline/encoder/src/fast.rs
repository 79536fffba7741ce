//! Our own BPE encoder. It reads a tokenizer.json and takes over if its exactness follows from that
//! definition. Otherwise it names the reasons, and the `tokenizers` crate encodes.
//!
//! A text passes through the modules in this order:
//! - `definition`: tokenizer.json as types; `classify`: whether we can encode it, and why not.
//! - `added_tokens`: where added tokens occur in a text; `token_search` finds them.
//! - `char_level`: where a text may be cut, with the proof, and how a piece is encoded.
//!   `byte_level`: the same for byte-level tokenizers, after [`unicode`] has normalised the text
//!   and [`pretokenize`] has cut it; `joins` cuts long pieces once more.
//! - `piece` and `cache`: each piece seen before is looked up.
//! - `merges`: all others are merged.
//!
//! **Invariant:** the ids are those of the `tokenizers` crate reading the same tokenizer.json,
//! whatever is in the cache.

mod added_tokens;
mod byte_level;
mod cache;
mod char_level;
mod classify;
mod definition;
mod joins;
mod merges;
mod piece;
pub mod pretokenize;
mod token_search;
pub mod unicode;

use std::ops::Range;

use crate::token_id::TokenId;
use added_tokens::{Matcher, Section};
use cache::Pieces;
use char_level::MARKER;
use classify::{Form, Model, Parts};
use definition::{Definition, PrependScheme};
use piece::Padded;

/// Texts from this size on are left to the `tokenizers` crate: places in a text are numbers of 32
/// bits here.
const TEXT_BYTES_MAX: usize = (1 << 31) - 1;
/// Most of the room of huge texts that is kept for later ones.
const KEPT_TEXT_BYTES_MAX: usize = 4 << 20;

/// A tokenizer that we encode ourselves. Shared by threads.
pub(crate) struct Fast {
    form: Form,
    model: Model,
    raw: Option<Matcher>,
    normalized: Option<Matcher>,
}

impl Fast {
    /// The encoder of a tokenizer.json that the `tokenizers` crate takes as well, or why there is
    /// none, in words.
    ///
    /// `added_id` is the id that the crate gave to an added token.
    pub(crate) fn new(
        json: &[u8],
        specials_are_text: bool,
        added_id: &dyn Fn(&str) -> Option<u32>,
    ) -> Result<Fast, Vec<String>> {
        let definition: Definition = serde_json::from_slice(json)
            .map_err(|err| vec![format!("it holds what only the crate reads: {err}")])?;
        let Parts { form, model, raw, normalized } =
            classify::classify(&definition, specials_are_text, added_id)?;
        Ok(Fast { form, model, raw, normalized })
    }

    /// The pairs of characters that some merge joins: a text may be cut between all others.
    /// Byte-level tokenizers are cut by their pre-tokenizer instead.
    pub(crate) fn pair_count(&self) -> Option<usize> {
        match &self.model {
            Model::Chars(model) => Some(model.pair_count()),
            Model::Bytes(_) => None,
        }
    }

    /// Whether it can take a text of this size.
    pub(crate) fn takes(&self, text: &str) -> bool {
        text.len() <= TEXT_BYTES_MAX
    }

    /// Places in order at which a text can be cut into parts of `part_bytes` or a little more.
    pub(crate) fn cuts(&self, text: &str, part_bytes: usize) -> Vec<usize> {
        let mut cuts = Vec::new();
        // A word that is looked up as a whole must not be cut.
        if matches!(&self.model, Model::Chars(model) if model.looks_up_words()) {
            return cuts;
        }
        let mut from = part_bytes.max(1);
        while from < text.len() {
            let Some(cut) = self.first_cut(text, from) else { break };
            cuts.push(cut);
            from = cut + part_bytes.max(1);
        }
        cuts
    }

    /// The first place after `from` where a cut changes nothing.
    ///
    /// Between x and y it does not if the model allows a cut there and x is in no added token, is
    /// neither white space that one could take nor a letter that one must not touch. Then no match
    /// holds x, so the search for tokens starts afresh after it, and no match looks at the text
    /// before y.
    fn first_cut(&self, text: &str, from: usize) -> Option<usize> {
        let from = (from..=text.len()).find(|&at| text.is_char_boundary(at))?;
        let space_is_marker = self.form.space_is_marker();
        let form = |c: char| if space_is_marker && c == MARKER { ' ' } else { c };
        let tokens =
            || [&self.raw, &self.normalized].into_iter().flatten().flat_map(Matcher::tokens);
        let is_free = |c: char| {
            let same = |other: char| form(other) == form(c);
            tokens().all(|token| {
                !(token.pattern.contains(same)
                    || ((token.lstrip || token.rstrip) && c.is_whitespace())
                    || (token.single_word && added_tokens::is_word(c)))
            })
        };
        let mut chars = text[from..].char_indices();
        let (_, mut last) = chars.next()?;
        for (at, c) in chars {
            let is_cut = match &self.model {
                Model::Chars(model) => model.cuts().is_cut(form(last), form(c)),
                Model::Bytes(model) => model.is_cut(text, from + at),
            };
            if is_cut && is_free(last) {
                return Some(from + at);
            }
            last = c;
        }
        None
    }
}

/// A [`Fast`] in the hands of one thread.
pub(crate) struct FastSession<'a, I: TokenId> {
    fast: &'a Fast,
    pieces: Pieces<I>,
    text: Padded,
}

impl<'a, I: TokenId> FastSession<'a, I> {
    /// With a cache of about `cache_bytes`.
    pub(crate) fn new(fast: &'a Fast, cache_bytes: usize) -> FastSession<'a, I> {
        let mut pieces = Pieces::new(cache_bytes);
        if let Model::Bytes(model) = &fast.model {
            pieces.learn_known(model.known());
        }
        FastSession { fast, pieces, text: Padded::default() }
    }

    /// Whether it can take a text of this size.
    pub(crate) fn takes(&self, text: &str) -> bool {
        self.fast.takes(text)
    }

    /// Pieces that were looked up, and those that were not there.
    pub(crate) fn lookups_and_misses(&self) -> (u64, u64) {
        (self.pieces.lookups, self.pieces.misses)
    }

    /// Appends the ids of a text, or of a part of one that begins with it or not.
    pub(crate) fn encode(&mut self, text: &str, is_first: bool, ids: &mut Vec<I>) {
        let fast = self.fast;
        each_section(fast.raw.as_ref(), text, |Section { id, range }| match id {
            Some(id) => ids.push(I::narrow(id)),
            None => match fast.form {
                Form::Bytes => self.encode_bytes(text, range, is_first, ids),
                Form::Normalized { prepends, replaces } => {
                    let prepends = prepends && (is_first || range.start > 0);
                    self.encode_normalized(&text[range], prepends, replaces, ids);
                }
                Form::Metaspace { scheme, .. } => {
                    self.encode_metaspace(text, range, scheme, is_first, ids);
                }
            },
        });
    }

    fn encode_bytes(
        &mut self,
        text: &str,
        section: Range<usize>,
        is_first: bool,
        ids: &mut Vec<I>,
    ) {
        let fast = self.fast;
        let Model::Bytes(model) = &fast.model else { unreachable!("the form is that of bytes") };
        let first = section.start;
        let text = model.normalize(&text[section]);
        each_section(fast.normalized.as_ref(), &text, |Section { id, range }| match id {
            Some(id) => ids.push(I::narrow(id)),
            None => {
                let begins = is_first || 0 < first + range.start;
                model.encode(&text[range], begins, &mut self.text, &mut self.pieces, ids);
            }
        });
        self.shrink();
    }

    fn encode_normalized(
        &mut self,
        section: &str,
        prepends: bool,
        replaces: bool,
        ids: &mut Vec<I>,
    ) {
        self.fill(section, prepends, replaces);
        let fast = self.fast;
        let Model::Chars(chars) = &fast.model else { unreachable!("the form is that of chars") };
        let Some(matcher) = &fast.normalized else {
            let end = self.text.text().len();
            chars.encode(&self.text, 0, end, &mut self.pieces, ids);
            return self.shrink();
        };
        let text = std::str::from_utf8(self.text.text()).expect("it was filled from a text");
        matcher.sections(text, |Section { id, range }| match id {
            Some(id) => ids.push(I::narrow(id)),
            None => {
                chars.encode(&self.text, range.start, range.end, &mut self.pieces, ids);
            }
        });
        self.shrink();
    }

    fn encode_metaspace(
        &mut self,
        text: &str,
        section: Range<usize>,
        scheme: PrependScheme,
        is_first: bool,
        ids: &mut Vec<I>,
    ) {
        let fast = self.fast;
        let Model::Chars(chars) = &fast.model else { unreachable!("the form is that of chars") };
        let first = section.start;
        each_section(fast.normalized.as_ref(), &text[section], |Section { id, range }| {
            if let Some(id) = id {
                return ids.push(I::narrow(id));
            }
            let (start, word) = (first + range.start, &text[first..][range]);
            let is_eligible = match scheme {
                PrependScheme::First => is_first && start == 0,
                PrependScheme::Never => false,
                PrependScheme::Always => is_first || start > 0,
            };
            self.fill(word, is_eligible && !word.starts_with([' ', MARKER]), true);
            let end = self.text.text().len();
            chars.encode(&self.text, 0, end, &mut self.pieces, ids);
            self.shrink();
        });
    }

    /// Takes a text over, with a marker before it or not, in the form that the model takes.
    fn fill(&mut self, text: &str, prepends: bool, replaces: bool) {
        let bytes = self.text.start();
        if prepends {
            bytes.push(b' ');
        }
        let mut rest = text.as_bytes();
        if replaces {
            let mut marker = [0; 4];
            let marker = MARKER.encode_utf8(&mut marker).as_bytes();
            while let Some(at) = memchr::memmem::find(rest, marker) {
                bytes.extend_from_slice(&rest[..at]);
                bytes.push(b' ');
                rest = &rest[at + marker.len()..];
            }
        }
        bytes.extend_from_slice(rest);
        self.text.finish();
    }

    fn shrink(&mut self) {
        if self.text.text().len() > KEPT_TEXT_BYTES_MAX {
            self.text = Padded::default();
        }
    }
}

/// Calls `take` with each section of a text; without a matcher it is one.
fn each_section(matcher: Option<&Matcher>, text: &str, mut take: impl FnMut(Section)) {
    match matcher {
        Some(matcher) => matcher.sections(text, take),
        None if text.is_empty() => {}
        None => take(Section { id: None, range: 0..text.len() }),
    }
}
