//! Converts the ids of a shard, 2 or 4 bytes each, to the integer type of the reader.
//!
//! **Invariant:** every width keeps the values.

use schemas::shard::TokenBytes;

use crate::corpus::prefetch::CACHE_LINE_BYTES;

/// An integer type for ids: `u16` and `u32` for tools and for devices with their own conversion,
/// `i32` and `i64` for tensors.
pub trait OutId: bytemuck::Pod + Send + Sync {
    /// A larger vocabulary has ids too large for the type.
    const VOCAB_SIZE_MAX: u64;
    /// Its name, such as "i64".
    const NAME: &'static str;
    /// The same number; the caller makes sure it fits.
    fn of_u16(id: u16) -> Self;
    /// The same number; the caller makes sure it fits.
    fn of_u32(id: u32) -> Self;
    /// The same number.
    fn number(self) -> u64;
}

macro_rules! out_id {
    ($type:ty, $vocab_size_max:expr) => {
        impl OutId for $type {
            const VOCAB_SIZE_MAX: u64 = $vocab_size_max;
            const NAME: &'static str = stringify!($type);
            #[inline(always)]
            fn of_u16(id: u16) -> $type {
                id as $type
            }
            #[inline(always)]
            fn of_u32(id: u32) -> $type {
                id as $type // below VOCAB_SIZE_MAX
            }
            #[inline(always)]
            fn number(self) -> u64 {
                self as u64 // ids are not negative
            }
        }
    };
}

out_id!(u16, 1 << 16);
out_id!(u32, 1 << 32);
out_id!(i32, 1 << 31);
out_id!(i64, 1 << 32);

/// Fills `out` with the ids of `bytes`, which are as many.
///
/// # Panics
/// If they are not.
pub fn widen<T: OutId>(bytes: &[u8], token_bytes: TokenBytes, out: &mut [T]) {
    widen_asking(bytes, token_bytes, out, || ());
}

/// The same; calls `ask` before each cache line.
///
/// # Panics
/// As `widen`.
pub(crate) fn widen_asking<T: OutId>(
    bytes: &[u8],
    token_bytes: TokenBytes,
    out: &mut [T],
    mut ask: impl FnMut(),
) {
    let width = token_bytes.get() as usize;
    assert!(bytes.len() == width * out.len(), "{} bytes for {} ids", bytes.len(), out.len());
    if cfg!(target_endian = "little") && width == size_of::<T>() {
        // Copies of lines: 3 to 8 % more ids a second than the loop below, which would also work.
        let out: &mut [u8] = bytemuck::cast_slice_mut(out);
        for (bytes, out) in bytes.chunks(CACHE_LINE_BYTES).zip(out.chunks_mut(CACHE_LINE_BYTES)) {
            ask();
            out.copy_from_slice(bytes);
        }
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "less time than plain x86-64; just bench kernels")]
        // SAFETY: the processor has the features the function was compiled for.
        return unsafe { widen_avx2(bytes, token_bytes, out, ask) };
    }
    widen_pieces(bytes, token_bytes, out, ask);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn widen_avx2<T: OutId>(bytes: &[u8], token_bytes: TokenBytes, out: &mut [T], ask: impl FnMut()) {
    widen_pieces(bytes, token_bytes, out, ask);
}

/// [`widen`] without processor-specific code.
///
/// # Panics
/// As `widen`.
pub fn widen_plain<T: OutId>(bytes: &[u8], token_bytes: TokenBytes, out: &mut [T]) {
    widen_pieces(bytes, token_bytes, out, || ());
}

#[inline(always)]
fn widen_pieces<T: OutId>(
    bytes: &[u8],
    token_bytes: TokenBytes,
    out: &mut [T],
    mut ask: impl FnMut(),
) {
    let width = token_bytes.get() as usize;
    assert!(bytes.len() == width * out.len(), "{} bytes for {} ids", bytes.len(), out.len());
    for (bytes, out) in bytes.chunks(CACHE_LINE_BYTES).zip(out.chunks_mut(CACHE_LINE_BYTES / width))
    {
        ask();
        match token_bytes {
            TokenBytes::Two => {
                let (ids, _) = bytes.as_chunks::<2>();
                for (slot, id) in out.iter_mut().zip(ids) {
                    *slot = T::of_u16(u16::from_le_bytes(*id));
                }
            }
            TokenBytes::Four => {
                let (ids, _) = bytes.as_chunks::<4>();
                for (slot, id) in out.iter_mut().zip(ids) {
                    *slot = T::of_u32(u32::from_le_bytes(*id));
                }
            }
        }
    }
}

/// The largest id; 0 for no ids.
pub fn largest_id(bytes: &[u8], token_bytes: TokenBytes) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "less time than plain x86-64; just bench kernels")]
        // SAFETY: the processor has the features the function was compiled for.
        return unsafe { largest_id_avx2(bytes, token_bytes) };
    }
    largest_id_plain(bytes, token_bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn largest_id_avx2(bytes: &[u8], token_bytes: TokenBytes) -> u32 {
    largest_id_plain(bytes, token_bytes)
}

/// [`largest_id`] without processor-specific code.
#[inline(always)]
pub fn largest_id_plain(bytes: &[u8], token_bytes: TokenBytes) -> u32 {
    match token_bytes {
        TokenBytes::Two => {
            let (ids, _) = bytes.as_chunks::<2>();
            ids.iter().fold(0, |max: u16, id| max.max(u16::from_le_bytes(*id))).into()
        }
        TokenBytes::Four => {
            let (ids, _) = bytes.as_chunks::<4>();
            ids.iter().fold(0, |max, id| max.max(u32::from_le_bytes(*id)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check<T: OutId>(ids: &[u32], token_bytes: TokenBytes) {
        let bytes: Vec<u8> = match token_bytes {
            TokenBytes::Two => ids.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect(),
            TokenBytes::Four => ids.iter().flat_map(|&id| id.to_le_bytes()).collect(),
        };
        assert_eq!(largest_id(&bytes, token_bytes), ids.iter().copied().max().unwrap_or(0));
        assert_eq!(largest_id_plain(&bytes, token_bytes), ids.iter().copied().max().unwrap_or(0));
        for widen in [widen as fn(&[u8], TokenBytes, &mut [T]), widen_plain] {
            let mut out = vec![T::of_u16(7); ids.len()];
            widen(&bytes, token_bytes, &mut out);
            let found: Vec<u64> = out.into_iter().map(T::number).collect();
            assert_eq!(found, ids.iter().map(|&id| u64::from(id)).collect::<Vec<u64>>());
        }
    }

    proptest! {
        #[test]
        fn every_width_holds_the_same_numbers(
            narrow in proptest::collection::vec(0u32..1 << 16, 0..400),
            wide in proptest::collection::vec(0u32..1 << 31, 0..400),
        ) {
            for token_bytes in [TokenBytes::Two, TokenBytes::Four] {
                check::<u16>(&narrow, token_bytes);
                check::<u32>(&narrow, token_bytes);
                check::<i32>(&narrow, token_bytes);
                check::<i64>(&narrow, token_bytes);
            }
            check::<u32>(&wide, TokenBytes::Four);
            check::<i32>(&wide, TokenBytes::Four);
            check::<i64>(&wide, TokenBytes::Four);
        }
    }
}
