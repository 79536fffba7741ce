//! Run files, and whole runs of them.
//!
//! Losses of 1, 2 and 4 ranks are compared; stopped, killed and resumed ranks are bitwise alike. A
//! stop names the step's documents. A foreign checkpoint loads.

mod cluster;
mod file;
mod presets;
#[cfg(feature = "trainer")]
mod pretrain;
