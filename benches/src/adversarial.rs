//! A fixed set of awkward documents: borders, runs, special tokens, foreign scripts, giants.
//!
//! **Invariant:** the set is a function of the material; it holds no duplicates on purpose, but may
//! hold some.

use crate::generate::Material;
use crate::random::Random;
use crate::texts::Text;

/// Seed of the random ones.
const SEED: u64 = 20_250_101;

/// Texts included alone, at least.
const SINGLES: [&str; 22] = [
    "",
    " ",
    "  ",
    "\n",
    "\t",
    "\r\n",
    "\u{0}",
    "a",
    "▁",
    "▁▁",
    " ▁ ▁",
    "▁ ▁ ",
    "\u{a0}",
    "\u{feff}BOM",
    "\u{fffd}",
    "\u{10ffff}",
    "a\u{301}",
    "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
    "🇩🇪🇫🇷",
    "ﬁ ℌ ①",
    "\u{202e}abc",
    "'s 'S 're 'RE",
];

/// Units of runs.
const RUN_UNITS: [&str; 14] =
    [" ", "▁", "\n", "\t", "\r\n", "-", "= ", "x", "0", "é", "中", "😀", "ab", "\u{301}"];

/// The set, named "adversarial:N".
pub fn documents(material: &Material) -> Vec<Text> {
    let mut texts: Vec<String> = SINGLES.iter().map(|&text| text.to_owned()).collect();
    runs(&mut texts);
    specials(&mut texts, material);
    changed(&mut texts, material);
    giants(&mut texts, material);
    for (seed, bytes_max) in [(SEED, 300), (SEED + 1, 4096)] {
        let count = if bytes_max < 1000 { 6000 } else { 600 };
        texts.extend((0..count).map(|index| material.input(seed, index, bytes_max).0));
    }
    let named = (0..).zip(texts);
    named
        .map(|(index, text): (u64, _)| Text { name: format!("adversarial:{index}"), text })
        .collect()
}

fn runs(texts: &mut Vec<String>) {
    let lengths = (1..70).chain([127, 128, 129, 255, 256, 257, 1000, 4095, 4096, 4097, 100_000]);
    for length in lengths {
        for unit in RUN_UNITS {
            let run = unit.repeat(length);
            if length < 300 {
                texts.push(format!("a{run}b"));
                texts.push(format!("{run}a {run}"));
                texts.push(format!("a {run}"));
            }
            texts.push(run);
        }
    }
}

/// Every special token between all kinds of neighbours.
fn specials(texts: &mut Vec<String>, material: &Material) {
    let before = ["", "a", " ", "  ", "\n", "é", "</s>", "<", "a ", "▁", "\u{a0}", "\t"];
    let after = ["", "b", " ", "  ", "\n", "<s>", ">", " b", "▁", "\r\n", "\u{301}"];
    for special in material.specials.iter().take(40) {
        for before in before {
            for after in after {
                texts.push(format!("{before}{special}{after}"));
            }
        }
        for joint in ["", " ", "  ", "x", "\n", "▁"] {
            texts.push(format!("{special}{joint}").repeat(50));
            texts.push(format!("{joint}{special}").repeat(3));
        }
        for cut in (1..special.len()).filter(|&cut| special.is_char_boundary(cut)) {
            texts.push(format!("{}{special}{}", &special[..cut], &special[cut..]));
            texts.push(format!("{} {}", &special[..cut], &special[cut..]));
        }
    }
}

/// Real texts as bad conversions leave them.
fn changed(texts: &mut Vec<String>, material: &Material) {
    let mut random = Random::new(SEED, 0);
    for _ in 0..200 {
        let text = &material.texts[random.below(material.texts.len())];
        let start = text.floor_char_boundary(random.below(text.len() + 1));
        let end = text.floor_char_boundary(text.len().min(start + 3000));
        let text = &text[start..end];
        texts.push(text.replace('\n', "\r\n"));
        texts.push(text.replace(' ', "\t"));
        texts.push(text.replace(' ', ""));
        texts.push(text.replace(' ', "   "));
        texts.push(text.replace(' ', "\u{a0}"));
        texts.push(text.replace(' ', "▁"));
        texts.push(text.replace('\n', " ").to_uppercase());
        texts.push(text.chars().rev().collect());
        texts.push(text.chars().flat_map(|c| [c, '\u{301}']).collect());
        texts.push(text.bytes().map(char::from).collect()); // UTF-8 read as Latin-1
    }
}

/// Long words, long lines, long runs of one kind.
fn giants(texts: &mut Vec<String>, material: &Material) {
    let mut random = Random::new(SEED, 1);
    let alphabets =
        ["etaoinshrdlu", "ACGT", "0123456789abcdef", "()[]{}<>;:,.!?-_=+*/&^%$#@~`|\\'\"", "aA"];
    for length in [100, 1000, 10_000, 100_000] {
        for alphabet in alphabets {
            let letters: Vec<char> = alphabet.chars().collect();
            texts.push((0..length).map(|_| letters[random.below(letters.len())]).collect());
        }
        texts.push("ACGT".repeat(length / 4));
        let ideograph = |random: &mut Random| char::from_u32(0x4e00 + random.below(0x5000) as u32);
        texts.push((0..length / 3).filter_map(|_| ideograph(&mut random)).collect());
    }
    let all: String =
        material.texts.iter().take(60).flat_map(|text| [text.as_str(), " "]).collect();
    let line = all.split_whitespace().collect::<Vec<&str>>().join(" ");
    texts.push(line[..line.floor_char_boundary(3_000_000)].to_owned());
    let word = line.replace(' ', "");
    texts.push(word[..word.floor_char_boundary(1_000_000)].to_owned());
}
