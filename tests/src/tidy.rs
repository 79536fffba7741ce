//! Rules about this repository the compiler does not check: who may depend on libtorch, where
//! `unsafe` is allowed, that modules have docs, that documents name existing commands.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helper functions too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Every file that may hold `unsafe`, and nothing else. A new entry needs a reason next to it, as
/// STYLE asks.
const UNSAFE_FILES: [&str; 19] = [
    "pipeline/encoder/src/fast/cache/tables.rs",
    "pipeline/encoder/src/fast/merges/avx512.rs",
    "pipeline/encoder/src/fast/pretokenize/block.rs",
    "pipeline/plan/src/permutation/simd.rs",
    "pipeline/src/corpus/prefetch.rs",
    "pipeline/src/corpus/widen.rs",
    "pipeline/src/disk/lost_pages.rs",
    "pipeline/src/disk/source.rs",
    "pipeline/src/read/jsonl/json/strings.rs",
    "trainer/src/console/stop.rs",
    "trainer/src/shim.rs",
    "trainer/src/shim/checkpoint.rs",
    "trainer/src/shim/context.rs",
    "trainer/src/shim/cuda.rs",
    "trainer/src/shim/group.rs",
    "trainer/src/shim/memory.rs",
    "trainer/src/shim/ops.rs",
    "tests/src/run/pretrain.rs",
    "benches/loader/memory_limit.rs",
];

/// Folders of generated files, not written by people.
const MADE: [&str; 5] = [".git", "target", "runs", "corpora", "__pycache__"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|err| panic!("{path}: {err}"))
}

/// All files below `folder`, relative to the root, in byte order.
pub(crate) fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            if MADE.contains(&entry.file_name().to_str().unwrap()) {
                continue;
            }
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path();
                found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Rust sources of all members.
pub(crate) fn sources() -> Vec<String> {
    let members = ["schemas", "pipeline", "trainer", "tests", "benches"];
    let mut sources: Vec<String> = members.iter().flat_map(|member| files(member)).collect();
    sources.retain(|path| path.ends_with(".rs"));
    assert!(sources.len() > 10, "the members' sources were found: {sources:?}");
    sources
}

#[test]
fn schemas_and_pipeline_do_not_reach_libtorch() {
    let lock: toml::Table = toml::from_str(&read("Cargo.lock")).unwrap();
    let mut dependencies: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap().to_owned();
        let listed = package.get("dependencies").and_then(|list| list.as_array());
        let named = listed.into_iter().flatten().map(|text| text.as_str().unwrap());
        let named = named.map(|text| text.split(' ').next().unwrap().to_owned());
        dependencies.entry(name).or_default().extend(named);
    }
    let reach = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut open = vec![from.to_owned()];
        while let Some(name) = open.pop() {
            if reached.insert(name.clone()) {
                open.extend(dependencies[&name].iter().cloned());
            }
        }
        reached
    };
    for member in ["schemas", "pipeline"] {
        for forbidden in ["torch-sys", "tch", "trainer"] {
            assert!(!reach(member).contains(forbidden), "{member} depends on {forbidden}");
        }
    }
    assert!(reach("trainer").contains("torch-sys"), "the walk finds what is there");
}

#[test]
fn every_source_opens_with_its_purpose() {
    for path in sources().iter().filter(|path| path.contains("/src/")) {
        assert!(read(path).starts_with("//! "), "{path} does not open with `//!`");
    }
}

#[test]
fn every_module_of_the_libraries_names_its_invariant() {
    let entry = ["lib.rs", "main.rs"];
    for path in sources().iter().filter(|path| path.contains("/src/")) {
        let (member, name) = (path.split('/').next().unwrap(), path.rsplit('/').next().unwrap());
        if ["schemas", "pipeline", "trainer"].contains(&member) && !entry.contains(&name) {
            let text = read(path);
            let doc = text.lines().take_while(|line| line.starts_with("//!"));
            let mut named = doc.filter(|line| line.contains("**Invariant:**"));
            assert!(named.next().is_some(), "{path} has no line `**Invariant:**` in its doc");
        }
    }
}

