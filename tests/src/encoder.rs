//! The encoders: ids are those of the `tokenizers` crate.

mod byte_level;
mod fast;
mod pretokenize;
