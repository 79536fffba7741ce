//! Token ids in the two widths that shards store them in.
//!
//! **Invariant:** an id below [`TokenId::VOCAB_SIZE_MAX`] survives [`TokenId::narrow`] and [`TokenId::widen`].

use schemas::shard::TokenBytes;

/// A token id in the width that a shard stores it in.
pub trait TokenId: Copy + Default + Send + 'static {
    /// That width.
    const BYTES: TokenBytes;
    /// The largest vocabulary whose every id fits.
    const VOCAB_SIZE_MAX: u64;
    /// How many a piece in the cache has room for, their number included.
    const LANES: usize;
    /// As many side by side.
    type Lanes: Copy + Default + Send + AsRef<[Self]> + AsMut<[Self]>;

    /// The id in this width; the caller knows that it is below [`TokenId::VOCAB_SIZE_MAX`].
    fn narrow(id: u32) -> Self;

    /// The id itself.
    fn widen(self) -> u32;
}

impl TokenId for u16 {
    const BYTES: TokenBytes = TokenBytes::Two;
    const VOCAB_SIZE_MAX: u64 = 1 << 16;
    const LANES: usize = 8;
    type Lanes = [u16; 8];

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
    const LANES: usize = 8;
    type Lanes = [u32; 8];

    fn narrow(id: u32) -> u32 {
        id
    }

    fn widen(self) -> u32 {
        self
    }
}
