//! A job of writing, and the values passed between the threads of one.
//!
//! **Invariant:** plain values: the holder of one needs no other thread.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Once};

use schemas::build::PartRecord;
use schemas::selection::DropReason;

use crate::console::progress::Progress;
use crate::console::stop::StopFlag;
use crate::read::document::{Columns, Refusal};
use crate::read::documents::Chunk;
use crate::read::error::DocsError;
use crate::read::inputs::Input;
use crate::write::select::Select;
use crate::write::series::entry::DocEntry;
use encoder::Encoder;

/// The corpus to write, and how.
pub(crate) struct Job<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) encoder: &'a Encoder,
    pub(crate) columns: &'a Columns,
    /// Whether an invalid document is listed; otherwise it ends the run.
    pub(crate) lists_skipped: bool,
    pub(crate) shard_bytes: u64,
    pub(crate) by_set: bool,
    /// Which documents are written, and where.
    pub(crate) select: &'a Select,
    /// Fingerprint of the options.
    pub(crate) options: String,
    pub(crate) progress: &'a Progress,
    pub(crate) stop: &'a StopFlag,
    /// Reports once which encoder is used; this may still be unknown when the job begins.
    pub(crate) encoder_is_known: Once,
}

/// A chain of documents of an input: whether they are held out, and their set (also `None` where
/// sets are not distinguished).
pub(crate) type Chain = (bool, Option<String>);

/// The chain with the skipped documents.
pub(crate) const BASE: Chain = (false, None);

/// An input to write.
pub(crate) struct InputPlan {
    /// Position among all inputs.
    pub(crate) position: u64,
    pub(crate) input: Input,
    /// Its closed parts from an interrupted run.
    pub(crate) kept: BTreeMap<Chain, Vec<PartRecord>>,
    /// Whether all documents belong to one chain.
    pub(crate) is_single: bool,
}

impl InputPlan {
    /// The row to begin reading at, from 1. With several chains this is the start: there may be a
    /// chain without a closed part.
    pub(crate) fn first_row(&self) -> u64 {
        if self.is_single { self.closed_row(&BASE) + 1 } else { 1 }
    }

    /// The last row of the chain in a closed part.
    pub(crate) fn closed_row(&self, chain: &Chain) -> u64 {
        let last = self.kept.get(chain).and_then(|parts| parts.last());
        last.map_or(0, |part| part.last_row)
    }
}

/// A piece of work.
pub(crate) enum Work {
    Begin(Arc<InputPlan>),
    Chunk { chunk: Chunk, plan: Arc<InputPlan>, file_offset: u64 },
    End,
    Failed(DocsError),
}

impl Work {
    /// Bytes of its texts.
    pub(crate) fn text_bytes(&self) -> usize {
        if let Work::Chunk { chunk, .. } = self { chunk.text_bytes() } else { 0 }
    }
}

/// A chunk's documents as ids.
pub(crate) struct Encoded<I> {
    pub(crate) ids: Vec<I>,
    pub(crate) items: Vec<Item>,
}

/// The result for a document.
pub(crate) enum Item {
    /// It is written; without tokens if it was written before.
    Document { entry: DocEntry, is_holdout: bool, token_count: usize },
    /// It is counted.
    Dropped { row: u64, set_name: Option<String>, reason: DropReason },
    /// It is invalid.
    Refused(Refusal),
}

/// Work ready for the writer.
pub(crate) enum Done<I> {
    Begin(Arc<InputPlan>),
    Chunk { encoded: Encoded<I>, file_offset: u64, bytes: usize },
    End,
    Failed(DocsError),
}
