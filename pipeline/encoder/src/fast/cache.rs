//! Pieces of a text to ids through a cache: most pieces, words above all, have been seen before.
//!
//! Pieces are looked up in batches. While a batch is gathered each piece's place in the table is
//! asked for from memory, so that it has arrived when the batch is answered; the table is larger
//! than what a core has close by, and waiting for it would take most of the time. Of a batch, the
//! pieces that are not there are encoded together: a model can do something for one while it waits
//! for another. Their places in the table are taken when they are missed, so that a piece that
//! comes twice in a batch, as new words do, is encoded once.
//!
//! A long piece that was not seen before is looked up in parts, where the model knows some: a
//! sentence that is written without spaces never comes again, its words do. And pieces that are
//! known to be one id are there from the start.
//!
//! The table's address and contents never affect the ids: an entry holds all bytes of its piece and
//! their number, and serves no other piece.
//!
//! **Invariant:** the ids are those of [`PieceModel::encode_piece`], piece by piece, in the pieces'
//! order.

pub(crate) mod tables;

use std::ops::Range;

use super::merges::Work;
use super::piece::{NO_GAP, Padded, SHORT_BYTES_MAX, Short, short_key};
use crate::fast::cache::tables::{BATCH_PIECES, Known, LongTable, Pending, RareTable, ShortTable};
use crate::token_id::TokenId;

/// The longest piece of the second table.
pub(crate) const LONG_BYTES_MAX: usize = 31;
/// The longest piece of the third table.
const RARE_BYTES_MAX: u32 = 512;
/// The longest piece that is cut into parts: they take memory.
const PARTED_BYTES_MAX: u32 = RARE_BYTES_MAX;
/// Parts of a batch, from which on no piece of it is cut.
const PARTS_MAX: usize = 16 << 10;
/// Bytes of the cache for each entry of the third table, which holds up to six times
/// [`RARE_BYTES_MAX`], mostly far less.
const RARE_SHARE: usize = 16 << 10;
/// Most of the room of long words that is kept for later ones.
const KEPT_SYMBOLS_MAX: usize = 1 << 16;

/// How a piece that is not in the cache becomes ids.
pub(crate) trait PieceModel {
    /// Leaves the piece's ids in `work.symbols`.
    fn encode_piece(&self, piece: &[u8], work: &mut Work);

    /// Whether it knows parts of pieces.
    const HAS_PARTS: bool = false;

    /// Calls `take` with the end of each part of a piece of `text`, in order; `true` if the ids of
    /// the parts, as pieces of their own, are together those of the piece.
    fn for_each_part(
        &self,
        _text: &Padded,
        _piece: Range<usize>,
        _take: impl FnMut(usize),
    ) -> bool {
        false
    }

    /// Calls `take` with the number and the ids of each of `pieces` of `text`, in any order.
    fn encode_short(
        &self,
        text: &[u8],
        pieces: &[Short],
        work: &mut Work,
        mut take: impl FnMut(usize, &[u32]),
    ) {
        for (index, &piece) in pieces.iter().enumerate() {
            self.encode_piece(piece.of(text), work);
            take(index, &work.symbols);
        }
    }
}

/// A piece of a batch that the first table has no ids of.
#[derive(Clone, Copy)]
struct Gap {
    pending: Pending,
    /// Ids that were found before it.
    found_before: usize,
    /// Its ids among those that were learnt, none if it has to be looked for elsewhere; of a piece
    /// that is not short its parts, none if they are not needed.
    learnt: (u32, u32),
}

/// The cache of one thread, and the pieces that wait for it. Should a model panic, what it holds
/// means nothing.
pub(crate) struct Pieces<I: TokenId> {
    short: ShortTable<I>,
    longer: Longer<I>,
    pending: Box<[Pending; BATCH_PIECES]>,
    pending_count: usize,
    /// Of a batch, the pieces that were not found, ...
    gaps: Vec<Gap>,
    /// ... the parts of the longer ones, ...
    parts: Vec<Pending>,
    /// ... those that are encoded together, ...
    fresh: Vec<Short>,
    /// ... and their ids.
    learnt: Vec<u32>,
    /// Ids of a batch's pieces that were found, as far as they stand next to each other.
    found: Box<[I]>,
    work: Work,
    /// Pieces that were looked up.
    pub(crate) lookups: u64,
    /// Those that were not there.
    pub(crate) misses: u64,
}

