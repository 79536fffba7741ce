//! From the loader's ids to the model's input tensor.
//!
//! **Invariant:** lengths become `i64` only here. Every id that reaches the device is below the
//! vocabulary size, because an id beyond it kills a CUDA context.

use tch::{Device, Tensor};

/// Shape of a micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// T: units per window.
    pub window_units: u64,
    /// K: tokens per unit.
    pub patch_size: u64,
    /// All ids must be below this.
    pub vocab_size: u64,
}

/// Why ids are not a valid batch.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Not a whole number of windows, or no window.
    #[error(
        "batch holds {found} ids; expected windows of {window_units} units x {patch_size} tokens"
    )]
    Length {
        /// The number of ids.
        found: usize,
        /// T.
        window_units: u64,
        /// K.
        patch_size: u64,
    },
    /// An id beyond the model's vocabulary.
    #[error(
        "token id {found} at position {position} of the batch; the model's vocab_size is \
         {vocab_size}, so the corpus was made with another tokenizer"
    )]
    Id {
        /// The id.
        found: i64,
        /// Its position in the batch, from 0.
        position: usize,
        /// Entries of the embedding.
        vocab_size: u64,
    },
}

/// The ids of whole windows, one window after the other, as `[b, t, k]` on `device`.
pub fn tokens_btk(ids: &[i64], shape: BatchShape, device: Device) -> Result<Tensor, BatchError> {
    let BatchShape { window_units, patch_size, vocab_size } = shape;
    let window_tokens = usize::try_from(window_units * patch_size).expect("a window fits memory");
    if ids.is_empty() || !ids.len().is_multiple_of(window_tokens) {
        return Err(BatchError::Length { found: ids.len(), window_units, patch_size });
    }
    let legal = |id: i64| u64::try_from(id).is_ok_and(|id| id < vocab_size);
    if let Some(position) = ids.iter().position(|&id| !legal(id)) {
        return Err(BatchError::Id { found: ids[position], position, vocab_size });
    }
    let [t, k] =
        [window_units, patch_size].map(|size| i64::try_from(size).expect("a window fits memory"));
    Ok(Tensor::from_slice(ids).view([-1, t, k]).to_device(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: BatchShape = BatchShape { window_units: 2, patch_size: 3, vocab_size: 12 };

    #[test]
    fn ids_keep_their_order_within_windows_and_patches() {
        let ids: Vec<i64> = (0..12).collect();
        let tokens_btk = tokens_btk(&ids, SHAPE, Device::Cpu).unwrap();
        assert_eq!(tokens_btk.size(), [2, 2, 3]);
        assert_eq!(tokens_btk.int64_value(&[1, 0, 2]), 8);
    }

    #[test]
    fn ids_that_make_no_batch_are_refused() {
        let check = |ids: &[i64], expected: BatchError| {
            assert_eq!(tokens_btk(ids, SHAPE, Device::Cpu).unwrap_err(), expected);
        };
        check(&[], BatchError::Length { found: 0, window_units: 2, patch_size: 3 });
        check(&[0; 7], BatchError::Length { found: 7, window_units: 2, patch_size: 3 });
        check(&[0, 1, 12, 3, 4, 5], BatchError::Id { found: 12, position: 2, vocab_size: 12 });
        check(&[0, -1, 2, 3, 4, 5], BatchError::Id { found: -1, position: 1, vocab_size: 12 });
    }
}
