//! fastokens: a document at a time from several threads, special tokens as in Hugging Face's
//! default.

use fastokens::Tokenizer;

fn main() {
    harness::run(
        "fastokens 0.3.5",
        |path| Tokenizer::from_file(path).expect("a tokenizer that it can load"),
        |tokenizer, text, ids| ids.extend(tokenizer.encode(text).expect("ids")),
    );
}
