//! Makes a corpus to measure with: random ids beside the same ids for the peers, or holes of any
//! size.
//!
//!     make_corpus random WORK --tokens 400e6   WORK/corpus, WORK/tokens.bin, WORK/ends.bin
//!     make_corpus sparse DIR                   720 GB in 1,000 shards, 1.9 GB of them on the disk
//!
//! Prints one JSON object. Files already there are an error.

#![expect(clippy::print_stdout, reason = "a program that reports")]

use std::path::PathBuf;

use benches::corpora::{self, DOCUMENT_TOKENS, SparseSpec};
use clap::Parser;
use pipeline::console::numbers::parse_positive_count;
use serde_json::json;

#[derive(clap::Parser)]
enum Args {
    /// Random ids, for the loaders to read.
    Random {
        /// An existing folder.
        work: PathBuf,
        /// Tokens.
        #[arg(long, default_value = "400e6", value_parser = parse_positive_count)]
        tokens: u64,
        /// Tokens of a shard at most.
        #[arg(long, default_value = "100e6", value_parser = parse_positive_count)]
        shard_tokens: u64,
        /// Ids are below it; at most 65536.
        #[arg(long, default_value_t = corpora::VOCAB_SIZE)]
        vocab_size: u64,
    },
    /// Holes, for the loader to open.
    Sparse {
        /// The corpus folder, which is created.
        dir: PathBuf,
        /// Shards.
        #[arg(long, default_value = "1000", value_parser = parse_positive_count)]
        shards: u64,
        /// Tokens of each shard.
        #[arg(long, default_value = "360e6", value_parser = parse_positive_count)]
        shard_tokens: u64,
        /// Tokens of a document: fewer make longer footers.
        #[arg(long, default_value_t = DOCUMENT_TOKENS)]
        document_tokens: u64,
        /// Shards of a series.
        #[arg(long, default_value = "34", value_parser = parse_positive_count)]
        series_shards: u64,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse() {
        Args::Random { work, tokens, shard_tokens, vocab_size } => {
            std::fs::create_dir_all(&work)?;
            let made = corpora::write_random(&work, tokens, shard_tokens, vocab_size)?;
            println!(
                "{}",
                json!({
                    "tokens": made.token_count,
                    "id_sum": made.id_sum,
                    "documents": made.document_count
                })
            );
        }
        Args::Sparse { dir, shards, shard_tokens, document_tokens, series_shards } => {
            let spec =
                SparseSpec { shard_count: shards, shard_tokens, document_tokens, series_shards };
            corpora::write_sparse(&dir, &spec)?;
            println!("{}", json!({"shards": shards, "tokens": shards * shard_tokens}));
        }
    }
    Ok(())
}
