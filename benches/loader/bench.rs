//! The loader on a corpus in the page cache, by window and number of workers: `just bench loader`.
//!
//! Estimate: a token is 2 bytes read at a random window's place and 8 written; at some 10 GB/s of memory that is a billion
//! tokens a second and core, less what it costs to place a window (a permutation) and to hand a batch over.
//!
//! **Invariant:** every iteration reads each token of the corpus once, as the sum of the ids shows.

use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pipeline::corpus::Corpus;
use pipeline::loader::{Loader, LoaderSpec, READ_AHEAD_BYTES};
use pipeline::plan::{PhaseSpec, Plan, PlanSpec};
use pipeline::shard::{ShardSpec, ShardWriter};
use schemas::manifest::{
    FILE_NAME, FORMAT, Manifest, Series, SetTotals, SpecialTokens, TokenizerRecord, Totals, VERSION,
};
use schemas::run::{ReadBackend, Share, Shuffle};

const VOCAB_SIZE: u64 = 32_000;
const DOCUMENT_TOKENS: u64 = 1 << 12;
const CORPUS_TOKENS: u64 = 1 << 24; // 32 MiB
const STEP_TOKENS: u64 = 1 << 21;
const MICRO_BATCH_TOKENS: u64 = 1 << 16;

/// Writes one shard of documents whose token `i` is `i` times a constant, modulo the vocabulary; returns the sum of the ids.
fn write_corpus(dir: &Path) -> i64 {
    let tokenizer = [0; 32]; // as the manifest says in hex
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
    let documents = shard.document_count;
    let totals = Totals {
        documents_read: documents,
        documents_written: documents,
        documents_skipped: 0,
        text_bytes: 0,
        tokens: CORPUS_TOKENS,
        ..Totals::default()
    };
    let sets = vec![SetTotals { set_name: None, documents, text_bytes: 0, tokens: CORPUS_TOKENS }];
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        version: VERSION,
        fingerprint: String::new(),
        tokenizer: TokenizerRecord {
            fingerprint: "00".repeat(32),
            vocab_size: VOCAB_SIZE,
            bos: None,
            eos: None,
            special_tokens: SpecialTokens::Text,
            files: Vec::new(),
        },
        token_bytes: 2,
        totals,
        sets: sets.clone(),
        series: vec![Series {
            input: "made.jsonl".to_owned(),
            input_bytes: 0,
            totals,
            sets,
            index: None,
            shards: vec![shard],
            by_set: None,
        }],
        skipped: None,
        selection: None,
        imported: None,
    };
    std::fs::write(dir.join(FILE_NAME), manifest.seal().1).expect("room on the disk");
    id_sum
}

/// One epoch of windows of `window_tokens` tokens.
fn plan(window_tokens: u64, corpus: &Corpus) -> Plan {
    let spec = PlanSpec {
        corpus_tokens: corpus.token_count(),
        corpus_fingerprint: Some(corpus.manifest().fingerprint.clone()),
        subset_tokens: None,
        step_tokens: STEP_TOKENS,
        epochs: 1,
        seed: 1,
        shuffle: Shuffle::Global,
        sets: Vec::new(),
        phases: vec![PhaseSpec {
            patch_size: 1,
            window_units: window_tokens,
            share: Share::new(1, 1).expect("a whole"),
        }],
    };
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
