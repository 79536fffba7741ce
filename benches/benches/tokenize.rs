//! The encoder on real documents, one core: `just bench tokenize`.
//!
//! Estimate: the `tokenizers` crate takes a whole document as one word where a tokenizer has no pre-tokenizer, and makes
//! 3 to 4 MB of text a second of it on one core of a Zen 4 server; decompression and JSON, at some 400 MB/s, do not show.
//!
//! **Invariant:** every iteration yields the ids whose count and checksum are written down here.

use std::path::{Path, PathBuf};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pipeline::docs::{self, Columns, DocsError};
use pipeline::inputs;
use pipeline::tokenize::{Encoder, Policy};
use schemas::manifest::SpecialTokens;

/// Of `fixtures/text/valid` by `fixtures/tokenizer`, BOS included.
const TOKEN_COUNT: usize = 131_460;
/// Sum of id × (position + 1), modulo 2^64.
const TOKEN_CHECKSUM: u64 = 8_766_705_837_228;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

fn texts() -> Vec<String> {
    let mut texts = Vec::new();
    for input in inputs::find(&[fixtures().join("text/valid")]).expect("the fixtures are there") {
        docs::for_each(&input, &Columns::default(), |doc| {
            texts.push(doc.text.into_owned());
            Ok::<(), DocsError>(())
        })
        .expect("the fixtures are whole");
    }
    texts
}

fn encode(encoder: &Encoder, texts: &[String], ids: &mut Vec<u32>) {
    ids.clear();
    for text in texts {
        encoder.encode(text, ids).expect("any text can be encoded");
    }
    let weighted = ids.iter().zip(1u64..).map(|(&id, place)| u64::from(id).wrapping_mul(place));
    let checksum = weighted.fold(0u64, u64::wrapping_add);
    assert_eq!((ids.len(), checksum), (TOKEN_COUNT, TOKEN_CHECKSUM));
}

fn tokenize(criterion: &mut Criterion) {
    let policy = Policy { bos: true, eos: false, special_tokens: SpecialTokens::Text };
    let encoder = Encoder::load(&fixtures().join("tokenizer"), policy).expect("a tokenizer");
    let (texts, mut ids) = (texts(), Vec::new());
    let mut group = criterion.benchmark_group("tokenize");
    group.throughput(Throughput::Bytes(texts.iter().map(|text| text.len() as u64).sum()));
    group.sample_size(10);
    group.bench_function(encoder.name(), |bencher| {
        bencher.iter(|| encode(&encoder, &texts, &mut ids));
    });
    group.finish();
}

criterion_group!(benches, tokenize);
criterion_main!(benches);
