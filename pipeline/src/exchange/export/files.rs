//! The files of an export for each target, and their bytes.
//!
//! **Invariant:** a file of ids holds every id of its shards in order, and the files beside it hold
//! every document of them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use indicatif::ProgressBar;
use schemas::shard::TokenBytes;

use crate::console::stop::{StopFlag, StoppedBefore};
use crate::corpus::Corpus;
use crate::disk::atomic::{AtomicFile, SealedFile, write_sealed};
use crate::disk::failpoint::failpoint;
use crate::exchange::export::spec::ExportSpec;
use crate::exchange::export::target::Target;
use crate::exchange::formats::{datatrove, megatron, olmo, raw_ids::CHUNK_TOKENS};

const TRAIN_NAME: &str = "train.bin";
/// The nanoGPT file for validation.
pub(crate) const VAL_NAME: &str = "val.bin";

/// A file of ids to write, with the files beside it.
pub(crate) struct Part<'a> {
    pub(crate) corpus: &'a Corpus,
    /// Positions in the stream.
    pub(crate) shards: Range<usize>,
    pub(crate) ids: PathBuf,
    /// In writing order.
    pub(crate) sides: Vec<PathBuf>,
}

/// The files to write.
pub(crate) fn parts<'a>(spec: &ExportSpec, corpora: &[&'a Corpus]) -> Vec<Part<'a>> {
    let file = |name: &str| spec.out.join(name);
    let train = corpora[0];
    let whole = 0..train.shard_count();
    match spec.to {
        Target::Megatron => vec![Part {
            corpus: train,
            shards: whole,
            ids: megatron::with_extension(&spec.out, ".bin"),
            sides: vec![megatron::with_extension(&spec.out, ".idx")],
        }],
        Target::Nanogpt => corpora
            .iter()
            .zip([TRAIN_NAME, VAL_NAME])
            .map(|(&corpus, name)| {
                let shards = 0..corpus.shard_count();
                Part { corpus, shards, ids: file(name), sides: Vec::new() }
            })
            .collect(),
        Target::Olmo | Target::Datatrove => {
            let named: Vec<(String, Range<usize>)> = if spec.file_per_shard {
                // Enough digits to sort the files in the order of the stream.
                let digits = whole.end.to_string().len().max(5);
                whole.map(|shard| (format!("{shard:0digits$}"), shard..shard + 1)).collect()
            } else {
                vec![("tokens".to_owned(), whole)]
            };
            let part = |(stem, shards): (String, Range<usize>)| {
                let (ids, sides) = if spec.to == Target::Olmo {
                    let ids = file(&format!("{stem}{}", olmo::IDS_END));
                    let csv = olmo::csv_path(&ids);
                    (ids, vec![csv])
                } else {
                    let name = format!("{stem}{}", datatrove::IDS_END);
                    let sides = datatrove::side_names(&name).map(|name| file(&name));
                    (file(&name), sides.to_vec())
                };
                Part { corpus: train, shards, ids, sides }
            };
            named.into_iter().map(part).collect()
        }
    }
}

impl Part<'_> {
    pub(crate) fn tokens(&self) -> u64 {
        self.shards.clone().map(|shard| self.corpus.shard_header(shard).token_count).sum()
    }

    pub(crate) fn documents(&self) -> u64 {
        self.shards.clone().map(|shard| self.corpus.shard_header(shard).document_count).sum()
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.ids).chain(&self.sides)
    }

    /// Calls `each` with the tokens of each document, counted from the part's first one.
    fn for_each_document(
        &self,
        mut each: impl FnMut(Range<u64>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut first = 0;
        for shard in self.shards.clone() {
            let shard_first = first;
            for &end in &self.corpus.shard_footer(shard)?.document_ends {
                let end = shard_first + end;
                each(first..end)?;
                first = end;
            }
        }
        Ok(())
    }
}

