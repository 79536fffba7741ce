//! The encoders: ids are those of the `tokenizers` crate.
//!
//! Compared are every document of the fixtures, WikiText with LLaMA-2's tokenizer, and random
//! tokenizers on random texts; `just exactness` and `just fuzz-encoder` take any others.

mod byte_level;
mod fast;
mod pretokenize;
