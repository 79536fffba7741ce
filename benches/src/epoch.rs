//! How a whole corpus is read to measure it: in one epoch, by one of the back ends.
//!
//! **Invariant:** equal corpora and sizes give equal plans, so that programs can be compared.

use plan::{PhaseSpec, PlanSpec};
use schemas::manifest::Manifest;
use schemas::run::{ReadBackend, Share, Shuffle};

/// One shuffled epoch in a single phase of windows of `window_tokens`.
pub fn epoch_spec(corpus: &Manifest, window_tokens: u64, step_tokens: u64) -> PlanSpec {
    PlanSpec {
        corpus_tokens: corpus.totals.tokens,
        corpus_fingerprint: Some(corpus.fingerprint.clone()),
        subset_tokens: None,
        step_tokens,
        epochs: 1,
        seed: 1,
        shuffle: Shuffle::Global,
        sets: Vec::new(),
        phases: vec![PhaseSpec {
            patch_size: 1,
            window_units: window_tokens,
            share: Share::new(1, 1).expect("a whole"),
        }],
    }
}

/// `--io` of the programs that read.
pub fn parse_backend(text: &str) -> Result<ReadBackend, String> {
    match text {
        "mmap" => Ok(ReadBackend::Mmap),
        "pread" => Ok(ReadBackend::Pread),
        _ => Err(format!("{text:?} is no way to read; expected mmap or pread")),
    }
}
