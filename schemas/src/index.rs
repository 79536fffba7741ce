//! The document index: one Parquet file a series, one row a document, in input order.
//!
//! **Invariant:** rows are in the order of the documents in the series' shards.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};

/// Bytes of [`CONTENT_HASH`]: the first 16 of the BLAKE3 of the text's UTF-8.
pub const CONTENT_HASH_BYTES: usize = 16;

/// Shard within the series.
pub const SHARD: &str = "shard";
/// Document within the series; its number within the corpus adds the documents of all earlier
/// series.
pub const DOCUMENT: &str = "document";
/// First token, within the shard.
pub const FIRST_TOKEN: &str = "first_token";
/// Tokens, BOS and EOS included.
pub const TOKEN_COUNT: &str = "token_count";
/// The Pile's `pile_set_name`; null when the input has none.
pub const SET_NAME: &str = "set_name";
/// Input file, relative to the root it was given with.
pub const INPUT: &str = "input";
/// Place in the input: 1-based line of JSON lines, 1-based row of Parquet.
pub const ROW: &str = "row";
/// Bytes of the text in UTF-8.
pub const TEXT_BYTES: &str = "text_bytes";
/// First [`CONTENT_HASH_BYTES`] of the BLAKE3 of the text's UTF-8.
pub const CONTENT_HASH: &str = "content_hash";

/// Columns of the index, in file order.
pub fn schema() -> Arc<Schema> {
    columns(false)
}

/// The same for imported ids: [`TEXT_BYTES`] and [`CONTENT_HASH`] may be null, and are, because the
/// texts are unknown.
pub fn imported_schema() -> Arc<Schema> {
    columns(true)
}

fn columns(is_imported: bool) -> Arc<Schema> {
    let hash_bytes = i32::try_from(CONTENT_HASH_BYTES).expect("16 fits");
    Arc::new(Schema::new(vec![
        Field::new(SHARD, DataType::UInt64, false),
        Field::new(DOCUMENT, DataType::UInt64, false),
        Field::new(FIRST_TOKEN, DataType::UInt64, false),
        Field::new(TOKEN_COUNT, DataType::UInt64, false),
        Field::new(SET_NAME, DataType::Utf8, true),
        Field::new(INPUT, DataType::Utf8, false),
        Field::new(ROW, DataType::UInt64, false),
        Field::new(TEXT_BYTES, DataType::UInt64, is_imported),
        Field::new(CONTENT_HASH, DataType::FixedSizeBinary(hash_bytes), is_imported),
    ]))
}
