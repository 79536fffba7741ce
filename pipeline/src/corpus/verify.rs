//! Checks every byte of a corpus against its own description.
//!
//! **Invariant:** a corpus that passes has no byte a reader could fail on, and one error lists all
//! faults of a corpus that fails.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use schemas::build::{BUILD_FILE, SkippedDocument};
use schemas::manifest::{FileRecord, Manifest, Series, SetTotals, Shard};
use schemas::shard::{BLOCK_BYTES, HEADER_BYTES, ShardError, ShardFooter, ShardHeader, TokenBytes};

use crate::corpus::index;
use crate::corpus::set_totals::Sets;
use crate::corpus::{self, ShardPlace};
use crate::disk::source::{open_file, read_file};
use encoder::{Encoder, TOKENIZER_FILE, TokenizeError};

/// A corpus that differs from its description.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} does not match its own description: {}, first {}",
    dir.display(),
    count(faults),
    faults[0]
)]
pub struct VerifyError {
    /// The corpus.
    pub dir: PathBuf,
    /// All faults, in the order of the manifest; at least one.
    pub faults: Vec<String>,
}

fn count(faults: &[String]) -> String {
    if faults.len() == 1 { "1 fault".to_owned() } else { format!("{} faults", faults.len()) }
}

/// A manifest and the faults of its corpus.
pub struct Checked {
    /// As read.
    pub manifest: Manifest,
    /// Empty when the corpus is sound.
    pub faults: Vec<String>,
}

/// Checks a corpus. An unusable manifest is an error, everything else a fault.
pub fn check(dir: &Path) -> anyhow::Result<Checked> {
    let manifest = corpus::read_manifest(dir)?;
    let bar = ProgressBar::new(manifest.files().map(|file| file.bytes).sum());
    let mut check = Check { dir, manifest: &manifest, bar, faults: Vec::new() };
    check.tokenizer();
    let (mut first_token, mut first_document) = (0, 0);
    for (position, series) in (0..).zip(&manifest.series) {
        let series_index = series.series_index(position);
        let mut footers = Vec::new();
        for (shard_index, shard) in (0..).zip(&series.shards) {
            let place = ShardPlace { series_index, shard_index, first_token, first_document };
            footers.push(check.shard(shard, &place));
            first_token += shard.token_count;
            first_document += shard.document_count;
        }
        // Without all footers the rows cannot be compared; a fault has been recorded already.
        let footers: Option<Vec<ShardFooter>> = footers.into_iter().collect();
        check.index(series, footers.as_deref());
    }
    check.skipped();
    check.strangers();
    check.bar.finish_and_clear();
    let faults = check.faults;
    Ok(Checked { manifest, faults })
}

struct Check<'a> {
    dir: &'a Path,
    manifest: &'a Manifest,
    bar: ProgressBar,
    faults: Vec<String>,
}

