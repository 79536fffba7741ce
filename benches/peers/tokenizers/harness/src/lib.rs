//! Shared by the peers' programs: `PROGRAM TOKENIZER.json CORPUS.jsonl THREADS` prints one JSON
//! object.
//!
//! Documents are in memory as strings before the clock starts; each of the threads takes 16 at a
//! time and appends their ids to a vector of its own. One pass from a cold start. The checksum is
//! the sum of id × (position + 1) modulo 2^64 over all ids in the order of the documents, as
//! `benches::texts::Checksum` has it.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::Instant;

/// Documents that a thread takes at a time.
const BLOCK_DOCUMENTS: usize = 16;

fn documents(path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("a readable corpus");
    let parse = |line: &str| -> String {
        let mut value: serde_json::Value =
            serde_json::from_str(line).expect("a JSON object a line");
        match value["text"].take() {
            serde_json::Value::String(text) => text,
            other => panic!("text is {other}"),
        }
    };
    text.lines().filter(|line| !line.trim().is_empty()).map(parse).collect()
}

/// Seconds of CPU time that the calling thread has used.
fn thread_cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|text| text.parse::<u64>().ok());
    nanoseconds.unwrap_or(0) as f64 / 1e9
}

/// Measures `encode`, which appends a document's ids.
pub fn run<T: Sync>(
    name: &str,
    load: impl FnOnce(&Path) -> T,
    encode: impl Fn(&T, &str, &mut Vec<u32>) + Sync,
) {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, tokenizer, corpus, threads] = &arguments[..] else {
        panic!("usage: PROGRAM TOKENIZER.json CORPUS.jsonl THREADS");
    };
    let threads: usize = threads.parse().expect("a number of threads");
    let loading = Instant::now();
    let tokenizer = load(Path::new(tokenizer));
    let load_seconds = loading.elapsed().as_secs_f64();
    let documents = documents(corpus);
    let text_bytes: usize = documents.iter().map(String::len).sum();

    let (next, parts) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let cpu_before = thread_cpu_seconds();
                let mut ids = Vec::with_capacity(text_bytes / 2 / threads);
                let mut blocks = Vec::new();
                loop {
                    let block = next.fetch_add(1, Ordering::Relaxed);
                    let first = block * BLOCK_DOCUMENTS;
                    if first >= documents.len() {
                        break;
                    }
                    let before = ids.len();
                    let last = documents.len().min(first + BLOCK_DOCUMENTS);
                    for text in &documents[first..last] {
                        encode(&tokenizer, text, &mut ids);
                    }
                    blocks.push((block, before..ids.len()));
                }
                let cpu_seconds = thread_cpu_seconds() - cpu_before;
                parts.lock().expect("no thread panics").push((ids, blocks, cpu_seconds));
            });
        }
    });
    let seconds = started.elapsed().as_secs_f64();

    let parts = parts.into_inner().expect("no thread panics");
    let mut blocks: Vec<(usize, &[u32])> = Vec::new();
    for (ids, taken, _) in &parts {
        blocks.extend(taken.iter().map(|(block, range)| (*block, &ids[range.clone()])));
    }
    blocks.sort_unstable_by_key(|(block, _)| *block);
    let (mut tokens, mut checksum) = (0u64, 0u64);
    for &id in blocks.iter().flat_map(|(_, ids)| *ids) {
        tokens += 1;
        checksum = checksum.wrapping_add(u64::from(id).wrapping_mul(tokens));
    }
    let cpu_seconds: f64 = parts.iter().map(|(_, _, cpu_seconds)| cpu_seconds).sum();
    let object = serde_json::json!({
        "name": name,
        "threads": threads,
        "documents": documents.len(),
        "text_bytes": text_bytes,
        "tokens": tokens,
        "checksum": checksum.to_string(),
        "load_seconds": load_seconds,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "mb_per_sec": text_bytes as f64 / 1e6 / seconds,
    });
    println!("{object}");
}
