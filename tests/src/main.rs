//! The laws of Patchmill, its goldens and its breakage, one module a subject, in the order of the data's path.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support {
    pub(crate) mod inputs;
    #[cfg(feature = "trainer")]
    pub(crate) mod models;
    #[cfg(feature = "trainer")]
    pub(crate) mod process;
    pub(crate) mod small_corpus;
    pub(crate) mod trees;
}

mod read {
    mod awkward_inputs;
    mod documents;
}

mod encoder {
    mod byte_level;
    mod fast;
    mod pretokenize;
}

mod plan {
    mod mixture;
    mod permutation;
    mod proof;
    mod windows;
}

mod corpus {
    mod reading;
    mod sets;
    mod verify;
}

mod write {
    pub(crate) mod ids;
    mod select;
}

mod loader {
    mod order;
    #[cfg(feature = "trainer")]
    pub(crate) mod prefetch;
}

#[cfg(feature = "trainer")]
mod model {
    mod activation_checkpointing;
    mod fused;
    mod golden;
}

#[cfg(feature = "trainer")]
mod step {
    mod cuda;
    mod memory_estimate;
    mod train_step;
}

#[cfg(feature = "trainer")]
mod checkpoint {
    mod weights;
}

mod run {
    mod file;
    mod presets;
    #[cfg(feature = "trainer")]
    mod pretrain;
}

mod tidy;
