//! Weights on disk.

mod weights;
