//! An encoder's ids against those of the `tokenizers` crate, document by document, on any number of
//! threads.
//!
//! Each document is encoded whole and, cut by [`Encoder::parts`], in parts. A panic counts as a
//! difference.
//!
//! **Invariant:** the reference is loaded and set up here, by nothing that the encoder uses.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow};
use encoder::{Encoder, PartPosition, Policy, Session, TOKENIZER_FILE, TokenId};
use schemas::manifest::SpecialTokens;
use tokenizers::Tokenizer;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::tokenizer::Decoder;

use crate::generate::Material;
use crate::texts::Text;

/// Both readings of special tokens in a text; first the one that finds more of them, whose answer
/// may be that of the other.
pub const MODES: [SpecialTokens; 2] = [SpecialTokens::Hf, SpecialTokens::Text];
/// Differences that are kept to be shown.
const SHOWN_MAX: usize = 20;
/// Documents that a thread takes at a time.
const BLOCK_DOCUMENTS: u64 = 64;
/// Ids shown before and after the place of a difference.
const CONTEXT_IDS: usize = 4;

/// How an encoder that answers with the text's ids alone is loaded.
pub fn policy(special_tokens: SpecialTokens) -> Policy {
    Policy { bos: false, eos: false, special_tokens }
}

/// tokenizer.json itself, or the one in a folder.
pub fn tokenizer_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(TOKENIZER_FILE) } else { path.to_owned() }
}

/// The `tokenizers` crate reading the same file.
pub fn reference(path: &Path, special_tokens: SpecialTokens) -> anyhow::Result<Tokenizer> {
    let path = tokenizer_file(path);
    let loaded = Tokenizer::from_file(&path).map_err(|err| anyhow!(err));
    let mut tokenizer = loaded.with_context(|| format!("cannot load {}", path.display()))?;
    tokenizer.with_truncation(None).map_err(|err| anyhow!(err))?;
    tokenizer.with_padding(None);
    tokenizer.set_encode_special_tokens(special_tokens == SpecialTokens::Text);
    Ok(tokenizer)
}

/// The material of random inputs for this tokenizer, with slices of `texts`.
pub fn material(tokenizer: &Tokenizer, texts: Vec<String>) -> Material {
    let mut vocabulary: Vec<(String, u32)> = tokenizer.get_vocab(true).into_iter().collect();
    vocabulary.sort_unstable_by_key(|(_, id)| *id);
    let spellings: Vec<String> = vocabulary.into_iter().map(|(token, _)| token).collect();
    let is_byte_level = spellings.iter().any(|token| token.starts_with('Ġ'));
    let as_text = |token: &String| {
        if !is_byte_level {
            return token.replace('▁', " ");
        }
        let decoded = ByteLevel::default().decode_chain(vec![token.clone()]);
        decoded.map_or_else(|_| token.clone(), |parts| parts.concat())
    };
    let pieces = spellings.iter().map(as_text).collect();
    let mut added: Vec<(u32, String)> = tokenizer
        .get_added_tokens_decoder()
        .into_iter()
        .map(|(id, token)| (id, token.content))
        .collect();
    added.sort_unstable();
    let mut specials: Vec<String> = added.into_iter().map(|(_, content)| content).collect();
    let look_alikes = ["<s>", "</s>", "<unk>", "<0x0A>", "[INST]", "<<SYS>>", "<|endoftext|>"];
    specials.extend(look_alikes.map(str::to_owned));
    Material { pieces, spellings, specials, texts }
}

/// Settings of a comparison.
pub struct Comparison<'a> {
    /// The tokenizer.json, or its folder.
    pub tokenizer: &'a Path,
    /// Which readings of special tokens.
    pub modes: &'a [SpecialTokens],
    /// Threads, at least 1.
    pub threads: usize,
}

/// A document whose ids are not the reference's.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Name to find the document again.
    pub name: String,
    /// The document.
    pub text: String,
    /// The difference and its place.
    pub report: String,
}

/// Results of a comparison; those of several add up.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Documents compared, once in each mode.
    pub documents: u64,
    /// Their bytes, once.
    pub text_bytes: u64,
    /// Ids of the reference, over all modes.
    pub tokens: u64,
    /// Documents that differ, in whichever mode.
    pub differing: u64,
    /// The first that were found.
    pub shown: Vec<Difference>,
}

impl Outcome {
    /// Adds another part's counts.
    pub fn add(&mut self, other: Outcome) {
        self.documents += other.documents;
        self.text_bytes += other.text_bytes;
        self.tokens += other.tokens;
        self.differing += other.differing;
        let room = SHOWN_MAX.saturating_sub(self.shown.len());
        self.shown.extend(other.shown.into_iter().take(room));
    }
}

