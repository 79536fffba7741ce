//! What `patchmill tokenize` says while it works and when it is done.
//!
//! **Invariant:** documents read = written + skipped, in every report.

use std::cell::Cell;
use std::io::Write;
use std::time::Duration;

use indicatif::{
    HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};
use schemas::manifest::{Manifest, SetTotals};

/// Progress on stderr; hidden when that is no terminal. The bar counts bytes of the input files.
pub(crate) struct Progress {
    bar: ProgressBar,
    files_bytes: Cell<u64>,
    documents: Cell<u64>,
    text_bytes: Cell<u64>,
    tokens: Cell<u64>,
}

impl Progress {
    pub(crate) fn start(input_bytes: u64) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(input_bytes), ProgressDrawTarget::stderr());
        let eta = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // Nothing can be done about a line that cannot be formatted.
            let _ = write!(out, "{}", HumanDuration(state.eta()));
        };
        let style = ProgressStyle::with_template("{bar:30} {percent}% | {msg} | eta {left}")
            .expect("the template is well-formed")
            .with_key("left", eta);
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(250));
        Progress {
            bar,
            files_bytes: Cell::new(0),
            documents: Cell::new(0),
            text_bytes: Cell::new(0),
            tokens: Cell::new(0),
        }
    }

    pub(crate) fn add_document(&self, text_bytes: u64, tokens: u64) {
        self.documents.set(self.documents.get() + 1);
        self.text_bytes.set(self.text_bytes.get() + text_bytes);
        self.tokens.set(self.tokens.get() + tokens);
    }

    /// The current file has been read up to here.
    pub(crate) fn set_file_offset(&self, file_offset: u64) {
        self.bar.set_position(self.files_bytes.get() + file_offset);
        let seconds = self.bar.elapsed().as_secs_f64().max(1e-9);
        self.bar.set_message(format!(
            "{} docs | {:.1} MB/s | {:.2}M tok/s",
            self.documents.get(),
            self.text_bytes.get() as f64 / 1e6 / seconds,
            self.tokens.get() as f64 / 1e6 / seconds,
        ));
    }

    /// A file has been read to its end.
    pub(crate) fn add_file(&self, bytes: u64) {
        self.files_bytes.set(self.files_bytes.get() + bytes);
        self.set_file_offset(0);
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Says on stderr what a user may want to know and need not act on.
pub(crate) fn notice(what: &str) {
    // Nobody can be told when stderr is gone.
    let _ = writeln!(std::io::stderr(), "notice: {what}");
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Report {
    /// As published.
    pub manifest: Manifest,
    /// Which encoder made the ids.
    pub encoder: &'static str,
    /// From the start of the command.
    pub seconds: f64,
    /// Series that an interrupted run had completed.
    pub kept_series: u64,
}

impl Report {
    /// Prints for people, or as one line for machines.
    pub(crate) fn print(&self, as_json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if as_json {
            let totals = self.manifest.totals;
            let json = serde_json::json!({
                "documents_read": totals.documents_read,
                "documents_written": totals.documents_written,
                "documents_skipped": totals.documents_skipped,
                "text_bytes": totals.text_bytes,
                "tokens": totals.tokens,
                "seconds": self.seconds,
                "encoder": self.encoder,
                "series": self.manifest.series.len(),
                "series_kept": self.kept_series,
                "shards": self.manifest.shards().count(),
                "fingerprint": self.manifest.fingerprint,
            });
            writeln!(out, "{json}")?;
            return Ok(());
        }
        write_totals(&mut out, &self.manifest)?;
        let totals = self.manifest.totals;
        writeln!(
            out,
            "{:.1} s, {:.1} MB/s of text, {:.2}M tokens/s, encoder {}",
            self.seconds,
            totals.text_bytes as f64 / 1e6 / self.seconds,
            totals.tokens as f64 / 1e6 / self.seconds,
            self.encoder
        )?;
        if self.kept_series > 0 {
            writeln!(out, "{} series were there already, from a run before", self.kept_series)?;
        }
        Ok(())
    }
}

/// A corpus' sums, in all and by set.
pub(crate) fn write_totals(out: &mut impl Write, manifest: &Manifest) -> std::io::Result<()> {
    let totals = manifest.totals;
    writeln!(
        out,
        "documents: {} read = {} written + {} skipped",
        totals.documents_read, totals.documents_written, totals.documents_skipped
    )?;
    writeln!(
        out,
        "tokens: {} of {} bytes each in {} shards of {} series",
        totals.tokens,
        manifest.token_bytes,
        manifest.shards().count(),
        manifest.series.len()
    )?;
    writeln!(out, "text: {} bytes ({})", totals.text_bytes, HumanBytes(totals.text_bytes))?;
    if let Some(skipped) = &manifest.skipped {
        writeln!(out, "skipped documents are listed in {}", skipped.path)?;
    }
    let name = |set: &SetTotals| set.set_name.clone().unwrap_or_else(|| "(no set)".to_owned());
    let names: Vec<String> = manifest.sets.iter().map(name).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("set".len());
    writeln!(
        out,
        "{:width$}  {:>12}  {:>16}  {:>14}  bytes/token",
        "set", "documents", "text bytes", "tokens"
    )?;
    let all = SetTotals {
        set_name: None,
        documents: totals.documents_written,
        text_bytes: totals.text_bytes,
        tokens: totals.tokens,
    };
    for (name, set) in names.iter().map(String::as_str).zip(&manifest.sets).chain([("all", &all)]) {
        let bytes_per_token = set.text_bytes as f64 / set.tokens.max(1) as f64;
        writeln!(
            out,
            "{name:width$}  {:>12}  {:>16}  {:>14}  {bytes_per_token:>11.3}",
            set.documents, set.text_bytes, set.tokens
        )?;
    }
    Ok(())
}
