//! The tables of a cache of pieces: flat, of a fixed size; of two entries of a bucket the one that
//! was used longer ago is overwritten.
//!
//! **Invariant:** an entry is found by the key that it was stored under, and by no other; key 0 is
//! no entry's.

use std::ops::Range;

use crate::fast::piece::{Padded, SHORT_BYTES_MAX, short_key};
use crate::token_id::TokenId;

/// Pieces that are looked up together: as many as stay in a core's first cache with their texts.
pub(crate) const BATCH_PIECES: usize = 512;
/// From this size on a table asks for pages of 2 MiB.
#[cfg(target_os = "linux")]
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A piece of a batch.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pending {
    /// Key in the short table; 0 for a piece that is not there.
    pub(crate) key: u128,
    /// Bucket in the short table.
    pub(crate) bucket: u32,
    /// Where the piece begins in the text.
    pub(crate) start: u32,
    /// Its length.
    pub(crate) length_bytes: u32,
}

impl Pending {
    /// The position of the piece.
    pub(crate) fn range(self) -> Range<usize> {
        self.start as usize..(self.start + self.length_bytes) as usize
    }
}

/// One cache line, whichever the ids' width: with two for those of four bytes, Llama-3 was a fifth
/// slower.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Bucket<I: TokenId> {
    keys: [u128; 2],
    ids: [I::Packed; 2],
}

const _: () = assert!(size_of::<Bucket<u16>>() == 64 && size_of::<Bucket<u32>>() == 64);

/// Pieces of up to 15 bytes with few ids.
pub(crate) struct ShortTable<I: TokenId> {
    buckets: Vec<Bucket<I>>,
    shift: u32,
}

impl<I: TokenId> ShortTable<I> {
    pub(crate) fn new(bytes: usize) -> ShortTable<I> {
        let bits = bucket_bits(bytes, size_of::<Bucket<I>>());
        let empty = Bucket { keys: [0; 2], ids: [I::Packed::default(); 2] };
        let mut buckets = Vec::with_capacity(1 << bits);
        advise_huge_pages(&buckets);
        buckets.resize(1 << bits, empty);
        ShortTable { buckets, shift: 64 - bits }
    }

    /// Pieces that it holds at most.
    pub(crate) fn places(&self) -> usize {
        self.buckets.len() * 2
    }

    #[inline(always)]
    fn bucket(&self, key: u128) -> u32 {
        (hash(key) >> self.shift) as u32
    }

    /// The piece `start..end` of a text, whose place is asked for from memory.
    #[inline(always)]
    pub(crate) fn pending(&self, text: &Padded, start: usize, end: usize) -> Pending {
        let length_bytes = end - start;
        let (key, bucket) = if length_bytes <= SHORT_BYTES_MAX {
            let key = short_key(text.word(start), length_bytes);
            let bucket = self.bucket(key);
            prefetch(&self.buckets[bucket as usize]);
            (key, bucket)
        } else {
            (0, 0)
        };
        Pending { key, bucket, start: start as u32, length_bytes: length_bytes as u32 }
    }

    /// The ids of a piece, whose entry is then the last one of its bucket to give way.
    #[inline(always)]
    pub(crate) fn find(&mut self, bucket: u32, key: u128) -> Option<&I::Packed> {
        let Bucket { keys, ids } = &mut self.buckets[bucket as usize];
        if keys[0] != key {
            if keys[1] != key {
                return None;
            }
            keys.swap(0, 1);
            ids.swap(0, 1);
        }
        Some(&ids[0])
    }

    /// Makes room for a key that the bucket does not have; until [`ShortTable::fill`] it has no
    /// ids.
    #[inline(always)]
    pub(crate) fn claim(&mut self, bucket: u32, key: u128) {
        let Bucket { keys, ids } = &mut self.buckets[bucket as usize];
        (keys[1], ids[1]) = (keys[0], ids[0]);
        (keys[0], ids[0]) = (key, I::Packed::default());
    }

    /// Stores the ids of a piece, if it has not given way to another one; `false` where they do not
    /// fit: then its entry stays without.
    pub(crate) fn fill(&mut self, bucket: u32, key: u128, ids: &[u32]) -> bool {
        let Some(packed) = I::pack(ids) else { return false };
        let bucket = &mut self.buckets[bucket as usize];
        for (own_key, own_ids) in bucket.keys.iter().zip(&mut bucket.ids) {
            if *own_key == key {
                *own_ids = packed;
            }
        }
        true
    }

    /// Stores a piece of one id, if there is room.
    pub(crate) fn insert(&mut self, key: u128, id: u32) {
        let bucket = self.bucket(key);
        let Bucket { keys, ids } = &mut self.buckets[bucket as usize];
        if let (Some(way), Some(packed)) = (keys.iter().position(|&key| key == 0), I::pack(&[id])) {
            (keys[way], ids[way]) = (key, packed);
        }
    }

    /// Its memory.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.buckets[..])
    }
}

/// Short pieces of one id each, in the order of their places in a short table of any size: so a
/// table is filled from its begin to its end, and not here and there.
pub(crate) struct Known {
    entries: Vec<(u128, u32)>,
}

impl Known {
    /// Of pieces, none twice, and their ids.
    pub(crate) fn new<'p>(pieces: impl Iterator<Item = (&'p [u8], u32)>) -> Known {
        let mut entries: Vec<_> = pieces
            .filter(|(piece, _)| piece.len() <= SHORT_BYTES_MAX)
            .map(|(piece, id)| {
                let mut word = [0; 16];
                word[..piece.len()].copy_from_slice(piece);
                (short_key(u128::from_le_bytes(word), piece.len()), id)
            })
            .collect();
        entries.sort_by_key(|&(key, _)| hash(key));
        Known { entries }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Keys and ids, in that order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u128, u32)> {
        self.entries.iter().copied()
    }
}

