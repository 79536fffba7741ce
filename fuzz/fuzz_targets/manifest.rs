//! The corpus manifest: what is accepted is sealed to itself, and nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use schemas::manifest::Manifest;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // As it is; and, as no mutation finds the right hash, with the fingerprint that the parser asks
    // for.
    let mut text = text.to_owned();
    if let Err(err) = Manifest::parse(&text) {
        let said = err.to_string();
        let hashes: Vec<&str> =
            said.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 64).collect();
        let [found, expected] = hashes[..] else { return };
        text = text.replacen(expected, found, 1);
    }
    if let Ok(manifest) = Manifest::parse(&text) {
        let (sealed, again) = manifest.clone().seal();
        assert_eq!(sealed, manifest);
        assert_eq!(Manifest::parse(&again).expect("what was sealed is read"), manifest);
    }
});
