//! Text to token ids: exactly those of the `tokenizers` crate, and fast where provably the same.
//!
//! An [`Encoder`] loads a tokenizer.json and is shared by threads; each thread encodes with its own
//! [`Session`]. [`fast`] is our own encoder; `reference` is that of the `tokenizers` crate, which
//! defines the result. Nothing here knows of corpora or plans.
//!
//! **Invariant:** every id is the one the `tokenizers` crate would give.

mod background;
mod encoder;
mod error;
pub mod fast;
mod files;
mod panic;
mod policy;
mod reference;
mod token_id;

pub use encoder::{CACHE_BYTES, Encoder, PartPosition, Session, SessionStatistics, describe};
pub use error::TokenizeError;
pub use files::{CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_FILES, TOKENIZER_FOLDER};
pub use policy::{Policy, PolicyChoice};
pub use token_id::TokenId;
