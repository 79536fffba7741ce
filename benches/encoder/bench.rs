//! The encoders on real documents, one core: `just bench tokenize`.
//!
//! Estimate: the `tokenizers` crate takes a whole document as one word where a tokenizer has no
//! pre-tokenizer, and makes 3 to 4 MB of text a second of it on one core of a Zen 4 server. Our own
//! encoder looks up a piece every 4 bytes or so; at 100 cycles for a piece and 3.7 GHz that is some
//! 150 MB. Decompression and JSON, at some 400 MB/s, do not show.
//!
//! With `PATCHMILL_BENCH_TOKENIZER` and `PATCHMILL_BENCH_CORPUS`, a tokenizer's folder and an
//! input, their documents are encoded as well, and every one is compared first with what the
//! `tokenizers` crate makes of it.
//!
//! **Invariant:** every iteration yields the ids whose count and checksum are written down here.

use std::path::{Path, PathBuf};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use encoder::{Encoder, Policy};
use pipeline::read::documents::{self, Columns, DocsError};
use pipeline::read::inputs;
use schemas::manifest::SpecialTokens;

/// Of `fixtures/text/valid` by `fixtures/tokenizer`, BOS included: the number of ids, and the sum
/// of id × (position + 1) modulo 2^64.
const FIXTURE_SUMS: (usize, u64) = (131_460, 8_766_705_837_228);

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

fn load(tokenizer: &Path) -> Encoder {
    let policy = Policy { bos: true, eos: false, special_tokens: SpecialTokens::Text };
    Encoder::load(tokenizer, policy).expect("a tokenizer")
}

fn texts(input: PathBuf) -> Vec<String> {
    let mut texts = Vec::new();
    for input in inputs::find(&[input]).expect("the input is there") {
        documents::for_each(&input, &Columns::default(), |doc| {
            texts.push(doc.text.into_owned());
            Ok::<(), DocsError>(())
        })
        .expect("the input is whole");
    }
    texts
}

fn sums(ids: impl Iterator<Item = u64>) -> (usize, u64) {
    ids.zip(1u64..).fold((0, 0), |(count, sum), (id, place)| {
        (count + 1, sum.wrapping_add(id.wrapping_mul(place)))
    })
}

fn encode_by_definition(encoder: &Encoder, texts: &[String]) -> (usize, u64) {
    let mut ids = Vec::new();
    for text in texts {
        encoder.encode_by_definition(text, &mut ids).expect("any text can be encoded");
    }
    sums(ids.iter().map(|&id| u64::from(id)))
}

/// One session, cold, as a thread begins.
fn encode(encoder: &Encoder, texts: &[String], ids: &mut Vec<u16>) {
    ids.clear();
    let mut session = encoder.session();
    for text in texts {
        session.encode(text, ids).expect("any text can be encoded");
    }
}

fn run(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    encoder: &Encoder,
    texts: &[String],
    expected: (usize, u64),
) {
    let mut ids = Vec::new();
    group.throughput(Throughput::Bytes(texts.iter().map(|text| text.len() as u64).sum()));
    group.bench_function(name, |bencher| bencher.iter(|| encode(encoder, texts, &mut ids)));
    assert_eq!(sums(ids.iter().map(|&id| u64::from(id))), expected, "{name}");
}

fn tokenize(criterion: &mut Criterion) {
    let (encoder, fixture) =
        (load(&fixtures().join("tokenizer")), texts(fixtures().join("text/valid")));
    let mut group = criterion.benchmark_group("tokenize");
    group.sample_size(10);
    run(&mut group, encoder.name(), &encoder, &fixture, FIXTURE_SUMS);
    group.bench_function("tokenizers", |bencher| {
        bencher.iter(|| assert_eq!(encode_by_definition(&encoder, &fixture), FIXTURE_SUMS));
    });
    let path = |name| std::env::var_os(name).map(PathBuf::from);
    if let (Some(tokenizer), Some(corpus)) =
        (path("PATCHMILL_BENCH_TOKENIZER"), path("PATCHMILL_BENCH_CORPUS"))
    {
        let (encoder, texts) = (load(&tokenizer), texts(corpus));
        let expected = encode_by_definition(&encoder, &texts);
        run(&mut group, "corpus", &encoder, &texts, expected);
    }
    group.finish();
}

criterion_group!(benches, tokenize);
criterion_main!(benches);