impl Comparison<'_> {
    /// Compares documents `0..count`, which `document` makes or finds.
    pub fn run(
        &self,
        count: u64,
        document: impl Fn(u64) -> Text + Sync,
    ) -> anyhow::Result<Outcome> {
        let load = |&mode: &SpecialTokens| -> anyhow::Result<(SpecialTokens, Encoder)> {
            Ok((mode, Encoder::load(self.tokenizer, policy(mode))?))
        };
        let encoders = self.modes.iter().map(load).collect::<anyhow::Result<Vec<_>>>()?;
        let (next, outcome) = (AtomicU64::new(0), Mutex::new(Ok(Outcome::default())));
        let work = || -> anyhow::Result<Outcome> {
            let mut sides = Vec::new();
            for (mode, encoder) in &encoders {
                // A reference each: the crate's cache has one lock.
                sides.push(Side::new(*mode, encoder, reference(self.tokenizer, *mode)?));
            }
            let mut found = Outcome::default();
            loop {
                let first = next.fetch_add(BLOCK_DOCUMENTS, Ordering::Relaxed);
                if first >= count {
                    return Ok(found);
                }
                for index in first..count.min(first + BLOCK_DOCUMENTS) {
                    compare(&mut sides, document(index), &mut found)?;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    let found = work();
                    let mut outcome = outcome.lock().expect("no thread panics with the lock");
                    match (&mut *outcome, found) {
                        (Ok(outcome), Ok(found)) => outcome.add(found),
                        (Ok(_), Err(err)) => *outcome = Err(err),
                        (Err(_), _) => {}
                    }
                });
            }
        });
        outcome.into_inner().expect("no thread panics with the lock")
    }
}

/// An encoder and its reference in one mode.
struct Side<'a> {
    mode: SpecialTokens,
    encoder: &'a Encoder,
    session: AnySession<'a>,
    reference: Tokenizer,
    /// Ids of added tokens.
    added_ids: HashSet<u32>,
    /// Whether each occurrence of an added token gives its id, so an answer without such ids proves
    /// that the text has none. Only tokens that must be words can occur in a text and be ignored.
    shares: bool,
}

/// A session of the width that the vocabulary asks for.
enum AnySession<'a> {
    Two(Session<'a, u16>, Vec<u16>),
    Four(Session<'a, u32>, Vec<u32>),
}

fn open(encoder: &Encoder) -> AnySession<'_> {
    if encoder.vocab_size() <= u16::VOCAB_SIZE_MAX {
        AnySession::Two(encoder.session(), Vec::new())
    } else {
        AnySession::Four(encoder.session(), Vec::new())
    }
}

impl AnySession<'_> {
    /// The ids of a text that is cut into `ranges`.
    fn encode(
        &mut self,
        text: &str,
        ranges: &[std::ops::Range<usize>],
    ) -> Result<Vec<u32>, String> {
        match self {
            AnySession::Two(session, ids) => encode_into(session, ids, text, ranges),
            AnySession::Four(session, ids) => encode_into(session, ids, text, ranges),
        }
    }
}

fn encode_into<I: TokenId>(
    session: &mut Session<'_, I>,
    ids: &mut Vec<I>,
    text: &str,
    ranges: &[std::ops::Range<usize>],
) -> Result<Vec<u32>, String> {
    ids.clear();
    for range in ranges {
        let position =
            PartPosition { is_first: range.start == 0, is_last: range.end == text.len() };
        let encoded = session.encode_part(&text[range.clone()], position, ids);
        encoded.map_err(|err| err.to_string())?;
    }
    Ok(ids.iter().map(|id| id.widen()).collect())
}