/// Pieces of 16 to 31 bytes, and shorter ones with too many ids for the first table.
pub(crate) struct LongTable<I: TokenId> {
    entries: Vec<LongEntry<I>>,
    shift: u32,
}

#[derive(Clone, Copy)]
struct LongEntry<I> {
    key: [u128; 2],
    count: u8,
    ids: [I; LONG_IDS_MAX],
}

const LONG_IDS_MAX: usize = 15;

impl<I: TokenId> LongTable<I> {
    pub(crate) fn new(bytes: usize) -> LongTable<I> {
        let bits = bucket_bits(bytes, size_of::<LongEntry<I>>());
        let empty = LongEntry { key: [0; 2], count: 0, ids: [I::narrow(0); LONG_IDS_MAX] };
        LongTable { entries: vec![empty; 1 << bits], shift: 64 - bits }
    }

    fn place(&self, key: [u128; 2]) -> usize {
        let low = hash(key[0]);
        (hash(key[1] ^ u128::from(low) << 32) >> self.shift) as usize
    }

    /// Asks for a piece's entry from memory.
    #[inline]
    pub(crate) fn prefetch(&self, key: [u128; 2]) {
        let entry = &self.entries[self.place(key)];
        prefetch(entry);
        prefetch(&entry.ids[LONG_IDS_MAX / 2]);
    }

    pub(crate) fn find(&self, key: [u128; 2]) -> Option<&[I]> {
        let entry = &self.entries[self.place(key)];
        (entry.key[0] == key[0] && entry.key[1] == key[1])
            .then(|| &entry.ids[..usize::from(entry.count)])
    }

    /// Stores the ids of a piece; `false` where they do not fit: then its entry has none.
    pub(crate) fn insert(&mut self, key: [u128; 2], ids: impl ExactSizeIterator<Item = I>) -> bool {
        let place = self.place(key);
        let entry = &mut self.entries[place];
        entry.key = key;
        let fits = ids.len() <= LONG_IDS_MAX;
        entry.count = if fits { ids.len() as u8 } else { 0 };
        entry.ids.iter_mut().zip(ids).for_each(|(stored, id)| *stored = id);
        fits
    }
}

/// The largest table of 2^bits entries within `bytes`, of 2 entries at least.
fn bucket_bits(bytes: usize, entry_bytes: usize) -> u32 {
    (bytes / entry_bytes).max(2).ilog2().min(31)
}

/// Every bit of the key reaches the upper bits.
#[inline(always)]
fn hash(key: u128) -> u64 {
    let low = (key as u64) ^ 0x2d35_8dcc_aa6c_78a5;
    let high = ((key >> 64) as u64) ^ 0x8bb8_4b93_962e_acc9;
    let product = u128::from(low) * u128::from(high);
    ((product as u64) ^ ((product >> 64) as u64)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Has the line of memory that `value` begins in brought close.
#[inline(always)]
fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and cannot fault; every x86-64 processor has it.
        #[expect(unsafe_code, reason = "a batch's entries arrive together; just bench tokenize")]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Pieces that are too long for the other tables or have too many ids, such as lines of dashes. One
/// entry to a place: they are rare, but most time was spent on these where a text has many.
pub(crate) struct RareTable<I: TokenId> {
    entries: Vec<RareEntry<I>>,
    shift: u32,
}

#[derive(Clone)]
struct RareEntry<I> {
    piece: Vec<u8>,
    ids: Vec<I>,
}

impl<I: TokenId> RareTable<I> {
    pub(crate) fn new(entry_count: usize) -> RareTable<I> {
        let bits = bucket_bits(entry_count, 1);
        let empty = RareEntry { piece: Vec::new(), ids: Vec::new() };
        RareTable { entries: vec![empty; 1 << bits], shift: 64 - bits }
    }

    fn place(&self, piece: &[u8]) -> usize {
        let (words, rest) = piece.as_chunks::<16>();
        let mut last = [0; 16];
        last[..rest.len()].copy_from_slice(rest);
        let hash = words
            .iter()
            .chain([&last])
            .fold(0, |all, word| hash(u128::from_le_bytes(*word) ^ u128::from(all)));
        (hash >> self.shift) as usize
    }

    /// The ids of a piece, which is not empty.
    pub(crate) fn find(&self, piece: &[u8]) -> Option<&[I]> {
        let entry = &self.entries[self.place(piece)];
        (entry.piece == piece).then_some(&entry.ids[..])
    }

    pub(crate) fn insert(&mut self, piece: &[u8], ids: impl Iterator<Item = I>) {
        let place = self.place(piece);
        let RareEntry { piece: own_piece, ids: own_ids } = &mut self.entries[place];
        own_piece.clear();
        own_piece.extend_from_slice(piece);
        own_ids.clear();
        own_ids.extend(ids);
    }
}

/// Asks for large pages under a large table that is not yet touched: looking up random places needs
/// them.
fn advise_huge_pages<T>(table: &Vec<T>) {
    #[cfg(target_os = "linux")]
    {
        let start = table.as_ptr() as usize;
        let first = start.next_multiple_of(HUGE_PAGE_BYTES);
        let end = (start + table.capacity() * size_of::<T>()) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        if first < end {
            // SAFETY: the range lies within the table's own allocation, and MADV_HUGEPAGE leaves
            // its contents alone. A kernel that does not know the flag reports it, and the pages
            // stay small.
            #[expect(unsafe_code, reason = "fewer misses of the TLB; just bench tokenize")]
            unsafe {
                libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_HUGEPAGE);
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = table;
}
