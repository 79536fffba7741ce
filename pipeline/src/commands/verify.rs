//! `patchmill verify`: checks every byte of a corpus against its manifest and checksums.
//!
//! **Invariant:** the output is the result of [`verify::check`].

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use crate::commands::values::local_path;
use crate::console::printable;
use crate::corpus::verify::{self, VerifyError};

/// Options of `patchmill verify`.
#[derive(clap::Args, Clone, Debug)]
pub struct VerifyArgs {
    /// The corpus.
    #[arg(value_parser = local_path())]
    pub dir: PathBuf,
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    pub json: bool,
}

/// Runs `patchmill verify`.
pub fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let checked = verify::check(&args.dir)?;
    let seconds = started.elapsed().as_secs_f64();
    let mut out = io::stdout().lock();
    let (manifest, faults) = (&checked.manifest, checked.faults);
    let bytes: u64 = manifest.files().map(|file| file.bytes).sum();
    let file_count = manifest.files().count() + 1;
    if args.json {
        let json = serde_json::json!({
            "faults": faults,
            "files": file_count,
            "bytes": bytes,
            "documents": manifest.totals.documents_written,
            "tokens": manifest.totals.tokens,
            "fingerprint": manifest.fingerprint,
            "seconds": seconds,
        });
        writeln!(out, "{json}")?;
    }
    if !faults.is_empty() {
        if !args.json {
            faults.iter().try_for_each(|fault| writeln!(out, "{}", printable::line(fault)))?;
        }
        return Err(VerifyError { dir: args.dir.clone(), faults }.into());
    }
    if !args.json {
        writeln!(
            out,
            "{} is sound: {file_count} files, {bytes} bytes, {} documents, {} tokens, \
             fingerprint {}",
            args.dir.display(),
            manifest.totals.documents_written,
            manifest.totals.tokens,
            manifest.fingerprint
        )?;
    }
    Ok(())
}
