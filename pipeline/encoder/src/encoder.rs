//! `Encoder` has one job, text to ids, and the `tokenizers` crate defines the result. The
//! [`Policy`] adds BOS and EOS. Our own encoder ([`crate::fast`]) produces the ids where
//! tokenizer.json proves that they are the same, and nowhere else. `patchmill inspect --tokenizer`
//! prints which encoder is used and why ours is not. The encoder may change; the ids may not.
//!
//! Special tokens written out in a text are text by default: `</s>` in a web page must not end a
//! document.
//!
//! **Invariant:** every id appended by [`Encoder::encode`] is below [`Encoder::vocab_size`].

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use schemas::manifest::{SpecialToken, SpecialTokens, TokenizerRecord};
use tokenizers::Tokenizer;

use crate::background::Background;
use crate::files::read_file;
use crate::panic::panic_text;
use crate::policy::{Config, Role};

use crate::error::TokenizeError;
use crate::fast::{Fast, FastSession};
use crate::files::{TOKENIZER_FILE, TOKENIZER_FOLDER};
use crate::policy::{Policy, PolicyChoice};
use crate::token_id::TokenId;

/// Default size of a [`Session`]'s cache.
///
/// Of the 13.4 million pieces in 46 MB of mixed text, a cache of this size misses 2.9 %; one of
/// 9 MB misses 3.4 %, one of 2 MB 7.1 %.
pub const CACHE_BYTES: usize = 18 << 20;

/// The most bytes shown of an obstacle.
const OBSTACLE_BYTES_MAX: usize = 500;

/// A tokenizer with a policy, shared by threads.
pub struct Encoder {
    tokenizer: Arc<Tokenizer>,
    /// Our own encoder, or the obstacles to it.
    fast: Background<FastOrWhyNot>,
    cache_bytes: usize,
    path: PathBuf,
    fingerprint: blake3::Hash,
    vocab_size: u64,
    policy: Policy,
    bos: Option<SpecialToken>,
    eos: Option<SpecialToken>,
    /// The parts of the policy chosen by the tokenizer's own configuration, with the setting.
    followed: Vec<String>,
}

type FastOrWhyNot = Result<Fast, Vec<String>>;

impl Encoder {
    /// Loads a tokenizer.json, or the one in a folder.
    pub fn load(path: &Path, policy: impl Into<PolicyChoice>) -> Result<Encoder, TokenizeError> {
        let (policy, (path, bytes)) = (policy.into(), read_tokenizer(path)?);
        let specials = policy.special_tokens;
        let tokenizer = crate::reference::parse(&bytes, specials).map(Arc::new);
        let tokenizer =
            tokenizer.map_err(|reason| TokenizeError::Form { path: path.clone(), reason })?;
        let fast =
            Background::made(make_fast(&bytes, specials, &|token| tokenizer.token_to_id(token)));
        Encoder::new(path, &bytes, policy, tokenizer, fast)
    }

    /// Like [`Encoder::load`], on two threads: one builds our own encoder, and the first caller to
    /// need it waits for it.
    pub fn load_on_two_threads(
        path: &Path,
        policy: impl Into<PolicyChoice>,
    ) -> Result<Encoder, TokenizeError> {
        let (policy, (path, bytes)) = (policy.into(), read_tokenizer(path)?);
        let specials = policy.special_tokens;
        let bytes: Arc<[u8]> = bytes.into();
        let (tx, rx) = mpsc::sync_channel::<Arc<Tokenizer>>(1);
        let fast = Background::make({
            let bytes = Arc::clone(&bytes);
            move || {
                // Received last, when all else is done. Without a tokenizer the result is unused.
                let tokenizer = std::cell::LazyCell::new(|| rx.recv().ok());
                make_fast(&bytes, specials, &|token| tokenizer.as_ref()?.token_to_id(token))
            }
        });
        let tokenizer = crate::reference::parse(&bytes, specials).map(Arc::new);
        if let Ok(tokenizer) = &tokenizer {
            // An error means the other thread is done and needs no tokenizer: it found an obstacle
            // earlier.
            let _ = tx.send(Arc::clone(tokenizer));
        }
        // Before an early return: dropping `fast` waits for the thread, which would wait for `tx`.
        drop(tx);
        let tokenizer =
            tokenizer.map_err(|reason| TokenizeError::Form { path: path.clone(), reason })?;
        Encoder::new(path, &bytes, policy, tokenizer, fast)
    }