impl Check<'_> {
    fn fault(&mut self, path: &str, what: impl std::fmt::Display) {
        self.faults.push(format!("{path}: {what}"));
    }

    /// Opens a file of the right length, or records the fault.
    fn open(&mut self, record: &FileRecord) -> Option<Hashed> {
        let opened = open_file(&self.dir.join(&record.path));
        let found = opened.and_then(|file| file.metadata().map(|metadata| (file, metadata.len())));
        match found {
            Ok((file, bytes)) => {
                if bytes != record.bytes {
                    let expected = record.bytes;
                    self.fault(
                        &record.path,
                        format!("is {bytes} bytes; the manifest says {expected}"),
                    );
                }
                Some(Hashed { file, bytes, hasher: blake3::Hasher::new(), bar: self.bar.clone() })
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                self.fault(&record.path, "is missing");
                None
            }
            Err(err) => {
                self.fault(&record.path, err);
                None
            }
        }
    }

    /// Reads the rest of a file and compares the hash of all.
    fn finish(&mut self, record: &FileRecord, mut hashed: Hashed) {
        if let Err(err) = io::copy(&mut hashed, &mut io::sink()) {
            return self.fault(&record.path, err);
        }
        let found = hashed.hasher.finalize().to_hex();
        if found.as_str() != record.blake3 {
            self.fault(
                &record.path,
                format!("has BLAKE3 {found}; the manifest says {}", record.blake3),
            );
        }
    }

    fn file(&mut self, record: &FileRecord) {
        if let Some(hashed) = self.open(record) {
            self.finish(record, hashed);
        }
    }

    fn tokenizer(&mut self) {
        let record = &self.manifest.tokenizer;
        let fault_count = self.faults.len();
        for file in &record.files {
            self.file(file);
        }
        let Some(file) = record.files.first().filter(|file| file.path.ends_with(TOKENIZER_FILE))
        else {
            return self.fault("manifest.json", format!("lists no {TOKENIZER_FILE}"));
        };
        if file.blake3 != record.fingerprint {
            self.fault(
                &file.path,
                format!("is not the tokenizer of the ids, which has BLAKE3 {}", record.fingerprint),
            );
        }
        if self.faults.len() > fault_count {
            return; // whatever a fault makes of the data
        }
        match Encoder::of_corpus(self.dir, record) {
            Ok(_) => {}
            Err(TokenizeError::Differs { what, found, expected, .. }) => {
                self.fault(&file.path, format!("{what} is {found}; the manifest says {expected}"));
            }
            Err(err) => self.fault(&file.path, format!("{:#}", anyhow::Error::new(err))),
        }
    }

    /// Checks a shard in one pass and returns its footer if it can be trusted.
    fn shard(&mut self, shard: &Shard, place: &ShardPlace) -> Option<ShardFooter> {
        let mut hashed = self.open(&shard.file)?;
        let footer = match self.shard_parts(shard, place, &mut hashed) {
            Ok(footer) => footer,
            Err(err) => {
                self.fault(&shard.file.path, format!("{err:#}"));
                None
            }
        };
        self.finish(&shard.file, hashed);
        footer
    }

    fn shard_parts(
        &mut self,
        shard: &Shard,
        place: &ShardPlace,
        hashed: &mut Hashed,
    ) -> anyhow::Result<Option<ShardFooter>> {
        let mut head = Vec::new();
        Read::by_ref(hashed).take(HEADER_BYTES).read_to_end(&mut head)?;
        let header = ShardHeader::decode(&head, hashed.bytes)?;
        let path = Path::new(&shard.file.path);
        if let Err(err) = corpus::check_header(path, &header, self.manifest, shard, place) {
            self.faults.push(err.to_string());
        }
        let payload_bytes = header.payload_bytes().expect("the header's sizes were checked");
        let mut block_crcs = Vec::new();
        let mut block = vec![0; BLOCK_BYTES as usize];
        let mut done_bytes = 0;
        while done_bytes < payload_bytes {
            let block_bytes = (payload_bytes - done_bytes).min(BLOCK_BYTES) as usize;
            hashed.read_exact(&mut block[..block_bytes])?;
            block_crcs.push(crc32c::crc32c(&block[..block_bytes]));
            let first_token = done_bytes / u64::from(header.token_bytes.get());
            if let Err(err) = check_ids(&block[..block_bytes], first_token, &header) {
                self.fault(&shard.file.path, err);
            }
            done_bytes += block_bytes as u64;
        }
        let mut footer = Vec::new();
        Read::by_ref(hashed).read_to_end(&mut footer)?;
        let footer = ShardFooter::decode(&footer, &header)?;
        for (block_index, (found, expected)) in
            (0u64..).zip(block_crcs.into_iter().zip(&footer.block_crcs))
        {
            if found != *expected {
                let first_byte = HEADER_BYTES + block_index * BLOCK_BYTES;
                let end_byte = (first_byte + BLOCK_BYTES).min(HEADER_BYTES + payload_bytes);
                let expected = *expected;
                let err = ShardError::Block { block_index, first_byte, end_byte, found, expected };
                self.fault(&shard.file.path, err);
            }
        }
        Ok(Some(footer))
    }

    /// Compares a series' index with its shards and sums. Stops at the first wrong row: the rest
    /// would be wrong too.
    fn index(&mut self, series: &Series, footers: Option<&[ShardFooter]>) {
        let Some(record) = &series.index else {
            if !series.shards.is_empty() {
                self.fault("manifest.json", format!("lists no index for {}", series.input));
            }
            return;
        };
        self.file(record);
        let path = self.dir.join(&record.path);
        let Some(footers) = footers.filter(|_| path.exists()) else { return };
        let ends = (0u64..).zip(footers).flat_map(|(shard, footer)| {
            let starts = std::iter::once(0).chain(footer.document_ends.iter().copied());
            let spans = starts.zip(footer.document_ends.iter().copied());
            spans.map(move |(first, end)| (shard, first, end - first))
        });
        if let Err(err) = check_rows(&path, series, self.manifest.imported.is_some(), ends) {
            self.fault(&record.path, format!("{err:#}"));
        }
    }

    fn skipped(&mut self) {
        let expected = self.manifest.totals.documents_skipped;
        let Some(record) = &self.manifest.skipped else {
            if expected > 0 {
                self.fault(
                    "manifest.json",
                    format!("counts {expected} skipped documents, but lists none"),
                );
            }
            return;
        };
        self.file(record);
        let Ok(text) = read_file(&self.dir.join(&record.path)) else { return };
        let text = String::from_utf8_lossy(&text); // invalid UTF-8 is invalid JSON, too
        let bad_line = (1..).zip(text.lines()).find_map(|(line, text)| {
            serde_json::from_str::<SkippedDocument>(text)
                .err()
                .map(|err| format!("line {line}: {err}"))
        });
        if let Some(bad_line) = bad_line {
            self.fault(&record.path, bad_line);
        }
        let found = text.lines().count() as u64;
        if found != expected {
            self.fault(
                &record.path,
                format!("lists {found} documents; the manifest says {expected}"),
            );
        }
    }

    /// Looks for files a reader going by names would mistake for a part of this corpus.
    fn strangers(&mut self) {
        let Ok(entries) = std::fs::read_dir(self.dir) else { return };
        let mut names: Vec<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        for name in names {
            let is_listed = self.manifest.files().any(|file| file.path == name);
            if !is_listed && (name.ends_with(".tok") || name.ends_with(".index.parquet")) {
                self.fault(&name, "is not part of this corpus; move it away");
            } else if name == BUILD_FILE {
                self.fault(
                    &name,
                    "a run was cut off just before its end; run the same command again",
                );
            }
        }
    }
}

