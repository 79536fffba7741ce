//! Whether a tokenizer can be encoded by our own code, and if not, why.
//!
//! **Invariant:** an encoder is given only where nothing of the definition was passed over.

use std::collections::{BTreeMap, HashMap};

use super::definition::{
    AddedToken, Definition, Model as Bpe, Normalizer, Pattern, PreTokenizer, PrependScheme,
};
use super::joins::Joins;
use super::merges::{Merges, Work};
use crate::fast::added_tokens::{Matcher, Token};
use crate::fast::byte_level::{ByteModel, Whole, bytes_of, char_of_byte};
use crate::fast::cache::tables::Known;
use crate::fast::char_level::{CharModel, CharModelParts, MARKER, Unknown};
use crate::fast::pretokenize::ByteLevel;
use crate::fast::unicode::nfc::nfc;

/// How the sections of a text become texts for the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The model does all of it: [`Model::Bytes`].
    Bytes,
    /// The normalizer does it, before normalized tokens are looked for.
    Normalized {
        /// A marker is put before every section.
        prepends: bool,
        /// Every space becomes a marker.
        replaces: bool,
    },
    /// Metaspace does it, after all tokens were looked for.
    Metaspace {
        /// Before which sections that have none a marker is put.
        scheme: PrependScheme,
        /// Every marker begins a word.
        splits: bool,
    },
}

impl Form {
    /// Whether texts for the model have spaces for markers.
    pub(crate) fn space_is_marker(self) -> bool {
        matches!(self, Form::Normalized { replaces: true, .. } | Form::Metaspace { .. })
    }
}

/// Makes ids of a text without added tokens.
pub(crate) enum Model {
    /// With characters for its first symbols.
    Chars(Box<CharModel>),
    /// With bytes.
    Bytes(Box<ByteModel>),
}

/// The parts of a tokenizer that our own encoder uses.
pub(crate) struct Parts {
    pub(crate) form: Form,
    pub(crate) model: Model,
    /// Tokens that are looked for in the text as it is.
    pub(crate) raw: Option<Matcher>,
    /// Tokens that are looked for in its normalized form.
    pub(crate) normalized: Option<Matcher>,
}

/// Takes a definition apart, or names every obstacle that was found.
///
/// `added_id` is the id that the `tokenizers` crate gave to an added token; `specials_are_text` is
/// the policy.
pub(crate) fn classify(
    definition: &Definition,
    specials_are_text: bool,
    added_id: &dyn Fn(&str) -> Option<u32>,
) -> Result<Parts, Vec<String>> {
    let mut why = Vec::new();
    let byte_level = definition.pre_tokenizer.as_ref().is_some_and(PreTokenizer::is_byte_level);
    let form = if byte_level { Some(Form::Bytes) } else { form(definition, &mut why) };
    if let Some(post) = &definition.post_processor
        && !post.keeps_ids()
    {
        why.push("its post-processor does not give a text's ids once".to_owned());
    }
    let model = if byte_level {
        ByteModel::of(definition, &mut why).map(|model| Model::Bytes(Box::new(model)))
    } else {
        model(&definition.model, form, &mut why).map(|model| Model::Chars(Box::new(model)))
    };
    let added = added(&definition.added_tokens, form, specials_are_text, added_id, &mut why);
    match (form, model, added) {
        (Some(form), Some(model), Some((raw, normalized))) if why.is_empty() => {
            Ok(Parts { form, model, raw, normalized })
        }
        _ => Err(why),
    }
}

fn form(definition: &Definition, why: &mut Vec<String>) -> Option<Form> {
    let (prepends, replaces) = normalizer(definition.normalizer.as_ref(), why)?;
    let normalized = Form::Normalized { prepends, replaces };
    match definition.pre_tokenizer.as_ref() {
        None => Some(normalized),
        Some(PreTokenizer::Metaspace {
            replacement,
            add_prefix_space,
            prepend_scheme,
            split,
            ..
        }) => {
            if *replacement != MARKER {
                why.push(format!("its pre-tokenizer Metaspace makes {replacement:?} of a space"));
                return None;
            }
            if prepends || replaces {
                why.push("both its normalizer and its pre-tokenizer handle spaces".to_owned());
                return None;
            }
            let scheme = match add_prefix_space {
                Some(false) => PrependScheme::Never,
                _ => *prepend_scheme,
            };
            Some(Form::Metaspace { scheme, splits: split.unwrap_or(true) })
        }
        // No space is left to cut at.
        Some(PreTokenizer::Split { pattern: Pattern::String(text), invert: false, .. })
            if replaces && text == " " =>
        {
            Some(normalized)
        }
        Some(other) => {
            why.push(format!("its pre-tokenizer is {}", name_of(other)));
            None
        }
    }
}

