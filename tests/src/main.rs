//! Cross-crate tests, in the order of the data's path.

mod permute;
mod plan;
