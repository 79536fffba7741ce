//! Finds the ends of documents in foreign ids, and writes the documents into a series of shards.
//!
//! A row is a document of the foreign file, counted from 1. A document without a token, which a
//! shard cannot hold, is listed as skipped.
//!
//! **Invariant:** every written document begins with BOS and ends with EOS where the policy has
//! them, and memory does not grow with the length of a document.

use schemas::manifest::SpecialToken;

use crate::exchange::ForeignError;
use crate::exchange::formats::raw_ids::{CHUNK_TOKENS, IdFile};
use crate::exchange::formats::{megatron, olmo};
use crate::read::document::Refusal;
use crate::write::series::entry::DocEntry;
use crate::write::series::{ClosedPart, SeriesWriter};
use encoder::describe;

/// The tokens around the documents of imported ids, as declared by the user.
#[derive(Clone, Debug, Default)]
pub(crate) struct Around {
    pub(crate) bos: Option<SpecialToken>,
    pub(crate) eos: Option<SpecialToken>,
}

/// The source of document ends.
pub(crate) enum Ends {
    Megatron(megatron::DocumentEnds),
    Olmo(olmo::DocumentEnds),
    /// The ids themselves, by the tokens around documents.
    Ids,
}

impl Ends {
    fn next_end(&mut self) -> Result<Option<u64>, ForeignError> {
        match self {
            Ends::Megatron(ends) => ends.next_end(),
            Ends::Olmo(ends) => ends.next_end(),
            Ends::Ids => Ok(None),
        }
    }
}

/// Receives the complete parts of a series.
pub(crate) type OnPart<'a> = dyn FnMut(ClosedPart) -> anyhow::Result<()> + 'a;

/// A foreign file on its way into a series.
pub(crate) struct Documents<'a> {
    pub(crate) path: &'a std::path::Path,
    pub(crate) ids: IdFile,
    pub(crate) token_count: u64,
    pub(crate) around: &'a Around,
    pub(crate) writer: SeriesWriter,
    pub(crate) on_part: &'a mut OnPart<'a>,
    /// Called for each chunk with its tokens; an error ends the reading.
    pub(crate) on_tokens: &'a mut (dyn FnMut(u64) -> anyhow::Result<()> + 'a),
    /// State of the current document.
    pub(crate) current: Current,
    pub(crate) written: Written,
}

/// The document being read.
#[derive(Default)]
pub(crate) struct Current {
    row: u64,
    first_token: u64,
    next_token: u64,
    first_id: u32,
    last_id: u32,
}

/// The tokens at the beginnings and ends of documents.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    pub(crate) documents: u64,
    /// Documents beginning with a BOS although none was declared.
    pub(crate) unsaid_bos: u64,
    /// Documents ending with an EOS although none was declared.
    pub(crate) unsaid_eos: u64,
}

