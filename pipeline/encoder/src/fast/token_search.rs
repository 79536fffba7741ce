//! Where some strings occur in a text: the leftmost, of those at one place the longest, one after
//! the other.
//!
//! Added tokens begin in few ways, "<|" above all, and texts hold few such pairs of bytes. So
//! places where no string begins are passed over 32 bytes at a time, and the automaton looks at the
//! others alone.
//!
//! **Invariant:** what is found is what the automaton alone would find.

use aho_corasick::{AhoCorasick, Anchored, BuildError, Input, Match, MatchKind, StartKind};

/// With more beginnings than this, comparing with each takes longer than the automaton does.
const BEGINNINGS_MAX: usize = 6;
/// Places that are compared at once.
const CHUNK_BYTES: usize = 32;

/// Strings to be found.
pub(crate) struct Finder {
    automaton: AhoCorasick,
    /// The first two bytes of all strings, if all have two and there are few.
    beginnings: Option<Vec<[u8; 2]>>,
}

impl Finder {
    /// None of them is empty.
    pub(crate) fn new(patterns: &[&str]) -> Result<Finder, BuildError> {
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .start_kind(StartKind::Both)
            .build(patterns)?;
        let beginning = |pattern: &&str| pattern.as_bytes().first_chunk::<2>().copied();
        let beginnings = patterns.iter().map(beginning).collect::<Option<Vec<_>>>();
        let beginnings = beginnings.map(|mut beginnings| {
            beginnings.sort_unstable();
            beginnings.dedup();
            beginnings
        });
        let beginnings = beginnings.filter(|beginnings| beginnings.len() <= BEGINNINGS_MAX);
        Ok(Finder { automaton, beginnings })
    }

    /// All that are found in `text`, in order.
    pub(crate) fn find_iter(&self, text: &str) -> impl Iterator<Item = Match> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let found = match &self.beginnings {
                Some(beginnings) => self.find_beginning(text, from, beginnings),
                None => self.automaton.find(Input::new(text).range(from..)),
            };
            from = found.map_or(text.len(), |found| found.end());
            found
        })
    }

    fn find_beginning(&self, text: &str, from: usize, beginnings: &[[u8; 2]]) -> Option<Match> {
        let mut from = from;
        loop {
            let at = next_beginning(text.as_bytes(), from, beginnings)?;
            let input = Input::new(text).range(at..).anchored(Anchored::Yes);
            if let Some(found) = self.automaton.find(input) {
                return Some(found);
            }
            from = at + 1;
        }
    }
}

/// The first place at or after `from` where one of `beginnings` occurs.
fn next_beginning(bytes: &[u8], from: usize, beginnings: &[[u8; 2]]) -> Option<usize> {
    let mut from = from;
    while let (Some(firsts), Some(seconds)) = (
        bytes.get(from..).and_then(|rest| rest.first_chunk::<CHUNK_BYTES>()),
        bytes.get(from + 1..).and_then(|rest| rest.first_chunk::<CHUNK_BYTES>()),
    ) {
        let stands = |&[first, second]: &[u8; 2]| {
            let pairs = firsts.iter().zip(seconds);
            let is_pair = |(&a, &b): (&u8, &u8)| u8::from(a == first) & u8::from(b == second);
            pairs.fold(0, |any, pair| any | is_pair(pair)) != 0
        };
        if beginnings.iter().any(stands) {
            break;
        }
        from += CHUNK_BYTES;
    }
    let pairs = bytes.get(from..)?.windows(2);
    let is_beginning = |pair: &[u8]| beginnings.iter().any(|beginning| beginning == pair);
    pairs.into_iter().position(is_beginning).map(|offset| from + offset)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Passing over places finds what is found without.
        #[test]
        fn what_is_found_is_what_the_automaton_finds(
            patterns in proptest::collection::vec("[a-c]{2}[a-d]{0,3}", 1..6),
            text in "[a-e]{0,200}",
        ) {
            let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
            let finder = Finder::new(&patterns).unwrap();
            let found: Vec<_> = finder.find_iter(&text).map(|found| found.range()).collect();
            let expected: Vec<_> =
                finder.automaton.find_iter(&text).map(|found| found.range()).collect();
            prop_assert!(finder.beginnings.is_some());
            prop_assert_eq!(found, expected);
        }
    }
}
