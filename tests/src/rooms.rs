//! Where code may live and what it may import: rooms in order, no import circles, and folders small
//! enough for a reader to take in at a glance. The tables below are the order ARCHITECTURE.md
//! draws.

use std::collections::{BTreeMap, BTreeSet};

use crate::tidy::{files, read};

/// Rooms of `pipeline/src` from the ground up. A file imports only from its own row or from rows
/// above it.
const PIPELINE: &[&[&str]] = &[
    &["console", "disk"],
    &["read"],
    &["corpus"],
    &["write", "run_file", "loader"],
    &["exchange"],
    &["commands"],
    &["cli"],
];

/// Rooms of `trainer/src`, likewise.
const TRAINER: &[&[&str]] = &[
    &["shim", "console"],
    &["ranks", "data"],
    &["device"],
    &["model"],
    &["step", "cost"],
    &["checkpoint"],
    &["run"],
    &["commands"],
    &["cli"],
];

/// Crates of the workspace each crate may name; no others of ours are allowed.
const CRATES: &[(&str, &str, &[&str])] = &[
    ("schemas", "schemas", &[]),
    ("ring", "pipeline/ring", &[]),
    ("encoder", "pipeline/encoder", &["schemas"]),
    ("plan", "pipeline/plan", &["schemas"]),
    ("pipeline", "pipeline", &["schemas", "ring", "encoder", "plan"]),
    ("trainer", "trainer", &["schemas", "ring", "encoder", "plan", "pipeline"]),
];

/// The most files directly in one folder.
const FOLDER_FILES_MAX: usize = 20;

/// The longest line of code, prose or configuration, in characters.
const COLUMNS_MAX: usize = 100;

/// One module of a crate: its path, and its source without comments and tests.
struct Module {
    path: Vec<String>,
    file: String,
    code: String,
}

/// The modules of the sources below `src`.
fn modules(src: &str) -> Vec<Module> {
    let found = files(src).into_iter().filter(|file| file.ends_with(".rs"));
    let module = |file: String| {
        let name = file.strip_prefix(src).and_then(|name| name.strip_suffix(".rs"));
        let name = name.expect("it lies there").trim_start_matches('/');
        let path = if ["lib", "main"].contains(&name) {
            Vec::new()
        } else {
            name.split('/').map(str::to_owned).collect()
        };
        let text = read(&file);
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        Module { path, code: lines.collect::<Vec<_>>().join("\n"), file }
    };
    found.map(module).collect()
}

/// Every path beginning with `crate::`, `super::` or `self::`, with the braces of `use` expanded.
fn named_paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for head in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(head) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
                // The rest of a path already taken, or of a word.
                continue;
            }
            expand(&code[at..], &mut Vec::new(), &mut found);
        }
    }
    found
}

/// Reads one path, or a group of them, from the start of `code`; returns what is left.
fn expand<'a>(code: &'a str, prefix: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> &'a str {
    let depth = prefix.len();
    let mut rest = code.trim_start();
    loop {
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                rest = expand(rest, prefix, found).trim_start();
                match rest.strip_prefix(',') {
                    Some(more) => rest = more.trim_start(),
                    None => break,
                }
                if rest.starts_with('}') {
                    break;
                }
            }
            rest = rest.strip_prefix('}').unwrap_or(rest);
            break;
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end > 0 {
            prefix.push(rest[..end].to_owned());
        }
        rest = &rest[end..];
        match rest.strip_prefix("::") {
            Some(more) if !more.starts_with('<') => rest = more,
            _ => {
                found.push(prefix.clone());
                break;
            }
        }
    }
    if let Some(alias) = rest.strip_prefix(" as ") {
        let end = alias.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(alias.len());
        rest = &alias[end..];
    }
    prefix.truncate(depth);
    rest
}

/// Imports of a crate as pairs of modules, each by its path: `(who, whom)`.
fn imports(modules: &[Module]) -> BTreeSet<(Vec<String>, Vec<String>)> {
    let known: BTreeSet<&[String]> = modules.iter().map(|module| module.path.as_slice()).collect();
    let mut imports = BTreeSet::new();
    for module in modules {
        for named in named_paths(&module.code) {
            let mut absolute = if named[0] == "crate" { Vec::new() } else { module.path.clone() };
            let steps = named.iter().skip_while(|name| *name == "crate" || *name == "self");
            for name in steps {
                if name == "super" {
                    absolute.pop();
                } else {
                    absolute.push(name.clone());
                }
            }
            while !known.contains(absolute.as_slice()) {
                absolute.pop().expect("the crate itself is known");
            }
            if absolute != module.path {
                imports.insert((module.path.clone(), absolute));
            }
        }
    }
    imports
}

