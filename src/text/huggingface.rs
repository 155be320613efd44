//! A tokenizer from `tokenizer.json` and `tokenizer_config.json`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper};

use super::gguf::merge_pair;
use super::tokenizer::Parts;
use crate::error::{Error, Result};

/// The file that holds a tokenizer.
pub(super) const TOKENIZER_JSON: &str = "tokenizer.json";

/// Longest and deepest split pattern accepted: Qwen's has 130 bytes and a depth of 2. A file's pattern is compiled by
/// recursion.
const MAX_PATTERN_BYTES: usize = 2048;
const MAX_PATTERN_DEPTH: usize = 32;

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: BpeJson,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
struct BpeJson {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    vocab: Value,
    #[serde(default)]
    merges: Vec<Merge>,
}

/// Written as "left right" before 2024, as a pair since.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TokenizerConfig {
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    bos_token: Option<TokenName>,
    eos_token: Option<TokenName>,
    pad_token: Option<TokenName>,
    unk_token: Option<TokenName>,
    added_tokens_decoder: BTreeMap<u32, AddedLoosely>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenName {
    Plain(String),
    Described { content: String },
}

impl TokenName {
    fn content(self) -> String {
        match self {
            TokenName::Plain(content) | TokenName::Described { content } => content,
        }
    }
}

#[derive(Deserialize)]
struct AddedLoosely {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

/// Reads the two files; refuses by name what is not byte-level BPE. `truncation` and `padding` are ignored, as
/// `transformers` does for a call that asks for neither.
pub(super) fn parts(folder: &Path, tokenizer_json: &[u8], tokenizer_config: Option<&[u8]>) -> Result<Parts> {
    let (path, config_path) = (&folder.join(TOKENIZER_JSON), &folder.join("tokenizer_config.json"));
    let json: TokenizerJson =
        serde_json::from_slice(tokenizer_json).map_err(|e| Error::bad_file(path, format!("not a tokenizer: {e}")))?;
    let config: TokenizerConfig = match tokenizer_config {
        Some(bytes) => serde_json::from_slice(bytes).map_err(|e| Error::bad_file(config_path, e.to_string()))?,
        None => TokenizerConfig::default(),
    };

    let mut added: Vec<(u32, AddedToken)> = json.added_tokens.into_iter().map(|a| (a.id, a.token)).collect();
    for (id, token) in config.added_tokens_decoder {
        if !added.iter().any(|(other, present)| *other == id || present.content == token.content) {
            let AddedLoosely { content, single_word, lstrip, rstrip, normalized, special } = token;
            added.push((id, AddedToken { content, single_word, lstrip, rstrip, normalized, special }));
        }
    }

    check_decoder(&json.decoder, path)?;
    let (mut prefix, mut suffix) = (Vec::new(), Vec::new());
    read_post_processor(&json.post_processor, &mut prefix, &mut suffix, path)?;

    let [bos, eos, pad] = [config.bos_token, config.eos_token, config.pad_token].map(|t| t.map(TokenName::content));
    let Bpe { vocab, merges, ignore_merges, fuse_unknown, unknown } = json.model.check(path)?;
    let around = |wanted: Option<bool>, name: &str, token: &Option<String>, ids: &mut Vec<u32>| -> Result<()> {
        if wanted != Some(true) {
            return Ok(());
        }
        let bad = |what| Error::bad_file(config_path, what);
        let token = token.as_ref().ok_or_else(|| bad(format!("add_{name} is true, but there is no {name}")))?;
        let id =
            added.iter().find(|(_, a)| a.content == *token).map(|(id, _)| *id).or_else(|| vocab.get(token).copied());
        let id = id.ok_or_else(|| bad(format!("{name} is {token:?}, which is no token")))?;
        if !ids.contains(&id) {
            ids.push(id);
        }
        Ok(())
    };
    around(config.add_bos_token, "bos_token", &bos, &mut prefix)?;
    around(config.add_eos_token, "eos_token", &eos, &mut suffix)?;

    Ok(Parts {
        vocab,
        merges,
        ignore_merges,
        fuse_unknown,
        added,
        normalizer: normalizer(json.normalizer, path)?,
        pre_tokenizer: Some(pre_tokenizer(json.pre_tokenizer, path)?),
        prefix,
        suffix,
        bos,
        eos,
        pad,
        unknown,
        named_unknown: config.unk_token.map(TokenName::content),
    })
}

struct Bpe {
    vocab: HashMap<String, u32>,
    merges: Vec<(String, String)>,
    ignore_merges: bool,
    fuse_unknown: bool,
    unknown: Option<String>,
}

impl BpeJson {
    fn check(self, path: &Path) -> Result<Bpe> {
        let refuse = |what: &str| Err(Error::unsupported(path, what));
        match self.kind.as_deref() {
            Some("BPE") | None => {}
            Some(other) => return refuse(&format!("model.type is \"{other}\"; supported: \"BPE\"")),
        }
        if self.dropout.is_some_and(|dropout| dropout != 0.0) {
            return refuse("model.dropout, which makes tokenizing random");
        }
        if self.continuing_subword_prefix.is_some_and(|prefix| !prefix.is_empty()) {
            return refuse("model.continuing_subword_prefix; byte-level BPE has none");
        }
        if self.end_of_word_suffix.is_some_and(|suffix| !suffix.is_empty()) {
            return refuse("model.end_of_word_suffix; byte-level BPE has none");
        }
        if self.byte_fallback {
            return refuse("model.byte_fallback; byte-level BPE has none");
        }
        let vocab = serde_json::from_value(self.vocab)
            .map_err(|e| Error::bad_file(path, format!("model.vocab is not a map from token to id: {e}")))?;
        let merges = self.merges.into_iter().enumerate().map(|(i, merge)| match merge {
            Merge::Pair(left, right) => Ok((left, right)),
            Merge::Line(line) => merge_pair(&line)
                .ok_or_else(|| Error::bad_file(path, format!("model.merges[{i}] is {line:?}, expected two tokens"))),
        });
        Ok(Bpe {
            vocab,
            merges: merges.collect::<Result<_>>()?,
            ignore_merges: self.ignore_merges,
            fuse_unknown: self.fuse_unk,
            unknown: self.unk_token,
        })
    }
}

fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or("without a type")
}

