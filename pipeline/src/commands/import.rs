//! `patchmill import`: makes a corpus of token ids written by another project.
//!
//! **Invariant:** the output is the report of the import.

use std::io::Write;
use std::path::PathBuf;

use schemas::manifest::ForeignFormat;
use schemas::shard::TokenBytes;
use serde_json::json;

use crate::commands::tokenize::report::write_totals;
use crate::commands::values::{Specials, local_path};
use crate::console::stop::StopFlag;
use crate::console::usage::UsageError;
use crate::exchange::import::spec::ImportSpec;
use crate::exchange::import::{self, Report};
use encoder::Policy;

/// Options of `patchmill import`.
#[derive(clap::Args, Clone, Debug)]
#[command(group = clap::ArgGroup::new("said_bos").required(true).args(["bos", "no_bos"]))]
#[command(group = clap::ArgGroup::new("said_eos").required(true).args(["eos", "no_eos"]))]
pub struct ImportArgs {
    /// megatron: a prefix, its .bin or its .idx, or a folder of such pairs; olmo: a .npy or a
    /// folder of them; nanogpt: a .bin.
    #[arg(value_parser = local_path())]
    pub source: PathBuf,
    /// The project that wrote the files.
    #[arg(long, value_enum)]
    pub from: Source,
    /// The tokenizer.json that made the ids, or the folder that holds it.
    #[arg(long, value_parser = local_path())]
    pub tokenizer: PathBuf,
    /// The folder to write the corpus into: new, empty, or with an interrupted import of the same
    /// options.
    #[arg(long, value_parser = local_path())]
    pub out: PathBuf,
    /// Each document begins with the beginning-of-sequence token, which is checked. Without other
    /// boundaries, documents begin there.
    #[arg(long)]
    pub bos: bool,
    /// Documents have no token before their text.
    #[arg(long)]
    pub no_bos: bool,
    /// Each document ends with the end-of-sequence token, which is checked. Without other
    /// boundaries, documents end there.
    #[arg(long)]
    pub eos: bool,
    /// Documents have no token after their text. With --no-bos, and no index, each file is one
    /// document.
    #[arg(long)]
    pub no_eos: bool,
    /// For olmo: bytes of an id, which the files do not record; when absent, by the size of the
    /// vocabulary.
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=4), value_name = "2|4")]
    pub token_bytes: Option<u32>,
    /// How special tokens written out in a text were read when the ids were made; recorded, changes
    /// no id.
    #[arg(long, value_enum, default_value_t = Specials::Text)]
    pub special_tokens: Specials,
    /// Bytes of ids at which a shard closes, at the next document boundary.
    #[arg(long, default_value_t = 256 << 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub shard_bytes: u64,
    /// Replace the folder's corpus once the new one is complete, and write beside other files;
    /// those are never removed.
    #[arg(long)]
    pub force: bool,
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    pub json: bool,
}

/// The project whose files are read.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Megatron-core: NAME.bin, and NAME.idx with the documents.
    Megatron,
    /// OLMo-core, dolma: raw ids named .npy; documents from the .csv.gz beside each, if all have
    /// one.
    Olmo,
    /// nanoGPT: a file of uint16.
    Nanogpt,
}

impl Source {
    fn format(self) -> ForeignFormat {
        match self {
            Source::Megatron => ForeignFormat::Megatron,
            Source::Olmo => ForeignFormat::Olmo,
            Source::Nanogpt => ForeignFormat::Nanogpt,
        }
    }
}

impl ImportArgs {
    fn spec(&self) -> anyhow::Result<ImportSpec> {
        let special_tokens = self.special_tokens.into();
        Ok(ImportSpec {
            source: self.source.clone(),
            from: self.from.format(),
            tokenizer: self.tokenizer.clone(),
            out: self.out.clone(),
            policy: Policy { bos: self.bos, eos: self.eos, special_tokens },
            token_bytes: token_bytes(self)?,
            shard_bytes: self.shard_bytes,
            force: self.force,
        })
    }
}

/// Runs `patchmill import`.
pub fn import(args: &ImportArgs) -> anyhow::Result<()> {
    let stop = StopFlag::install()?;
    import::import_until(&args.spec()?, &stop)?.print(args.json)
}

fn usage<T>(what: String) -> anyhow::Result<T> {
    Err(UsageError(what).into())
}

/// Bytes of an id, if given.
fn token_bytes(args: &ImportArgs) -> anyhow::Result<Option<TokenBytes>> {
    match (args.from, args.token_bytes) {
        (Source::Olmo, Some(2)) => Ok(Some(TokenBytes::Two)),
        (Source::Olmo, Some(4)) => Ok(Some(TokenBytes::Four)),
        (Source::Olmo, Some(other)) => usage(format!("--token-bytes is {other}; expected 2 or 4")),
        (_, Some(_)) => usage("--token-bytes is for olmo; the others say it themselves".to_owned()),
        (_, None) => Ok(None),
    }
}

impl Report {
    /// Prints readable text, or one line of JSON.
    fn print(&self, as_json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        let Report { manifest, seconds, .. } = self;
        if as_json {
            let totals = manifest.totals;
            let json = json!({
                "documents_read": totals.documents_read,
                "documents_written": totals.documents_written,
                "documents_skipped": totals.documents_skipped,
                "tokens": totals.tokens,
                "token_bytes": manifest.token_bytes,
                "imported": manifest.imported,
                "bos": manifest.tokenizer.bos,
                "eos": manifest.tokenizer.eos,
                "series": manifest.series.len(),
                "series_kept": self.series_kept,
                "shards": manifest.shards().count(),
                "fingerprint": manifest.fingerprint,
                "seconds": seconds,
            });
            writeln!(out, "{json}")?;
            return Ok(());
        }
        write_totals(&mut out, manifest)?;
        let (bos, eos) = (&manifest.tokenizer.bos, &manifest.tokenizer.eos);
        let of = |token| encoder::describe(token);
        writeln!(out, "BOS {}, EOS {}; {seconds:.1} s", of(bos.as_ref()), of(eos.as_ref()))?;
        Ok(())
    }
}