impl<I: TokenId> Pieces<I> {
    /// With a cache of about `cache_bytes`, and never less than a handful of entries.
    pub(crate) fn new(cache_bytes: usize) -> Pieces<I> {
        // Sizes are powers of two: what the one leaves over is the other's.
        let short = ShortTable::new(cache_bytes / 9 * 8);
        let long = LongTable::new(cache_bytes.saturating_sub(short.bytes()));
        Pieces {
            short,
            longer: Longer { long, rare: RareTable::new(cache_bytes / RARE_SHARE) },
            pending: Box::new([Pending::default(); BATCH_PIECES]),
            pending_count: 0,
            gaps: Vec::new(),
            parts: Vec::new(),
            fresh: Vec::new(),
            learnt: Vec::new(),
            found: vec![I::narrow(0); BATCH_PIECES * I::LANES].into_boxed_slice(),
            work: Work::default(),
            lookups: 0,
            misses: 0,
        }
    }

    /// Takes up pieces that are known before the first text, where there is room for them.
    pub(crate) fn learn_known(&mut self, known: &Known) {
        if known.len() <= self.short.places() {
            known.entries().for_each(|(key, id)| self.short.insert(key, id));
        }
    }

    /// Whether the next [`Pieces::push`] needs a [`Pieces::flush`] before it, if `count` pieces
    /// follow.
    #[inline]
    pub(crate) fn is_full_for(&self, count: usize) -> bool {
        self.pending_count + count > BATCH_PIECES
    }

    /// Adds the piece `start..end` of the text to the batch, which must not be full.
    #[inline(always)]
    pub(crate) fn push(&mut self, text: &Padded, start: usize, end: usize) {
        self.pending[self.pending_count] = self.short.pending(text, start, end);
        self.pending_count += 1;
    }

    /// Appends the ids of the batch's pieces, which all come from `text`.
    pub(crate) fn flush<M: PieceModel>(&mut self, model: &M, text: &Padded, ids: &mut Vec<I>) {
        let count = std::mem::take(&mut self.pending_count);
        self.lookups += count as u64;
        self.gaps.clear();
        self.parts.clear();
        self.fresh.clear();
        // Whole lanes are copied, of which the next piece overwrites what it does not need.
        let mut found_before = 0;
        for &pending in &self.pending[..count] {
            let Pending { key, bucket, start, length_bytes } = pending;
            if key != 0 {
                if let Some(found) = self.short.find(bucket, key) {
                    let room = self.found[found_before..].first_chunk_mut();
                    let ids_count = I::unpack(found, room.expect("each piece has its lanes"));
                    found_before += ids_count;
                    if ids_count != 0 {
                        continue;
                    }
                } else {
                    self.short.claim(bucket, key);
                    self.fresh.push(Short { gap: self.gaps.len() as u32, start, length_bytes });
                }
            } else if let Some(key) = Longer::<I>::key(text, pending) {
                self.longer.long.prefetch(key); // needed once the whole batch has been looked up
            }
            self.gaps.push(Gap { pending, found_before, learnt: (0, 0) });
        }
        self.misses += self.fresh.len() as u64;
        if M::HAS_PARTS {
            self.look_up_parts(model, text);
        }
        self.learn(model, text);
        let mut from = 0;
        for index in 0..self.gaps.len() {
            let Gap { pending, found_before, learnt: (first, end) } = self.gaps[index];
            ids.extend_from_slice(&self.found[from..found_before]);
            from = found_before;
            if first == end {
                self.encode_slowly(model, text, pending, ids);
            } else if M::HAS_PARTS && pending.key == 0 {
                self.encode_parts(model, text, (pending, first as usize..end as usize), ids);
            } else {
                let learnt = &self.learnt[first as usize..end as usize];
                ids.extend(learnt.iter().map(|&id| I::narrow(id)));
            }
        }
        ids.extend_from_slice(&self.found[from..found_before]);
    }

    /// Encodes the pieces that the first table has no ids of, together, as a model is faster so.
    fn learn<M: PieceModel>(&mut self, model: &M, text: &Padded) {
        self.learnt.clear();
        let Pieces { short, longer, gaps, fresh, learnt, work, .. } = self;
        model.encode_short(text.text(), fresh, work, |index, ids| {
            let Short { gap, start, length_bytes } = fresh[index];
            let pending = match gaps.get(gap as usize) {
                Some(gap) => gap.pending,
                None => short.pending(text, start as usize, (start + length_bytes) as usize),
            };
            if !short.fill(pending.bucket, pending.key, ids) {
                longer.insert(text, pending, ids.iter().map(|&id| I::narrow(id)));
            }
            if gap != NO_GAP {
                let first = learnt.len() as u32;
                learnt.extend_from_slice(ids);
                gaps[gap as usize].learnt = (first, learnt.len() as u32);
            }
        });
    }

