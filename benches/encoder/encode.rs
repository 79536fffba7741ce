//! The encoder alone: documents in memory to ids in memory, once, from a cold start.
//!
//!     encode --tokenizer llama2/ --threads 2 corpus.jsonl
//!
//! Prints one JSON object: seconds, text bytes, ids and their checksum. `--expect COUNT:SUM` makes
//! a wrong answer an error.

#![expect(clippy::print_stdout, reason = "a program that reports")]

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::ensure;
use benches::clock::thread_cpu_seconds;
use benches::exact;
use benches::texts::{self, Checksum};
use clap::Parser;
use encoder::{Encoder, TokenId};
use schemas::manifest::SpecialTokens;

/// Documents that a thread takes at a time.
const BLOCK_DOCUMENTS: usize = 16;

#[derive(clap::Parser)]
struct Args {
    /// A tokenizer.json, or the folder that holds it.
    #[arg(long)]
    tokenizer: PathBuf,
    /// How special tokens in a text are read: as `text`, or `hf` for control ids.
    #[arg(long, default_value = "text")]
    special_tokens: String,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Bytes of each thread's cache; the encoder's default when absent.
    #[arg(long)]
    cache_bytes: Option<usize>,
    /// The ids' count and checksum, as COUNT:SUM.
    #[arg(long)]
    expect: Option<String>,
    /// Files, folders or globs.
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
}

/// Result of one run.
struct Measured {
    seconds: f64,
    cpu_seconds: f64,
    checksum: Checksum,
    cache_lookups: u64,
    cache_hits: u64,
}

/// A thread's ids: blocks by number with their lengths, in the order in which they were taken.
struct Taken<I> {
    ids: Vec<I>,
    blocks: Vec<(usize, usize)>,
}

fn measure<I: TokenId + Sync>(
    encoder: &Encoder,
    texts: &[String],
    threads: usize,
) -> anyhow::Result<Measured> {
    let (next, parts) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let capacity = texts::text_bytes(texts) as usize / 2 / threads;
    let started = Instant::now();
    let work = || {
        let cpu_before = thread_cpu_seconds();
        let mut session = encoder.session::<I>();
        let mut taken = Taken { ids: Vec::with_capacity(capacity), blocks: Vec::new() };
        loop {
            let block = next.fetch_add(1, Ordering::Relaxed);
            let Some(rest) = texts.get(block * BLOCK_DOCUMENTS..) else { break };
            if rest.is_empty() {
                break;
            }
            let start = taken.ids.len();
            for text in &rest[..rest.len().min(BLOCK_DOCUMENTS)] {
                session.encode(text, &mut taken.ids)?;
            }
            taken.blocks.push((block, taken.ids.len() - start));
        }
        let cpu_seconds = thread_cpu_seconds() - cpu_before;
        let part = (taken, session.statistics(), cpu_seconds);
        parts.lock().expect("no thread panics").push(part);
        anyhow::Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let parts = parts.into_inner().expect("no thread panics");
    let mut blocks: Vec<(usize, &[I])> = Vec::new();
    for (taken, ..) in &parts {
        let mut rest = &taken.ids[..];
        for &(block, length) in &taken.blocks {
            let (ids, behind) = rest.split_at(length);
            blocks.push((block, ids));
            rest = behind;
        }
    }
    blocks.sort_unstable_by_key(|(block, _)| *block);
    let mut checksum = Checksum::default();
    for (_, ids) in blocks {
        checksum.push(ids.iter().map(|id| id.widen()));
    }
    let cache_lookups = parts.iter().map(|(_, did, _)| did.cache_lookups).sum();
    let cache_hits = parts.iter().map(|(_, did, _)| did.cache_hits).sum();
    let cpu_seconds = parts.iter().map(|(.., cpu_seconds)| cpu_seconds).sum();
    Ok(Measured { seconds, cpu_seconds, checksum, cache_lookups, cache_hits })
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let special_tokens = match args.special_tokens.as_str() {
        "text" => SpecialTokens::Text,
        "hf" => SpecialTokens::Hf,
        other => anyhow::bail!("--special-tokens is {other:?}, expected text or hf"),
    };
    ensure!(args.threads > 0, "--threads begins at 1");
    let texts = texts::load(&args.inputs)?;
    let loading = Instant::now();
    let mut encoder = Encoder::load(&args.tokenizer, exact::policy(special_tokens))?;
    if let Some(bytes) = args.cache_bytes {
        encoder = encoder.with_cache_bytes(bytes);
    }
    let load_seconds = loading.elapsed().as_secs_f64();
    let measured = if encoder.vocab_size() <= u16::VOCAB_SIZE_MAX {
        measure::<u16>(&encoder, &texts, args.threads)?
    } else {
        measure::<u32>(&encoder, &texts, args.threads)?
    };
    let text_bytes = texts::text_bytes(&texts);
    println!(
        "{}",
        serde_json::json!({
            "name": format!("patchmill ({})", encoder.name()),
            "special_tokens": args.special_tokens,
            "threads": args.threads,
            "documents": texts.len(),
            "text_bytes": text_bytes,
            "tokens": measured.checksum.tokens,
            "checksum": measured.checksum.sum.to_string(),
            "load_seconds": load_seconds,
            "seconds": measured.seconds,
            "cpu_seconds": measured.cpu_seconds,
            "mb_per_sec": text_bytes as f64 / 1e6 / measured.seconds,
            "cache_lookups": measured.cache_lookups,
            "cache_hits": measured.cache_hits,
        })
    );
    let found = format!("{}:{}", measured.checksum.tokens, measured.checksum.sum);
    if let Some(expected) = args.expect {
        ensure!(found == expected, "ids are {found}, expected {expected}");
    }
    Ok(())
}
