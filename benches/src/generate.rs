//! Random inputs for encoders: what no corpus holds, in any number, each from its own seed.
//!
//! **Invariant:** an input is a function of (material, seed, index, limit), so that any of them can
//! be made again alone.

use crate::random::Random;

/// Material of inputs.
pub struct Material {
    /// Tokens of the vocabulary as text.
    pub pieces: Vec<String>,
    /// Tokens as the vocabulary spells them, such as `▁the`, `<0x0A>` or `Ġthe`.
    pub spellings: Vec<String>,
    /// Added tokens, and look-alikes of them.
    pub specials: Vec<String>,
    /// Real texts to cut slices from.
    pub texts: Vec<String>,
}

/// One way to make an input.
type Way = fn(&Material, &mut Random, usize) -> String;

/// All of them, with their names.
const WAYS: [(&str, Way); 10] = [
    ("bytes", bytes),
    ("code points", code_points),
    ("pieces", pieces),
    ("spellings", spellings),
    ("slice", slice),
    ("edited slice", edited_slice),
    ("specials", specials),
    ("runs", runs),
    ("ascii", ascii),
    ("mixed", mixed),
];

/// Runs are made of these.
const RUN_UNITS: [&str; 24] = [
    " ", "▁", "\n", "\t", "\r\n", "\u{a0}", "\u{3000}", "0", "a", "A", "-", "=", "é", "中", "😀",
    "\u{301}", "\u{0}", "\u{200d}", "ab", " a", "▁ ", "\n ", "'s", "0a",
];

impl Material {
    /// Input number `index` of `seed`, at most `bytes_max` long, and the name of its way.
    pub fn input(&self, seed: u64, index: u64, bytes_max: usize) -> (String, &'static str) {
        let mut random = Random::new(seed, index);
        let (name, way) = WAYS[random.below(WAYS.len())];
        // Half of the inputs are about as long as may be, half of them of any length.
        let bytes = if random.once_in(2) { bytes_max } else { 1 + random.below(bytes_max) };
        let mut text = way(self, &mut random, bytes);
        text.truncate(text.floor_char_boundary(bytes_max));
        (text, name)
    }
}

fn bytes(_: &Material, random: &mut Random, bytes: usize) -> String {
    let raw: Vec<u8> = (0..bytes).map(|_| random.next() as u8).collect();
    String::from_utf8_lossy(&raw).into_owned()
}

fn code_point(random: &mut Random, end: u32) -> char {
    loop {
        if let Some(c) = char::from_u32(random.below(end as usize) as u32) {
            return c;
        }
    }
}

fn code_points(_: &Material, random: &mut Random, bytes: usize) -> String {
    // From one block of a script, or from anywhere.
    let block = (!random.once_in(3)).then(|| random.below(0x2000) as u32 * 0x80);
    let mut text = String::new();
    while text.len() < bytes {
        let end = [0x20, 0x80, 0x800, 0x3000, 0x1_0000, 0x11_0000][random.below(6)];
        let of_block = block.and_then(|start| char::from_u32(start + random.below(0x80) as u32));
        match of_block {
            Some(c) if !random.once_in(8) => text.push(c),
            _ => text.push(code_point(random, end)),
        }
    }
    text
}

fn joined(items: &[String], random: &mut Random, bytes: usize, between: &[&str]) -> String {
    let mut text = String::new();
    while text.len() < bytes {
        text.push_str(&items[random.below(items.len())]);
        text.push_str(between[random.below(between.len())]);
    }
    text
}

fn pieces(material: &Material, random: &mut Random, bytes: usize) -> String {
    let between: &[&str] = match random.below(4) {
        0 => &[" ", "  ", "\n", "\t", " \n", "\u{a0}"],
        1 => &["", "", " ", "▁", ".", ","],
        _ => &[""],
    };
    joined(&material.pieces, random, bytes, between)
}

fn spellings(material: &Material, random: &mut Random, bytes: usize) -> String {
    joined(&material.spellings, random, bytes, &[""])
}

