//! Routes encoded documents to their series.
//!
//! A *chain* is the documents of a series: those of an input, or of one set of it, in the corpus or
//! in its hold-out.
//!
//! **Invariant:** every document read is counted in exactly one chain of the corpus.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use schemas::manifest::BySet;

use crate::read::error::DocsError;
use crate::write::folder::{HOLDOUT_FOLDER, SERIES_MAX};
use crate::write::job::{BASE, Chain, Done, Encoded, InputPlan, Item, Job};
use crate::write::series::close::{ClosedInput, ClosedSeries, Closer, Closing};
use crate::write::series::{SeriesSpec, SeriesWriter};
use encoder::TokenId;

/// Writes the inputs one after the other.
pub(crate) struct Writer<'a> {
    job: &'a Job<'a>,
    closer: Closer<'a>,
    current: Option<Current>,
}

/// The input being written.
struct Current {
    plan: Arc<InputPlan>,
    chains: BTreeMap<Chain, SeriesWriter>,
    /// Numbers of chains in the corpus and in the hold-out, from which chains are numbered.
    chain_counts: [u64; 2],
    file_offset: u64,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(job: &'a Job<'a>, closer: Closer<'a>) -> Writer<'a> {
        Writer { job, closer, current: None }
    }

    /// Writes the next work; returns a buffer for reuse.
    pub(crate) fn write<I: TokenId>(&mut self, done: Done<I>) -> anyhow::Result<Option<Vec<I>>> {
        match done {
            Done::Begin(plan) => {
                let chains = BTreeMap::new();
                let mut current = Current { plan, chains, chain_counts: [0; 2], file_offset: 0 };
                current.chain(self.job, BASE)?;
                // Without sets a series has its input's position, also in the hold-out.
                if self.job.select.has_holdout() && !self.job.by_set {
                    current.chain(self.job, (true, None))?;
                }
                self.current = Some(current);
            }
            Done::Chunk { encoded, file_offset, .. } => {
                let current = self.current.as_mut().expect("an input was begun");
                current.write(self.job, &mut self.closer, &encoded)?;
                self.job.progress.add_bytes(file_offset.saturating_sub(current.file_offset));
                current.file_offset = current.file_offset.max(file_offset);
                let mut ids = encoded.ids;
                ids.clear();
                return Ok(Some(ids));
            }
            Done::End => {
                let current = self.current.take().expect("an input was begun");
                let rest = current.plan.input.bytes.saturating_sub(current.file_offset);
                current.finish(self.job, &mut self.closer)?;
                self.job.progress.add_bytes(rest);
            }
            Done::Failed(err) => return Err(err.into()),
        }
        Ok(None)
    }
}

impl Current {
    fn write<I: TokenId>(
        &mut self,
        job: &Job,
        closer: &mut Closer,
        encoded: &Encoded<I>,
    ) -> anyhow::Result<()> {
        let mut ids = encoded.ids.as_slice();
        for item in &encoded.items {
            match item {
                Item::Document { entry, is_holdout, token_count } => {
                    let (document_ids, rest) = ids.split_at(*token_count);
                    ids = rest;
                    let set = entry.set_name.clone().filter(|_| job.by_set);
                    if *is_holdout && entry.is_last {
                        self.chain(job, (false, set.clone()))?.hold_out(entry.row);
                    }
                    let part = self.chain(job, (*is_holdout, set))?.push(entry, document_ids)?;
                    part.map_or(Ok(()), |part| closer.close(Closing::Part(Box::new(part))))?;
                    job.progress.add_document(entry.text_bytes, *token_count as u64);
                }
                Item::Dropped { row, set_name, reason } => {
                    let set = set_name.clone().filter(|_| job.by_set);
                    self.chain(job, (false, set))?.drop_document(*row, *reason);
                }
                Item::Refused(refusal) if job.lists_skipped => {
                    self.chain(job, BASE)?.skip(refusal)?;
                }
                Item::Refused(refusal) => {
                    let path = self.plan.input.path.clone();
                    let err = DocsError::Document { path, refusal: refusal.clone() };
                    return Err(err)
                        .context("stopped (--on-error skip lists such documents and continues)");
                }
            }
        }
        Ok(())
    }

    /// The chain's writer, begun with its first document.
    fn chain(&mut self, job: &Job, chain: Chain) -> anyhow::Result<&mut SeriesWriter> {
        if !self.chains.contains_key(&chain) {
            let writer = self.begin(job, &chain)?;
            self.chains.insert(chain.clone(), writer);
        }
        Ok(self.chains.get_mut(&chain).expect("it was begun"))
    }

    fn begin(&mut self, job: &Job, chain: &Chain) -> anyhow::Result<SeriesWriter> {
        let (is_holdout, set_name) = chain;
        let plan = &self.plan;
        let count = &mut self.chain_counts[usize::from(*is_holdout)];
        let (series_index, by_set) = if job.by_set {
            anyhow::ensure!(
                *count < SERIES_MAX,
                "{} has more than {} sets, too many for a series each (--by-set); leave some out \
                 with --drop-set, or divide the file",
                plan.input.path.display(),
                SERIES_MAX - 1
            );
            let series_index = plan.position * SERIES_MAX + *count;
            (series_index, Some(BySet { set_name: set_name.clone(), series_index }))
        } else {
            (plan.position, None)
        };
        *count += 1;
        let dir = if *is_holdout { job.dir.join(HOLDOUT_FOLDER) } else { job.dir.to_owned() };
        let kept = plan.kept.get(chain).map_or(&[][..], Vec::as_slice);
        let spec = SeriesSpec {
            dir,
            is_holdout: *is_holdout,
            vocab_size: job.encoder.vocab_size(),
            tokenizer: *job.encoder.fingerprint().as_bytes(),
            series_index,
            by_set,
            shard_bytes: job.shard_bytes,
            input: plan.input.clone(),
            options: job.options.clone(),
            index_schema: schemas::index::schema(),
        };
        Ok(SeriesWriter::new(spec, kept))
    }

    fn finish(self, job: &Job, closer: &mut Closer) -> anyhow::Result<()> {
        let mut series = Vec::new();
        for (chain, writer) in self.chains {
            let (last, tail) = writer.finish()?;
            let kept = self.plan.kept.get(&chain).cloned().unwrap_or_default();
            series.push(ClosedSeries { kept, last, tail });
        }
        series.sort_by_key(|ClosedSeries { tail, .. }| {
            (tail.spec.is_holdout, tail.spec.series_index)
        });
        closer.close(Closing::Input(ClosedInput {
            position: self.plan.position,
            dir: job.dir.to_owned(),
            input: self.plan.input.clone(),
            options: job.options.clone(),
            series,
        }))
    }
}
