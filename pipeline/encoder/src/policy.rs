//! BOS and EOS: whether documents have them, and which tokens they are.
//!
//! The first of these sources wins:
//!
//! 1. an option;
//! 2. `add_bos_token` and `add_eos_token` in tokenizer_config.json;
//! 3. the tokens put around a text by the post-processor of tokenizer.json;
//! 4. the default of the named `tokenizer_class`.
//!
//! `transformers` follows the same sources. Without a tokenizer_config.json and without a
//! post-processor that adds tokens, Patchmill's own default applies: a BOS and no EOS.
//!
//! **Invariant:** a document gets a BOS or EOS only if an option, the tokenizer's configuration or,
//! without one, the default asks for it; an ordinary piece of the vocabulary is never used as one.

use std::io;
use std::path::{Path, PathBuf};

use schemas::manifest::{SpecialToken, SpecialTokens, TokenizerRecord};
use serde_json::Value;
use tokenizers::Tokenizer;

use super::error::TokenizeError;
use super::files::{CONFIG_FILE, read_file};

/// The tokens around a document's ids, and the reading of special tokens in its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The beginning-of-sequence token before each document.
    pub bos: bool,
    /// The end-of-sequence token after each document.
    pub eos: bool,
    /// How special tokens written out in a text are read.
    pub special_tokens: SpecialTokens,
}

impl Policy {
    /// The policy a corpus was made with.
    pub fn of(record: &TokenizerRecord) -> Policy {
        Policy {
            bos: record.bos.is_some(),
            eos: record.eos.is_some(),
            special_tokens: record.special_tokens,
        }
    }
}

/// A policy as requested: `None` leaves the choice to the tokenizer's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyChoice {
    /// Whether each document begins with a BOS.
    pub bos: Option<bool>,
    /// Whether each document ends with an EOS.
    pub eos: Option<bool>,
    /// How special tokens written out in a text are read.
    pub special_tokens: SpecialTokens,
}

impl From<Policy> for PolicyChoice {
    fn from(policy: Policy) -> PolicyChoice {
        let Policy { bos, eos, special_tokens } = policy;
        PolicyChoice { bos: Some(bos), eos: Some(eos), special_tokens }
    }
}

/// One of the two ends of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Bos,
    Eos,
}

impl Role {
    fn flag(self) -> &'static str {
        match self {
            Role::Bos => "bos",
            Role::Eos => "eos",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Role::Bos => "BOS",
            Role::Eos => "EOS",
        }
    }

    /// The usual token, for a tokenizer that names none.
    fn default_token(self) -> &'static str {
        match self {
            Role::Bos => "<s>",
            Role::Eos => "</s>",
        }
    }

    fn place(self) -> &'static str {
        match self {
            Role::Bos => "before",
            Role::Eos => "after",
        }
    }
}

/// Classes of `transformers` that put a BOS before a text unless `add_bos_token` is false.
const BOS_CLASSES: [&str; 6] = [
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "CodeLlamaTokenizer",
    "CodeLlamaTokenizerFast",
    "GemmaTokenizer",
    "GemmaTokenizerFast",
];

/// A tokenizer's settings for BOS and EOS, from its files.
pub(crate) struct Config<'a> {
    tokenizer: &'a Tokenizer,
    path: PathBuf,
    /// tokenizer_config.json; `None` if the file is missing.
    config: Option<Value>,
    /// The tokens put before and after a text by the post-processor.
    template: [Vec<u32>; 2],
}

