//! The files a command reads: expands files, folders and globs into a list in a defined order.
//!
//! **Invariant:** inputs are in the byte order of their relative paths, and no path appears twice.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use globset::GlobBuilder;
use walkdir::WalkDir;

/// An input file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its path.
    pub path: PathBuf,
    /// Path relative to the folder it was found in, with `/` between the parts; just the file's
    /// name if the file itself was given.
    pub name: String,
    /// Length on disk.
    pub bytes: u64,
    /// Modification time in nanoseconds since 1970. For ids with a second file, the sum of both
    /// files' times.
    pub modified_nanoseconds: u64,
    /// By its name.
    pub format: Format,
}

/// The format of an input, by its file extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// .jsonl, .json, .ndjson: one object a line.
    JsonLines,
    /// The same with .zst.
    JsonLinesZstd,
    /// The same with .gz.
    JsonLinesGzip,
    /// .parquet
    Parquet,
    /// Raw ids of another project; only [`foreign`] finds these.
    Ids,
}

impl Format {
    /// The format a name promises; `None` if the extension is unknown.
    pub fn of(name: &str) -> Option<Format> {
        let name = name.to_ascii_lowercase();
        let is_lines = |stem: &str| {
            [".jsonl", ".json", ".ndjson"].iter().any(|extension| stem.ends_with(extension))
        };
        if let Some(stem) = name.strip_suffix(".zst") {
            return is_lines(stem).then_some(Format::JsonLinesZstd);
        }
        if let Some(stem) = name.strip_suffix(".gz") {
            return is_lines(stem).then_some(Format::JsonLinesGzip);
        }
        if name.ends_with(".parquet") {
            return Some(Format::Parquet);
        }
        is_lines(&name).then_some(Format::JsonLines)
    }

    /// Its name in messages.
    pub fn describe(self) -> &'static str {
        match self {
            Format::JsonLines => "JSON lines",
            Format::JsonLinesZstd => "zstd",
            Format::JsonLinesGzip => "gzip",
            Format::Parquet => "Parquet",
            Format::Ids => "ids",
        }
    }
}

