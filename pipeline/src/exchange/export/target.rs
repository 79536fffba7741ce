//! The projects whose files an export writes, and the differences between their files.
//!
//! **Invariant:** an id below [`Target::id_end`] has a place in the target's files.

use schemas::manifest::Manifest;
use schemas::shard::TokenBytes;

use crate::exchange::formats::{datatrove, megatron, olmo};

/// Whose files to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Megatron-core: DEST.bin of uint16 or int32, and DEST.idx with the documents.
    Megatron,
    /// OLMo-core, dolma: raw uint16 or uint32 ids named .npy, and .csv.gz with the documents.
    Olmo,
    /// nanoGPT: train.bin and val.bin of uint16, without documents.
    Nanogpt,
    /// datatrove: .ds of 2 or 4 bytes an id, .ds.index with the documents, .ds.metadata.
    Datatrove,
}

impl Target {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Target::Megatron => "megatron",
            Target::Olmo => "olmo",
            Target::Nanogpt => "nanogpt",
            Target::Datatrove => "datatrove",
        }
    }

    /// Ids from here on do not fit into its files.
    pub(crate) fn id_end(self) -> u64 {
        match self {
            Target::Nanogpt => 1 << 16,
            Target::Megatron => megatron::INT32_ID_END,
            Target::Olmo | Target::Datatrove => 1 << 32,
        }
    }

    /// Endings of names by which its readers find files in a folder.
    pub(crate) fn name_ends(self) -> &'static [&'static str] {
        match self {
            Target::Megatron | Target::Nanogpt => &[],
            Target::Olmo => &[olmo::IDS_END, olmo::CSV_END],
            Target::Datatrove => &[datatrove::IDS_END, ".ds.index", ".ds.metadata"],
        }
    }
}

/// Bytes of an id in the target's files.
pub(crate) fn token_bytes(to: Target, manifest: &Manifest) -> TokenBytes {
    if to == Target::Nanogpt || manifest.token_bytes == 2 {
        TokenBytes::Two
    } else {
        TokenBytes::Four
    }
}
