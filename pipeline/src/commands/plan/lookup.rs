//! Output of `patchmill plan` on single steps and documents.
//!
//! **Invariant:** every printed place comes from the [`Plan`], the manifest or the document index.

use std::io::Write;

use anyhow::Context as _;
use schemas::index::CONTENT_HASH_BYTES;
use serde_json::{Value, json};

use crate::commands::values::RankOf;
use crate::console::numbers::{format_count, parse_count};
use crate::console::printable;
use crate::console::usage::UsageError;
use crate::corpus::index::{self, IndexRow, Wanted};
use crate::corpus::{Corpus, ShardPart};
use plan::{Plan, Window};

/// Reads `S` or `S..E`, the latter without E.
pub fn parse_steps(text: &str) -> Result<(u64, u64), String> {
    match text.split_once("..") {
        Some((first, end)) => {
            let (first, end) = (parse_count(first)?, parse_count(end)?);
            if first < end { Ok((first, end)) } else { Err(format!("{text:?} has no steps")) }
        }
        None => {
            let step = parse_count(text)?;
            let end = step.checked_add(1).ok_or_else(|| format!("{text} is not a step"))?;
            Ok((step, end))
        }
    }
}

/// A document's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocumentName {
    /// Its number in the corpus.
    Number(u64),
    /// Input file, as in the manifest, and 1-based line or row.
    Row(String, u64),
    /// First bytes of the BLAKE3 of its text.
    ContentHash([u8; CONTENT_HASH_BYTES]),
}

/// Reads a document number, `INPUT:ROW`, or a content hash in hex.
pub fn parse_document(text: &str) -> Result<DocumentName, String> {
    let digits = text.as_bytes();
    if digits.len() == 2 * CONTENT_HASH_BYTES && digits.iter().all(u8::is_ascii_hexdigit) {
        let mut hash = [0; CONTENT_HASH_BYTES];
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|err| err.to_string())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|err| err.to_string())?;
        }
        return Ok(DocumentName::ContentHash(hash));
    }
    if let Some((input, row)) = text.rsplit_once(':')
        && !input.is_empty()
    {
        return Ok(DocumentName::Row(input.to_owned(), parse_count(row)?));
    }
    let number = parse_count(text);
    number.map(DocumentName::Number).map_err(|_refused| {
        format!(
            "{text:?} names no document; expected its number, INPUT:ROW with the input as in the \
             manifest, or the {} hex digits of its content hash",
            2 * CONTENT_HASH_BYTES
        )
    })
}

/// Numbers of the documents with this `name`; at least one.
pub fn resolve(corpus: &Corpus, name: &DocumentName) -> anyhow::Result<Vec<u64>> {
    let wanted = match name {
        DocumentName::Number(number) => return Ok(vec![*number]),
        DocumentName::Row(_, row) => Wanted::Row(*row),
        DocumentName::ContentHash(hash) => Wanted::ContentHash(*hash),
    };
    if matches!(wanted, Wanted::ContentHash(_)) && corpus.manifest().imported.is_some() {
        let what = "--find: the corpus was imported as ids, so that its documents have no content \
                    hashes; find them by number or INPUT:ROW";
        return Err(UsageError(what.to_owned()).into());
    }
    let (mut found, mut first_document, mut has_input) = (Vec::new(), 0, false);
    for series in &corpus.manifest().series {
        let is_input = !matches!(name, DocumentName::Row(input, _) if *input != series.input);
        has_input |= is_input;
        if let Some(index) = series.index.as_ref().filter(|_| is_input) {
            let documents = index::documents(&corpus.dir().join(&index.path), wanted)?;
            found.extend(documents.iter().map(|document| first_document + document));
        }
        // The manifest's sums were checked.
        first_document += series.totals.shard_documents().expect("a manifest adds up");
    }
    let refused = |what: String| Err(UsageError(format!("--find: {what}")).into());
    match name {
        DocumentName::Row(input, _) if !has_input => {
            refused(format!("the corpus has no input {input:?}; the manifest names its inputs"))
        }
        DocumentName::Row(input, row) if found.is_empty() => {
            refused(format!("row {row} of {input} is not a document of the corpus"))
        }
        _ if found.is_empty() => refused("no document of the corpus has this content".to_owned()),
        _ => Ok(found),
    }
}