/// Why inputs were refused.
#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    /// An argument that names no file or folder and matches nothing as a glob.
    #[error("{argument}: no such file or folder, and no file matches it as a glob")]
    Missing {
        /// As given.
        argument: String,
    },
    /// A folder without input files.
    #[error(
        "{argument} holds no input; inputs end in .jsonl, .json or .ndjson (plain, .zst or .gz) \
         or .parquet"
    )]
    NoneInFolder {
        /// As given.
        argument: String,
    },
    /// A folder without files of ids.
    #[error("{argument} holds no file whose name ends in {extension}")]
    NoIdsInFolder {
        /// As given.
        argument: String,
        /// Their file extension.
        extension: &'static str,
    },
    /// A file of an unknown format.
    #[error(
        "{} has a name of an unknown kind; \
         inputs end in .jsonl, .json or .ndjson (plain, .zst or .gz) or .parquet", path.display()
    )]
    Kind {
        /// Which file.
        path: PathBuf,
    },
    /// Two inputs with the same name in a corpus.
    #[error(
        "{} and {} are both input {name:?}; give a folder above both, or leave one out",
        first.display(),
        second.display()
    )]
    Duplicate {
        /// Their relative path.
        name: String,
        /// Path of one.
        first: PathBuf,
        /// Path of the other.
        second: PathBuf,
    },
    /// Two inputs that are one file.
    #[error(
        "{} and {} are one file, by symbolic links, so its documents would be written twice; leave \
         one out (of the snapshots of a Hugging Face cache, name one), or copy the file",
        first.display(),
        second.display()
    )]
    SameFile {
        /// Path of one.
        first: PathBuf,
        /// Path of the other.
        second: PathBuf,
    },
    /// A name that is not Unicode.
    #[error("{} has a name that is not UTF-8; rename it", path.display())]
    Name {
        /// Which file.
        path: PathBuf,
    },
    /// A glob that cannot be parsed.
    #[error("{argument} is not a valid glob")]
    Glob {
        /// As given.
        argument: String,
        /// The parser's message.
        source: globset::Error,
    },
    /// A folder that cannot be walked.
    #[error("cannot list {argument}")]
    Walk {
        /// As given.
        argument: String,
        /// The system's error.
        source: walkdir::Error,
    },
    /// A file whose metadata cannot be read.
    #[error("cannot read {}", path.display())]
    Stat {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// The inputs `arguments` name: files, folders (with all below) and globs (`*`, `?`, `[ab]`,
/// `{a,b}`, `**`).
///
/// A name that exists is taken literally, even with glob characters in it; so are the folders at
/// the beginning of a glob. In folders, hidden files and files of other formats are ignored; a file
/// given directly must be an input.
pub fn find(arguments: &[PathBuf]) -> Result<Vec<Input>, InputsError> {
    Ok(find_counted(arguments)?.inputs)
}

/// The result of [`find_counted`].
pub struct Found {
    /// As from [`find`].
    pub inputs: Vec<Input>,
    /// Files of other formats in the named folders, without hidden ones.
    pub ignored_files: u64,
    /// Pipes, sockets and devices in the named folders, without hidden ones.
    pub special_files: Vec<PathBuf>,
}

/// Like [`find`], and also counts the ignored files in folders.
pub fn find_counted(arguments: &[PathBuf]) -> Result<Found, InputsError> {
    let mut inputs = Vec::new();
    let ignored_files = Cell::new(0);
    let special_files = RefCell::new(Vec::new());
    let on_special = |path: &Path| special_files.borrow_mut().push(path.to_owned());
    for path in arguments {
        let argument = path.display().to_string();
        if path.is_dir() {
            let is_input = |relative: &str| {
                let is_input = Format::of(relative).is_some();
                ignored_files.set(ignored_files.get() + u64::from(!is_input));
                is_input
            };
            let found = walk(path, &argument, is_input, Format::of, &on_special)?;
            if found.is_empty() {
                return Err(InputsError::NoneInFolder { argument });
            }
            inputs.extend(found);
        } else if path.exists() {
            let name = path.file_name().map(PathBuf::from).unwrap_or_default();
            inputs.push(input(path.clone(), &name, Format::of)?);
        } else {
            let mut found = matches(literal_part(path), path, &argument, &on_special)?;
            if found.is_empty() {
                found = matches(plain_part(path), path, &argument, &on_special)?;
            }
            if found.is_empty() {
                return Err(InputsError::Missing { argument });
            }
            inputs.extend(found);
        }
    }
    inputs.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    if let Some(pair) = inputs.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(InputsError::Duplicate {
            name: pair[0].name.clone(),
            first: pair[0].path.clone(),
            second: pair[1].path.clone(),
        });
    }
    check_different(&inputs)?;
    let (ignored_files, special_files) = (ignored_files.get(), special_files.take());
    Ok(Found { inputs, ignored_files, special_files })
}

/// Refuses a file that is found twice by symbolic links. Hard links are names of equal standing,
/// which a store that shares equal files makes, and are taken for different files.
fn check_different(inputs: &[Input]) -> Result<(), InputsError> {
    let mut files: BTreeMap<(u64, u64), Vec<&Path>> = BTreeMap::new();
    for input in inputs {
        let stat = |source| InputsError::Stat { path: input.path.clone(), source };
        let found = std::fs::metadata(&input.path).map_err(stat)?;
        files.entry((found.dev(), found.ino())).or_default().push(&input.path);
    }
    for paths in files.into_values().filter(|paths| paths.len() > 1) {
        let mut seen: BTreeMap<PathBuf, &Path> = BTreeMap::new();
        for path in paths {
            let stat = |source| InputsError::Stat { path: path.to_owned(), source };
            if let Some(first) = seen.insert(path.canonicalize().map_err(stat)?, path) {
                let (first, second) = (first.to_owned(), path.to_owned());
                return Err(InputsError::SameFile { first, second });
            }
        }
    }
    Ok(())
}

