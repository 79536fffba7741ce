//! Micro-batches copied ahead equal those of the plain path. This runs on the CPU, where a copy is
//! done at once: a GPU adds only streams and events around the same queue.

use std::sync::Arc;

use pipeline::corpus::Corpus;
use pipeline::loader::LoaderSpec;
use plan::{PhaseSpec, Plan, PlanSpec};
use schemas::run::{ReadBackend, Share, Shuffle};
use tch::{Device, Kind, Tensor};
use trainer::data::batch::BatchShape;
use trainer::data::prefetch::{MicroBatchIndex, Prefetcher};

use crate::support::small_corpus::{id_at, write_corpus_of};

const TOKENS: u64 = 6000;

pub(crate) fn spec(
    dir: &std::path::Path,
    vocab_size: u64,
    patch_size: u64,
    workers: usize,
) -> LoaderSpec {
    let mut ids: Vec<u32> = (0..TOKENS).map(|token| id_at(token, vocab_size)).collect();
    // The largest id there is.
    ids[17] = u32::try_from(vocab_size - 1).unwrap();
    write_corpus_of(dir, vocab_size, &[&[&[2500, 3500]]], &ids);
    let corpus = Corpus::open(dir, ReadBackend::Mmap).unwrap();
    let plan = Plan::new(&PlanSpec {
        corpus_tokens: corpus.token_count(),
        corpus_fingerprint: Some(corpus.manifest().fingerprint.clone()),
        subset_tokens: None,
        step_tokens: 256,
        epochs: 1,
        seed: 5,
        shuffle: Shuffle::Global,
        sets: Vec::new(),
        phases: vec![PhaseSpec { patch_size, window_units: 16, share: Share::new(1, 1).unwrap() }],
    });
    let plan = plan.unwrap();
    LoaderSpec {
        corpus: Arc::new(corpus),
        from_step: 0,
        end_step: plan.step_count(),
        plan: Arc::new(plan),
        rank: 0,
        world_size: 1,
        micro_batch_windows: 2,
        workers,
        ring_bytes: 1 << 14,
        read_ahead_bytes: 0,
        pin: None,
    }
}

fn drain(mut stage: Prefetcher) -> Vec<(MicroBatchIndex, Tensor)> {
    std::iter::from_fn(|| stage.next_micro_batch().unwrap()).collect()
}

#[test]
fn sent_ahead_or_not_the_same_micro_batches_come() {
    for vocab_size in [300, 1 << 16, 70_000] {
        for (patch_size, workers) in [(1, 1), (4, 3)] {
            let dir = tempfile::tempdir().unwrap();
            let spec = spec(dir.path(), vocab_size, patch_size, workers);
            let shape = BatchShape { window_units: 16, patch_size, vocab_size };
            let plain = drain(Prefetcher::start(spec.clone(), shape, Device::Cpu).unwrap());
            let ahead = drain(Prefetcher::start_copying(spec, shape, Device::Cpu).unwrap());
            assert!(plain.len() > 20 && plain.len() == ahead.len());
            for ((place, expected), (found_place, found)) in plain.iter().zip(&ahead) {
                assert_eq!(place, found_place);
                assert_eq!(found.kind(), Kind::Int64);
                assert!(found.size() == expected.size() && found.equal(expected), "{place:?}");
            }
        }
    }
}

#[test]
fn an_id_beyond_the_model_is_refused_on_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), 300, 1, 1);
    let shape = BatchShape { window_units: 16, patch_size: 1, vocab_size: 200 };
    for start in [Prefetcher::start, Prefetcher::start_copying] {
        let mut stage = start(spec.clone(), shape, Device::Cpu).unwrap();
        let err = std::iter::repeat_with(|| stage.next_micro_batch()).find_map(Result::err);
        let err = err.unwrap().to_string();
        assert!(err.contains("the model's vocab_size is 200"), "{err}");
    }
}