/// Reads entries of the document index by the document's number.
struct Entries<'a> {
    corpus: &'a Corpus,
    /// Of each series, the number of its first document.
    first_documents: Vec<u64>,
}

impl Entries<'_> {
    fn new(corpus: &Corpus) -> Entries<'_> {
        let mut first_document = 0;
        let first_documents = corpus.manifest().series.iter().map(|series| {
            let first = first_document;
            first_document += series.totals.shard_documents().expect("a manifest adds up");
            first
        });
        Entries { corpus, first_documents: first_documents.collect() }
    }

    fn series_of(&self, document: u64) -> usize {
        self.first_documents.partition_point(|&first| first <= document) - 1
    }

    /// The entries of documents of one series.
    fn rows(&self, first: u64, count: u64) -> anyhow::Result<Vec<IndexRow>> {
        let series_index = self.series_of(first);
        let series = &self.corpus.manifest().series[series_index];
        let index = series.index.as_ref();
        let index = index.with_context(|| format!("{} has no index", series.input))?;
        let path = self.corpus.dir().join(&index.path);
        let rows = index::read(&path, first - self.first_documents[series_index], count)?;
        Ok(rows.collect::<Result<Vec<IndexRow>, _>>()?)
    }

    /// Tokens of each set in a range of tokens of one shard, in the order of first appearance.
    fn sets(&self, first_token: u64, token_count: u64) -> anyhow::Result<Vec<(String, u64)>> {
        let end_token = first_token + token_count;
        let first = self.corpus.document_at(first_token)?;
        let last = self.corpus.document_at(end_token - 1)?;
        let series = &self.corpus.manifest().series[self.series_of(first)];
        let named: Vec<_> = series.sets.iter().filter(|set| set.tokens > 0).collect();
        if let [only] = named[..] {
            return Ok(vec![(only.set_name.clone().unwrap_or_default(), token_count)]);
        }
        let mut sets: Vec<(String, u64)> = Vec::new();
        for (document, row) in (first..=last).zip(self.rows(first, last - first + 1)?) {
            let tokens = self.corpus.document_tokens(document)?;
            let inside = tokens.end.min(end_token) - tokens.start.max(first_token);
            let name = row.set_name.unwrap_or_default();
            match sets.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += inside,
                None => sets.push((name, inside)),
            }
        }
        Ok(sets)
    }
}

/// A range of a window's tokens within one shard.
struct WindowPart<'a> {
    shard: ShardPart<'a>,
    documents: [u64; 2],
    sets: Vec<(String, u64)>,
}

/// The reads of a step, or of one rank's part of it.
pub struct StepReport<'a> {
    step: u64,
    patch_size: u64,
    first_slot: u64,
    /// Each window with its parts, when there is a corpus.
    windows: Vec<(Window, Vec<WindowPart<'a>>)>,
}

