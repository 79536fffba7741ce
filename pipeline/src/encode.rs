//! The fast encoder: text to ids, exactly as the `tokenizers` crate makes them.
//!
//! - [`split`]: where byte-level tokenizers cut a text; [`classes`] says what a character is to them.
//! - [`nfc`]: the normal form that some of them ask for.

pub mod classes;
pub mod nfc;
pub mod split;
