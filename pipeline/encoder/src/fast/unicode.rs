//! Unicode as the reference sees it: character classes and normal form C.
//!
//! **Invariant:** each table is of the Unicode version that the reference uses.

pub mod classes;
pub mod nfc;
