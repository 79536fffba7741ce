//! `patchmill duplicates`: lists the documents of a corpus whose text equals an earlier document's,
//! from the document indexes alone.
//!
//! It compares the first 128 bits of each text's BLAKE3, in passes over ranges of hashes. A pass
//! holds its share of the documents as pairs of hash and number, 24 bytes each, and sorts them. One
//! bit per document records the result. 200 million documents take 25 MB and five passes of 1 GB,
//! each of which reads 16 bytes per document. The chance of two different texts among so many
//! agreeing in 128 bits is 1 in 10^22.
//!
//! **Invariant:** of documents with equal hashes, all but the first in corpus order are listed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use schemas::drop_list::{DropListHead, DropListInput};
use schemas::index::{self as columns, CONTENT_HASH_BYTES};
use schemas::manifest::{Manifest, Series, SetTotals};
use schemas::selection::SelectionPart;
use serde_json::json;

use crate::commands::values::local_path;
use crate::console::numbers::parse_positive_count;
use crate::console::printable;
use crate::console::progress::notice;
use crate::console::usage::UsageError;
use crate::corpus::index;
use crate::corpus::read_manifest;
use crate::disk::atomic::AtomicFile;

/// Options of `patchmill duplicates`.
#[derive(clap::Args, Clone, Debug)]
pub struct DuplicatesArgs {
    /// A corpus.
    #[arg(value_parser = local_path())]
    pub corpus: PathBuf,
    /// The list to write, for `patchmill tokenize --drop-list`.
    #[arg(long, value_parser = local_path())]
    pub out: PathBuf,
    /// Memory for comparing, in bytes, such as 4e9. Less of it takes more passes over the index.
    #[arg(long, default_value = "1e9", value_parser = parse_positive_count)]
    pub memory_bytes: u64,
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    pub json: bool,
}

/// Bytes of an [`Entry`].
const ENTRY_BYTES: u64 = size_of::<Entry>() as u64;
/// Fewest entries of a pass; fewer would take too many passes.
const ENTRIES_MIN: u64 = 1 << 10;

/// A document of a pass, ordered by hash, then by place in the corpus.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    content_hash: [u8; CONTENT_HASH_BYTES],
    document: u64,
}

/// Runs `patchmill duplicates`.
pub fn duplicates(args: &DuplicatesArgs) -> anyhow::Result<()> {
    let manifest = read_manifest(&args.corpus)?;
    check(args, &manifest)?;
    let found = find(&args.corpus, &manifest, args.memory_bytes)?;
    let report = write(args, &manifest, &found)?;
    report.print(args)
}

/// Refuses corpora whose index cannot give a list.
fn check(args: &DuplicatesArgs, manifest: &Manifest) -> anyhow::Result<()> {
    let usage = |what: String| Err(UsageError(what).into());
    let dir = args.corpus.display();
    if args.out.exists() {
        return usage(format!("{} exists; remove it or name another file", args.out.display()));
    }
    if manifest.imported.is_some() {
        return usage(format!(
            "{dir} was imported as ids, and its index has no hashes of texts to compare; make the \
             list from a corpus that `patchmill tokenize` made"
        ));
    }
    let selection = manifest.selection.clone().unwrap_or_default();
    if let Some(words) = selection.split_words {
        return usage(format!(
            "{dir} holds documents in parts of {words} words; make the list from a corpus without \
             --split-words"
        ));
    }
    if selection.part == Some(SelectionPart::Main) {
        notice(&format!("{dir} has a hold-out, whose duplicates are not looked for"));
    }
    for record in manifest.series.iter().filter_map(|series| series.index.as_ref()) {
        index::check_file(&args.corpus, record)?;
    }
    Ok(())
}

/// One bit for each document of the corpus.
struct Bits(Vec<u64>);

impl Bits {
    fn new(count: u64) -> Bits {
        Bits(vec![0; usize::try_from(count.div_ceil(64)).expect("memory holds a bit a document")])
    }

    fn set(&mut self, at: u64) {
        self.0[(at / 64) as usize] |= 1 << (at % 64);
    }

    fn get(&self, at: u64) -> bool {
        self.0[(at / 64) as usize] >> (at % 64) & 1 == 1
    }
}

