//! Encodes a chunk's documents, and decides on each of them.
//!
//! **Invariant:** a chunk's items are in the order of its rows, and their token counts add up to
//! its ids.

use crate::read::document::{Doc, Refusal};
use crate::read::documents::Chunk;
use crate::write::crew::long_documents::Splits;
use crate::write::job::{Encoded, InputPlan, Item, Job};
use crate::write::select::{Candidate, Decision, SelectInput, content_hash, split_words};
use crate::write::series::entry::DocEntry;
use encoder::{Session, TokenId, TokenizeError};

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
        let select = self.job.select.of_input(&plan.input.name);
        for doc in chunk.docs(self.job.columns) {
            match doc {
                // Documents already written, where the input has a single chain.
                Ok(doc) if doc.row < plan.first_row() => {}
                Err(refusal) if refusal.row < plan.first_row() => {}
                Ok(doc) => self.encode_document(plan, select, chunk, &doc, &mut encoded),
                Err(refusal) => encoded.items.push(Item::Refused(refusal)),
            }
        }
        encoded
    }

    fn encode_document(
        &mut self,
        plan: &InputPlan,
        select: SelectInput<'_>,
        chunk: &Chunk,
        doc: &Doc,
        encoded: &mut Encoded<I>,
    ) {
        let (row, text_bytes) = (doc.row, doc.text.len() as u64);
        let content_hash = content_hash(&doc.text);
        let set_name = doc.set_name.as_deref();
        let candidate = Candidate { row, text_bytes, set_name, content_hash: &content_hash };
        let decision = select.decide(candidate);
        let set_name = set_name.map(str::to_owned);
        let is_holdout = match decision {
            Decision::Write => false,
            Decision::WriteHoldout => true,
            Decision::Drop(reason) => {
                encoded.items.push(Item::Dropped { row, set_name, reason });
                return;
            }
        };
        let surrogates_replaced = doc.surrogates_replaced;
        let entry = DocEntry {
            row,
            set_name,
            text_bytes,
            content_hash: Some(content_hash),
            surrogates_replaced,
            is_last: true,
        };
        let chain = (is_holdout, entry.set_name.clone().filter(|_| self.job.by_set));
        if row <= plan.closed_row(&chain) {
            encoded.items.push(Item::Document { entry, is_holdout, token_count: 0 });
            return;
        }
        let (first_id, first_item) = (encoded.ids.len(), encoded.items.len());
        if let Err(reason) = self.encode_parts(&doc.text, entry, is_holdout, encoded) {
            encoded.ids.truncate(first_id);
            encoded.items.truncate(first_item);
            let byte_offset = chunk.byte_offset(row);
            encoded.items.push(Item::Refused(Refusal { row, byte_offset, reason }));
        }
    }

    /// Encodes the document described by `entry`, or the parts it is cut into.
    fn encode_parts(
        &mut self,
        text: &str,
        entry: DocEntry,
        is_holdout: bool,
        encoded: &mut Encoded<I>,
    ) -> Result<(), String> {
        let first_item = encoded.items.len();
        let (words, surrogates_replaced) =
            (self.job.select.split_words(), entry.surrogates_replaced);
        let mut push = |text: &str, entry: DocEntry| {
            let first = encoded.ids.len();
            self.encode_text(text, &mut encoded.ids).map_err(|err| err.to_string())?;
            let token_count = encoded.ids.len() - first;
            if token_count > 0 {
                encoded.items.push(Item::Document { entry, is_holdout, token_count });
            }
            Ok::<(), String>(())
        };
        match words {
            None => push(text, entry)?,
            Some(words) => {
                for part in split_words(text, words) {
                    let (row, set_name) = (entry.row, entry.set_name.clone());
                    let (text_bytes, content_hash) = (part.len() as u64, content_hash(part));
                    let entry = DocEntry {
                        row,
                        set_name,
                        text_bytes,
                        content_hash: Some(content_hash),
                        surrogates_replaced: 0,
                        is_last: false,
                    };
                    push(part, entry)?;
                }
            }
        }
        match encoded.items[first_item..].last_mut() {
            Some(Item::Document { entry, .. }) => {
                entry.is_last = true;
                entry.surrogates_replaced = surrogates_replaced;
            }
            _ if text.is_empty() => {
                return Err("an empty text without BOS or EOS has no tokens".to_owned());
            }
            _ => {
                return Err(format!(
                    "the tokenizer makes no ids of a text of {} bytes, and there is no BOS or EOS",
                    text.len()
                ));
            }
        }
        Ok(())
    }

    fn encode_text(&mut self, text: &str, ids: &mut Vec<I>) -> Result<(), TokenizeError> {
        match self.splits.cut(self.job.encoder, text) {
            Some(split) => self.splits.encode(&split, &mut self.session, ids),
            None => self.session.encode(text, ids),
        }
    }
}
