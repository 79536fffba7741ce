//! Token ids in the two widths of shards.
//!
//! **Invariant:** an id below [`TokenId::VOCAB_SIZE_MAX`] survives [`TokenId::narrow`] and
//! [`TokenId::widen`].

use schemas::shard::TokenBytes;

/// The most four-byte ids packed together.
const PACKED_IDS_MAX: usize = 5;
/// Bits of each packed id.
const PACKED_ID_BITS: u32 = 24;
const PACKED_ID_MAX: u32 = (1 << PACKED_ID_BITS) - 1;
/// The position of the number of ids.
const COUNT_SHIFT: u32 = PACKED_IDS_MAX as u32 * PACKED_ID_BITS;

/// A token id in the width of a shard.
pub trait TokenId: Copy + Default + Send + 'static {
    /// The width.
    const BYTES: TokenBytes;
    /// The size of the largest vocabulary whose ids all fit.
    const VOCAB_SIZE_MAX: u64;
    /// Ids copied together from the cache.
    const LANES: usize = 8;
    /// The ids of a piece in the cache, and their number.
    type Packed: Copy + Default + Send;

    /// Packs the ids of a piece; `None` if they do not fit.
    fn pack(ids: &[u32]) -> Option<Self::Packed>;

    /// Writes the ids to the front of `room` and returns their number. The rest of `room` is
    /// unspecified.
    fn unpack(packed: &Self::Packed, room: &mut [Self; 8]) -> usize;

    /// The id in this width; the caller ensures it is below [`TokenId::VOCAB_SIZE_MAX`].
    fn narrow(id: u32) -> Self;

    /// The id as a `u32`.
    fn widen(self) -> u32;
}

impl TokenId for u16 {
    const BYTES: TokenBytes = TokenBytes::Two;
    const VOCAB_SIZE_MAX: u64 = 1 << 16;
    /// The last element is the number of ids, so seven ids fit.
    type Packed = [u16; 8];

    fn pack(ids: &[u32]) -> Option<[u16; 8]> {
        let mut packed = [0; 8];
        let (last, room) = packed.split_last_mut().expect("there are eight");
        *last = ids.len() as u16;
        let room = room.get_mut(..ids.len())?;
        room.iter_mut().zip(ids).for_each(|(packed, &id)| *packed = id as u16);
        Some(packed)
    }

    #[inline(always)]
    fn unpack(packed: &[u16; 8], room: &mut [u16; 8]) -> usize {
        *room = *packed;
        usize::from(packed[7])
    }

    fn narrow(id: u32) -> u16 {
        id as u16
    }

    fn widen(self) -> u32 {
        u32::from(self)
    }
}

impl TokenId for u32 {
    const BYTES: TokenBytes = TokenBytes::Four;
    const VOCAB_SIZE_MAX: u64 = 1 << 32;
    /// Five ids of 24 bits, the first one lowest, and their number above them: a piece takes half a
    /// cache line.
    type Packed = u128;

    fn pack(ids: &[u32]) -> Option<u128> {
        let fit = ids.len() <= PACKED_IDS_MAX && ids.iter().all(|&id| id >> PACKED_ID_BITS == 0);
        let count = (ids.len() as u128) << COUNT_SHIFT;
        let ids = ids.iter().rev().fold(0, |all, &id| all << PACKED_ID_BITS | u128::from(id));
        fit.then_some(count | ids)
    }

    #[inline(always)]
    fn unpack(packed: &u128, room: &mut [u32; 8]) -> usize {
        for (index, room) in room[..PACKED_IDS_MAX].iter_mut().enumerate() {
            *room = (packed >> (PACKED_ID_BITS * index as u32)) as u32 & PACKED_ID_MAX;
        }
        (packed >> COUNT_SHIFT) as usize
    }

    fn narrow(id: u32) -> u32 {
        id
    }

    fn widen(self) -> u32 {
        self
    }
}