fn name_of(pre_tokenizer: &PreTokenizer) -> String {
    match pre_tokenizer {
        PreTokenizer::Sequence { pretokenizers } => {
            let names: Vec<_> = pretokenizers.iter().map(name_of).collect();
            format!("Sequence [{}]", names.join(", "))
        }
        PreTokenizer::Metaspace { .. } => "Metaspace".to_owned(),
        PreTokenizer::Split { pattern, behavior, invert } => {
            format!("Split at {pattern:?} ({behavior}, invert {invert})")
        }
        PreTokenizer::ByteLevel { add_prefix_space, use_regex, .. } => {
            format!("ByteLevel (add_prefix_space {add_prefix_space}, use_regex {use_regex})")
        }
        PreTokenizer::Digits { individual_digits } => {
            format!("Digits (individual_digits {individual_digits})")
        }
    }
}

/// Normalizers in their order.
fn steps(normalizer: Option<&Normalizer>) -> Vec<&Normalizer> {
    let mut steps = Vec::new();
    let mut open: Vec<&Normalizer> = normalizer.into_iter().collect();
    while let Some(normalizer) = open.pop() {
        match normalizer {
            Normalizer::Sequence { normalizers } => open.extend(normalizers.iter().rev()),
            step => steps.push(step),
        }
    }
    steps
}

/// Whether a marker is put before a text, and whether spaces become markers.
fn normalizer(normalizer: Option<&Normalizer>, why: &mut Vec<String>) -> Option<(bool, bool)> {
    let steps = steps(normalizer);
    let (mut prepends, mut replaces) = (false, false);
    for step in steps {
        match step {
            Normalizer::Prepend { prepend } if prepend.chars().eq([MARKER]) && !prepends => {
                prepends = true;
            }
            Normalizer::Replace { pattern: Pattern::String(pattern), content }
                if pattern == " " && content.chars().eq([MARKER]) =>
            {
                replaces = true;
            }
            Normalizer::Prepend { prepend } => {
                why.push(format!("its normalizer puts {prepend:?} before texts"));
                return None;
            }
            Normalizer::Replace { pattern, content } => {
                why.push(format!("its normalizer replaces {pattern:?} by {content:?}"));
                return None;
            }
            Normalizer::Nfc => {
                why.push("its normalizer is NFC".to_owned());
                return None;
            }
            Normalizer::Sequence { .. } => unreachable!("sequences were taken apart"),
        }
    }
    if prepends && !replaces {
        why.push("its normalizer puts a marker before texts and keeps spaces".to_owned());
        return None;
    }
    Some((prepends, replaces))
}

/// Ids by text, their merges, and the ids in merges.
struct Vocabulary<'a> {
    pub(super) entries: Vec<(&'a str, u32)>,
    pub(super) merges: Vec<(&'a str, &'a str, [u32; 3])>,
    operands: Vec<u32>,
}

/// That it is byte-pair encoding which takes texts as they are.
fn check_kind(model: &Bpe, why: &mut Vec<String>) {
    if model.kind != "BPE" {
        why.push(format!("its model is {}, not BPE", model.kind));
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        why.push("its model leaves out merges at random".to_owned());
    }
    let affixes = [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ];
    for (name, affix) in affixes {
        if affix.as_ref().is_some_and(|affix| !affix.is_empty()) {
            why.push(format!("its model has a {name}"));
        }
    }
}

fn model(model: &Bpe, form: Option<Form>, why: &mut Vec<String>) -> Option<CharModel> {
    let found = why.len();
    check_kind(model, why);
    let vocabulary = vocabulary(model, why)?;
    let unknown = unknown(model, &vocabulary, why);
    let form = form?;
    if form.space_is_marker() && !model.vocab.contains_key(MARKER.encode_utf8(&mut [0; 4]) as &str)
    {
        why.push("its vocabulary lacks the marker for a space".to_owned());
    }
    let splits = matches!(form, Form::Metaspace { splits: true, .. });
    let ignore_merges = model.ignore_merges.unwrap_or(false);
    if ignore_merges && splits {
        why.push("ignore_merges, together with a Metaspace that splits".to_owned());
    }
    if why.len() > found {
        return None;
    }
    Some(CharModel::new(CharModelParts {
        vocab: &vocabulary.entries,
        merges: vocabulary.merges,
        unknown: unknown?,
        space_is_marker: form.space_is_marker(),
        cuts_at_markers: splits,
        ignore_merges,
    }))
}