fn compare(sides: &mut [Side<'_>], document: Text, found: &mut Outcome) -> anyhow::Result<()> {
    let mut report = String::new();
    // A text in which the crate finds none of the added tokens has none of fewer: the answer is
    // that of all readings.
    let mut of_all: Option<Vec<u32>> = None;
    for side in sides {
        let expected = match &of_all {
            Some(ids) => ids.clone(),
            None => side.expected(&document)?,
        };
        found.tokens += expected.len() as u64;
        side.check(&document.text, &expected, &mut report);
        if side.shares && !expected.iter().any(|id| side.added_ids.contains(id)) {
            of_all = Some(expected);
        }
    }
    found.documents += 1;
    found.text_bytes += document.text.len() as u64;
    if !report.is_empty() {
        found.differing += 1;
        if found.shown.len() < SHOWN_MAX {
            found.shown.push(Difference { name: document.name, text: document.text, report });
        }
    }
    Ok(())
}

impl<'a> Side<'a> {
    fn new(mode: SpecialTokens, encoder: &'a Encoder, reference: Tokenizer) -> Side<'a> {
        let added = reference.get_added_tokens_decoder();
        let no_words = added.values().all(|token| !token.single_word);
        Side {
            mode,
            encoder,
            session: open(encoder),
            shares: mode == SpecialTokens::Hf && no_words,
            added_ids: added.into_keys().collect(),
            reference,
        }
    }

    /// The reference's ids.
    fn expected(&self, document: &Text) -> anyhow::Result<Vec<u32>> {
        let encoding = self.reference.encode_fast(document.text.as_str(), false);
        let encoding = encoding.map_err(|err| anyhow!(err));
        let encoding = encoding.with_context(|| format!("reference, {}", document.name))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Encodes whole and in parts, and adds to `report` what differs.
    fn check(&mut self, text: &str, expected: &[u32], report: &mut String) {
        let whole = 0..text.len();
        self.check_cut(text, "whole", &[whole], expected, report);
        let part_bytes = (text.len() / 7).max(16);
        let parts = catch_unwind(AssertUnwindSafe(|| self.encoder.parts(text, part_bytes)));
        match parts {
            Ok(parts) if parts.len() == 1 => {}
            Ok(parts) => {
                let way = format!("in {} parts of about {part_bytes} bytes", parts.len());
                self.check_cut(text, &way, &parts, expected, report);
            }
            Err(_) => self.say(report, "parts", "panicked"),
        }
    }

    fn check_cut(
        &mut self,
        text: &str,
        way: &str,
        ranges: &[std::ops::Range<usize>],
        expected: &[u32],
        report: &mut String,
    ) {
        let found = self.answer(text, ranges);
        if found.as_deref() == Ok(expected) {
            return;
        }
        // Does it take the cache that earlier documents left?
        self.session = open(self.encoder);
        let afresh = self.answer(text, ranges);
        let again = if afresh == found { "" } else { "; a fresh session answers otherwise" };
        match found {
            Err(reason) => self.say(report, way, &format!("failed: {reason}{again}")),
            Ok(found) => {
                let what = self.describe(&found, expected);
                self.say(report, way, &format!("{what}{again}"));
            }
        }
    }

    fn answer(
        &mut self,
        text: &str,
        ranges: &[std::ops::Range<usize>],
    ) -> Result<Vec<u32>, String> {
        let encoded = catch_unwind(AssertUnwindSafe(|| self.session.encode(text, ranges)));
        encoded.unwrap_or_else(|_| {
            self.session = open(self.encoder); // whatever state the panic left
            Err("panicked".to_owned())
        })
    }

    fn say(&self, report: &mut String, way: &str, what: &str) {
        let mode = match self.mode {
            SpecialTokens::Text => "text",
            SpecialTokens::Hf => "hf",
        };
        writeln!(report, "  special tokens {mode}, {way}: {what}").expect("a String takes all");
    }

    /// Where two lists of ids part, with the tokens around.
    fn describe(&self, found: &[u32], expected: &[u32]) -> String {
        let same = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
        let around = |ids: &[u32]| {
            let ids = &ids[same.saturating_sub(CONTEXT_IDS)..ids.len().min(same + CONTEXT_IDS)];
            let token =
                |&id: &u32| self.reference.id_to_token(id).unwrap_or_else(|| "?".to_owned());
            let tokens: Vec<String> =
                ids.iter().map(|id| format!("{id} {:?}", token(id))).collect();
            tokens.join(", ")
        };
        format!(
            "id {same} of {} (expected {}): found [{}], expected [{}]",
            found.len(),
            expected.len(),
            around(found),
            around(expected)
        )
    }
}

/// Prints what was found, and the offending documents as JSON lines into `failures`; an error if
/// any differ.
pub fn conclude(outcome: &Outcome, failures: Option<&Path>, what: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    for difference in &outcome.shown {
        let start: String = difference.text.chars().take(100).collect();
        writeln!(text, "{}: {start:?}", difference.name)?;
        text.push_str(&difference.report);
    }
    writeln!(
        text,
        "{what}: {} documents, {} bytes, {} ids of the reference, {} documents differ",
        outcome.documents, outcome.text_bytes, outcome.tokens, outcome.differing
    )?;
    if let Some(path) = failures
        && outcome.differing > 0
    {
        let lines = outcome.shown.iter().map(|difference| {
            let Difference { name, text, report } = difference;
            serde_json::json!({ "text": text, "name": name, "report": report }).to_string() + "\n"
        });
        std::fs::write(path, lines.collect::<String>())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(text)
}