#[test]
fn rooms_import_only_from_the_rooms_below_them() {
    for (src, order) in [("pipeline/src", PIPELINE), ("trainer/src", TRAINER)] {
        let modules = modules(src);
        let level = |room: &str| order.iter().position(|row| row.contains(&room));
        for module in modules.iter().filter(|module| !module.path.is_empty()) {
            assert!(level(&module.path[0]).is_some(), "{} is in no room of the order", module.file);
        }
        let imports = imports(&modules);
        assert!(imports.len() > 20, "imports were found: {imports:?}");
        for (who, whom) in &imports {
            let (Some(who_room), Some(whom_room)) = (who.first(), whom.first()) else {
                // lib.rs and main.rs, which name rooms.
                continue;
            };
            assert!(
                level(whom_room) <= level(who_room),
                "{src}: {} imports {}, which is above it in the order of rooms",
                who.join("::"),
                whom.join("::")
            );
        }
    }
}

/// The members of each folder (a file and the folder of the same name count as one) import each
/// other without a circle.
#[test]
fn nothing_imports_in_circles() {
    for (_, root, _) in CRATES {
        let modules = modules(&format!("{root}/src"));
        let mut of_folder: BTreeMap<Vec<String>, BTreeMap<String, BTreeSet<String>>> =
            BTreeMap::new();
        for (who, whom) in imports(&modules) {
            let shared = who.iter().zip(&whom).take_while(|(a, b)| a == b).count();
            if let (Some(from), Some(to)) = (who.get(shared), whom.get(shared)) {
                let folder = of_folder.entry(who[..shared].to_vec()).or_default();
                folder.entry(from.clone()).or_default().insert(to.clone());
            }
        }
        for (folder, mut edges) in of_folder {
            // Repeatedly remove members whose imports are all removed, until none is left.
            loop {
                let left: BTreeSet<String> = edges.keys().cloned().collect();
                let before = edges.len();
                edges.retain(|_, whom| whom.iter().any(|name| left.contains(name)));
                if edges.len() == before {
                    break;
                }
            }
            assert!(edges.is_empty(), "{root}/src/{}: a circle among {edges:?}", folder.join("/"));
        }
    }
}

#[test]
fn crates_depend_on_the_crates_below_them() {
    let names: Vec<&str> = CRATES.iter().map(|(name, ..)| *name).collect();
    for (name, root, allowed) in CRATES {
        let manifest: toml::Table = toml::from_str(&read(&format!("{root}/Cargo.toml"))).unwrap();
        let dependencies = manifest.get("dependencies").and_then(|table| table.as_table());
        for dependency in dependencies.into_iter().flat_map(toml::Table::keys) {
            let is_ours = names.contains(&dependency.as_str());
            assert!(
                !is_ours || allowed.contains(&dependency.as_str()),
                "{name} names {dependency}"
            );
        }
    }
}

#[test]
fn folders_hold_few_files() {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let ends = [".rs", ".cpp", ".h", ".py", ".sh"];
    for path in files(".") {
        if !ends.iter().any(|end| path.ends_with(end)) {
            continue;
        }
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        *counts.entry(folder.to_owned()).or_default() += 1;
    }
    for (folder, count) in counts {
        assert!(count <= FOLDER_FILES_MAX, "{folder} holds {count} files");
    }
}

#[test]
fn lines_fit_a_screen() {
    let ends = [".rs", ".md", ".toml", ".py", ".sh", ".cpp", ".h", ".sbatch", "justfile", "run"];
    let mut long = Vec::new();
    for path in files(".") {
        let path = path.trim_start_matches("./");
        if path.starts_with("fixtures/text/") || !ends.iter().any(|end| path.ends_with(end)) {
            continue;
        }
        for (index, line) in read(path).lines().enumerate() {
            if line.chars().count() > COLUMNS_MAX {
                long.push(format!("{path}:{}", index + 1));
            }
        }
    }
    assert!(long.is_empty(), "{} lines over {COLUMNS_MAX} columns: {long:#?}", long.len());
}