/// Marks every document whose hash an earlier document has.
fn find(dir: &Path, manifest: &Manifest, memory_bytes: u64) -> anyhow::Result<Bits> {
    let document_count = manifest.totals.documents_written;
    let entries_max = (memory_bytes / ENTRY_BYTES).max(ENTRIES_MIN);
    // Hashes are uniform, so each pass gets its share of documents, give or take a few.
    let pass_count = document_count.div_ceil(entries_max / 8 * 7).max(1);
    let mut found = Bits::new(document_count);
    for pass in 0..pass_count {
        let mut entries = Entries::new(entries_max.min(document_count));
        let mut document = 0;
        for series in &manifest.series {
            for_each_batch(dir, series, &[columns::CONTENT_HASH], |batch| {
                let hashes = batch.column(0).as_fixed_size_binary();
                for at in 0..batch.num_rows() {
                    let content_hash: [u8; CONTENT_HASH_BYTES] =
                        hashes.value(at).try_into().expect("the schema was checked");
                    if pass_of(&content_hash, pass_count) == pass {
                        entries.push(Entry { content_hash, document }, &mut found);
                    }
                    document += 1;
                }
            })?;
        }
        ensure!(
            document == document_count,
            "the document indexes of {} have {document} rows; the manifest says {document_count}",
            dir.display()
        );
        entries.compact(&mut found);
    }
    Ok(found)
}

/// The pass a hash belongs to: passes are equal ranges of its first 64 bits.
fn pass_of(content_hash: &[u8; CONTENT_HASH_BYTES], pass_count: u64) -> u64 {
    let first = u64::from_be_bytes(*content_hash.first_chunk().expect("16 bytes"));
    u64::try_from((u128::from(first) * u128::from(pass_count)) >> 64).expect("below pass_count")
}

/// The documents of a pass. A frequent text takes no more memory than one that occurs once.
struct Entries {
    entries: Vec<Entry>,
    /// Length at which entries with equal hashes are dropped.
    full: usize,
}

impl Entries {
    fn new(entries_max: u64) -> Entries {
        let full = usize::try_from(entries_max).expect("memory holds the entries").max(1);
        Entries { entries: Vec::new(), full }
    }

    fn push(&mut self, entry: Entry, found: &mut Bits) {
        if self.entries.len() == self.full {
            self.compact(found);
            if self.entries.len() > self.full / 8 * 7 {
                // Uneven hashes: more memory before more time.
                self.full += self.full / 8 + 1;
            }
        }
        self.entries.push(entry);
    }

    /// Keeps the first document of each hash and marks the others.
    fn compact(&mut self, found: &mut Bits) {
        self.entries.sort_unstable();
        self.entries.dedup_by(|later, first| {
            let is_duplicate = later.content_hash == first.content_hash;
            if is_duplicate {
                found.set(later.document);
            }
            is_duplicate
        });
    }
}

/// Calls `each` with the columns `names` of a series' documents, in order.
fn for_each_batch(
    dir: &Path,
    series: &Series,
    names: &[&str],
    mut each: impl FnMut(&RecordBatch),
) -> anyhow::Result<()> {
    let Some(record) = &series.index else { return Ok(()) };
    for batch in index::read_columns(&dir.join(&record.path), names)? {
        each(&batch?);
    }
    Ok(())
}

/// Counts of the list.
struct Report {
    documents: u64,
    duplicates: SetTotals,
    sets: BTreeMap<Option<String>, SetTotals>,
    fingerprint: String,
}

/// An input with its series: several where each set has its own.
struct ListedInput<'a> {
    head: DropListInput,
    /// Each with the number of its first document within the corpus.
    parts: Vec<(u64, &'a Series)>,
}

/// Writes the list: first the counts by input, taken from the bits, then the rows of one input
/// after the other.
fn write(args: &DuplicatesArgs, manifest: &Manifest, found: &Bits) -> anyhow::Result<Report> {
    let mut inputs: BTreeMap<&str, ListedInput> = BTreeMap::new();
    let mut first_document = 0;
    for series in &manifest.series {
        let (name, bytes) = (series.input.clone(), series.input_bytes);
        let head = DropListInput { name, bytes, row_count: 0 };
        let parts = Vec::new();
        let input = inputs.entry(&series.input).or_insert(ListedInput { head, parts });
        let end_document = first_document + series.totals.documents_written;
        let listed = (first_document..end_document).filter(|document| found.get(*document));
        input.head.row_count += listed.count() as u64;
        input.parts.push((first_document, series));
        first_document = end_document;
    }
    let head = DropListHead {
        corpus: manifest.fingerprint.clone(),
        selection: manifest.selection.clone(),
        inputs: inputs.values().map(|input| input.head.clone()).collect(),
    };
    let mut file = AtomicFile::create(&args.out)?;
    let mut hasher = blake3::Hasher::new();
    let mut append = |bytes: &[u8]| {
        hasher.update(bytes);
        file.append(bytes)
    };
    append(&head.encode())?;
    let mut sets = BTreeMap::new();
    for ListedInput { head, parts } in inputs.values() {
        let mut rows = Vec::new();
        for (first_document, series) in parts {
            listed_rows(&args.corpus, series, *first_document, found, &mut rows, &mut sets)?;
        }
        rows.sort_unstable();
        let (name, expected) = (&head.name, head.row_count);
        ensure!(
            rows.len() as u64 == expected,
            "the document indexes of {name} changed while they were read"
        );
        let bytes: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
        append(&bytes)?;
    }
    let hash = hasher.finalize();
    file.append(hash.as_bytes())?;
    file.publish()?;
    let mut duplicates = empty_set(None);
    sets.values().for_each(|set| add(&mut duplicates, set));
    let documents = manifest.totals.documents_written;
    Ok(Report { documents, duplicates, sets, fingerprint: hash.to_hex().to_string() })
}

