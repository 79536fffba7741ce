//! Hugging Face tokenizers 1.0 (release candidate): a document at a time from several threads, by
//! its pipeline.

use tokenizers::pipeline::EncodeOptions;

fn main() {
    let options = EncodeOptions::no_specials();
    harness::run(
        "tokenizers 1.0.0-rc.3",
        |path| {
            tokenizers::from_json_file(path).unwrap_or_else(|_| {
                let canonical = tokenizers::canonicalize_file(path).expect("a tokenizer.json");
                tokenizers::from_json(&canonical).expect("a tokenizer that it can load")
            })
        },
        |tokenizer, text, ids| {
            let mut found = Vec::with_capacity(text.len() / 3);
            tokenizer.encode_into(text, &options, &mut found).expect("ids");
            ids.extend(found.iter().map(|token| token.id()));
        },
    );
}
