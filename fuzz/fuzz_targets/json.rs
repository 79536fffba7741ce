//! The reader of JSON lines against serde_json: what one accepts the other does, with the same text
//! and set name, but for the differences that `json_law` lists. Nothing panics.
#![no_main]

// Included, not linked: the crate around it takes long to build and has nothing to do with this.
#[path = "../../pipeline/src/read/jsonl/json.rs"]
#[allow(dead_code, reason = "of the module's items not all are used here")]
mod json;

#[path = "../json_law.rs"]
mod json_law;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| json_law::check(
    data,
    &json::Parser::new("text", "meta.pile_set_name", false)
));
