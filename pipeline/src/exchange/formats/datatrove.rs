//! datatrove's `NAME.ds`, as datatrove 0.10.1 reads them (`datatrove.utils.dataset`,
//! `datatrove.pipeline.tokens`): raw little-endian ids of 2 or 4 bytes, a size passed to the reader
//! (`token_size`). `NAME.ds.index` has a `u64` a document, the token after it. `NAME.ds.metadata`
//! has three lines of text, which its merger reads and its datasets do not.
//!
//! **Invariant:** the names from [`side_names`] match no pattern datatrove uses to find ids.

/// End of the name of a file of ids.
pub(crate) const IDS_END: &str = ".ds";

/// Names of the files beside ids of this name: document ends, then text about them.
pub(crate) fn side_names(ids: &str) -> [String; 2] {
    [format!("{ids}.index"), format!("{ids}.metadata")]
}

/// The lines about a file of ids: tokenizer and bytes of an id; number of tokens; the same number
/// for people.
pub(crate) fn metadata(tokenizer: &str, token_bytes: u32, token_count: u64) -> String {
    format!(
        "tokenizer.json with BLAKE3 {tokenizer}|{token_bytes}\n{token_count}\n{}",
        metric(token_count)
    )
}

/// Three digits with a prefix, such as `1.23 MT`.
fn metric(token_count: u64) -> String {
    const PREFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let exponent = token_count.checked_ilog10().unwrap_or(0);
    let thousands = exponent / 3;
    let value = token_count as f64 / 1000f64.powi(i32::try_from(thousands).expect("at most 6"));
    let places = 2 - exponent as usize % 3;
    format!("{value:.places$} {}T", PREFIXES[thousands as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_those_of_datatrove() {
        let found = metadata("ab", 2, 1_234_567);
        assert_eq!(found, "tokenizer.json with BLAKE3 ab|2\n1234567\n1.23 MT");
        for (count, expected) in [(0, "0.00 T"), (7, "7.00 T"), (45_678, "45.7 kT"), (999, "999 T")]
        {
            assert_eq!(metric(count), expected);
        }
        assert_eq!(metric(u64::MAX), "18.4 ET");
    }
}
