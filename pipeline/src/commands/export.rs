//! `patchmill export`: writes a corpus in another project's file formats.
//!
//! **Invariant:** the output is the report of the export.

use std::io::Write;
use std::path::PathBuf;

use schemas::shard::TokenBytes;
use serde_json::json;

use crate::commands::values::local_path;
use crate::console::stop::StopFlag;
use crate::exchange::export::spec::ExportSpec;
use crate::exchange::export::target::Target;
use crate::exchange::export::{self, Report};
use crate::exchange::formats::megatron;

/// Options of `patchmill export`.
#[derive(clap::Args, Clone, Debug)]
pub struct ExportArgs {
    /// The corpus.
    #[arg(value_parser = local_path())]
    pub corpus: PathBuf,
    /// The project whose files to write.
    #[arg(long, value_enum)]
    pub to: Target,
    /// Destination: for megatron a prefix, for DEST.bin and DEST.idx; else a folder.
    #[arg(long, value_name = "DEST", value_parser = local_path())]
    pub out: PathBuf,
    /// For olmo and datatrove: write one file per shard in place of one for all.
    #[arg(long)]
    pub file_per_shard: bool,
    /// For nanogpt: the corpus of val.bin; when absent, the hold-out of CORPUS, if it has one.
    #[arg(long, value_name = "CORPUS", value_parser = local_path())]
    pub val: Option<PathBuf>,
    /// Replace the files of an existing export; for nanogpt, also remove a val.bin that is not
    /// replaced.
    #[arg(long)]
    pub force: bool,
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    pub json: bool,
}

impl clap::ValueEnum for Target {
    fn value_variants<'a>() -> &'a [Target] {
        &[Target::Megatron, Target::Olmo, Target::Nanogpt, Target::Datatrove]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        let help = match self {
            Target::Megatron => {
                "Megatron-core: DEST.bin of uint16 or int32, and DEST.idx with the documents"
            }
            Target::Olmo => {
                "OLMo-core, dolma: raw uint16 or uint32 ids named .npy, and .csv.gz with the \
                 documents"
            }
            Target::Nanogpt => "nanoGPT: train.bin and val.bin of uint16, without documents",
            Target::Datatrove => {
                "datatrove: .ds of 2 or 4 bytes an id, .ds.index with the documents, .ds.metadata"
            }
        };
        Some(clap::builder::PossibleValue::new(self.name()).help(help))
    }
}

impl ExportArgs {
    fn spec(&self) -> ExportSpec {
        ExportSpec {
            corpus: self.corpus.clone(),
            to: self.to,
            out: self.out.clone(),
            file_per_shard: self.file_per_shard,
            val: self.val.clone(),
            force: self.force,
        }
    }
}

/// Runs `patchmill export`.
pub fn export(args: &ExportArgs) -> anyhow::Result<()> {
    export::export_until(&args.spec(), &StopFlag::install()?)?.print(args.json)
}

impl Report {
    fn dtype(&self) -> &'static str {
        match (self.to, self.token_bytes) {
            (Target::Megatron, token_bytes) => megatron::dtype(token_bytes),
            (_, TokenBytes::Two) => "uint16",
            (_, TokenBytes::Four) => "uint32",
        }
    }

    /// Prints readable text, or one line of JSON.
    fn print(&self, as_json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        let bytes: u64 = self.files.iter().map(|(_, bytes)| bytes).sum();
        if as_json {
            let file = |(path, bytes): &(PathBuf, u64)| {
                let path = path.to_string_lossy();
                json!({"path": path, "bytes": bytes})
            };
            let json = json!({
                "to": self.to.name(),
                "files": self.files.iter().map(file).collect::<Vec<_>>(),
                "bytes": bytes,
                "tokens": self.tokens,
                "documents": self.documents,
                "token_bytes": self.token_bytes.get(),
                "dtype": self.dtype(),
                "vocab_size": self.vocab_size,
                "fingerprint": self.fingerprint,
                "lost": self.lost,
                "seconds": self.seconds,
            });
            writeln!(out, "{json}")?;
            return Ok(());
        }
        const FILES_SHOWN: usize = 6;
        for (path, bytes) in self.files.iter().take(FILES_SHOWN) {
            writeln!(out, "{}  {bytes} bytes", path.display())?;
        }
        if self.files.len() > FILES_SHOWN {
            writeln!(out, "and {} files more", self.files.len() - FILES_SHOWN)?;
        }
        writeln!(
            out,
            "{} tokens of {} (below {}), {} documents, {bytes} bytes in {:.1} s",
            self.tokens,
            self.dtype(),
            self.vocab_size,
            self.documents,
            self.seconds
        )?;
        Ok(())
    }
}