fn vocabulary<'a>(model: &'a Bpe, why: &mut Vec<String>) -> Option<Vocabulary<'a>> {
    let mut entries: Vec<(&str, u32)> =
        model.vocab.iter().map(|(text, &id)| (text.as_str(), id)).collect();
    entries.sort_unstable_by_key(|&(text, id)| (id, text));
    let ids: Vec<u32> = entries.iter().map(|&(_, id)| id).collect();
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        why.push(format!("two entries of its vocabulary have the id {}", pair[0]));
        return None;
    }
    if ids.last() == Some(&u32::MAX) {
        why.push(format!("its vocabulary has the id {}", u32::MAX));
        return None;
    }
    let mut merges = Vec::with_capacity(model.merges.len());
    let mut product = String::new();
    for merge in &model.merges {
        product.clear();
        product.push_str(&merge.left);
        product.push_str(&merge.right);
        let [left, right, id] = [&merge.left, &merge.right, &product].map(|t| model.vocab.get(t));
        let (Some(&left), Some(&right), Some(&id)) = (left, right, id) else {
            why.push(format!("a merge makes {product:?} of what its vocabulary does not have"));
            return None;
        };
        if merge.left.is_empty() || merge.right.is_empty() {
            why.push("a merge has an empty side".to_owned());
            return None;
        }
        merges.push((merge.left.as_str(), merge.right.as_str(), [left, right, id]));
    }
    if !Merges::fit(merges.len(), ids.len()) {
        why.push(format!("its {} merges of {} ids are too many", merges.len(), ids.len()));
        return None;
    }
    let mut operands: Vec<u32> = merges.iter().flat_map(|(_, _, [l, r, _])| [*l, *r]).collect();
    operands.sort_unstable();
    operands.dedup();
    Some(Vocabulary { entries, merges, operands })
}

/// How characters outside the vocabulary are encoded; the resulting symbols must be in no merge.
fn unknown(model: &Bpe, vocabulary: &Vocabulary<'_>, why: &mut Vec<String>) -> Option<Unknown> {
    let in_merges = |id: &u32| vocabulary.operands.binary_search(id).is_ok();
    if model.byte_fallback.unwrap_or(false) {
        let byte_ids: BTreeMap<u8, u32> = (0..=255u8)
            .filter_map(|byte| Some((byte, *model.vocab.get(&format!("<0x{byte:02X}>"))?)))
            .collect();
        if byte_ids.values().any(in_merges) {
            why.push("a byte of byte_fallback is part of a merge".to_owned());
            return None;
        }
        if byte_ids.len() == 256 {
            let mut ids = Box::new([0; 256]);
            for (byte, id) in byte_ids {
                ids[usize::from(byte)] = id;
            }
            return Some(Unknown::Bytes(ids));
        }
        if !byte_ids.is_empty() {
            let count = byte_ids.len();
            why.push(format!("its vocabulary has {count} of the 256 bytes for byte_fallback"));
            return None;
        }
    }
    let Some(token) = &model.unk_token else {
        why.push("characters outside its vocabulary vanish: no unk_token, no bytes".to_owned());
        return None;
    };
    match model.vocab.get(token) {
        None => why.push(format!("its vocabulary does not have its unk_token {token:?}")),
        Some(id) if in_merges(id) => {
            why.push(format!("its unk_token {token:?} is part of a merge"));
        }
        Some(&id) => {
            return Some(Unknown::Token { id, is_fused: model.fuse_unk.unwrap_or(false) });
        }
    }
    None
}

type Matchers = (Option<Matcher>, Option<Matcher>);

fn added(
    tokens: &[AddedToken],
    form: Option<Form>,
    specials_are_text: bool,
    added_id: &dyn Fn(&str) -> Option<u32>,
    why: &mut Vec<String>,
) -> Option<Matchers> {
    let form = form?;
    let found = why.len();
    let (mut raw, mut normalized) = (Vec::new(), Vec::new());
    let mut content_of = BTreeMap::new();
    for (index, token) in tokens.iter().enumerate() {
        let content = &token.content;
        if content.is_empty() || tokens[..index].iter().any(|other| other.content == *content) {
            why.push(format!("its added token {content:?} is empty or there twice"));
            continue;
        }
        let Some(id) = added_id(content) else {
            why.push(format!("its added token {content:?} has no id"));
            continue;
        };
        // The crate numbers a new token by how many there are, and where ids have gaps such a
        // number may be taken. Of two tokens with one id it finds only the later one.
        if let Some(other) = content_of.insert(id, content) {
            why.push(format!("its added tokens {other:?} and {content:?} share the id {id}"));
        }
        let pattern = match form {
            Form::Normalized { prepends, replaces: true } if token.normalized => {
                let prefix = if prepends { " " } else { "" };
                format!("{prefix}{}", content.replace(MARKER, " "))
            }
            _ => content.clone(),
        };
        if form == Form::Bytes && token.normalized && nfc(content) != *content {
            why.push(format!("its added token {content:?} is not in normal form C"));
        }
        let list = if token.normalized { &mut normalized } else { &mut raw };
        list.push(Token {
            pattern,
            id,
            is_text: specials_are_text && token.special,
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
        });
    }
    // A token that takes the space after it may take the beginning of the next one.
    let in_normalized = matches!(form, Form::Normalized { replaces: true, .. });
    for (list, space_is_marker) in [(&raw, false), (&normalized, in_normalized)] {
        let is_space = |c: char| c.is_whitespace() && !(space_is_marker && c == ' ');
        let has_space = |token: &Token| token.pattern.contains(is_space);
        if list.iter().any(|token| token.rstrip || token.lstrip) && list.iter().any(has_space) {
            why.push("an added token takes the white space beside it, and one has some".to_owned());
        }
    }
    let raw = Matcher::new(raw, false);
    let normalized = Matcher::new(normalized, in_normalized);
    match (raw, normalized) {
        (Ok(raw), Ok(normalized)) if why.len() == found => Some((raw, normalized)),
        (raw, normalized) => {
            why.extend(raw.err().into_iter().chain(normalized.err()));
            None
        }
    }
}