    /// Cuts the pieces that are too long for the first table and in no other one, and has those of
    /// their parts that the first table does not have encoded with the rest.
    fn look_up_parts<M: PieceModel>(&mut self, model: &M, text: &Padded) {
        let Pieces { short, longer, gaps, parts, fresh, .. } = self;
        for gap in gaps.iter_mut().filter(|gap| gap.pending.key == 0) {
            let is_huge = PARTED_BYTES_MAX < gap.pending.length_bytes;
            if is_huge || PARTS_MAX <= parts.len() || longer.find(text, gap.pending).is_some() {
                continue;
            }
            let Range { mut start, end } = gap.pending.range();
            let first = parts.len();
            let is_exact = model.for_each_part(text, start..end, |end| {
                parts.push(short.pending(text, start, end));
                start = end;
            });
            if !is_exact || parts.len() == first + 1 {
                parts.truncate(first);
            }
            gap.learnt = (first as u32, parts.len() as u32);
        }
        for &Pending { key, bucket, start, length_bytes } in &*parts {
            if key != 0 && short.find(bucket, key).is_none() {
                short.claim(bucket, key);
                fresh.push(Short { gap: NO_GAP, start, length_bytes });
            }
        }
    }

    /// Appends the ids of a piece that is in no table, by its parts.
    fn encode_parts<M: PieceModel>(
        &mut self,
        model: &M,
        text: &Padded,
        (piece, parts): (Pending, Range<usize>),
        ids: &mut Vec<I>,
    ) {
        let (before, misses) = (ids.len(), self.misses + 1); // it is one, whatever its parts are
        for index in parts {
            self.encode_slowly(model, text, self.parts[index], ids);
        }
        self.misses = misses;
        self.longer.insert(text, piece, ids[before..].iter().copied());
    }

    /// Appends the ids of a piece that the first table does not have, or not yet.
    #[inline(never)]
    fn encode_slowly<M: PieceModel>(
        &mut self,
        model: &M,
        text: &Padded,
        pending: Pending,
        ids: &mut Vec<I>,
    ) {
        if pending.key != 0
            && let Some(found) = self.short.find(pending.bucket, pending.key)
        {
            // Met in this batch before, and so it may be known by now.
            let mut room = [I::narrow(0); 8];
            let count = I::unpack(found, &mut room);
            if count != 0 {
                return ids.extend_from_slice(&room[..count]);
            }
        }
        if let Some(found) = self.longer.find(text, pending) {
            return ids.extend_from_slice(found);
        }
        self.misses += 1;
        model.encode_piece(&text.text()[pending.range()], &mut self.work);
        let found = self.work.symbols.iter().map(|&id| I::narrow(id));
        if pending.key == 0 || I::pack(&self.work.symbols).is_none() {
            self.longer.insert(text, pending, found.clone());
        }
        ids.extend(found);
        if self.work.symbols.capacity() > KEPT_SYMBOLS_MAX {
            self.work.symbols = Vec::new();
        }
        self.work.queue.shrink(KEPT_SYMBOLS_MAX);
    }
}

/// Pieces that the first table does not take.
struct Longer<I: TokenId> {
    long: LongTable<I>,
    rare: RareTable<I>,
}

impl<I: TokenId> Longer<I> {
    /// The ids of a piece. The second table has an entry without ids for one that has too many for
    /// it.
    fn find(&self, text: &Padded, pending: Pending) -> Option<&[I]> {
        match Longer::<I>::key(text, pending).map(|key| self.long.find(key)) {
            Some(Some([])) | None if pending.length_bytes <= RARE_BYTES_MAX => {
                self.rare.find(&text.text()[pending.range()])
            }
            Some(found) => found,
            None => None,
        }
    }

    /// Stores the ids of a piece, if there is a place for so many.
    fn insert(
        &mut self,
        text: &Padded,
        pending: Pending,
        ids: impl ExactSizeIterator<Item = I> + Clone,
    ) {
        let is_stored =
            Longer::<I>::key(text, pending).is_some_and(|key| self.long.insert(key, ids.clone()));
        if !is_stored && pending.length_bytes <= RARE_BYTES_MAX {
            self.rare.insert(&text.text()[pending.range()], ids);
        }
    }

    /// The key in the second table; a short piece is there if it has many ids.
    fn key(text: &Padded, Pending { key, start, length_bytes, .. }: Pending) -> Option<[u128; 2]> {
        let (start, length_bytes) = (start as usize, length_bytes as usize);
        if length_bytes <= SHORT_BYTES_MAX {
            return Some([key, 0]);
        }
        let rest_bytes = length_bytes - 16;
        (length_bytes <= LONG_BYTES_MAX)
            .then(|| [text.word(start), short_key(text.word(start + 16), rest_bytes)])
    }
}