impl<'a> Config<'a> {
    /// Reads the settings of the tokenizer.json at `path` and of the tokenizer_config.json next to
    /// it.
    pub(crate) fn read(path: &Path, tokenizer: &'a Tokenizer) -> Result<Config<'a>, TokenizeError> {
        let config = read_config(path)?;
        let template = template(tokenizer);
        Ok(Config { tokenizer, path: path.to_owned(), config, template })
    }

    /// The token of `role` if documents have one, and a sentence if the tokenizer's configuration
    /// differs from Patchmill's default.
    pub(crate) fn resolve(
        &self,
        role: Role,
        chosen: Option<bool>,
    ) -> Result<(Option<SpecialToken>, Option<String>), TokenizeError> {
        let (is_wanted, source) = match chosen {
            Some(is_wanted) => (is_wanted, None),
            None => self.configured(role)?,
        };
        let token = is_wanted.then(|| self.token(role)).transpose()?;
        let followed = source.filter(|_| is_wanted != (role == Role::Bos)).map(|source| {
            let (flag, place) = (role.flag(), role.place());
            match &token {
                Some(token) => format!(
                    "{} ({}) goes {place} each document: {source}; --no-{flag} leaves it out",
                    token.token, token.id
                ),
                None => format!("no token goes {place} a document: {source}; --{flag} adds one"),
            }
        });
        Ok((token, followed))
    }

    /// Whether the configuration wants a token of `role`, and by which setting.
    fn configured(&self, role: Role) -> Result<(bool, Option<String>), TokenizeError> {
        let key = format!("add_{}_token", role.flag());
        let template = &self.template[role as usize];
        match self.config.as_ref().and_then(|config| config.get(&key)) {
            Some(Value::Bool(true)) if self.is_null(role) => {
                let token = format!("{}_token", role.flag());
                return Err(self.unsettled(
                    role,
                    format!("{CONFIG_FILE} sets {key}: true, and {token}: null"),
                ));
            }
            Some(Value::Bool(is_wanted)) => {
                return Ok((*is_wanted, Some(format!("{CONFIG_FILE} sets {key}: {is_wanted}"))));
            }
            None | Some(Value::Null) => {}
            Some(other) => {
                return Err(self.unsettled(
                    role,
                    format!("{CONFIG_FILE} sets {key}: {other}, which is neither true nor false"),
                ));
            }
        }
        let written = |ids: &[u32]| {
            let tokens = ids.iter().map(|&id| self.tokenizer.id_to_token(id).unwrap_or_default());
            tokens.collect::<Vec<_>>().join(" ")
        };
        if !template.is_empty() {
            let tokens = written(template);
            let named = self.named(role);
            let is_it = template.len() == 1 && named.is_none_or(|named| named == tokens);
            if is_it && !self.is_null(role) {
                let source = format!("the post-processor of the tokenizer has {tokens} there");
                return Ok((true, Some(source)));
            }
            let (role_name, place) = (role.name(), role.place());
            let named = named.map_or_else(|| "none".to_owned(), |named| format!("{named:?}"));
            return Err(self.unsettled(
                role,
                format!(
                    "its post-processor puts {tokens:?} {place} a text, and its {role_name} is \
                     {named}"
                ),
            ));
        }
        if role == Role::Eos {
            // The default, which no setting contradicts.
            return Ok((false, None));
        }
        let Some(config) = &self.config else { return Ok((true, None)) };
        if self.is_null(role) {
            return Ok((false, Some(format!("{CONFIG_FILE} sets bos_token: null"))));
        }
        let class = config.get("tokenizer_class").and_then(Value::as_str);
        if class.is_some_and(|class| BOS_CLASSES.contains(&class)) {
            return Ok((true, None));
        }
        Err(self.unsettled(
            role,
            format!(
                "neither {CONFIG_FILE} (add_bos_token) nor the post-processor puts a BOS before a \
                 text"
            ),
        ))
    }

    /// The token of `role`, wanted or not.
    pub(crate) fn token(&self, role: Role) -> Result<SpecialToken, TokenizeError> {
        let refuse = |reason: String| {
            Err(TokenizeError::NoToken { path: self.path.clone(), reason, flag: role.flag() })
        };
        if self.is_null(role) {
            return refuse(format!("{CONFIG_FILE} sets {}_token: null", role.flag()));
        }
        if let Some(token) = self.named(role) {
            return match self.tokenizer.token_to_id(token) {
                Some(id) => Ok(SpecialToken { token: token.to_owned(), id }),
                None => refuse(format!(
                    "there is no token {token:?}, which {CONFIG_FILE} names as {}",
                    role.name()
                )),
            };
        }
        if let [id] = self.template[role as usize][..] {
            let token = self.tokenizer.id_to_token(id);
            let token = token.expect("the post-processor took it from the vocabulary");
            return Ok(SpecialToken { token, id });
        }
        // No source names a token: use the usual one if it is a control token, not an ordinary
        // piece of text.
        let token = role.default_token();
        match self.tokenizer.token_to_id(token) {
            Some(id) if self.is_special(id) => Ok(SpecialToken { token: token.to_owned(), id }),
            Some(id) => refuse(format!(
                "nothing names its {}, and {token:?} ({id}) is an ordinary entry, not a special \
                 token",
                role.name()
            )),
            None => refuse(format!(
                "nothing names its {}, and it has no {token:?}, which is Patchmill's default",
                role.name()
            )),
        }
    }

    fn is_special(&self, id: u32) -> bool {
        let added = self.tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        added.get(&id).is_some_and(|token| token.special)
    }

    /// Whether the configuration sets this token to null.
    fn is_null(&self, role: Role) -> bool {
        let key = format!("{}_token", role.flag());
        self.config.as_ref().and_then(|config| config.get(&key)).is_some_and(Value::is_null)
    }

    /// `bos_token` or `eos_token` of the configuration: a string, or an object with `content`.
    fn named(&self, role: Role) -> Option<&str> {
        let token = self.config.as_ref()?.get(format!("{}_token", role.flag()))?;
        token.as_str().or_else(|| token.get("content")?.as_str())
    }

    fn unsettled(&self, role: Role, reason: String) -> TokenizeError {
        TokenizeError::Unsettled { path: self.path.clone(), reason, flag: role.flag() }
    }
}

/// Reads the tokenizer_config.json next to the tokenizer.
fn read_config(tokenizer: &Path) -> Result<Option<Value>, TokenizeError> {
    let path = tokenizer.with_file_name(CONFIG_FILE);
    let text = match read_file(&path) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TokenizeError::Read { path, source }),
    };
    match serde_json::from_slice::<Value>(&text) {
        Ok(config) if config.is_object() => Ok(Some(config)),
        Ok(_) => {
            let reason = "expected a JSON object".to_owned();
            Err(TokenizeError::Form { path, reason })
        }
        Err(err) => Err(TokenizeError::Form { path, reason: err.to_string() }),
    }
}

/// The ids put before and after a text by the post-processor.
fn template(tokenizer: &Tokenizer) -> [Vec<u32>; 2] {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    if tokenizer.get_post_processor().is_none() {
        return [Vec::new(), Vec::new()];
    }
    // Any tokenizer has ids for this text: without ids, the tokens before and after it could not
    // be distinguished.
    let ids = |specials| {
        let encoding = catch_unwind(AssertUnwindSafe(|| tokenizer.encode_fast("a", specials)));
        encoding.ok()?.ok().map(|encoding| encoding.get_ids().to_vec())
    };
    let (Some(plain), Some(whole)) = (ids(false), ids(true)) else {
        return [Vec::new(), Vec::new()];
    };
    let start = whole.windows(plain.len().max(1)).position(|window| window == plain);
    let start = start.unwrap_or(whole.len());
    let end = (start + plain.len()).min(whole.len());
    [whole[..start].to_vec(), whole[end..].to_vec()]
}