impl ByteModel {
    /// The model of a tokenizer.json whose pre-tokenizer ends in `ByteLevel`; every obstacle goes
    /// to `why`.
    pub(crate) fn of(definition: &Definition, why: &mut Vec<String>) -> Option<ByteModel> {
        let found = why.len();
        let model = &definition.model;
        check_kind(model, why);
        let steps = steps(definition.normalizer.as_ref());
        let is_nfc = matches!(steps[..], [Normalizer::Nfc]);
        if !steps.is_empty() && !is_nfc {
            why.push("its normalizer is another one than NFC, before ByteLevel".to_owned());
        }
        let pre_tokenizer = ByteLevel::of_definition(definition.pre_tokenizer.as_ref()?);
        let pre_tokenizer = pre_tokenizer.map_err(|reason| why.push(reason)).ok();
        let byte_ids = byte_ids(model, why);
        let byte_of_char: HashMap<char, u8> =
            (0..=255).map(|byte| (char_of_byte(byte), byte)).collect();
        let vocabulary = vocabulary(model, why)?;
        let list = vocabulary.merges.iter().map(|&(_, _, [left, right, id])| (left, right, id));
        let list: Vec<_> = list.collect();
        let bytes_of_id: HashMap<u32, Box<[u8]>> = vocabulary
            .entries
            .iter()
            .filter_map(|&(text, id)| Some((id, bytes_of(text, &byte_of_char)?)))
            .collect();
        let is_live = Merges::live(&list, |id, symbols| match bytes_of_id.get(&id) {
            Some(bytes) => {
                symbols.extend(bytes.iter().map(|&byte| byte_ids[usize::from(byte)]));
                true
            }
            None => false,
        });
        let live =
            list.iter().zip(is_live).filter_map(|(&merge, is_live)| is_live.then_some(merge));
        let live: Vec<_> = live.collect();
        let merges = Merges::new(&live);
        let joins = Joins::new(live.iter().filter_map(|(left, right, _)| {
            Some((&**bytes_of_id.get(left)?, &**bytes_of_id.get(right)?))
        }));
        let known =
            Known::new(live.iter().filter_map(|&(_, _, id)| Some((&**bytes_of_id.get(&id)?, id))));
        let alphabet = merges.alphabet(byte_ids);
        let mut whole = Whole { ids: HashMap::new(), ends: Box::new([0; 64]) };
        if model.ignore_merges.unwrap_or(false) {
            let mut work = Work::default();
            for &(text, id) in &vocabulary.entries {
                let Some(bytes) = bytes_of(text, &byte_of_char) else { continue };
                merges.apply_to_bytes(&alphabet, &bytes, &mut work);
                if work.symbols != [id] {
                    whole.insert(bytes, id);
                }
            }
        }
        if why.len() > found {
            return None;
        }
        Some(ByteModel {
            is_nfc,
            pre_tokenizer: pre_tokenizer?,
            alphabet,
            merges,
            joins,
            whole,
            known,
        })
    }
}

/// The ids of single bytes.
fn byte_ids(model: &Bpe, why: &mut Vec<String>) -> Box<[u32; 256]> {
    let mut ids = Box::new([0; 256]);
    for byte in 0..=255 {
        let symbol = char_of_byte(byte);
        match model.vocab.get(symbol.encode_utf8(&mut [0; 4]) as &str) {
            Some(&id) => ids[usize::from(byte)] = id,
            // No text in UTF-8 has one of these.
            None if matches!(byte, 0xc0 | 0xc1 | 0xf5..) => {}
            None => why.push(format!("its vocabulary does not have the byte {byte:#04x}")),
        }
    }
    ids
}
