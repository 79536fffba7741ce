//! A loader leaves nothing running and allocates nothing per batch. This is a program of its own,
//! since it counts all allocations of its process; its tests take turns for the same reason.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::alloc::System;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use pipeline::corpus::Corpus;
use pipeline::loader::{Loader, LoaderSpec, READ_AHEAD_BYTES};
use plan::{PhaseSpec, Plan, PlanSpec};
use schemas::run::{ReadBackend, Share, Shuffle};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "../../tests/src/support/small_corpus.rs"]
mod small_corpus;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Held by the running test.
static TURN: Mutex<()> = Mutex::new(());

const SHARD_TOKENS: u64 = 100_000;

/// One series of four shards with a document each.
fn write_corpus(dir: &Path) {
    small_corpus::write_corpus(dir, 32_000, &[&[&[SHARD_TOKENS][..]; 4]]);
}

/// Two phases, windows of 64 and 16 tokens, steps of 1,024.
fn spec(dir: &Path, backend: ReadBackend) -> LoaderSpec {
    let corpus = Corpus::open(dir, backend).unwrap();
    let phase =
        |patch_size| PhaseSpec { patch_size, window_units: 16, share: Share::new(1, 2).unwrap() };
    let plan = Plan::new(&PlanSpec {
        corpus_tokens: corpus.token_count(),
        corpus_fingerprint: None,
        subset_tokens: None,
        step_tokens: 1024,
        epochs: 1,
        seed: 1,
        shuffle: Shuffle::Global,
        sets: Vec::new(),
        phases: vec![phase(4), phase(1)],
    })
    .unwrap();
    LoaderSpec {
        from_step: 0,
        end_step: plan.step_count(),
        corpus: Arc::new(corpus),
        plan: Arc::new(plan),
        rank: 0,
        world_size: 1,
        micro_batch_windows: 4,
        workers: 2,
        ring_bytes: 1 << 16,
        read_ahead_bytes: READ_AHEAD_BYTES,
        pin: None,
    }
}

/// Threads, descriptors and mappings of this process.
fn left_behind() -> [usize; 3] {
    let count = |folder: &str| fs::read_dir(folder).unwrap().count();
    let maps = fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    [count("/proc/self/task"), count("/proc/self/fd"), maps]
}

/// Any number of workers, stopped anywhere, on a sound corpus and on a damaged one.
#[test]
fn starting_and_stopping_leaves_nothing_behind() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cycles = std::env::var("CYCLES").map_or(100, |text| text.parse().unwrap());
    let (good, bad) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_corpus(good.path());
    write_corpus(bad.path());
    small_corpus::flip_byte(&bad.path().join("00-00002.tok"), 5000);
    let (mut before, mut errors) = ([0; 3], 0);
    for cycle in 0..cycles {
        if cycle == 20 {
            before = left_behind(); // one-time allocations are done
        }
        let backend = if cycle % 2 == 0 { ReadBackend::Mmap } else { ReadBackend::Pread };
        let dir = if cycle % 5 == 0 { &bad } else { &good };
        let spec = LoaderSpec { workers: 1 + cycle % 7, ..spec(dir.path(), backend) };
        let mut loader: Loader<i64> = Loader::start(spec).unwrap();
        for _ in 0..cycle * 13 % 60 {
            match loader.next_batch() {
                Ok(Some(batch)) if cycle % 3 == 0 => drop(batch), // a buffer that never comes back
                Ok(batch) => batch.into_iter().for_each(|batch| loader.recycle(batch)),
                Err(err) => {
                    assert!(
                        dir.path() == bad.path() && err.to_string().contains("00002.tok: block 0")
                    );
                    errors += 1;
                }
            }
        }
    }
    assert!(errors > 0 && errors < cycles, "{errors} errors");
    let after = left_behind();
    // The allocator and the kernel join and split mappings of their own; a loader's would be
    // hundreds.
    assert!(after[..2] == before[..2] && after[2] <= before[2] + 20, "{before:?} {after:?}");
}

#[test]
fn a_batch_allocates_nothing_once_the_rings_have_been_full() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    write_corpus(dir.path());
    for backend in [ReadBackend::Mmap, ReadBackend::Pread] {
        let mut loader: Loader<u16> = Loader::start(spec(dir.path(), backend)).unwrap();
        let mut next = |count| {
            for _ in 0..count {
                let batch = loader.next_batch().unwrap().unwrap();
                loader.recycle(batch);
            }
        };
        // Both phases' orders have been computed, and each worker has had all buffers.
        next(1600);
        let region = Region::new(ALLOCATOR);
        next(1000);
        let change = region.change();
        assert_eq!((change.allocations, change.reallocations), (0, 0), "{backend:?} {change:?}");
    }
}
