//! Run files, and whole runs of them.

mod cluster;
mod file;
mod presets;
#[cfg(feature = "trainer")]
mod pretrain;