fn check_ids(block: &[u8], first_token: u64, header: &ShardHeader) -> Result<(), ShardError> {
    let vocab_size = header.vocab_size;
    let error =
        |(index, id): (u64, u32)| ShardError::Id { token_index: index, found: id, vocab_size };
    let is_outside = |&(_, id): &(u64, u32)| u64::from(id) >= vocab_size;
    let found = match header.token_bytes {
        TokenBytes::Two => {
            let ids = block.as_chunks::<2>().0.iter().map(|id| u16::from_le_bytes(*id).into());
            (first_token..).zip(ids).find(is_outside)
        }
        TokenBytes::Four => {
            let ids = block.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id));
            (first_token..).zip(ids).find(is_outside)
        }
    };
    found.map_or(Ok(()), |found| Err(error(found)))
}

/// Compares each row with the shards' documents (shard, first token, tokens), and the rows' sums
/// with the manifest's.
fn check_rows(
    path: &Path,
    series: &Series,
    is_imported: bool,
    mut documents: impl Iterator<Item = (u64, u64, u64)>,
) -> anyhow::Result<()> {
    let mut sets = Sets::default();
    let mut last_row = 0;
    let is_cut = series.totals.parts_added > 0;
    let mut row_count = 0;
    for (document, row) in (0u64..).zip(index::read(path, 0, u64::MAX)?) {
        let row = row?;
        let Some((shard, first_token, token_count)) = documents.next() else {
            anyhow::bail!("has more rows than the {document} documents of the shards");
        };
        for (field, found, expected) in [
            ("document", row.document, document),
            ("shard", row.shard, shard),
            ("first_token", row.first_token, first_token),
            ("token_count", row.token_count, token_count),
        ] {
            anyhow::ensure!(
                found == expected,
                "{field} of document {document} is {found}; the shards say {expected}"
            );
        }
        anyhow::ensure!(
            row.input == series.input && (row.row > last_row || row.row == last_row && is_cut),
            "document {document} is from {} row {}; expected a row of {} after row {last_row}",
            row.input,
            row.row,
            series.input
        );
        let knows_text = row.text_bytes.is_some() && row.content_hash.is_some();
        anyhow::ensure!(
            knows_text != is_imported && row.text_bytes.is_some() == row.content_hash.is_some(),
            "text_bytes and content_hash of document {document} are {}; \
             the manifest says its text is {}",
            if row.text_bytes.is_some() { "given" } else { "null" },
            if is_imported { "not known" } else { "known" }
        );
        last_row = row.row;
        row_count = document + 1;
        let (text_bytes, tokens) = (row.text_bytes.unwrap_or(0), row.token_count);
        sets.add_totals(&SetTotals { set_name: row.set_name, documents: 1, text_bytes, tokens });
    }
    let expected = series.totals.shard_documents().expect("a manifest adds up");
    anyhow::ensure!(
        row_count == expected,
        "has {row_count} rows; the shards have {expected} documents"
    );
    let sets = sets.into_totals();
    anyhow::ensure!(
        sets == series.sets,
        "sums by set are {sets:?}; the manifest says {:?}",
        series.sets
    );
    Ok(())
}

/// A file, hashed while it is read.
struct Hashed {
    file: File,
    bytes: u64,
    hasher: blake3::Hasher,
    bar: ProgressBar,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bar.inc(count as u64);
        Ok(count)
    }
}
