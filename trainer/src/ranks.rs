//! The processes that train one model together: which of them this one is, and their collectives.
//!
//! **Invariant:** a process that trains alone takes the same path as one of many, with collectives
//! that return their input.

pub mod environment;

pub mod process_group;
