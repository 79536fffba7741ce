//! Folding tokens into patches, and the loss of predicting the next patch.
//!
//! Each exists in two forms: in plain tensor operations, which define the result, and in the form
//! used in training, which is tested against it.
//!
//! **Invariant:** K = 1 is token-level training: the fold is the embedding, the loss is next-token
//! cross-entropy.

// Shapes: b windows, t positions, k tokens per patch, d width, v vocabulary, n = b * (t - 1).

use tch::{Kind, Tensor};

use crate::shim;

/// Logits alive at a time in the chunked loss: 64 MiB in fp32.
const CHUNK_LOGITS: i64 = 1 << 24;
/// Minimum rows of a chunk, even for a large vocabulary: below this the products get slow.
const CHUNK_ROWS_MIN: i64 = 128;

/// Mean of the K token embeddings of each patch; K = 1 is the identity. This is the plain form of
/// [`embed_patches`].
pub fn fold_patches(emb_btkd: &Tensor) -> Tensor {
    emb_btkd.mean_dim(2, false, None) // [B, T, D]
}

/// Mean embedding of each patch from the fp32 table `weight_vd`, `[b, t, d]` in `kind`. It never
/// holds a `[b, t, k, d]` tensor.
pub fn embed_patches(weight_vd: &Tensor, tokens_btk: &Tensor, kind: Kind) -> Tensor {
    shim::embed_mean(weight_vd, tokens_btk, kind).expect("shapes and dtypes are the model's own")
}

/// Mean cross-entropy of each position against all K tokens of the next patch, `[]` in fp32; K = 1
/// is next-token loss. This is the plain form of [`chunked_patch_loss`].
pub fn patch_loss(logits_btv: &Tensor, tokens_btk: &Tensor) -> Tensor {
    patch_nll(logits_btv, tokens_btk).mean(Kind::Float)
}

/// Negative log-likelihood of each token of the next patch, `[b, t - 1, k]` in fp32.
pub fn patch_nll(logits_btv: &Tensor, tokens_btk: &Tensor) -> Tensor {
    let last = tokens_btk.size()[1] - 1; // the last position has no next patch
    let logp_btv = logits_btv.narrow(1, 0, last).log_softmax(-1, Kind::Float);
    -logp_btv.gather(2, &tokens_btk.narrow(1, 1, last), false)
}

/// The same loss from hidden states and the fp32 head, computed in chunks of rows: an `[n, v]`
/// tensor never exists.
///
/// Products run in the dtype of `hidden_btd`; the loss and the sum of the head's gradient are fp32.
/// Panics unless T ≥ 2.
pub fn chunked_patch_loss(hidden_btd: &Tensor, head_vd: &Tensor, tokens_btk: &Tensor) -> Tensor {
    let last = tokens_btk.size()[1] - 1; // the last position has no next patch
    let hidden_nd = hidden_btd.narrow(1, 0, last).flatten(0, 1);
    chunked_loss(&hidden_nd, head_vd, &tokens_btk.narrow(1, 1, last).flatten(0, 1))
}

/// The loss when each token of the next patch has its own hidden state, `[b, t, k, d]`; computed
/// like [`chunked_patch_loss`].
pub fn chunked_slot_loss(slots_btkd: &Tensor, head_vd: &Tensor, tokens_btk: &Tensor) -> Tensor {
    let last = tokens_btk.size()[1] - 1;
    // One row per token, with one target.
    let slots_nd = slots_btkd.narrow(1, 0, last).flatten(0, 2);
    chunked_loss(&slots_nd, head_vd, &tokens_btk.narrow(1, 1, last).flatten(0, 2).unsqueeze(1))
}

fn chunked_loss(hidden_nd: &Tensor, head_vd: &Tensor, targets_nk: &Tensor) -> Tensor {
    assert!(hidden_nd.size()[0] > 0, "a window of one unit has nothing to predict");
    shim::linear_cross_entropy(hidden_nd, head_vd, targets_nk, chunk_rows(head_vd.size()[0]))
        .expect("shapes and dtypes are the model's own")
}

/// Rows per chunk of the loss, for a vocabulary of `v`.
pub(crate) fn chunk_rows(v: i64) -> i64 {
    (CHUNK_LOGITS / v).max(CHUNK_ROWS_MIN)
}
