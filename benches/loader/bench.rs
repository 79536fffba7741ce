//! The loader on a corpus in the page cache, by window and number of workers: `just bench loader`.
//!
//! Estimate: a token is 2 bytes read at a random window's place and 8 written; at some 10 GB/s of
//! memory that is a billion tokens a second and core, less what it costs to place a window (a
//! permutation) and to hand a batch over.
//!
//! **Invariant:** every iteration reads each token of the corpus once, as the sum of the ids shows.

use std::path::Path;
use std::sync::Arc;

use benches::corpora;
use benches::epoch::epoch_spec;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pipeline::corpus::Corpus;
use pipeline::loader::{Loader, LoaderSpec, READ_AHEAD_BYTES};
use pipeline::write::series::shard::{ShardSpec, ShardWriter};
use plan::Plan;
use schemas::run::ReadBackend;

const VOCAB_SIZE: u64 = 32_000;
const DOCUMENT_TOKENS: u64 = 1 << 12;
const CORPUS_TOKENS: u64 = 1 << 24; // 32 MiB
const STEP_TOKENS: u64 = 1 << 21;
const MICRO_BATCH_TOKENS: u64 = 1 << 16;

/// Writes one shard of documents whose token `i` is `i` times a constant, modulo the vocabulary;
/// returns the sum of the ids.
fn write_corpus(dir: &Path) -> i64 {
    let tokenizer = [0; 32]; // in hex in the manifest
    let spec = ShardSpec { vocab_size: VOCAB_SIZE, tokenizer, series_index: 0, shard_index: 0 };
    let mut writer = ShardWriter::create(dir, "00000-00000.tok".to_owned(), spec).expect("a file");
    let id = |token: u64| u32::try_from(token * 2_654_435_761 % VOCAB_SIZE).expect("below 32,000");
    let mut id_sum = 0;
    for first in (0..CORPUS_TOKENS).step_by(DOCUMENT_TOKENS as usize) {
        let ids: Vec<u32> = (first..first + DOCUMENT_TOKENS).map(id).collect();
        id_sum += ids.iter().map(|&id| i64::from(id)).sum::<i64>();
        writer.push(&ids).expect("room on the disk");
    }
    let shard = writer.finish().expect("room on the disk");
    corpora::write_manifest(dir, vec![vec![shard]], VOCAB_SIZE).expect("room on the disk");
    id_sum
}

/// One epoch of windows of `window_tokens` tokens.
fn plan(window_tokens: u64, corpus: &Corpus) -> Plan {
    let spec = epoch_spec(corpus.manifest(), window_tokens, STEP_TOKENS);
    Plan::new(&spec).expect("sizes that divide")
}

/// Reads the whole epoch; returns the sum of the ids.
fn read_epoch(corpus: &Arc<Corpus>, plan: &Arc<Plan>, window_tokens: u64, workers: usize) -> i64 {
    let mut loader: Loader<i64> = Loader::start(LoaderSpec {
        corpus: Arc::clone(corpus),
        plan: Arc::clone(plan),
        from_step: 0,
        end_step: plan.step_count(),
        rank: 0,
        world_size: 1,
        micro_batch_windows: MICRO_BATCH_TOKENS / window_tokens,
        workers,
        ring_bytes: 64 << 20,
        read_ahead_bytes: READ_AHEAD_BYTES,
        pin: None,
    })
    .expect("a spec that fits the plan");
    let mut id_sum = 0;
    while let Some(batch) = loader.next_batch().expect("a whole corpus") {
        id_sum += batch.ids.iter().sum::<i64>();
        loader.recycle(batch);
    }
    id_sum
}

fn loader(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    let expected = write_corpus(dir.path());
    let mut group = criterion.benchmark_group("loader");
    group.sample_size(10).throughput(Throughput::Elements(CORPUS_TOKENS));
    for backend in [ReadBackend::Mmap, ReadBackend::Pread] {
        let corpus = Arc::new(Corpus::open(dir.path(), backend).expect("a whole corpus"));
        for window_tokens in [2048, 8192] {
            let plan = Arc::new(plan(window_tokens, &corpus));
            for workers in [1, 2] {
                let name = format!("{backend:?}/window={window_tokens}/workers={workers}");
                group.bench_function(name, |bencher| {
                    bencher.iter(|| {
                        let found = read_epoch(&corpus, &plan, window_tokens, workers);
                        assert_eq!(found, expected);
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, loader);
criterion_main!(benches);