impl<'a> StepReport<'a> {
    /// Looks the windows of a step up.
    pub fn new(
        plan: &Plan,
        corpus: Option<&'a Corpus>,
        step: u64,
        rank: Option<RankOf>,
    ) -> anyhow::Result<StepReport<'a>> {
        let step_count = plan.step_count();
        if step >= step_count {
            let refused =
                format!("--step {step}: the plan has {step_count} steps, numbered from 0");
            return Err(UsageError(refused).into());
        }
        let phase = plan.phase_of(step);
        let RankOf { rank, world_size } = rank.unwrap_or(RankOf { rank: 0, world_size: 1 });
        if !phase.windows_per_step.is_multiple_of(world_size) {
            let count = phase.windows_per_step;
            let refused =
                format!("--rank: {world_size} ranks do not divide a step's {count} windows");
            return Err(UsageError(refused).into());
        }
        let part = phase.windows_per_step / world_size;
        let entries = corpus.map(Entries::new);
        let mut windows = Vec::new();
        for window in plan.windows(step, rank * part..(rank + 1) * part) {
            let parts = match &entries {
                Some(entries) => window_parts(entries, &window)?,
                None => Vec::new(),
            };
            windows.push((window, parts));
        }
        Ok(StepReport { step, patch_size: phase.patch_size, first_slot: rank * part, windows })
    }

    /// The result as JSON.
    pub fn json(&self, plan: &Plan) -> Value {
        let windows = (self.first_slot..).zip(&self.windows).map(|(slot, (window, parts))| {
            json!({
                "slot": slot,
                "epoch": window.epoch,
                "set": plan.streams()[window.stream_index].name(),
                "first_token": window.first_token,
                "token_count": window.token_count,
                "first_document": parts.first().map(|part| part.documents[0]),
                "last_document": parts.last().map(|part| part.documents[1]),
                "parts": parts.iter().map(WindowPart::json).collect::<Vec<Value>>(),
            })
        });
        let windows: Vec<Value> = windows.collect();
        json!({"step": self.step, "patch_size": self.patch_size, "windows": windows})
    }

    /// The result as readable text.
    pub fn print(&self, out: &mut impl Write) -> anyhow::Result<()> {
        writeln!(out, "\nstep {}, K = {}", format_count(self.step), self.patch_size)?;
        for (slot, (window, parts)) in (self.first_slot..).zip(&self.windows) {
            let end_token = window.first_token + window.token_count;
            writeln!(
                out,
                "  window {slot}: epoch {}, tokens {}..{end_token}",
                window.epoch, window.first_token
            )?;
            for WindowPart { shard, documents: [first, last], sets } in parts {
                let documents = if first == last {
                    format!("document {first}")
                } else {
                    format!("documents {first} to {last}")
                };
                let sets = sets.iter().map(|(name, tokens)| format!("{name:?} {tokens}"));
                writeln!(
                    out,
                    "    {} from token {} (byte {}), {} tokens, {documents}, sets {}",
                    shard.path.display(),
                    shard.first_token,
                    shard.file_offset(),
                    shard.token_count,
                    sets.collect::<Vec<String>>().join(", "),
                )?;
            }
        }
        Ok(())
    }
}

fn window_parts<'a>(entries: &Entries<'a>, window: &Window) -> anyhow::Result<Vec<WindowPart<'a>>> {
    let corpus = entries.corpus;
    let mut first_token = window.first_token;
    let mut parts = Vec::new();
    for shard in corpus.parts(window.first_token, window.token_count)? {
        let last_token = first_token + shard.token_count - 1;
        let documents = [corpus.document_at(first_token)?, corpus.document_at(last_token)?];
        let sets = entries.sets(first_token, shard.token_count)?;
        parts.push(WindowPart { shard, documents, sets });
        first_token = last_token + 1;
    }
    Ok(parts)
}

impl WindowPart<'_> {
    fn json(&self) -> Value {
        let sets =
            self.sets.iter().map(|(name, tokens)| json!({"set_name": name, "tokens": tokens}));
        json!({
            "shard": self.shard.path.to_string_lossy(),
            "first_token": self.shard.first_token,
            "token_count": self.shard.token_count,
            "file_offset": self.shard.file_offset(),
            "first_document": self.documents[0],
            "last_document": self.documents[1],
            "sets": sets.collect::<Vec<Value>>(),
        })
    }
}

/// The place where a document, or a part of it, is read.
struct FoundAt {
    epoch: u64,
    phase_index: usize,
    step: u64,
    slot: u64,
}

/// The reads of a document.
pub struct FindReport {
    document: u64,
    first_token: u64,
    end_token: u64,
    entry: Option<IndexRow>,
    /// Each window that holds some of it, or the epoch that leaves a part of it unread.
    readings: Vec<Result<FoundAt, u64>>,
}

