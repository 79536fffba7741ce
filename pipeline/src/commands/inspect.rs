//! `patchmill inspect`: describes a corpus, a shard or a document.
//!
//! **Invariant:** everything shown was checked first.

mod rate;
mod tokenizer;

use std::borrow::Cow;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use schemas::index::CONTENT_HASH_BYTES;
use schemas::manifest::SetTotals;
use schemas::run::ReadBackend;
use schemas::shard::{HEADER_BYTES, ShardHeader, VERSION};
use serde_json::json;

use crate::commands::tokenize::report::write_totals;
use crate::commands::values::{SelectArgs, local_path};
use crate::console::numbers::parse_positive_count;
use crate::console::printable;
use crate::console::usage::UsageError;
use crate::corpus::index::{self, IndexRow};
use crate::corpus::{self, Corpus};
use crate::disk::source::open_file;
use crate::write::select::Select;
use encoder::Encoder;

/// Options of `patchmill inspect`.
#[derive(clap::Args, Clone, Debug)]
pub struct InspectArgs {
    /// A corpus, or one of its shards (.tok).
    #[arg(
        required_unless_present = "tokenizer",
        conflicts_with = "tokenizer",
        value_parser = local_path()
    )]
    pub path: Option<PathBuf>,
    /// Show a tokenizer.json, or the one in a folder, and which encoder makes its ids.
    #[arg(long, value_name = "FILE", conflicts_with = "doc", value_parser = local_path())]
    pub tokenizer: Option<PathBuf>,
    /// Show this document's text, counted from 0 within the corpus or the shard.
    #[arg(long, value_name = "N")]
    pub doc: Option<u64>,
    /// Print the --sample-rate that gives this many tokens of a corpus, such as 60e9 or 60B.
    #[arg(long, value_name = "TOKENS", value_parser = parse_positive_count, conflicts_with = "doc")]
    pub rate_for: Option<u64>,
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    pub json: bool,
    /// Further options tokenize will be given.
    #[command(flatten)]
    pub select: SelectArgs,
}