/// Files of another project's ids: `path` itself, or all files in and below the folder `path` whose
/// names end in `extension`, in the byte order of their relative paths.
pub fn foreign(path: &Path, extension: &'static str) -> Result<Vec<Input>, InputsError> {
    let format_of = |_: &str| Some(Format::Ids);
    if !path.is_dir() {
        let name = path.file_name().map(PathBuf::from).unwrap_or_default();
        return Ok(vec![input(path.to_owned(), &name, format_of)?]);
    }
    let argument = path.display().to_string();
    let is_ids = |name: &str| name.ends_with(extension);
    let mut inputs = walk(path, &argument, is_ids, format_of, &|_| ())?;
    inputs.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    if inputs.is_empty() {
        return Err(InputsError::NoIdsInFolder { argument, extension });
    }
    Ok(inputs)
}

fn walk(
    root: &Path,
    argument: &str,
    is_wanted: impl Fn(&str) -> bool,
    format_of: fn(&str) -> Option<Format>,
    on_special: &dyn Fn(&Path),
) -> Result<Vec<Input>, InputsError> {
    let is_hidden = |entry: &walkdir::DirEntry| {
        entry.depth() > 0 && entry.file_name().to_string_lossy().starts_with('.')
    };
    let mut inputs = Vec::new();
    for entry in WalkDir::new(root).follow_links(true).into_iter().filter_entry(|e| !is_hidden(e)) {
        let entry =
            entry.map_err(|source| InputsError::Walk { argument: argument.to_owned(), source })?;
        if !entry.file_type().is_file() {
            if !entry.file_type().is_dir() {
                on_special(entry.path());
            }
            continue;
        }
        let relative = entry.path().strip_prefix(root).expect("the walk stays below its root");
        if is_wanted(&relative.to_string_lossy()) {
            let relative = relative.to_owned();
            inputs.push(input(entry.into_path(), &relative, format_of)?);
        }
    }
    Ok(inputs)
}

/// The files that match a glob, whose first `literal` components are taken literally.
fn matches(
    literal: usize,
    path: &Path,
    argument: &str,
    on_special: &dyn Fn(&Path),
) -> Result<Vec<Input>, InputsError> {
    let root: PathBuf = path.components().take(literal).collect();
    let rest: PathBuf = path.components().skip(literal).collect();
    let root = if root.as_os_str().is_empty() { PathBuf::from(".") } else { root };
    if rest.as_os_str().is_empty() || !root.is_dir() {
        return Ok(Vec::new());
    }
    let glob = GlobBuilder::new(&rest.to_string_lossy()).literal_separator(true).build();
    let glob =
        glob.map_err(|source| InputsError::Glob { argument: argument.to_owned(), source })?;
    let matcher = glob.compile_matcher();
    let on_match = |path: &Path| {
        if path.strip_prefix(&root).is_ok_and(|relative| matcher.is_match(relative)) {
            on_special(path);
        }
    };
    walk(&root, argument, |relative| matcher.is_match(relative), Format::of, &on_match)
}

/// Components before the first with a wildcard.
fn plain_part(path: &Path) -> usize {
    path.components().take_while(|part| !has_wildcard(part)).count()
}

/// The same, with those that have one and exist all the same.
fn literal_part(path: &Path) -> usize {
    let mut root = PathBuf::new();
    let is_literal = |part: &Component| {
        root.push(part);
        !has_wildcard(part) || root.exists()
    };
    path.components().take_while(is_literal).count()
}

fn has_wildcard(part: &Component) -> bool {
    part.as_os_str().to_string_lossy().contains(['*', '?', '[', '{'])
}

fn input(
    path: PathBuf,
    relative: &Path,
    format_of: fn(&str) -> Option<Format>,
) -> Result<Input, InputsError> {
    let parts: Option<Vec<&str>> = relative.components().map(|p| p.as_os_str().to_str()).collect();
    let Some(parts) = parts else { return Err(InputsError::Name { path }) };
    let name = parts.join("/");
    let Some(format) = format_of(&name) else { return Err(InputsError::Kind { path }) };
    let stat = || {
        let metadata = std::fs::metadata(&path)?;
        let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH);
        Ok((metadata.len(), modified.unwrap_or_default().as_nanos()))
    };
    let (bytes, modified) =
        stat().map_err(|source| InputsError::Stat { path: path.clone(), source })?;
    let modified_nanoseconds = u64::try_from(modified).unwrap_or(u64::MAX);
    Ok(Input { path, name, bytes, modified_nanoseconds, format })
}
