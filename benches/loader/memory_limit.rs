//! The most the memory of this machine allows a loader: windows of 16-bit ids copied out of a
//! mapped file, and nothing else.
//!
//!     memory_limit tokens.bin [--window-tokens 2048] [--threads 1] [--tokens 200e6]
//!
//! Modes: in the file's order; at random places; the same, each id widened to 64 bits, which is
//! what an embedding takes; the same by `pread` in place of the mapping; and what only a first
//! touch costs: page faults, and CRC32C of each block of 16 KiB. The random order is drawn before
//! the clock starts; batches of 16 windows go into one buffer a thread, used over and over. One
//! JSON object with tokens a second of each mode, after a pass that brings the file into the page
//! cache.
//!
//! Estimate: at 20 GB/s of memory a core copies 10 billion ids of 2 bytes a second in order; at
//! random places each window of 4 KiB waits for memory once or twice.
//!
//! **Invariant:** every mode of a run visits the same windows: the sums of the first and last ids
//! of all of them agree.

#![expect(clippy::print_stdout, reason = "a program that reports")]

use std::fs::File;
use std::hint::black_box;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use anyhow::{Context, ensure};
use benches::clock::thread_cpu_seconds;
use benches::random::Random;
use clap::Parser;
use memmap2::{Advice, Mmap};
use pipeline::console::numbers::parse_positive_count;
use schemas::shard::BLOCK_BYTES;
use serde_json::json;

const BATCH_WINDOWS: usize = 16;

#[derive(clap::Parser)]
struct Args {
    /// Little-endian `u16` ids and nothing else.
    file: PathBuf,
    /// Tokens of a window.
    #[arg(long, default_value_t = 2048)]
    window_tokens: usize,
    /// Threads, each of which copies a part of the windows.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Tokens that a mode copies at most; the first ones of the file.
    #[arg(long, default_value = "200e6", value_parser = parse_positive_count)]
    tokens: u64,
}

/// Where ids are read from.
#[derive(Clone, Copy)]
enum Input<'a> {
    Map(&'a [u8]),
    File(&'a File),
}

/// The work on a window besides reading it.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    Copy,
    Widen,
    ChecksumAndWiden,
}

fn map(file: &File) -> anyhow::Result<Mmap> {
    #[expect(unsafe_code, reason = "what a mapping costs is what is measured")]
    // SAFETY: sound while nobody writes or truncates the file, which was made for this measurement.
    let map = unsafe { Mmap::map(file) };
    map.context("map the file")
}

/// Buffers of one batch, used over and over.
struct Batch {
    narrow: Vec<[u8; 2]>,
    wide: Vec<i64>,
}

/// Each id as 64 bits, with the widest instructions that the loader uses.
fn widen(ids: &[[u8; 2]], wide: &mut [i64]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "a limit that the loader could beat would be none")]
        // SAFETY: the processor has what the function was compiled for.
        return unsafe { widen_avx2(ids, wide) };
    }
    widen_plain(ids, wide);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn widen_avx2(ids: &[[u8; 2]], wide: &mut [i64]) {
    widen_plain(ids, wide);
}

#[inline(always)]
fn widen_plain(ids: &[[u8; 2]], wide: &mut [i64]) {
    for (wide, &id) in wide.iter_mut().zip(ids) {
        *wide = i64::from(u16::from_le_bytes(id));
    }
}

/// Reads one window into its place in the batch; returns the sum of its first and its last id.
fn read(
    input: Input,
    work: Work,
    first_byte: usize,
    batch: &mut Batch,
    place: Range<usize>,
) -> anyhow::Result<u64> {
    let (narrow, wide) = (&mut batch.narrow[place.clone()], &mut batch.wide[place]);
    let ids: &[[u8; 2]] = match input {
        Input::Map(bytes) => {
            let bytes = &bytes[first_byte..first_byte + 2 * narrow.len()];
            if work == Work::ChecksumAndWiden {
                for block in bytes.chunks(BLOCK_BYTES as usize) {
                    black_box(crc32c::crc32c(block));
                }
            }
            let ids = bytes.as_chunks().0;
            if work == Work::Copy {
                narrow.copy_from_slice(ids);
            }
            ids
        }
        Input::File(file) => {
            file.read_exact_at(narrow.as_flattened_mut(), first_byte as u64)?;
            narrow
        }
    };
    if work != Work::Copy {
        widen(ids, wide);
    }
    Ok([ids[0], ids[ids.len() - 1]].map(|id| u64::from(u16::from_le_bytes(id))).iter().sum())
}

/// One thread's part: reads `windows` in this order; returns the sum of their first and last ids.
fn read_all(
    input: Input,
    work: Work,
    window_tokens: usize,
    windows: &[u32],
) -> anyhow::Result<u64> {
    let tokens = BATCH_WINDOWS * window_tokens;
    let mut batch = Batch { narrow: vec![[0; 2]; tokens], wide: vec![0; tokens] };
    let mut sum = 0;
    for of_batch in windows.chunks(BATCH_WINDOWS) {
        for (slot, &window) in of_batch.iter().enumerate() {
            let place = slot * window_tokens..(slot + 1) * window_tokens;
            sum += read(input, work, 2 * window_tokens * window as usize, &mut batch, place)?;
        }
        black_box(&batch);
    }
    Ok(sum)
}

