//! Folders compared file by file: for the tests here, and by path for those of `pipeline`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Every file below a folder by its relative path.
pub(crate) fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().display().to_string();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Two folders hold the same files, byte for byte; names what differs.
#[track_caller]
pub(crate) fn assert_same_tree(found: &Path, expected: &Path) {
    let (found, expected) = (tree(found), tree(expected));
    assert!(found.keys().eq(expected.keys()), "{:?}\n{:?}", found.keys(), expected.keys());
    for (name, bytes) in &found {
        assert!(*bytes == expected[name], "{name} differs");
    }
}