    fn new(
        path: PathBuf,
        bytes: &[u8],
        choice: PolicyChoice,
        tokenizer: Arc<Tokenizer>,
        fast: Background<FastOrWhyNot>,
    ) -> Result<Encoder, TokenizeError> {
        let vocab_size = crate::reference::vocab_size(&tokenizer);
        if !(1..=1 << 32).contains(&vocab_size) {
            let reason = format!("its vocabulary has {vocab_size} entries");
            return Err(TokenizeError::Form { path, reason });
        }
        let config = Config::read(&path, &tokenizer)?;
        let (bos, bos_followed) = config.resolve(Role::Bos, choice.bos)?;
        let (eos, eos_followed) = config.resolve(Role::Eos, choice.eos)?;
        let policy = Policy {
            bos: bos.is_some(),
            eos: eos.is_some(),
            special_tokens: choice.special_tokens,
        };
        Ok(Encoder {
            fast,
            cache_bytes: CACHE_BYTES,
            fingerprint: blake3::hash(bytes),
            vocab_size,
            policy,
            bos,
            eos,
            followed: bos_followed.into_iter().chain(eos_followed).collect(),
            tokenizer,
            path,
        })
    }

    /// Whether a session starts at once. Otherwise it waits for our own encoder.
    pub fn is_ready(&self) -> bool {
        self.fast.is_made()
    }

    /// Loads the tokenizer in the corpus folder `dir`, with the corpus's policy.
    ///
    /// A file, a vocabulary size or a special token different from that in `record` is
    /// [`TokenizeError::Differs`].
    pub fn of_corpus(dir: &Path, record: &TokenizerRecord) -> Result<Encoder, TokenizeError> {
        let folder = dir.join(TOKENIZER_FOLDER);
        for file in &record.files {
            let path = dir.join(&file.path);
            compare(&path, "its BLAKE3", hex(blake3::hash(&read(&path)?)), file.blake3.clone())?;
        }
        let encoder = Encoder::load(&folder, Policy::of(record))?;
        let check = |what, found, expected| compare(&encoder.path, what, found, expected);
        check("its BLAKE3", hex(encoder.fingerprint), record.fingerprint.clone())?;
        check(
            "the size of its vocabulary",
            encoder.vocab_size.to_string(),
            record.vocab_size.to_string(),
        )?;
        check("its BOS", describe(encoder.bos()), describe(record.bos.as_ref()))?;
        check("its EOS", describe(encoder.eos()), describe(record.eos.as_ref()))?;
        Ok(encoder)
    }

    /// The same encoder with caches of about `cache_bytes`. No id depends on the size.
    pub fn with_cache_bytes(self, cache_bytes: usize) -> Encoder {
        Encoder { cache_bytes, ..self }
    }