/// Values common to all parts.
pub(crate) struct Job<'a> {
    pub(crate) to: Target,
    pub(crate) token_bytes: TokenBytes,
    pub(crate) stop: &'a StopFlag,
    pub(crate) bar: ProgressBar,
}

impl Job<'_> {
    /// All files of a part, ids first, complete and not yet under their names.
    pub(crate) fn write(&mut self, part: &Part) -> anyhow::Result<Vec<SealedFile>> {
        let mut files = vec![self.write_ids(part)?];
        failpoint("export-ids");
        match (self.to, &part.sides[..]) {
            (Target::Megatron, [idx]) => files.push(self.write_idx(part, idx)?),
            (Target::Olmo, [csv]) => {
                let mut csv = olmo::CsvWriter::create(csv)?;
                part.for_each_document(|tokens| Ok(csv.push(tokens.start, tokens.end)?))?;
                files.push(csv.seal()?);
            }
            (Target::Datatrove, [index, metadata]) => {
                let mut file = AtomicFile::create(index)?;
                part.for_each_document(|tokens| Ok(file.append(&tokens.end.to_le_bytes())?))?;
                files.push(file.seal()?);
                let tokenizer = &part.corpus.manifest().tokenizer.fingerprint;
                let text = datatrove::metadata(tokenizer, self.token_bytes.get(), part.tokens());
                files.push(write_sealed(metadata, text.as_bytes())?);
            }
            (Target::Nanogpt, []) => {}
            (to, sides) => unreachable!("{} files beside the ids of {}", sides.len(), to.name()),
        }
        Ok(files)
    }

    fn write_ids(&self, part: &Part) -> anyhow::Result<SealedFile> {
        let mut file = AtomicFile::create(&part.ids)?;
        let mut bytes = Vec::new();
        for shard in part.shards.clone() {
            let tokens = part.corpus.shard_tokens(shard);
            for_each_chunk(part.corpus, tokens, self.stop, |_, ids| {
                bytes.clear();
                match self.token_bytes {
                    TokenBytes::Two => {
                        let two = |&id| u16::try_from(id).expect("ids were checked").to_le_bytes();
                        bytes.extend(ids.iter().flat_map(two));
                    }
                    TokenBytes::Four => bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes())),
                }
                self.bar.inc(bytes.len() as u64);
                Ok(file.append(&bytes)?)
            })?;
        }
        Ok(file.seal()?)
    }

    /// The index of `megatron`: lengths, pointers and borders, each over all documents.
    fn write_idx(&self, part: &Part, path: &Path) -> anyhow::Result<SealedFile> {
        let mut file = AtomicFile::create(path)?;
        file.append(&megatron::encode_header(self.token_bytes, part.documents()))?;
        part.for_each_document(|tokens| {
            let length = i32::try_from(tokens.end - tokens.start).expect("lengths were checked");
            Ok(file.append(&length.to_le_bytes())?)
        })?;
        part.for_each_document(|tokens| {
            let pointer = tokens.start * bytes_of(self.token_bytes);
            Ok(file.append(&pointer.to_le_bytes())?)
        })?;
        (0..=part.documents()).try_for_each(|border| file.append(&border.to_le_bytes()))?;
        Ok(file.seal()?)
    }
}

/// Calls `each` with successive chunks of the ids in `tokens`, and the position of each chunk's
/// first id.
pub(crate) fn for_each_chunk(
    corpus: &Corpus,
    tokens: Range<u64>,
    stop: &StopFlag,
    mut each: impl FnMut(u64, &[u32]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut ids = vec![0u32; CHUNK_TOKENS];
    let mut next = tokens.start;
    while next < tokens.end {
        ensure!(!stop.asked(), StoppedBefore);
        let count = (tokens.end - next).min(CHUNK_TOKENS as u64) as usize;
        corpus.read(next, &mut ids[..count])?;
        each(next, &ids[..count])?;
        next += count as u64;
    }
    Ok(())
}

/// The bytes of an id as a number.
pub(crate) fn bytes_of(token_bytes: TokenBytes) -> u64 {
    token_bytes.get().into()
}
