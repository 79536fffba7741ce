//! The facts of each foreign format: Megatron-core, OLMo-core and dolma, datatrove, raw ids.
//!
//! **Invariant:** no memory is allocated in proportion to a count claimed by a foreign file.

pub(crate) mod datatrove;
pub(crate) mod megatron;
pub(crate) mod olmo;
pub(crate) mod raw_ids;
