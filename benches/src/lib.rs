//! Shared by the measurements: documents in memory, inputs made to break encoders, and the
//! comparison with the `tokenizers` crate.
//!
//! - [`texts`]: documents of inputs in memory, ids and their checksum.
//! - [`clock`]: CPU time.
//! - [`random`]: numbers from a seed.
//! - [`generate`]: any number of random inputs; [`adversarial`]: a fixed set of awkward ones.
//! - [`exact`]: an encoder's ids against the reference's, document by document.
//! - [`corpora`]: corpora without a source text, to open and to read.
//! - [`epoch`]: how a whole corpus is read.

pub mod clock;
pub mod texts;

pub mod random;

pub mod adversarial;
pub mod generate;

pub mod exact;

pub mod corpora;
pub mod epoch;
