//! A finished corpus, read, damaged and taken by sets.

mod reading;
mod sets;
mod verify;
