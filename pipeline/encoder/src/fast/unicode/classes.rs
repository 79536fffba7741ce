//! Classes of code points in the regexes of byte-level tokenizers: letters, numbers, white space
//! and so on.
//!
//! Character classes are those of Unicode 16.0, as in the regex engine: `tokenizers` matches with
//! Oniguruma 6.9.10. The tables here come from `regex-syntax`, at the same version of Unicode. A
//! test compares every code point with the engine itself, so it fails if an update of either one
//! makes them differ.
//!
//! **Invariant:** every code point has exactly one class.

use std::sync::LazyLock;

use regex_syntax::hir::{Class as HirClass, HirKind};

/// The class of a code point, as a number below 16, so a set of classes is a `u16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// None of the classes below: control characters, formats, unassigned code points.
    Other,
    /// `\p{Lu}`, `\p{Lt}`.
    Upper,
    /// `\p{Ll}`.
    Lower,
    /// `\p{Lm}`, `\p{Lo}`.
    Caseless,
    /// `\p{M}`.
    Mark,
    /// `\p{N}`.
    Number,
    /// `\s` without [`Class::Newline`].
    Space,
    /// `\r`, `\n`.
    Newline,
    /// `\p{P}`.
    Punctuation,
    /// `\p{S}`.
    Symbol,
}

/// A set of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes(u16);

impl Classes {
    /// `\p{L}`.
    pub const LETTERS: Classes = Classes::of(&[Class::Upper, Class::Lower, Class::Caseless]);
    /// `\p{N}`.
    pub const NUMBERS: Classes = Classes::of(&[Class::Number]);
    /// `\s`.
    pub const SPACES: Classes = Classes::of(&[Class::Space, Class::Newline]);

    /// The set of `classes`.
    pub const fn of(classes: &[Class]) -> Classes {
        let mut bits = 0;
        let mut index = 0;
        while index < classes.len() {
            bits |= 1 << classes[index] as u8;
            index += 1;
        }
        Classes(bits)
    }

    /// The union of both.
    pub const fn and(self, other: Classes) -> Classes {
        Classes(self.0 | other.0)
    }

    /// All other classes.
    pub const fn not(self) -> Classes {
        Classes(!self.0)
    }

    /// Whether `class` is in the set.
    #[inline]
    pub const fn has(self, class: Class) -> bool {
        self.0 & (1 << class as u8) != 0
    }
}

/// Code points in a block of the table.
const BLOCK_CHARS: usize = 128;

/// Blocks of the table.
const BLOCKS: usize = 0x11_0000 / BLOCK_CHARS;

/// The block number of each code point, and blocks of classes, each stored once.
struct Table {
    // Sized so a lookup needs no bounds checks.
    block_numbers: Box<[u8; BLOCKS]>,
    classes: Box<[[Class; BLOCK_CHARS]; 256]>,
}

static TABLE: LazyLock<Table> = LazyLock::new(Table::new);

/// The class of a character.
#[inline]
pub fn class_of(symbol: char) -> Class {
    TABLE.class_of(symbol)
}

/// The character at `at` and its class; `None` at the end of the text.
#[inline]
pub fn class_at(text: &str, at: usize) -> Option<(char, Class)> {
    let symbol = text[at..].chars().next()?;
    Some((symbol, class_of(symbol)))
}

/// The end of the run of characters of `classes` starting at `at`; `at` itself if no run starts
/// there.
#[inline]
pub fn run_end(text: &str, at: usize, classes: Classes) -> usize {
    let table = &*TABLE;
    let mut symbols = text[at..].chars();
    loop {
        let rest_bytes = symbols.as_str().len();
        match symbols.next() {
            Some(symbol) if classes.has(table.class_of(symbol)) => {}
            _ => return text.len() - rest_bytes,
        }
    }
}

impl Table {
    #[inline]
    fn class_of(&self, symbol: char) -> Class {
        let code = symbol as usize;
        self.classes[usize::from(self.block_numbers[code / BLOCK_CHARS])][code % BLOCK_CHARS]
    }

    fn new() -> Table {
        let mut flat = vec![Class::Other; 0x11_0000];
        let mut fill = |property: &str, class: Class| {
            for (first, last) in ranges(property) {
                flat[first as usize..=last as usize].fill(class);
            }
        };
        fill(r"\p{Lu}", Class::Upper);
        fill(r"\p{Lt}", Class::Upper);
        fill(r"\p{Ll}", Class::Lower);
        fill(r"\p{Lm}", Class::Caseless);
        fill(r"\p{Lo}", Class::Caseless);
        fill(r"\p{M}", Class::Mark);
        fill(r"\p{N}", Class::Number);
        fill(r"\p{P}", Class::Punctuation);
        fill(r"\p{S}", Class::Symbol);
        fill(r"\s", Class::Space);
        fill(r"[\r\n]", Class::Newline);
        Table::folded(&flat)
    }

    /// Stores equal blocks once.
    fn folded(flat: &[Class]) -> Table {
        let (mut block_numbers, mut classes) =
            (Box::new([0; BLOCKS]), Vec::<[Class; BLOCK_CHARS]>::new());
        for (block, number) in flat.as_chunks().0.iter().zip(&mut block_numbers[..]) {
            let known = classes.iter().position(|other| other == block);
            if known.is_none() {
                classes.push(*block);
            }
            *number = known.unwrap_or(classes.len() - 1) as u8;
        }
        let mut all = Box::new([[Class::Other; BLOCK_CHARS]; 256]);
        all[..classes.len()].copy_from_slice(&classes);
        Table { block_numbers, classes: all }
    }
}

/// The code points of a class known to `regex-syntax`.
fn ranges(property: &str) -> Vec<(char, char)> {
    let parsed = regex_syntax::parse(property).expect("a fixed pattern");
    match parsed.kind() {
        HirKind::Class(HirClass::Unicode(class)) => {
            class.iter().map(|range| (range.start(), range.end())).collect()
        }
        _ => panic!("{property} is a class of code points"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_has_the_classes_that_one_expects() {
        let expected = [
            ('a', Class::Lower),
            ('Z', Class::Upper),
            ('7', Class::Number),
            (' ', Class::Space),
            ('\u{b}', Class::Space),
            ('\n', Class::Newline),
            ('\r', Class::Newline),
            ('\0', Class::Other),
            ('_', Class::Punctuation),
            ('+', Class::Symbol),
        ];
        for (symbol, class) in expected {
            assert_eq!(class_of(symbol), class, "{symbol:?}");
        }
    }

    #[test]
    fn a_run_ends_before_the_first_character_of_another_class() {
        assert_eq!(run_end("añ字1", 0, Classes::LETTERS), "añ字".len());
        assert_eq!(run_end("añ字1", 0, Classes::NUMBERS), 0);
        assert_eq!(run_end("añ", 3, Classes::LETTERS), 3);
    }
}