#[test]
fn unsafe_stands_only_where_it_is_expected() {
    let this = "tests/src/tidy.rs";
    let holds = |path: &&String| path.as_str() != this && read(path).contains("unsafe_code");
    let sources = sources();
    let found: Vec<&str> = sources.iter().filter(holds).map(String::as_str).collect();
    assert_eq!(found, UNSAFE_FILES);
}

/// Paths of somebody's machine and unfinished work do not belong in the repository.
#[test]
fn no_file_names_a_machine_or_an_unfinished_part() {
    // Put together here, so this file does not contain them itself.
    let forbidden: Vec<String> =
        [("/ro", "ot/"), ("/ho", "me/"), ("/wo", "rk/"), ("TO", "DO"), ("FIX", "ME")]
            .map(|(a, b)| format!("{a}{b}"))
            .to_vec();
    for path in files(".") {
        let path = path.trim_start_matches("./");
        // Tensors, Parquet.
        let Ok(text) = fs::read_to_string(root().join(path)) else { continue };
        if path.starts_with("fixtures/") || path == "Cargo.lock" {
            // Other people's text, and lists of names.
            continue;
        }
        for (index, line) in text.lines().enumerate() {
            let found = forbidden.iter().find(|word| line.contains(*word));
            assert_eq!(found, None, "{path}:{}: {line}", index + 1);
        }
    }
}

/// Names of the justfile's recipes, private ones left out.
fn recipes() -> BTreeSet<String> {
    let text = read("justfile");
    let lines: Vec<&str> = text.lines().collect();
    let mut names = BTreeSet::new();
    for (index, line) in lines.iter().enumerate() {
        let starts = line.starts_with(|first: char| first.is_ascii_lowercase());
        let Some((head, rest)) = line.split_once(':') else { continue };
        if starts && !rest.starts_with('=') && (index == 0 || lines[index - 1] != "[private]") {
            names.insert(head.split(' ').next().unwrap().to_owned());
        }
    }
    names
}

#[test]
fn documents_name_recipes_that_exist() {
    let recipes = recipes();
    for name in ["setup", "build", "pretrain", "test", "check", "bench", "doc"] {
        assert!(recipes.contains(name), "recipe {name} is missing; found {recipes:?}");
    }
    let mut pages: Vec<String> =
        ["README.md", "ARCHITECTURE.md", "fixtures/README.md", ".ci/run"].map(String::from).into();
    pages.extend(files("docs"));
    for path in pages {
        let text = read(&path);
        for start in ["./bootstrap.sh ", "`just ", "\n    just "] {
            for (at, _) in text.match_indices(start) {
                let words = text[at + start.len()..].split_whitespace();
                let word = words.map(|word| word.trim_matches(|c: char| "`,.:;)".contains(c)));
                let mut word = word.skip_while(|word| word.starts_with("--"));
                let recipe = word.next().unwrap_or_default();
                let placeholder = recipe.is_empty()
                    || recipe.starts_with(|first: char| !first.is_ascii_lowercase());
                assert!(
                    placeholder || recipes.contains(recipe),
                    "{path} names the recipe {recipe:?}, \
                     which the justfile does not have: {recipes:?}"
                );
            }
        }
    }
}

/// CI runs what `just check` runs, and the main job.
#[test]
fn ci_runs_every_part_of_check() {
    let justfile = read("justfile");
    let check = justfile.lines().find_map(|line| line.strip_prefix("check: ")).unwrap();
    let ci = read(".ci/run");
    let loop_line = ci.lines().find_map(|line| line.strip_prefix("for recipe in ")).unwrap();
    let ran: BTreeSet<&str> = loop_line.trim_end_matches("; do").split_whitespace().collect();
    for part in check.split_whitespace().chain(["pretrain"]) {
        assert!(ran.contains(part), ".ci/run does not run {part}: {ran:?}");
    }
}
