//! The final output of `patchmill tokenize`.
//!
//! **Invariant:** every printed number comes from the report or its manifest.

use std::io::Write;

use indicatif::HumanBytes;
use schemas::manifest::{Manifest, SetTotals, Totals};

use crate::console::printable;
use crate::write::report::Report;
use encoder::SessionStatistics;

impl Report {
    fn cache_hit_rate(&self) -> Option<f64> {
        let SessionStatistics { cache_lookups, cache_hits } = self.statistics;
        (cache_lookups > 0).then(|| cache_hits as f64 / cache_lookups as f64)
    }

    /// Prints readable text, or one line of JSON.
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
            // There is no speed to print.
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

/// Counts of the documents read, written and skipped.
fn write_documents(out: &mut impl Write, totals: Totals) -> std::io::Result<()> {
    let Totals { documents_read, documents_written, documents_skipped, dropped, .. } = totals;
    write!(
        out,
        "documents: {documents_read} read = {documents_written} written + {documents_skipped} \
         skipped"
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

/// A corpus's totals, overall and by set.
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
    match &manifest.imported {
        None => {
            writeln!(out, "text: {} bytes ({})", totals.text_bytes, HumanBytes(totals.text_bytes))?;
        }
        Some(imported) => writeln!(
            out,
            "text: not known, imported as ids from {}; documents by {}",
            imported.format.name(),
            imported.borders.describe()
        )?,
    }
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
    let is_known = manifest.imported.is_none();
    for (name, set) in names.iter().map(String::as_str).zip(&manifest.sets).chain([("all", &all)]) {
        let bytes_per_token = set.text_bytes as f64 / set.tokens.max(1) as f64;
        let shown = |text: String| if is_known { text } else { "-".to_owned() };
        writeln!(
            out,
            "{name:width$}  {:>12}  {:>16}  {:>14}  {:>11}",
            set.documents,
            shown(set.text_bytes.to_string()),
            set.tokens,
            shown(format!("{bytes_per_token:.3}"))
        )?;
    }
    Ok(())
}
