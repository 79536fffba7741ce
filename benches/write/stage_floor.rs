//! Where the time of `patchmill tokenize` goes: each part alone on one core, in interleaved rounds.
//!
//!     cargo run --release -p benches --example stage_floor -- --tokenizer llama2/ pile/
//!
//! Time is CPU time of the one thread, so that a busy machine does not count; fsync waits, and is
//! timed on the wall.
//!
//! Parts: decompression, lines, JSON, encoding, BLAKE3 of the texts, CRC32C and BLAKE3 of the ids,
//! writing and fsync. Rates are MB (10^6 bytes) of text a second, so that their inverses add up;
//! the sum is what one core can reach when nothing else costs anything. Channels, the document
//! index and copies between the parts are not in it.

#![expect(clippy::print_stdout, reason = "a program that reports")]

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use benches::clock::thread_cpu_seconds;
use benches::exact;
use clap::Parser;
use encoder::Encoder;
use pipeline::read::documents::{Chunk, Columns, Docs};
use pipeline::read::inputs::{self, Input};
use schemas::manifest::SpecialTokens;
use schemas::shard::BLOCK_BYTES;

/// Bytes that the decoder hands over at a time.
const READ_BYTES: usize = 1 << 17;

#[derive(clap::Parser)]
struct Args {
    /// A tokenizer.json with at most 65,536 ids, or the folder that holds it.
    #[arg(long)]
    tokenizer: PathBuf,
    /// How often every part is measured.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Where the ids are written for a moment; the system's folder for temporary files when absent.
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// `.jsonl.zst` files, folders or globs; all of their text is held in memory.
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
}

/// Material of the parts.
struct Material {
    inputs: Vec<Input>,
    columns: Columns,
    chunks: Vec<Chunk>,
    texts: Vec<String>,
    encoder: Encoder,
    ids: Vec<u8>,
    scratch: PathBuf,
}

/// Does a part's work over all of the material; the number is there to be used and compared.
type Part = fn(&Material) -> anyhow::Result<u64>;

/// Name, work, and whether the part before it is contained in it.
const PARTS: [(&str, Part, bool); 8] = [
    ("zstd", decompress, false),
    ("lines", split_lines, true),
    ("JSON", parse, false),
    ("encoding", encode, false),
    ("BLAKE3 of the texts", hash_texts, false),
    ("CRC32C of the ids", checksum, false),
    ("BLAKE3 of the ids", hash_ids, false),
    (WAITING_PART, write, false),
];

/// The part that waits for the disk.
const WAITING_PART: &str = "write and fsync";

fn decompress(material: &Material) -> anyhow::Result<u64> {
    let (mut buffer, mut bytes) = (vec![0; READ_BYTES], 0);
    for input in &material.inputs {
        let file = File::open(&input.path)?;
        let mut decoder = zstd::Decoder::new(file).context("a zstd file")?;
        loop {
            let read = decoder.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            bytes += read as u64;
        }
    }
    Ok(bytes)
}

fn split_lines(material: &Material) -> anyhow::Result<u64> {
    let mut chunks = 0;
    for input in &material.inputs {
        let mut docs = Docs::open(input, &material.columns)?;
        while docs.next_chunk()?.is_some() {
            chunks += 1;
        }
    }
    Ok(chunks)
}

fn parse(material: &Material) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for doc in material.chunks.iter().flat_map(|chunk| chunk.docs(&material.columns)) {
        bytes += doc?.text.len() as u64;
    }
    Ok(bytes)
}

fn encode(material: &Material) -> anyhow::Result<u64> {
    let (mut session, mut ids, mut tokens) = (material.encoder.session::<u16>(), Vec::new(), 0);
    for text in &material.texts {
        ids.clear();
        session.encode(text, &mut ids)?;
        tokens += ids.len() as u64;
    }
    Ok(tokens)
}

fn hash_texts(material: &Material) -> anyhow::Result<u64> {
    let first_byte = |text: &String| u64::from(blake3::hash(text.as_bytes()).as_bytes()[0]);
    Ok(material.texts.iter().map(first_byte).sum())
}

