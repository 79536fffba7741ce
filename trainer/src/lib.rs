//! Patchmill's training side.
pub mod shim;