/// Runs `patchmill inspect`.
pub fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    if let Some(tokenizer) = &args.tokenizer {
        return tokenizer::show(tokenizer, args.json);
    }
    let path = args.path.as_deref().context("a corpus, a shard or --tokenizer is wanted")?;
    if let Some(tokens) = args.rate_for {
        return crate::commands::inspect::rate::print(path, tokens, &args.select.spec(), args.json);
    }
    if Select::new(&args.select.spec())?.record().is_some() {
        let what = "options that choose documents need --rate-for here";
        return Err(UsageError(what.to_owned()).into());
    }
    match (path.is_dir(), args.doc) {
        (true, None) => corpus_totals(path, args.json),
        (true, Some(document)) => {
            let corpus = Corpus::open(path, ReadBackend::Pread)?;
            show_document(&corpus, document, args.json)
        }
        (false, None) => shard_header(path, args.json),
        (false, Some(document)) => {
            let corpus = Corpus::open(parent(path), ReadBackend::Pread)?;
            let document = document_of_shard(&corpus, path, document)?;
            show_document(&corpus, document, args.json)
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn corpus_totals(dir: &Path, as_json: bool) -> anyhow::Result<()> {
    let manifest = corpus::read_manifest(dir)?;
    let tokenizer = &manifest.tokenizer;
    let mut out = std::io::stdout().lock();
    if as_json {
        // Null for unknown texts.
        let known = |text_bytes: u64| manifest.imported.is_none().then_some(text_bytes);
        let bytes_per_token = |text_bytes: u64, tokens: u64| {
            known(text_bytes).map(|text_bytes| text_bytes as f64 / tokens.max(1) as f64)
        };
        let set = |set: &SetTotals| {
            json!({
                "set_name": set.set_name,
                "documents": set.documents,
                "text_bytes": known(set.text_bytes),
                "tokens": set.tokens,
                "bytes_per_token": bytes_per_token(set.text_bytes, set.tokens),
            })
        };
        let totals = manifest.totals;
        let json = json!({
            "fingerprint": manifest.fingerprint,
            "documents_read": totals.documents_read,
            "documents_written": totals.documents_written,
            "documents_skipped": totals.documents_skipped,
            "documents_held_out": totals.documents_held_out,
            "documents_dropped": totals.dropped.checked_sum(),
            "parts_added": totals.parts_added,
            "surrogates_replaced": totals.surrogates_replaced,
            "text_bytes": known(totals.text_bytes),
            "tokens": totals.tokens,
            "bytes_per_token": bytes_per_token(totals.text_bytes, totals.tokens),
            "token_bytes": manifest.token_bytes,
            "vocab_size": tokenizer.vocab_size,
            "tokenizer": tokenizer.fingerprint,
            "bos": tokenizer.bos,
            "eos": tokenizer.eos,
            "special_tokens": tokenizer.special_tokens,
            "imported": manifest.imported,
            "series": manifest.series.len(),
            "shards": manifest.shards().count(),
            "sets": manifest.sets.iter().map(set).collect::<Vec<_>>(),
        });
        writeln!(out, "{json}")?;
        return Ok(());
    }
    writeln!(out, "corpus {}, fingerprint {}", dir.display(), manifest.fingerprint)?;
    writeln!(
        out,
        "tokenizer {}, {} entries, BOS {}, EOS {}, special tokens in texts are {}",
        tokenizer.fingerprint,
        tokenizer.vocab_size,
        encoder::describe(tokenizer.bos.as_ref()),
        encoder::describe(tokenizer.eos.as_ref()),
        match tokenizer.special_tokens {
            schemas::manifest::SpecialTokens::Text => "text",
            schemas::manifest::SpecialTokens::Hf => "control ids",
        }
    )?;
    write_totals(&mut out, &manifest)?;
    Ok(())
}

fn shard_header(path: &Path, as_json: bool) -> anyhow::Result<()> {
    let context = || format!("read shard {}", path.display());
    let file = open_file(path).with_context(context)?;
    let file_bytes = file.metadata().with_context(context)?.len();
    let mut head = Vec::new();
    file.take(HEADER_BYTES).read_to_end(&mut head).with_context(context)?;
    let header = ShardHeader::decode(&head, file_bytes).with_context(context)?;
    let tokenizer = blake3::Hash::from_bytes(header.tokenizer).to_hex();
    let json = json!({
        "version": VERSION,
        "token_bytes": header.token_bytes.get(),
        "token_count": header.token_count,
        "document_count": header.document_count,
        "payload_offset": HEADER_BYTES,
        "vocab_size": header.vocab_size,
        "tokenizer": tokenizer.as_str(),
        "series_index": header.series_index,
        "shard_index": header.shard_index,
        "block_count": header.block_count(),
        "footer_offset": header.footer_offset(),
        "file_bytes": file_bytes,
    });
    let mut out = std::io::stdout().lock();
    if as_json {
        writeln!(out, "{json}")?;
        return Ok(());
    }
    for (key, value) in json.as_object().expect("it was made as an object") {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        writeln!(out, "{key:15} {value}")?;
    }
    Ok(())
}

/// The corpus-wide number of a document counted within a shard.
fn document_of_shard(corpus: &Corpus, shard: &Path, document: u64) -> anyhow::Result<u64> {
    let name = shard.file_name().context("a shard has a name")?.to_string_lossy();
    let mut first_document = 0;
    for record in corpus.manifest().shards() {
        if record.file.path == name {
            ensure!(
                document < record.document_count,
                "document {document} is wanted; {} has {}, numbered from 0",
                shard.display(),
                record.document_count
            );
            return Ok(first_document + document);
        }
        first_document += record.document_count;
    }
    anyhow::bail!("{} is not part of the corpus {}", shard.display(), corpus.dir().display())
}

fn show_document(corpus: &Corpus, document: u64, as_json: bool) -> anyhow::Result<()> {
    let record = &corpus.manifest().tokenizer;
    let encoder = Encoder::of_corpus(corpus.dir(), record)?;
    let tokens = corpus.document_tokens(document)?;
    let mut ids = vec![0; usize::try_from(tokens.end - tokens.start).context("document")?];
    corpus.read::<u32>(tokens.start, &mut ids)?;
    let row = index_row(corpus, document)?;
    let text = encoder.decode_document(&ids)?;
    // A tokenizer may normalize, and then the text cannot be restored. The hash shows it.
    let is_exact = row.content_hash.map(|content_hash| {
        blake3::hash(text.as_bytes()).as_bytes()[..CONTENT_HASH_BYTES] == content_hash
    });
    let mut out = std::io::stdout().lock();
    if as_json {
        let json = json!({
            "document": document,
            "input": row.input,
            "row": row.row,
            "set_name": row.set_name,
            "first_token": tokens.start,
            "token_count": ids.len(),
            "text_bytes": row.text_bytes,
            "is_exact": is_exact,
            "text": text,
        });
        writeln!(out, "{json}")?;
        return Ok(());
    }
    writeln!(
        out,
        "document {document}: {} row {}, set {}, tokens {}..{} of the corpus, {}\n",
        printable::line(&row.input),
        row.row,
        printable::line(row.set_name.as_deref().unwrap_or("(none)")),
        tokens.start,
        tokens.end,
        match (row.text_bytes, is_exact) {
            (Some(bytes), Some(true)) => format!("{bytes} bytes of text"),
            (Some(bytes), _) =>
                format!("{bytes} bytes of text (decoded: not exactly the original text)"),
            (None, _) => "imported as ids (decoded: the original text is not known)".to_owned(),
        }
    )?;
    // A file or another program gets the text unchanged.
    let shown = if out.is_terminal() { printable::lines(&text) } else { Cow::Borrowed(&*text) };
    writeln!(out, "{shown}")?;
    Ok(())
}

/// The index entry of a document of the corpus.
fn index_row(corpus: &Corpus, document: u64) -> anyhow::Result<IndexRow> {
    let mut first_document = 0;
    for series in &corpus.manifest().series {
        let end_document =
            first_document + series.totals.shard_documents().expect("a manifest adds up");
        if document < end_document {
            let record = series.index.as_ref();
            let record = record.with_context(|| format!("{} has no index", series.input))?;
            index::check_file(corpus.dir(), record)?;
            let path = corpus.dir().join(&record.path);
            let mut rows = index::read(&path, document - first_document, 1)?;
            let row = rows.next().with_context(|| {
                format!("{} has no row for document {document}", path.display())
            })?;
            return Ok(row?);
        }
        first_document = end_document;
    }
    unreachable!("the corpus has the document")
}
