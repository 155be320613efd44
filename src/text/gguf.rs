//! A tokenizer from the metadata of a GGUF file.

use std::collections::HashMap;
use std::path::Path;

use tokenizers::AddedToken;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::tokenizer::Parts;
use crate::error::{Error, Result};

/// The split pattern of Qwen2 and Qwen3 (`transformers`, `models/qwen2/tokenization_qwen2.py`).
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The split pattern of Qwen3.5, which counts marks as letters (`models/qwen3_5/tokenization_qwen3_5.py`).
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Values of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// The tokenizer as GGUF metadata carries it.
#[derive(Debug, Clone, Default)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`; "gpt2" is byte-level BPE, and the only one supported.
    pub model: String,
    /// `tokenizer.ggml.pre`; "qwen2" and "qwen35" are supported.
    pub pre: String,
    /// `tokenizer.ggml.tokens`: normal ones in the byte-level alphabet, control and user-defined ones as they are.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`: 1 normal, 3 control, 4 user-defined, 5 unused; empty: all normal.
    pub types: Vec<i32>,
    /// `tokenizer.ggml.merges`: two tokens and a space between.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos_id: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos_id: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: bool,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: bool,
}

impl GgufVocabulary {
    /// Checks every field and gives the parts of a tokenizer.
    pub(super) fn into_parts(self, path: &Path) -> Result<Parts> {
        let bad = |what: String| Error::bad_file(path, what);
        if self.model != "gpt2" {
            let what = format!("tokenizer.ggml.model is \"{}\"; supported: \"gpt2\"", self.model);
            return Err(Error::unsupported(path, what));
        }
        let pattern = match self.pre.as_str() {
            "qwen2" => QWEN2,
            "qwen35" => QWEN35,
            other => {
                let what = format!("tokenizer.ggml.pre is \"{other}\"; supported: \"qwen2\", \"qwen35\"");
                return Err(Error::unsupported(path, what));
            }
        };
        if !self.types.is_empty() && self.types.len() != self.tokens.len() {
            let (types, tokens) = (self.types.len(), self.tokens.len());
            return Err(bad(format!("tokenizer.ggml.token_type has {types} entries, tokenizer.ggml.tokens {tokens}")));
        }

        let name = |field: &str, id: Option<u32>| -> Result<Option<String>> {
            let Some(id) = id else { return Ok(None) };
            match self.tokens.get(id as usize) {
                Some(token) => Ok(Some(token.clone())),
                None => Err(bad(format!("tokenizer.ggml.{field} is {id}; there are {} tokens", self.tokens.len()))),
            }
        };
        let bos = name("bos_token_id", self.bos_id)?;
        let eos = name("eos_token_id", self.eos_id)?;
        let around = |name: &str, wanted: bool, id: Option<u32>| match (wanted, id) {
            (false, _) => Ok(Vec::new()),
            (true, Some(id)) => Ok(vec![id]),
            (true, None) => Err(bad(format!("tokenizer.ggml.add_{name}_token is set without {name}_token_id"))),
        };
        let prefix = around("bos", self.add_bos, self.bos_id)?;
        let suffix = around("eos", self.add_eos, self.eos_id)?;

        let merges = self.merges.iter().enumerate().map(|(i, merge)| {
            merge_pair(merge)
                .ok_or_else(|| bad(format!("tokenizer.ggml.merges[{i}] is {merge:?}, expected two tokens")))
        });
        let merges = merges.collect::<Result<Vec<_>>>()?;

        let mut vocab = HashMap::with_capacity(self.tokens.len());
        let mut added = Vec::new();
        for (i, token) in self.tokens.into_iter().enumerate() {
            let id = u32::try_from(i).map_err(|_| bad(format!("tokenizer.ggml.tokens has more than {i} entries")))?;
            let kind = self.types.get(i).copied().unwrap_or(NORMAL);
            match kind {
                NORMAL => {}
                CONTROL | USER_DEFINED => {
                    added.push((id, AddedToken::from(token.clone(), kind == CONTROL).normalized(false)));
                }
                UNUSED => continue,
                other => {
                    let what = format!("tokenizer.ggml.token_type[{i}] is {other}; supported: 1, 3, 4 and 5");
                    return Err(Error::unsupported(path, what));
                }
            }
            if let Some(other) = vocab.insert(token.clone(), id) {
                return Err(bad(format!("tokenizer.ggml.tokens[{other}] and [{i}] are both {token:?}")));
            }
        }

        Ok(Parts {
            vocab,
            merges,
            added,
            normalizer: Some(NFC.into()),
            pre_tokenizer: Some(split_by(pattern, path)?.into()),
            prefix,
            suffix,
            bos,
            eos,
            ..Parts::default()
        })
    }
}

/// A merge as written, "left right"; a token in the byte-level alphabet has no space.
pub(super) fn merge_pair(merge: &str) -> Option<(String, String)> {
    let (left, right) = merge.split_once(' ')?;
    let usable = !left.is_empty() && !right.is_empty() && !right.contains(' ');
    usable.then(|| (left.to_owned(), right.to_owned()))
}

/// Cuts by `pattern`, then spells bytes in the byte-level alphabet.
fn split_by(pattern: &str, path: &Path) -> Result<Sequence> {
    let split = Split::new(SplitPattern::Regex(pattern.into()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|e| Error::Internal(format!("{}: the split pattern does not compile: {e}", path.display())))?;
    Ok(Sequence::new(vec![split.into(), ByteLevel::new(false, false, false).into()]))
}
