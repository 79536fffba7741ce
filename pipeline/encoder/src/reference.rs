//! A tokenizer.json as the `tokenizers` crate reads it, set up to define the right ids.
//!
//! **Invariant:** equal texts get equal ids, and no text is lost; a tokenizer without this
//! guarantee is refused.

use std::collections::BTreeMap;
use std::panic::catch_unwind;

use schemas::manifest::SpecialTokens;
use tokenizers::{ModelWrapper, NormalizedString, Normalizer as _, Tokenizer};

use super::panic::panic_text;

/// The tokenizer of a tokenizer.json, or the reason for refusing it.
pub(crate) fn parse(bytes: &[u8], specials: SpecialTokens) -> Result<Tokenizer, String> {
    let parsed = catch_unwind(|| Tokenizer::from_bytes(bytes));
    let mut tokenizer =
        parsed.map_err(|panic| panic_text(&*panic))?.map_err(|err| err.to_string())?;
    if let Some(what) = randomness(tokenizer.get_model()) {
        return Err(format!("{what}, so equal texts would get different ids; set it to null"));
    }
    if let Some([one, other]) = same_when_normalized(&tokenizer)? {
        return Err(format!(
            "its added tokens {one:?} and {other:?} are the same text once normalized, and which \
             of them is found is a matter of chance; remove one"
        ));
    }
    // A saved tokenizer may ask for truncation or padding, which would lose text or add ids.
    tokenizer.with_truncation(None).map_err(|err| err.to_string())?;
    tokenizer.with_padding(None);
    tokenizer.set_encode_special_tokens(specials == SpecialTokens::Text);
    Ok(tokenizer)
}

/// The setting by which a model's ids are random.
fn randomness(model: &ModelWrapper) -> Option<String> {
    match model {
        ModelWrapper::BPE(bpe) => {
            let dropout = bpe.dropout.filter(|&dropout| dropout != 0.0)?;
            Some(format!("its model leaves out merges at random (dropout {dropout})"))
        }
        _ => None,
    }
}

/// Two added tokens with the same normalized text: which one the crate finds depends on the order
/// of its hash tables.
fn same_when_normalized(tokenizer: &Tokenizer) -> Result<Option<[String; 2]>, String> {
    let tokens = tokenizer.get_added_tokens_decoder();
    let mut by_id: Vec<_> = tokens.iter().filter(|(_, token)| token.normalized).collect();
    by_id.sort_unstable_by_key(|(id, _)| **id);
    let mut content_of = BTreeMap::new();
    for (_, token) in by_id {
        let mut text = NormalizedString::from(token.content.as_str());
        if let Some(normalizer) = tokenizer.get_normalizer() {
            normalizer.normalize(&mut text).map_err(|err| err.to_string())?;
        }
        if let Some(other) = content_of.insert(text.get().to_owned(), &token.content) {
            return Ok(Some([other.clone(), token.content.clone()]));
        }
    }
    Ok(None)
}

/// A bound above every id.
pub(crate) fn vocab_size(tokenizer: &Tokenizer) -> u64 {
    let entries = tokenizer.get_vocab_size(true) as u64;
    let end = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| u64::from(id) + 1);
    entries.max(end)
}