/// Windows in the file's order and in a random one.
fn orders(window_count: u32) -> [Vec<u32>; 2] {
    let in_order: Vec<u32> = (0..window_count).collect();
    let (mut shuffled, mut random) = (in_order.clone(), Random::new(1, 0));
    for end in (1..shuffled.len()).rev() {
        shuffled.swap(end, random.below(end + 1));
    }
    [in_order, shuffled]
}

/// Result of a mode.
struct Measured {
    tokens_per_sec: f64,
    tokens_per_cpu_sec: f64,
    /// Of the first and last ids of all windows.
    sum: u64,
}

/// Runs a mode on all threads.
fn measure(args: &Args, input: Input, work: Work, order: &[u32]) -> anyhow::Result<Measured> {
    let per_thread = order.len().div_ceil(args.threads);
    let read = |part| -> anyhow::Result<(f64, u64)> {
        let cpu_before = thread_cpu_seconds();
        let sum = read_all(input, work, args.window_tokens, part)?;
        Ok((thread_cpu_seconds() - cpu_before, sum))
    };
    let started = Instant::now();
    let parts = std::thread::scope(|scope| {
        let start = |part| scope.spawn(move || read(part));
        let threads: Vec<_> = order.chunks(per_thread).map(start).collect();
        let join = |thread: ScopedJoinHandle<_>| thread.join().expect("no panic");
        threads.into_iter().map(join).collect::<anyhow::Result<Vec<(f64, u64)>>>()
    })?;
    let elapsed = started.elapsed().as_secs_f64();
    let cpu: f64 = parts.iter().map(|(cpu, _)| cpu).sum();
    let tokens = (order.len() * args.window_tokens) as f64;
    Ok(Measured {
        tokens_per_sec: tokens / elapsed,
        tokens_per_cpu_sec: tokens / cpu,
        sum: parts.iter().map(|(_, sum)| sum).sum(),
    })
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(args.threads > 0 && args.window_tokens > 0, "threads and window tokens begin at 1");
    let file = File::open(&args.file).with_context(|| format!("open {}", args.file.display()))?;
    let tokens = args.tokens.min(file.metadata()?.len() / 2);
    let windows = u32::try_from(tokens / args.window_tokens as u64)?;
    ensure!(windows > 0, "{} is shorter than a window", args.file.display());
    let [in_order, shuffled] = orders(windows);
    measure(&args, Input::File(&file), Work::Copy, &in_order)?; // into the page cache
    let (fresh, warm, populated) = (map(&file)?, map(&file)?, map(&file)?);
    let is_populated = populated.advise(Advice::PopulateRead).is_ok(); // Linux 5.14
    let fresh_again = map(&file)?;
    let modes = [
        ("first touch, random, widened", Input::Map(&fresh), Work::Widen, &shuffled),
        (
            "first touch, random, CRC32C, widened",
            Input::Map(&fresh_again),
            Work::ChecksumAndWiden,
            &shuffled,
        ),
        ("first touch, in order", Input::Map(&warm), Work::Copy, &in_order),
        ("in order", Input::Map(&warm), Work::Copy, &in_order),
        ("random", Input::Map(&warm), Work::Copy, &shuffled),
        ("random, widened", Input::Map(&warm), Work::Widen, &shuffled),
        ("random, populated", Input::Map(&populated), Work::Copy, &shuffled),
        ("random, populated, widened", Input::Map(&populated), Work::Widen, &shuffled),
        ("random, CRC32C, widened", Input::Map(&populated), Work::ChecksumAndWiden, &shuffled),
        ("random, pread", Input::File(&file), Work::Copy, &shuffled),
        ("random, pread, widened", Input::File(&file), Work::Widen, &shuffled),
    ];
    let (mut rates, mut cpu_rates) = (serde_json::Map::new(), serde_json::Map::new());
    let mut expected = None;
    for (name, input, work, order) in modes {
        let found = measure(&args, input, work, order)?;
        let (sum, expected) = (found.sum, *expected.get_or_insert(found.sum));
        ensure!(sum == expected, "{name}: first and last ids add up to {sum}; expected {expected}");
        if is_populated || !name.contains("populated") {
            rates.insert(name.to_owned(), json!(found.tokens_per_sec));
            cpu_rates.insert(name.to_owned(), json!(found.tokens_per_cpu_sec));
        }
    }
    println!(
        "{}",
        json!({
            "window_tokens": args.window_tokens,
            "threads": args.threads,
            "tokens": u64::from(windows) * args.window_tokens as u64,
            "tokens_per_sec": rates,
            "tokens_per_cpu_sec": cpu_rates,
        })
    );
    Ok(())
}
