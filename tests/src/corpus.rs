//! A finished corpus: read, damaged, and read set by set.

mod reading;
mod sets;
mod verify;