impl FindReport {
    /// Looks a document of the corpus up.
    pub fn new(plan: &Plan, corpus: &Corpus, document: u64) -> anyhow::Result<FindReport> {
        let tokens = corpus.document_tokens(document)?;
        let entry = Entries::new(corpus).rows(document, 1)?.pop();
        let unit_tokens = plan.unit_tokens();
        let stream_index = plan.stream_index_of(tokens.start).context("the plan has the corpus")?;
        let stream_first = plan.streams()[stream_index].tokens().start;
        let mut readings = Vec::new();
        for epoch in 0..plan.pass_count(stream_index) {
            let (mut token, mut cursor) = (tokens.start, plan.cursor());
            while token < tokens.end {
                let found = cursor.find(epoch, token);
                let window = found
                    .map_or(unit_tokens, |found| plan.phases()[found.phase_index].window_tokens);
                match found {
                    Some(found) => readings.push(Ok(FoundAt {
                        epoch,
                        phase_index: found.phase_index,
                        step: found.step,
                        slot: found.slot,
                    })),
                    None if matches!(readings.last(), Some(Err(last)) if *last == epoch) => {}
                    None => readings.push(Err(epoch)),
                }
                // Every window is aligned to its own size within its stream. An unread part may end
                // at any unit.
                let in_stream = token - stream_first;
                token = stream_first + in_stream / window * window + window;
            }
        }
        let (first_token, end_token) = (tokens.start, tokens.end);
        Ok(FindReport { document, first_token, end_token, entry, readings })
    }

    /// The result as JSON.
    pub fn json(&self) -> Value {
        let readings = self.readings.iter().map(|reading| match reading {
            Ok(FoundAt { epoch, phase_index, step, slot }) => {
                json!({"epoch": epoch, "phase": phase_index, "step": step, "slot": slot})
            }
            Err(epoch) => json!({"epoch": epoch, "phase": null, "step": null, "slot": null}),
        });
        json!({
            "document": self.document,
            "input": self.entry.as_ref().map(|row| &row.input),
            "row": self.entry.as_ref().map(|row| row.row),
            "set_name": self.entry.as_ref().and_then(|row| row.set_name.as_ref()),
            "first_token": self.first_token,
            "end_token": self.end_token,
            "readings": readings.collect::<Vec<Value>>(),
        })
    }

    /// The result as readable text.
    pub fn print(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let Self { document, first_token, end_token, entry, .. } = self;
        write!(out, "\ndocument {document}, tokens {first_token}..{end_token}")?;
        if let Some(IndexRow { input, row, set_name, .. }) = entry {
            let set_name = printable::line(set_name.as_deref().unwrap_or("(none)"));
            write!(out, ": {} row {row}, set {set_name}", printable::line(input))?;
        }
        writeln!(out)?;
        for reading in &self.readings {
            match reading {
                Ok(FoundAt { epoch, phase_index, step, slot }) => writeln!(
                    out,
                    "  epoch {epoch}: phase {phase_index}, step {step}, window {slot}"
                )?,
                Err(epoch) => writeln!(
                    out,
                    "  epoch {epoch}: (a part is outside the subset, or in the unread rest)"
                )?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::values::parse_rank;

    #[test]
    fn documents_are_named_in_three_ways() {
        let hash = "00112233445566778899aabbccddeeff";
        assert!(matches!(parse_document(hash), Ok(DocumentName::ContentHash(h)) if h[15] == 0xff));
        assert_eq!(parse_document("1e3"), Ok(DocumentName::Number(1000)));
        let row = DocumentName::Row("a:b/00.jsonl.zst".to_owned(), 7);
        assert_eq!(parse_document("a:b/00.jsonl.zst:7"), Ok(row));
        assert!(parse_document("twelve").unwrap_err().contains("expected its number"));
        assert_eq!(parse_steps("3"), Ok((3, 4)));
        assert_eq!(parse_steps("3..5"), Ok((3, 5)));
        assert!(parse_steps("5..5").is_err() && parse_rank("8/8").is_err());
        assert_eq!(parse_rank("1/8"), Ok(RankOf { rank: 1, world_size: 8 }));
    }
}