    /// An encoder for one thread, with a cache kept from text to text; its ids have the width of
    /// `I`.
    ///
    /// # Panics
    /// If `I` cannot hold every id of the vocabulary.
    pub fn session<I: TokenId>(&self) -> Session<'_, I> {
        self.session_with(self.cache_bytes)
    }

    fn session_with<I: TokenId>(&self, cache_bytes: usize) -> Session<'_, I> {
        assert!(self.vocab_size <= I::VOCAB_SIZE_MAX, "{} ids", self.vocab_size);
        let fast = self.fast.get().as_ref().ok().map(|fast| FastSession::new(fast, cache_bytes));
        Session { encoder: self, fast, ids: Vec::new() }
    }

    /// Cuts a text into parts of about `part_bytes` for [`Session::encode_part`]. Any threads can
    /// encode them separately: the ids of all parts in order are those of the whole text. Without a
    /// cut known to be exact there is one part.
    pub fn parts(&self, text: &str, part_bytes: usize) -> Vec<Range<usize>> {
        let cuts = match self.fast.get() {
            Ok(fast) if fast.takes(text) => fast.cuts(text, part_bytes),
            _ => Vec::new(),
        };
        let ends = cuts.into_iter().chain([text.len()]);
        let mut start = 0;
        ends.map(|end| std::mem::replace(&mut start, end)..end).collect()
    }

    /// Appends BOS, the text's ids and EOS, by the policy. An error leaves `ids` unchanged.
    ///
    /// Meant for a text or two; many texts are faster through one [`Encoder::session`].
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizeError> {
        self.session_with(0).encode(text, ids)
    }

    /// Like [`Encoder::encode`], by the `tokenizers` crate, whose ids define the result.
    pub fn encode_by_definition(
        &self,
        text: &str,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizeError> {
        // A crafted tokenizer.json can make the crate panic. The run must not end without an error
        // message.
        let encoding = catch_unwind(AssertUnwindSafe(|| self.tokenizer.encode_fast(text, false)))
            .map_err(|panic| TokenizeError::Encode { reason: panic_text(&*panic) })?
            .map_err(|err| TokenizeError::Encode { reason: err.to_string() })?;
        let text_ids = encoding.get_ids();
        if let Some(id) = text_ids.iter().find(|&&id| u64::from(id) >= self.vocab_size) {
            let reason = format!("id {id} is outside the vocabulary of {}", self.vocab_size);
            return Err(TokenizeError::Encode { reason });
        }
        ids.reserve(text_ids.len() + 2);
        ids.extend(self.bos.iter().map(|token| token.id));
        ids.extend_from_slice(text_ids);
        ids.extend(self.eos.iter().map(|token| token.id));
        Ok(())
    }

    /// The text of a document's ids, without the BOS and EOS put around it by the policy.
    pub fn decode_document(&self, ids: &[u32]) -> Result<String, TokenizeError> {
        let mut ids = ids;
        if let (Some(bos), Some((first, rest))) = (&self.bos, ids.split_first())
            && *first == bos.id
        {
            ids = rest;
        }
        if let (Some(eos), Some((last, rest))) = (&self.eos, ids.split_last())
            && *last == eos.id
        {
            ids = rest;
        }
        self.decode(ids)
    }

    /// The text of any ids; special tokens are written out. Ids without a token, such as the
    /// padding of a model's vocabulary, are written like `<id 50303>`.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizeError> {
        let is_token = |id: &u32| self.tokenizer.id_to_token(*id).is_some();
        let mut text = String::new();
        for run in ids.chunk_by(|a, b| is_token(a) == is_token(b)) {
            if run.first().is_some_and(is_token) {
                text += &self.decode_tokens(run)?;
            } else {
                run.iter().for_each(|id| text += &format!("<id {id}>"));
            }
        }
        Ok(text)
    }

    fn decode_tokens(&self, ids: &[u32]) -> Result<String, TokenizeError> {
        catch_unwind(AssertUnwindSafe(|| self.tokenizer.decode(ids, false)))
            .map_err(|panic| TokenizeError::Encode { reason: panic_text(&*panic) })?
            .map_err(|err| TokenizeError::Encode { reason: err.to_string() })
    }

    /// The encoder that produces the ids, as `--json` reports it.
    pub fn name(&self) -> &'static str {
        if self.fast.get().is_ok() { "fast" } else { "tokenizers" }
    }

    /// Why the `tokenizers` crate produces the ids, one obstacle each; empty if our own encoder
    /// does.
    pub fn obstacles(&self) -> &[String] {
        self.fast.get().as_ref().err().map_or(&[], Vec::as_slice)
    }

    /// The number of pairs of characters that some merge joins. Our own encoder may cut between any
    /// other two.
    pub fn pair_count(&self) -> Option<usize> {
        self.fast.get().as_ref().ok().and_then(Fast::pair_count)
    }

    /// A bound above every id: the number of entries, or the largest id + 1 if ids have gaps.
    pub fn vocab_size(&self) -> u64 {
        self.vocab_size
    }

    /// BLAKE3 of tokenizer.json.
    pub fn fingerprint(&self) -> blake3::Hash {
        self.fingerprint
    }

    /// The token before each document.
    pub fn bos(&self) -> Option<&SpecialToken> {
        self.bos.as_ref()
    }

    /// The token after each document.
    pub fn eos(&self) -> Option<&SpecialToken> {
        self.eos.as_ref()
    }

    /// The policy in use.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The path of the tokenizer.json.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Choices of the tokenizer's own configuration about BOS and EOS that differ from Patchmill's
    /// default, a sentence each.
    pub fn followed(&self) -> &[String] {
        &self.followed
    }

    /// The tokenizer's "bos" or "eos" token, regardless of the policy; `None` if it has no such
    /// token.
    pub fn find_special(&self, flag: &'static str) -> Option<SpecialToken> {
        let config = Config::read(&self.path, &self.tokenizer).ok()?;
        config.token(if flag == "bos" { Role::Bos } else { Role::Eos }).ok()
    }
}