/// Unicode normal forms, alone or in a row.
fn normalizer(value: Value, path: &Path) -> Result<Option<NormalizerWrapper>> {
    fn check(value: &Value, path: &Path) -> Result<()> {
        match kind(value) {
            "NFC" | "NFD" | "NFKC" | "NFKD" => Ok(()),
            "Sequence" => members(value, "normalizers").iter().try_for_each(|member| check(member, path)),
            other => {
                Err(Error::unsupported(path, format!("normalizer {other}; supported: NFC, NFD, NFKC, NFKD, Sequence")))
            }
        }
    }
    if value.is_null() {
        return Ok(None);
    }
    check(&value, path)?;
    let parsed = serde_json::from_value(value).map_err(|e| Error::bad_file(path, format!("normalizer: {e}")))?;
    Ok(Some(parsed))
}

/// Splits, alone or in a row, of which one must spell bytes in the byte-level alphabet.
fn pre_tokenizer(value: Value, path: &Path) -> Result<PreTokenizerWrapper> {
    fn check(value: &Value, path: &Path, byte_level: &mut bool) -> Result<()> {
        match kind(value) {
            "ByteLevel" => *byte_level = true,
            "Digits" => {}
            "Split" => check_pattern(value.get("pattern").and_then(|p| p.get("Regex")), path)?,
            "Sequence" => {
                return members(value, "pretokenizers").iter().try_for_each(|member| check(member, path, byte_level));
            }
            other => {
                let what = format!("pre_tokenizer {other}; supported: ByteLevel, Digits, Split, Sequence");
                return Err(Error::unsupported(path, what));
            }
        }
        Ok(())
    }
    let mut byte_level = false;
    if !value.is_null() {
        check(&value, path, &mut byte_level)?;
    }
    if !byte_level {
        return Err(Error::unsupported(path, "pre_tokenizer without ByteLevel; supported: byte-level BPE"));
    }
    serde_json::from_value(value).map_err(|e| Error::bad_file(path, format!("pre_tokenizer: {e}")))
}

fn check_pattern(pattern: Option<&Value>, path: &Path) -> Result<()> {
    let Some(pattern) = pattern.and_then(Value::as_str) else { return Ok(()) };
    let (mut depth, mut deepest) = (0usize, 0usize);
    for byte in pattern.bytes() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if pattern.len() > MAX_PATTERN_BYTES || deepest > MAX_PATTERN_DEPTH {
        let what = format!(
            "a split pattern of {} bytes and depth {deepest}; supported: {MAX_PATTERN_BYTES} and {MAX_PATTERN_DEPTH}",
            pattern.len()
        );
        return Err(Error::unsupported(path, what));
    }
    Ok(())
}

fn members<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Decoding is a table of bytes here, which is what `ByteLevel` does.
fn check_decoder(value: &Value, path: &Path) -> Result<()> {
    match value {
        Value::Null => Ok(()),
        value if kind(value) == "ByteLevel" => Ok(()),
        value => Err(Error::unsupported(path, format!("decoder {}; supported: ByteLevel", kind(value)))),
    }
}

/// The tokens that a `TemplateProcessing` puts before and after a text.
fn read_post_processor(value: &Value, prefix: &mut Vec<u32>, suffix: &mut Vec<u32>, path: &Path) -> Result<()> {
    if value.is_null() {
        return Ok(());
    }
    match kind(value) {
        "ByteLevel" => Ok(()),
        "Sequence" => {
            let mut processors = members(value, "processors").iter();
            processors.try_for_each(|processor| read_post_processor(processor, prefix, suffix, path))
        }
        "TemplateProcessing" => {
            let mut seen_text = false;
            for piece in members(value, "single") {
                if piece.get("Sequence").is_some() {
                    seen_text = true;
                    continue;
                }
                let name = piece.get("SpecialToken").and_then(|token| token.get("id")).and_then(Value::as_str);
                let ids = name.and_then(|name| value.get("special_tokens")?.get(name)?.get("ids")?.as_array());
                let ids = ids.and_then(|ids| ids.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect());
                let ids: Vec<u32> = ids
                    .ok_or_else(|| Error::bad_file(path, format!("post_processor: {piece} names no special token")))?;
                if seen_text { &mut *suffix } else { &mut *prefix }.extend(ids);
            }
            Ok(())
        }
        other => {
            let what = format!("post_processor {other}; supported: ByteLevel, TemplateProcessing, Sequence");
            Err(Error::unsupported(path, what))
        }
    }
}
