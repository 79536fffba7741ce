//! A number that shows whether two readers read the same.
//!
//! **Invariant:** it depends only on the windows read: not on their order, nor on how they were cut
//! into batches, ranks and runs.

use super::Batch;
use crate::corpus::OutId;
use plan::Plan;

/// Everything a reader has read, as one number: the sum, modulo 2^64, of a hash of each window's
/// number in the run ([`Plan::window_number`]) and its ids. So the parts read by several ranks or
/// restarts add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Digest {
    /// Adds the windows of `batch`.
    pub fn add<T: OutId>(&mut self, plan: &Plan, batch: &Batch<T>) {
        let first_number = plan.window_number(batch.step, batch.first_slot);
        let windows = batch.ids.chunks_exact(batch.window_tokens as usize);
        for (number, ids) in (first_number..).zip(windows) {
            self.0 = self.0.wrapping_add(window_hash(number, ids));
        }
    }
}

/// First 8 bytes, little-endian, of the BLAKE3 of the window's number as `u64` and its ids as
/// `u32`, all little-endian.
pub fn window_hash<T: OutId>(number: u64, ids: &[T]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    let mut bytes = [0; 4096];
    for ids in ids.chunks(bytes.len() / 4) {
        let (words, _) = bytes.as_chunks_mut::<4>();
        for (word, id) in words.iter_mut().zip(ids) {
            let id = u32::try_from(id.number()).expect("ids come from a corpus, which has u32");
            *word = id.to_le_bytes();
        }
        hasher.update(&bytes[..4 * ids.len()]);
    }
    let hash = hasher.finalize();
    let (words, _) = hash.as_bytes().as_chunks::<8>();
    u64::from_le_bytes(words[0])
}