fn checksum(material: &Material) -> anyhow::Result<u64> {
    let blocks = material.ids.chunks(BLOCK_BYTES as usize);
    Ok(blocks.map(|block| u64::from(crc32c::crc32c(block))).sum())
}

fn hash_ids(material: &Material) -> anyhow::Result<u64> {
    Ok(u64::from(blake3::hash(&material.ids).as_bytes()[0]))
}

fn write(material: &Material) -> anyhow::Result<u64> {
    let mut file = tempfile::tempfile_in(&material.scratch)?;
    for piece in material.ids.chunks(1 << 20) {
        file.write_all(piece)?;
    }
    file.sync_all()?;
    Ok(material.ids.len() as u64)
}

fn prepare(args: &Args) -> anyhow::Result<Material> {
    let encoder = Encoder::load(&args.tokenizer, exact::policy(SpecialTokens::Text))?;
    let (inputs, columns) = (inputs::find(&args.inputs)?, Columns::default());
    for input in &inputs {
        ensure!(input.name.ends_with(".zst"), "{} is not .jsonl.zst", input.path.display());
    }
    let (mut chunks, mut texts) = (Vec::new(), Vec::new());
    for input in &inputs {
        let mut docs = Docs::open(input, &columns)?;
        while let Some(chunk) = docs.next_chunk()? {
            for doc in chunk.docs(&columns) {
                texts.push(doc?.text.into_owned());
            }
            chunks.push(chunk);
        }
    }
    let (mut session, mut all) = (encoder.session::<u16>(), Vec::new());
    for text in &texts {
        session.encode(text, &mut all)?;
    }
    let ids = all.iter().flat_map(|id| id.to_le_bytes()).collect();
    drop(session);
    let scratch = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
    Ok(Material { inputs, columns, chunks, texts, encoder, ids, scratch })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(args.rounds > 0, "--rounds begins at 1");
    let material = prepare(&args)?;
    let megabytes = material.texts.iter().map(String::len).sum::<usize>() as f64 / 1e6;
    let mut seconds = vec![Vec::new(); PARTS.len()];
    let mut answers = vec![None; PARTS.len()];
    for _ in 0..args.rounds {
        for (index, (name, part, _)) in PARTS.iter().enumerate() {
            let (started, cpu_before) = (Instant::now(), thread_cpu_seconds());
            let answer = part(&material)?;
            let cpu = thread_cpu_seconds() - cpu_before;
            let waits = *name == WAITING_PART || cpu == 0.0;
            seconds[index].push(if waits { started.elapsed().as_secs_f64() } else { cpu });
            ensure!(*answers[index].get_or_insert(answer) == answer, "{name} is not repeatable");
        }
    }
    let medians: Vec<f64> = seconds.iter().map(|of_part| median(of_part)).collect();
    let own = |index: usize| {
        let before = if PARTS[index].2 { medians[index - 1] } else { 0.0 };
        (medians[index] - before).max(0.0)
    };
    let total: f64 = (0..PARTS.len()).map(own).sum();
    println!("{megabytes:.1} MB of text, {} rounds, one core, medians (range)\n", args.rounds);
    println!("| part | MB of text/s alone | seconds | share |\n|---|---|---|---|");
    for (index, (name, _, contains_previous)) in PARTS.iter().enumerate() {
        let range = seconds[index].iter().copied();
        let (low, high) = (range.clone().fold(f64::MAX, f64::min), range.fold(f64::MIN, f64::max));
        let note = if *contains_previous { ", less the part before" } else { "" };
        println!(
            "| {name}{note} | {:.0} | {:.3} ({low:.3}–{high:.3}) | {:.1} % |",
            megabytes / own(index).max(1e-9),
            own(index),
            100.0 * own(index) / total
        );
    }
    println!("| all | {:.0} | {total:.3} | 100 % |", megabytes / total);
    Ok(())
}
