//! `patchmill tokenize --dry-run`: estimates the corpus's size from a sample of the inputs.
//!
//! **Invariant:** nothing is written.

use std::io::Write;

use schemas::shard::TokenBytes;

use crate::console::printable;
use crate::read::document::Columns;
use crate::read::documents::Docs;
use crate::read::inputs::Input;
use crate::write::select::{Candidate, Decision, Select, content_hash};
use encoder::Encoder;

/// Number of sampled inputs, evenly chosen.
const SAMPLE_INPUTS: usize = 8;
/// Bytes of text read from each.
const SAMPLE_TEXT_BYTES: u64 = 2 << 20;

#[derive(Default)]
struct Sample {
    file_bytes: u64,
    documents: u64,
    refused: u64,
    /// Not selected, or held out.
    dropped: u64,
    text_bytes: u64,
    tokens: u64,
}

/// Prints the estimate.
pub(crate) fn print(
    encoder: &Encoder,
    inputs: &[Input],
    columns: &Columns,
    select: &Select,
    as_json: bool,
) -> anyhow::Result<()> {
    let mut sample = Sample::default();
    for input in inputs.iter().step_by(inputs.len().div_ceil(SAMPLE_INPUTS)) {
        take(&mut sample, encoder, input, columns, select)?;
    }
    let input_bytes: u64 = inputs.iter().map(|input| input.bytes).sum();
    let scale = input_bytes as f64 / sample.file_bytes.max(1) as f64;
    let scaled = |count: u64| (count as f64 * scale).round() as u64;
    let tokens = scaled(sample.tokens);
    let token_bytes = TokenBytes::for_vocabulary(encoder.vocab_size()).get();
    let corpus_bytes = tokens * u64::from(token_bytes);
    let mut out = std::io::stdout().lock();
    if as_json {
        let json = serde_json::json!({
            "dry_run": true,
            "inputs": inputs.len(),
            "input_bytes": input_bytes,
            "sampled_bytes": sample.file_bytes,
            "documents": scaled(sample.documents),
            "documents_refused": scaled(sample.refused),
            "documents_not_selected": scaled(sample.dropped),
            "text_bytes": scaled(sample.text_bytes),
            "tokens": tokens,
            "token_bytes": token_bytes,
            "corpus_bytes": corpus_bytes,
        });
        writeln!(out, "{json}")?;
        return Ok(());
    }
    for input in inputs {
        writeln!(out, "{} ({} bytes)", printable::line(&input.name), input.bytes)?;
    }
    writeln!(
        out,
        "{} inputs of {input_bytes} bytes; {} of them were sampled. About:",
        inputs.len(),
        sample.file_bytes
    )?;
    writeln!(out, "{} documents, {} refused", scaled(sample.documents), scaled(sample.refused))?;
    if sample.dropped > 0 {
        writeln!(out, "{} of them not selected, or held out", scaled(sample.dropped))?;
    }
    writeln!(out, "{} bytes of text", scaled(sample.text_bytes))?;
    writeln!(out, "{tokens} tokens of {token_bytes} bytes, {corpus_bytes} bytes in all")?;
    Ok(())
}

fn take(
    sample: &mut Sample,
    encoder: &Encoder,
    input: &Input,
    columns: &Columns,
    select: &Select,
) -> anyhow::Result<()> {
    let mut docs = Docs::open(input, columns)?;
    let mut session = encoder.session::<u32>();
    let mut ids = Vec::new();
    let select = select.of_input(&input.name);
    let mut read_bytes = 0;
    while read_bytes < SAMPLE_TEXT_BYTES
        && let Some(chunk) = docs.next_chunk()?
    {
        for doc in chunk.docs(columns) {
            sample.documents += 1;
            let Ok(doc) = doc else {
                sample.refused += 1;
                continue;
            };
            read_bytes += doc.text.len() as u64;
            let candidate = Candidate {
                row: doc.row,
                text_bytes: doc.text.len() as u64,
                set_name: doc.set_name.as_deref(),
                content_hash: &content_hash(&doc.text),
            };
            if select.decide(candidate) != Decision::Write {
                sample.dropped += 1;
                continue;
            }
            sample.text_bytes += doc.text.len() as u64;
            ids.clear();
            session.encode(&doc.text, &mut ids)?;
            sample.tokens += ids.len() as u64;
        }
    }
    sample.file_bytes += docs.file_offset();
    Ok(())
}
