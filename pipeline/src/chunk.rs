//! The stage's middle: a chunk to the ids of its documents, and what becomes of each.
//!
//! **Invariant:** a chunk's items stand in the order of its rows, and their token counts add up to its ids.

use schemas::index::CONTENT_HASH_BYTES;
use schemas::selection::DropReason;

use crate::docs::{Chunk, Doc, Refusal};
use crate::select::Decision;
use crate::series::DocEntry;
use crate::split::Splits;
use crate::stage::Job;
use crate::tokenize::{Session, TokenId, TokenizeError};
use crate::write::InputPlan;

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

/// One thread's encoder.
pub(crate) struct ThreadEncoder<'a, I: TokenId> {
    job: &'a Job<'a>,
    splits: &'a Splits<I>,
    pub(crate) session: Session<'a, I>,
}

impl<'a, I: TokenId> ThreadEncoder<'a, I> {
    pub(crate) fn new(job: &'a Job<'a>, splits: &'a Splits<I>) -> ThreadEncoder<'a, I> {
        ThreadEncoder { job, splits, session: job.encoder.session() }
    }

    /// Encodes a chunk's documents into `ids`, which is empty.
    pub(crate) fn encode(&mut self, plan: &InputPlan, chunk: &Chunk, ids: Vec<I>) -> Encoded<I> {
        let mut encoded = Encoded { ids, items: Vec::new() };
        for doc in chunk.docs(self.job.columns) {
            match doc {
                // Of a single chain that what was read is behind.
                Ok(doc) if doc.row < plan.first_row() => {}
                Err(refusal) if refusal.row < plan.first_row() => {}
                Ok(doc) => self.encode_document(plan, chunk, &doc, &mut encoded),
                Err(refusal) => encoded.items.push(Item::Refused(refusal)),
            }
        }
        encoded
    }

    fn encode_document(
        &mut self,
        plan: &InputPlan,
        chunk: &Chunk,
        doc: &Doc,
        encoded: &mut Encoded<I>,
    ) {
        let row = doc.row;
        let hash = blake3::hash(doc.text.as_bytes());
        let content_hash = *hash.as_bytes().first_chunk::<CONTENT_HASH_BYTES>().expect("32 bytes");
        let set_name = doc.set_name.as_deref();
        let decision = self.job.decide(&doc.text, set_name, &content_hash);
        let set_name = set_name.map(str::to_owned);
        let is_holdout = match decision {
            Decision::Write => false,
            Decision::WriteHoldout => true,
            Decision::Drop(reason) => {
                encoded.items.push(Item::Dropped { row, set_name, reason });
                return;
            }
        };
        let first = encoded.ids.len();
        let chain = (is_holdout, set_name.clone().filter(|_| self.job.by_set));
        if row > plan.closed_row(&chain) {
            let refusal = |reason| {
                let byte_offset = chunk.byte_offset(row);
                Item::Refused(Refusal { row, byte_offset, reason })
            };
            if let Err(err) = self.encode_text(&doc.text, &mut encoded.ids) {
                encoded.items.push(refusal(err.to_string()));
                return;
            }
            if encoded.ids.len() == first {
                let reason = "an empty text without BOS or EOS has no tokens";
                encoded.items.push(refusal(reason.to_owned()));
                return;
            }
        }
        let text_bytes = doc.text.len() as u64;
        let entry = DocEntry { row, set_name, text_bytes, content_hash, is_last: true };
        let token_count = encoded.ids.len() - first;
        encoded.items.push(Item::Document { entry, is_holdout, token_count });
    }

    fn encode_text(&mut self, text: &str, ids: &mut Vec<I>) -> Result<(), TokenizeError> {
        match self.splits.cut(self.job.encoder, text) {
            Some(split) => self.splits.encode(&split, &mut self.session, ids),
            None => self.session.encode(text, ids),
        }
    }
}
