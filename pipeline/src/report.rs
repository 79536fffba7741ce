//! What `patchmill tokenize` says while it works and when it is done.
//!
//! **Invariant:** documents read = written + skipped + held out + dropped, in every report.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{
    HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};
use schemas::manifest::{Manifest, SetTotals, Totals};

use crate::printable;
use crate::tasks::Task;
use crate::tokenize::SessionStatistics;

/// Progress on stderr; hidden when that is no terminal. The bar counts bytes of the input files.
pub(crate) struct Progress {
    bar: ProgressBar,
    // Relaxed, all of them: they are shown and decide nothing.
    documents: AtomicU64,
    text_bytes: AtomicU64,
    tokens: AtomicU64,
}

impl Progress {
    /// Of inputs of so many bytes, of which the second number was done before.
    pub(crate) fn start(input_bytes: u64, kept_bytes: u64) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(input_bytes), ProgressDrawTarget::stderr());
        let eta = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // Nothing can be done about a line that cannot be formatted.
            let _ = write!(out, "{}", HumanDuration(state.eta()));
        };
        let style = ProgressStyle::with_template("{bar:30} {percent}% | {msg} | eta {left}")
            .expect("the template is well-formed")
            .with_key("left", eta);
        bar.set_style(style);
        bar.set_position(kept_bytes);
        bar.reset_eta();
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        let (documents, text_bytes, tokens) = Default::default();
        Progress { bar, documents, text_bytes, tokens }
    }

    pub(crate) fn add_document(&self, text_bytes: u64, tokens: u64) {
        self.documents.fetch_add(1, Ordering::Relaxed);
        self.text_bytes.fetch_add(text_bytes, Ordering::Relaxed);
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    /// So many more bytes of an input file have been read and written.
    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.bar.inc(bytes);
        if self.bar.is_hidden() {
            return;
        }
        let seconds = self.bar.elapsed().as_secs_f64().max(1e-9);
        self.bar.set_message(format!(
            "{} docs | {:.1} MB/s | {:.2}M tok/s",
            self.documents.load(Ordering::Relaxed),
            self.text_bytes.load(Ordering::Relaxed) as f64 / 1e6 / seconds,
            self.tokens.load(Ordering::Relaxed) as f64 / 1e6 / seconds,
        ));
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Says on stderr what a user may want to know and need not act on.
pub(crate) fn notice(what: &str) {
    // Nobody can be told when stderr is gone.
    let _ = writeln!(std::io::stderr(), "notice: {}", printable::line(what));
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Report {
    /// As published; of a task its share, without a fingerprint and published nowhere.
    pub manifest: Manifest,
    /// Which encoder made the ids.
    pub encoder: &'static str,
    /// Why it was not our own, one obstacle each.
    pub encoder_obstacles: Vec<String>,
    /// From the start of the command.
    pub seconds: f64,
    /// Series that an interrupted run had completed.
    pub kept_series: u64,
    /// Of all threads' encoders.
    pub statistics: SessionStatistics,
    /// Of a task, which one.
    pub task: Option<Task>,
}

impl Report {
    fn cache_hit_rate(&self) -> Option<f64> {
        let SessionStatistics { cache_lookups, cache_hits } = self.statistics;
        (cache_lookups > 0).then(|| cache_hits as f64 / cache_lookups as f64)
    }

    /// Prints for people, or as one line for machines.
    pub(crate) fn print(&self, as_json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if as_json {
            let totals = self.manifest.totals;
            let json = serde_json::json!({
                "documents_read": totals.documents_read,
                "documents_written": totals.documents_written,
                "documents_skipped": totals.documents_skipped,
                "documents_dropped": totals.dropped.checked_sum(),
                "dropped": totals.dropped,
                "documents_held_out": totals.documents_held_out,
                "parts_added": totals.parts_added,
                "surrogates_replaced": totals.surrogates_replaced,
                "text_bytes": totals.text_bytes,
                "tokens": totals.tokens,
                "sets": self.manifest.sets,
                "seconds": self.seconds,
                "cache_hit_rate": self.cache_hit_rate(),
                "task": self.task.map(|task| format!("{}/{}", task.index, task.count)),
                "encoder": self.encoder,
                "encoder_obstacles": self.encoder_obstacles,
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
        if self.kept_series > 0 && self.kept_series == self.manifest.series.len() as u64 {
            // Of a speed there is nothing to say.
            writeln!(
                out,
                "{:.1} s; all {} series were there already",
                self.seconds, self.kept_series
            )?;
            return Ok(());
        }
        writeln!(
            out,
            "{:.1} s, {:.1} MB/s of text, {:.2}M tokens/s, encoder {}",
            self.seconds,
            totals.text_bytes as f64 / 1e6 / self.seconds,
            totals.tokens as f64 / 1e6 / self.seconds,
            self.encoder
        )?;
        if let Some(rate) = self.cache_hit_rate() {
            writeln!(out, "{:.2} % of the pieces of text were in the cache", 100.0 * rate)?;
        }
        if let Some(task) = self.task {
            writeln!(
                out,
                "{task} is done; when all are, `patchmill merge` makes the corpus of them"
            )?;
        }
        if self.kept_series > 0 {
            writeln!(out, "{} series were there already, from a run before", self.kept_series)?;
        }
        Ok(())
    }
}

/// What became of the documents that were read.
fn write_documents(out: &mut impl Write, totals: Totals) -> std::io::Result<()> {
    let Totals { documents_read, documents_written, documents_skipped, dropped, .. } = totals;
    write!(
        out,
        "documents: {documents_read} read = {documents_written} written + {documents_skipped} skipped"
    )?;
    for (count, what) in [
        (totals.documents_held_out, "held out"),
        (dropped.too_short, "too short"),
        (dropped.too_long, "too long"),
        (dropped.set, "of other sets"),
        (dropped.duplicate, "duplicates"),
        (dropped.sample, "not in the sample"),
    ] {
        if count > 0 {
            write!(out, " + {count} {what}")?;
        }
    }
    writeln!(out)
}

/// A corpus' sums, in all and by set.
pub(crate) fn write_totals(out: &mut impl Write, manifest: &Manifest) -> std::io::Result<()> {
    let totals = manifest.totals;
    write_documents(out, totals)?;
    writeln!(
        out,
        "tokens: {} of {} bytes each in {} shards of {} series",
        totals.tokens,
        manifest.token_bytes,
        manifest.shards().count(),
        manifest.series.len()
    )?;
    writeln!(out, "text: {} bytes ({})", totals.text_bytes, HumanBytes(totals.text_bytes))?;
    if totals.surrogates_replaced > 0 {
        writeln!(out, "{} halves of surrogate pairs became U+FFFD", totals.surrogates_replaced)?;
    }
    if let Some(skipped) = &manifest.skipped {
        writeln!(out, "skipped documents are listed in {}", skipped.path)?;
    }
    let name = |set: &SetTotals| match &set.set_name {
        Some(name) => printable::line(name).into_owned(),
        None => "(no set)".to_owned(),
    };
    let names: Vec<String> = manifest.sets.iter().map(name).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("set".len());
    writeln!(
        out,
        "{:width$}  {:>12}  {:>16}  {:>14}  bytes/token",
        "set", "documents", "text bytes", "tokens"
    )?;
    let all = SetTotals {
        set_name: None,
        documents: totals.shard_documents().unwrap_or(u64::MAX),
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
