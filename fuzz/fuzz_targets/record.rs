//! The records of a run that is not finished, and the list of what was skipped: parse(encode(x)) =
//! x, and nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use schemas::build::{BuildRecord, SeriesRecord, SkippedDocument};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(record) = serde_json::from_str::<SkippedDocument>(text) {
        let again = serde_json::to_string(&record).expect("a record is plain data");
        assert!(!again.contains('\n'), "one line");
        assert_eq!(
            serde_json::from_str::<SkippedDocument>(&again).expect("it was written"),
            record
        );
    }
    if let Ok(record) = serde_json::from_str::<BuildRecord>(text) {
        let again = serde_json::to_string(&record).expect("a record is plain data");
        assert_eq!(serde_json::from_str::<BuildRecord>(&again).expect("it was written"), record);
    }
    // A series' record as it is; and, as no mutation finds the right hash, with the one that the
    // parser asks for.
    let mut text = text.to_owned();
    if let Err(err) = SeriesRecord::parse(text.as_bytes()) {
        let said = err.to_string();
        let hashes: Vec<&str> =
            said.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 64).collect();
        let [found, expected] = hashes[..] else { return };
        text = text.replacen(expected, found, 1);
    }
    if let Ok(record) = SeriesRecord::parse(text.as_bytes()) {
        let (sealed, again) = record.clone().seal();
        assert_eq!(sealed, record);
        assert_eq!(SeriesRecord::parse(again.as_bytes()).expect("what was sealed is read"), record);
    }
});
