//! Hugging Face tokenizers 0.23: a document at a time from several threads, by its fastest call.

use tokenizers::Tokenizer;

fn main() {
    harness::run(
        "tokenizers 0.23.2",
        |path| Tokenizer::from_file(path).expect("a tokenizer that it can load"),
        |tokenizer, text, ids| {
            ids.extend_from_slice(tokenizer.encode_fast(text, false).expect("ids").get_ids());
        },
    );
}
