//! What is written, and what passes between the threads that write it.
//!
//! **Invariant:** plain values: whoever holds one needs no other thread.

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

/// What is written, and how.
pub(crate) struct Job<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) encoder: &'a Encoder,
    pub(crate) columns: &'a Columns,
    /// Whether a document that is none is listed; else it ends the run.
    pub(crate) lists_skipped: bool,
    pub(crate) shard_bytes: u64,
    pub(crate) by_set: bool,
    /// Which documents are written, and where.
    pub(crate) select: &'a Select,
    /// Fingerprint of the options.
    pub(crate) options: String,
    pub(crate) progress: &'a Progress,
    pub(crate) stop: &'a StopFlag,
    /// Whether it was said which encoder it is, which may not be known before this begins.
    pub(crate) encoder_is_known: Once,
}

/// Which documents of an input: held out or not, of which set (`None` as well where sets are not
/// told apart).
pub(crate) type Chain = (bool, Option<String>);

/// The chain that also has what was skipped.
pub(crate) const BASE: Chain = (false, None);

/// An input that is to be written.
pub(crate) struct InputPlan {
    /// Among all inputs.
    pub(crate) position: u64,
    pub(crate) input: Input,
    /// What there is of it.
    pub(crate) kept: BTreeMap<Chain, Vec<PartRecord>>,
    /// Whether all documents are of one chain.
    pub(crate) is_single: bool,
}

impl InputPlan {
    /// Where reading begins, from 1. With several chains at the start: there may be one of which
    /// nothing was closed.
    pub(crate) fn first_row(&self) -> u64 {
        if self.is_single { self.closed_row(&BASE) + 1 } else { 1 }
    }

    /// Documents of the chain up to this row are there already.
    pub(crate) fn closed_row(&self, chain: &Chain) -> u64 {
        let last = self.kept.get(chain).and_then(|parts| parts.last());
        last.map_or(0, |part| part.last_row)
    }
}

/// What there is to do.
pub(crate) enum Work {
    Begin(Arc<InputPlan>),
    Chunk { chunk: Chunk, plan: Arc<InputPlan>, file_offset: u64 },
    End,
    Failed(DocsError),
}

impl Work {
    /// Bytes of the texts that it holds.
    pub(crate) fn text_bytes(&self) -> usize {
        if let Work::Chunk { chunk, .. } = self { chunk.text_bytes() } else { 0 }
    }
}

/// A chunk's documents as ids.
pub(crate) struct Encoded<I> {
    pub(crate) ids: Vec<I>,
    pub(crate) items: Vec<Item>,
}

/// What becomes of a document.
pub(crate) enum Item {
    /// It is written; without tokens where it already was.
    Document { entry: DocEntry, is_holdout: bool, token_count: usize },
    /// It is counted.
    Dropped { row: u64, set_name: Option<String>, reason: DropReason },
    /// It is none.
    Refused(Refusal),
}

/// What the writer takes.
pub(crate) enum Done<I> {
    Begin(Arc<InputPlan>),
    Chunk { encoded: Encoded<I>, file_offset: u64, bytes: usize },
    End,
    Failed(DocsError),
}