fn slice(material: &Material, random: &mut Random, bytes: usize) -> String {
    let text = &material.texts[random.below(material.texts.len())];
    let start = text.floor_char_boundary(random.below(text.len() + 1));
    let end = text.floor_char_boundary(text.len().min(start + bytes));
    text[start..end].to_owned()
}

fn edited_slice(material: &Material, random: &mut Random, bytes: usize) -> String {
    let mut text = slice(material, random, bytes);
    for _ in 0..1 + random.below(6) {
        let at = text.floor_char_boundary(random.below(text.len() + 1));
        match random.below(5) {
            0 => text.insert_str(at, random.pick(&RUN_UNITS)),
            1 => text.insert(at, code_point(random, 0x11_0000)),
            2 => text.truncate(at),
            3 => {
                text = text
                    .replace(random.pick(&[" ", "\n", "e"]), random.pick(&["", "  ", "▁", "\t"]))
            }
            _ => text = text.chars().rev().collect(),
        }
    }
    text
}

fn specials(material: &Material, random: &mut Random, bytes: usize) -> String {
    let mut text = String::new();
    while text.len() < bytes {
        for _ in 0..1 + random.below(3) {
            text.push_str(&material.specials[random.below(material.specials.len())]);
            text.push_str(
                random.pick(&["", "", "", " ", "  ", "▁", "\n", "a", "<", ">", "\u{301}"]),
            );
        }
        let piece_bytes = random.below(24);
        let between = match random.below(3) {
            0 => slice(material, random, piece_bytes),
            1 => pieces(material, random, piece_bytes),
            _ => String::new(),
        };
        text.push_str(&between);
    }
    text
}

fn runs(material: &Material, random: &mut Random, bytes: usize) -> String {
    let mut text = String::new();
    while text.len() < bytes {
        let unit = match random.below(4) {
            0 => material.pieces[random.below(material.pieces.len())].as_str(),
            _ => random.pick(&RUN_UNITS),
        };
        let count_max = if random.once_in(4) { bytes } else { 12 };
        let count = 1 + random.below(count_max);
        let room = (bytes - text.len()) / unit.len().max(1) + 1;
        text.extend(std::iter::repeat_n(unit, count.min(room)));
    }
    text
}

fn ascii(_: &Material, random: &mut Random, bytes: usize) -> String {
    // Of all that is printable, or of a few characters, which makes many merges compete.
    let few: Vec<u8> = (0..2 + random.below(5)).map(|_| 0x20 + random.below(0x5f) as u8).collect();
    let is_few = random.once_in(2);
    let byte = |random: &mut Random| match (is_few, random.below(16)) {
        (true, _) => few[random.below(few.len())],
        (false, 0) => b"\n\t\r '"[random.below(5)],
        (false, _) => 0x20 + random.below(0x5f) as u8,
    };
    (0..bytes).map(|_| char::from(byte(random))).collect()
}

fn mixed(material: &Material, random: &mut Random, bytes: usize) -> String {
    let mut text = String::new();
    while text.len() < bytes {
        let (_, way) = WAYS[random.below(WAYS.len() - 1)]; // not this one
        let part_bytes = 1 + random.below(1 + bytes / 2);
        text.push_str(&way(material, random, part_bytes));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn material() -> Material {
        let list = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect();
        Material {
            pieces: list(&["a", " the", "é"]),
            spellings: list(&["▁the", "<0x0A>"]),
            specials: list(&["<s>", "</s>"]),
            texts: list(&["A text of some words, äöü.\nTwo lines."]),
        }
    }

    #[test]
    fn inputs_keep_to_their_limit_and_repeat() {
        let material = material();
        for index in 0..2000 {
            let (text, _) = material.input(3, index, 128);
            assert!(text.len() <= 128, "input {index} is {} bytes", text.len());
            assert_eq!(text, material.input(3, index, 128).0);
        }
    }

    #[test]
    fn every_way_is_taken() {
        let material = material();
        let mut taken: Vec<&str> = (0..500).map(|index| material.input(1, index, 40).1).collect();
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), WAYS.len());
    }
}