impl Documents<'_> {
    /// Reads the file to its end; returns the writer, ready for [`SeriesWriter::finish`]. `unsaid`
    /// holds tokens of the vocabulary left out by the policy.
    pub(crate) fn read(
        mut self,
        mut ends: Ends,
        unsaid: &Around,
    ) -> anyhow::Result<(SeriesWriter, Written)> {
        self.current.row = 1;
        let mut chunk = Vec::new();
        if let Ends::Ids = ends {
            let mut before = None;
            while self.current.next_token < self.token_count {
                self.next_chunk(self.token_count, &mut chunk)?;
                let mut rest = chunk.as_slice();
                while let Some(at) = self.around.first_border(before, rest) {
                    let (now, later) = rest.split_at(at);
                    self.append(now)?;
                    self.end(unsaid)?;
                    // The border was taken.
                    before = None;
                    rest = later;
                }
                self.append(rest)?;
                before = chunk.last().copied();
            }
            self.end(unsaid)?;
            return Ok((self.writer, self.written));
        }
        while let Some(end) = ends.next_end()? {
            if end == self.current.first_token {
                self.skip()?;
                continue;
            }
            while self.current.next_token < end {
                self.next_chunk(end, &mut chunk)?;
                self.append(&chunk)?;
            }
            self.end(unsaid)?;
        }
        Ok((self.writer, self.written))
    }

    /// Reads the next ids, all before token `end`.
    fn next_chunk(&mut self, end: u64, chunk: &mut Vec<u32>) -> anyhow::Result<()> {
        let count = (end - self.current.next_token).min(CHUNK_TOKENS as u64);
        (self.on_tokens)(count)?;
        Ok(self.ids.read(count as usize, chunk)?)
    }

    /// Adds ids to the current document.
    fn append(&mut self, ids: &[u32]) -> anyhow::Result<()> {
        let (Some(&first_id), Some(&last_id)) = (ids.first(), ids.last()) else { return Ok(()) };
        if self.current.next_token == self.current.first_token {
            self.current.first_id = first_id;
        }
        self.current.last_id = last_id;
        self.current.next_token += ids.len() as u64;
        self.writer.append(self.current.row, ids)
    }

    /// Ends the current document, which has a token.
    fn end(&mut self, unsaid: &Around) -> anyhow::Result<()> {
        let Current { row, first_token, next_token, first_id, last_id } = self.current;
        let differs = |said: &Option<SpecialToken>, found| {
            said.as_ref().filter(|token| token.id != found).map(|token| describe(Some(token)))
        };
        for (does, option, found, token, expected) in [
            ("begins", "--bos", first_id, first_token, differs(&self.around.bos, first_id)),
            ("ends", "--eos", last_id, next_token - 1, differs(&self.around.eos, last_id)),
        ] {
            if let Some(expected) = expected {
                let (path, offset) = (self.path.to_owned(), self.ids.offset(token));
                let document = row;
                return Err(ForeignError::Policy {
                    path,
                    document,
                    does,
                    found,
                    offset,
                    option,
                    expected,
                }
                .into());
            }
        }
        let is = |unsaid: &Option<SpecialToken>, found| {
            unsaid.as_ref().is_some_and(|token| token.id == found)
        };
        self.written.documents += 1;
        self.written.unsaid_bos += u64::from(is(&unsaid.bos, first_id));
        self.written.unsaid_eos += u64::from(is(&unsaid.eos, last_id));
        let entry = DocEntry {
            row,
            set_name: None,
            text_bytes: 0,
            content_hash: None,
            surrogates_replaced: 0,
            is_last: true,
        };
        if let Some(part) = self.writer.end_document(&entry)? {
            (self.on_part)(part)?;
        }
        self.current.row += 1;
        self.current.first_token = next_token;
        Ok(())
    }

    /// Lists a document without a token.
    fn skip(&mut self) -> anyhow::Result<()> {
        let Current { row, first_token, .. } = self.current;
        let byte_offset = Some(self.ids.offset(first_token));
        let reason = "it has no tokens".to_owned();
        self.writer.skip(&Refusal { row, byte_offset, reason })?;
        self.current.row += 1;
        Ok(())
    }
}

impl Around {
    /// The position in `ids` of the first document beginning there. `before` is the id before them,
    /// if it belongs to the same document.
    fn first_border(&self, before: Option<u32>, ids: &[u32]) -> Option<usize> {
        let is = |token: &Option<SpecialToken>, id: u32| {
            token.as_ref().is_none_or(|token| token.id == id)
        };
        if self.bos.is_none() && self.eos.is_none() {
            return None;
        }
        let pairs = ids.iter().scan(before, |before, &id| Some((before.replace(id), id)));
        pairs.enumerate().find_map(|(at, (before, id))| {
            let before = before?;
            (is(&self.eos, before) && is(&self.bos, id)).then_some(at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32) -> Option<SpecialToken> {
        Some(SpecialToken { token: format!("<{id}>"), id })
    }

    #[test]
    fn a_border_is_where_eos_meets_bos_or_by_one_of_them() {
        let eos = Around { bos: None, eos: token(2) };
        assert_eq!(eos.first_border(None, &[5, 2, 6]), Some(2));
        assert_eq!(eos.first_border(None, &[2]), None);
        assert_eq!(eos.first_border(Some(2), &[5]), Some(0));
        assert_eq!(eos.first_border(None, &[2, 2]), Some(1));
        let bos = Around { bos: token(1), eos: None };
        assert_eq!(bos.first_border(None, &[1, 5, 1]), Some(2));
        assert_eq!(bos.first_border(Some(5), &[1, 5]), Some(0));
        let both = Around { bos: token(1), eos: token(2) };
        assert_eq!(both.first_border(None, &[1, 2, 5, 1, 2, 1]), Some(5));
        assert_eq!(Around::default().first_border(Some(2), &[1, 2]), None);
    }
}
