//! Helpers for tests of texts and corpora: paths, and inputs written on the spot.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Parser;
use pipeline::commands::tokenize::TokenizeArgs;
use pipeline::read::documents::{Columns, Doc, DocsError};
use pipeline::write::report::Report;

/// The repository's fixtures.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

/// A file too large or not free to be in the repository; `None`, with the reason printed, if it is
/// absent.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let root = std::env::var_os("PATCHMILL_SHARED").map_or(beside, PathBuf::from);
    let found = root.join(path);
    if found.exists() {
        return Some(found);
    }
    eprintln!("skipped: {} is not there (PATCHMILL_SHARED names the folder)", found.display());
    None
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: TokenizeArgs,
}

/// Arguments of `patchmill tokenize` with the fixtures' tokenizer, unless `options` name another
/// one.
pub(crate) fn arguments(out: &Path, inputs: &[&Path], options: &[&str]) -> TokenizeArgs {
    let tokenizer = fixtures().join("tokenizer");
    let mut line = vec!["tokenize".to_owned(), "--out".to_owned(), out.display().to_string()];
    if !options.contains(&"--tokenizer") {
        line.extend(["--tokenizer".to_owned(), tokenizer.display().to_string()]);
    }
    line.extend(options.iter().map(|option| (*option).to_owned()));
    line.extend(inputs.iter().map(|input| input.display().to_string()));
    Line::try_parse_from(line).unwrap_or_else(|err| panic!("{err}")).args
}

/// Runs `patchmill tokenize` without its output.
pub(crate) fn tokenize(out: &Path, inputs: &[&Path], options: &[&str]) -> anyhow::Result<Report> {
    pipeline::write::corpus::build(&arguments(out, inputs, options).spec()?)
}

/// The error printed by a `patchmill tokenize` that must fail, with its exit status.
pub(crate) fn tokenize_error(out: &Path, inputs: &[&Path], options: &[&str]) -> (String, u8) {
    match tokenize(out, inputs, options) {
        Ok(report) => panic!("it was accepted: {report:?}"),
        Err(err) => (format!("{err:#}"), pipeline::cli::exit_status(&err)),
    }
}

/// The file `name` in `dir`, with these bytes.
pub(crate) fn file(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// A line of the Pile.
pub(crate) fn line(text: &str, set_name: Option<&str>) -> String {
    let value = match set_name {
        Some(name) => serde_json::json!({"text": text, "meta": {"pile_set_name": name}}),
        None => serde_json::json!({ "text": text }),
    };
    format!("{value}\n")
}

/// The same as lines, one after the other.
pub(crate) fn lines(texts: &[&str]) -> String {
    texts.iter().map(|text| line(text, None)).collect()
}

/// A zstd frame.
pub(crate) fn zst(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A gzip member.
pub(crate) fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A document that owns its strings: row, text, set name.
pub(crate) type OwnedDoc = (u64, String, Option<String>);

/// All documents of an input file, or the error that ends them.
pub(crate) fn read(path: &Path) -> Result<Vec<OwnedDoc>, String> {
    read_columns(path, &Columns::default())
}

/// The same with other columns.
pub(crate) fn read_columns(path: &Path, columns: &Columns) -> Result<Vec<OwnedDoc>, String> {
    let wrong = |err: &dyn std::error::Error| match err.source() {
        Some(source) => format!("{err}: {source}"),
        None => err.to_string(),
    };
    let mut docs = Vec::new();
    for input in pipeline::read::inputs::find(&[path.to_owned()]).map_err(|err| wrong(&err))? {
        let push = |doc: Doc<'_>| {
            docs.push((doc.row, doc.text.into_owned(), doc.set_name.map(|name| name.into_owned())));
            Ok::<(), DocsError>(())
        };
        pipeline::read::documents::for_each(&input, columns, push).map_err(|err| wrong(&err))?;
    }
    Ok(docs)
}
