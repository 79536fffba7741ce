//! What is known of each foreign format: Megatron-core, OLMo-core and dolma, datatrove, raw ids.
//!
//! **Invariant:** no memory is allocated in proportion to a count that a foreign file claims.

pub(crate) mod datatrove;
pub(crate) mod megatron;
pub(crate) mod olmo;
pub(crate) mod raw_ids;