/// The position of a part within its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartPosition {
    /// The part begins the text: BOS and any prefix of the normalizer go before it.
    pub is_first: bool,
    /// The part ends the text: EOS goes after it.
    pub is_last: bool,
}

impl PartPosition {
    /// The position of the whole text.
    pub const WHOLE: PartPosition = PartPosition { is_first: true, is_last: true };
}

/// One thread's use of an [`Encoder`].
pub struct Session<'a, I: TokenId> {
    encoder: &'a Encoder,
    fast: Option<FastSession<'a, I>>,
    ids: Vec<u32>,
}

impl<I: TokenId> Session<'_, I> {
    /// Appends BOS, the text's ids and EOS, by the policy. An error leaves `ids` unchanged.
    pub fn encode(&mut self, text: &str, ids: &mut Vec<I>) -> Result<(), TokenizeError> {
        self.encode_part(text, PartPosition::WHOLE, ids)
    }

    /// Appends the ids of one of the [`Encoder::parts`] of a text. An error leaves `ids` unchanged.
    ///
    /// # Panics
    /// If `part` is not the whole text although the text must not be cut.
    pub fn encode_part(
        &mut self,
        part: &str,
        position: PartPosition,
        ids: &mut Vec<I>,
    ) -> Result<(), TokenizeError> {
        match &mut self.fast {
            Some(fast) if fast.takes(part) => {
                let (bos, eos) = (&self.encoder.bos, &self.encoder.eos);
                let id = |token: &SpecialToken| I::narrow(token.id);
                ids.extend(bos.iter().filter(|_| position.is_first).map(id));
                fast.encode(part, position.is_first, ids);
                ids.extend(eos.iter().filter(|_| position.is_last).map(id));
            }
            _ => {
                assert!(position == PartPosition::WHOLE, "the text was cut nowhere");
                self.ids.clear();
                self.encoder.encode_by_definition(part, &mut self.ids)?;
                ids.extend(self.ids.iter().map(|&id| I::narrow(id)));
            }
        }
        Ok(())
    }

    /// The counts so far.
    pub fn statistics(&self) -> SessionStatistics {
        let (cache_lookups, misses) =
            self.fast.as_ref().map_or((0, 0), FastSession::lookups_and_misses);
        SessionStatistics { cache_lookups, cache_hits: cache_lookups - misses }
    }
}

/// Counts of a session; those of several threads can be added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStatistics {
    /// Pieces of text looked up; 0 without a cache.
    pub cache_lookups: u64,
    /// Those found in the cache.
    pub cache_hits: u64,
}

/// The path of a tokenizer.json, given itself or by its folder, and its contents.
fn read_tokenizer(path: &Path) -> Result<(PathBuf, Vec<u8>), TokenizeError> {
    let path = if path.is_dir() { path.join(TOKENIZER_FILE) } else { path.to_owned() };
    let bytes = read(&path)?;
    Ok((path, bytes))
}

fn make_fast(
    bytes: &[u8],
    specials: SpecialTokens,
    added_id: &dyn Fn(&str) -> Option<u32>,
) -> FastOrWhyNot {
    let specials_are_text = specials == SpecialTokens::Text;
    Fast::new(bytes, specials_are_text, added_id)
        .map_err(|obstacles| obstacles.into_iter().map(shortened).collect())
}

fn read(path: &Path) -> Result<Vec<u8>, TokenizeError> {
    read_file(path).map_err(|source| TokenizeError::Read { path: path.to_owned(), source })
}

/// An obstacle cut to a length fit for a line: it may quote a tokenizer.json.
fn shortened(mut obstacle: String) -> String {
    let end = obstacle.floor_char_boundary(OBSTACLE_BYTES_MAX);
    if end < obstacle.len() {
        obstacle.truncate(end);
        obstacle.push('…');
    }
    obstacle
}

fn hex(hash: blake3::Hash) -> String {
    hash.to_hex().to_string()
}

fn compare(
    path: &Path,
    what: &'static str,
    found: String,
    expected: String,
) -> Result<(), TokenizeError> {
    if found == expected {
        return Ok(());
    }
    Err(TokenizeError::Differs { path: path.to_owned(), what, found, expected })
}

/// A special token as shown in messages.
pub fn describe(token: Option<&SpecialToken>) -> String {
    token.map_or_else(|| "none".to_owned(), |token| format!("{} ({})", token.token, token.id))
}