/// Appends the rows of a series' marked documents, and adds them to the sums of their sets.
fn listed_rows(
    dir: &Path,
    series: &Series,
    first_document: u64,
    found: &Bits,
    rows: &mut Vec<u64>,
    sets: &mut BTreeMap<Option<String>, SetTotals>,
) -> anyhow::Result<()> {
    let names = [columns::ROW, columns::SET_NAME, columns::TEXT_BYTES, columns::TOKEN_COUNT];
    let mut document = first_document;
    for_each_batch(dir, series, &names, |batch| {
        let column = |name| batch.column_by_name(name).expect("the schema was checked");
        let number = |name, at| column(name).as_primitive::<UInt64Type>().value(at);
        let set_names = column(columns::SET_NAME).as_string::<i32>();
        for at in 0..batch.num_rows() {
            if found.get(document) {
                rows.push(number(columns::ROW, at));
                let set_name = set_names.is_valid(at).then(|| set_names.value(at).to_owned());
                let one = SetTotals {
                    set_name: set_name.clone(),
                    documents: 1,
                    text_bytes: number(columns::TEXT_BYTES, at),
                    tokens: number(columns::TOKEN_COUNT, at),
                };
                add(sets.entry(set_name.clone()).or_insert_with(|| empty_set(set_name)), &one);
            }
            document += 1;
        }
    })
}

fn empty_set(set_name: Option<String>) -> SetTotals {
    SetTotals { set_name, documents: 0, text_bytes: 0, tokens: 0 }
}

fn add(sum: &mut SetTotals, more: &SetTotals) {
    sum.documents += more.documents;
    sum.text_bytes += more.text_bytes;
    sum.tokens += more.tokens;
}

impl Report {
    fn print(&self, args: &DuplicatesArgs) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if args.json {
            let json = json!({
                "documents": self.documents,
                "duplicates": self.duplicates.documents,
                "text_bytes": self.duplicates.text_bytes,
                "tokens": self.duplicates.tokens,
                "sets": self.sets.values().collect::<Vec<_>>(),
                "fingerprint": self.fingerprint,
            });
            writeln!(out, "{json}")?;
            return Ok(());
        }
        writeln!(
            out,
            "{}: {} of {} documents have the text of an earlier one, {} bytes and {} tokens",
            args.out.display(),
            self.duplicates.documents,
            self.documents,
            self.duplicates.text_bytes,
            self.duplicates.tokens
        )?;
        for set in self.sets.values() {
            writeln!(
                out,
                "{:>12} documents, {:>16} bytes, {:>14} tokens of {}",
                set.documents,
                set.text_bytes,
                set.tokens,
                printable::line(set.set_name.as_deref().unwrap_or("(no set)"))
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the memory, the first of equal hashes stays and the others are marked.
    #[test]
    fn the_first_of_equal_hashes_stays_however_little_room_there_is() {
        let hash_of = |document: u64| {
            // A quarter of all documents have one text; the others repeat every 100.
            let text = if document % 4 == 1 { u64::MAX } else { document % 100 };
            *blake3::hash(&text.to_le_bytes()).as_bytes().first_chunk().unwrap()
        };
        let mut seen = std::collections::BTreeSet::new();
        let expected: Vec<bool> =
            (0..1000).map(|document| !seen.insert(hash_of(document))).collect();
        for room in [1, 2, 10, 80, 1000, 5000] {
            let mut found = Bits::new(1000);
            for pass in 0..3 {
                let mut entries = Entries::new(room);
                for document in 0..1000 {
                    let content_hash = hash_of(document);
                    if pass_of(&content_hash, 3) == pass {
                        entries.push(Entry { content_hash, document }, &mut found);
                    }
                }
                entries.compact(&mut found);
            }
            let found: Vec<bool> = (0..1000).map(|document| found.get(document)).collect();
            assert_eq!(found, expected, "room for {room}");
        }
    }

    #[test]
    fn passes_part_the_hashes_evenly_and_leave_none_out() {
        for pass_count in [1, 2, 3, 7] {
            let mut counts = vec![0; pass_count as usize];
            for byte in 0..=255u8 {
                counts[pass_of(&[byte; CONTENT_HASH_BYTES], pass_count) as usize] += 1;
            }
            let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(max - min <= 2, "{counts:?}");
        }
        assert_eq!(size_of::<Entry>(), 24);
    }
}
