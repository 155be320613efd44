//! Text into token ids and back.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::models::bpe::{self, BPE, BpeTrainer};
use tokenizers::{
    AddedToken, DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    SplitDelimiterBehavior, Token, TokenizerImpl,
};

use super::byte_level::Alphabet;
use super::gguf::GgufVocabulary;
use super::huggingface;
use super::quoting::{find_unquoted, longest_first};
use super::template::RenderedChat;
use crate::error::{Error, Result};

/// One more than the largest token id accepted: eight times the largest vocabulary of the Qwen family.
const MAX_VOCABULARY: u32 = 1 << 21;
/// Ids without a token that are accepted, beyond three for each token. Tables go by id: they must follow from the size of
/// the file and not from a number in it.
const MAX_GAPS: usize = 1 << 16;

/// How to read a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add what the model wants before and after each text, such as a begin-of-sequence token. Qwen models add nothing.
    pub add_special: bool,
    /// Read special tokens that are spelled out in the text, such as `<|im_end|>`, as those tokens. Without it they are
    /// plain characters: the right choice for text that is not trusted. Tokens that are added but not special
    /// (`<think>`) are recognised either way, as in `transformers` with `split_special_tokens`.
    pub parse_special: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { add_special: true, parse_special: true }
    }
}

/// A byte-level BPE tokenizer: `transformers`' results, from a `tokenizer.json` or from the metadata of a GGUF file.
pub struct Tokenizer {
    /// Recognises every added token.
    parsing: Encoder,
    /// Recognises added tokens that are not special.
    plain: Encoder,
    ids: Arc<Ids>,
    pieces: Pieces,
    /// Bytes of text that one token stands for at most; `usize::MAX`: any number.
    longest: usize,
    /// Special tokens, the longest first.
    special: Vec<(String, u32)>,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    named: Vec<(&'static str, String)>,
}

type Encoder = TokenizerImpl<SharedBpe, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// What a tokenizer is made of, read from a file and not yet checked as a whole.
#[derive(Default)]
pub(super) struct Parts {
    /// Tokens of the BPE in the byte-level alphabet.
    pub(super) vocab: HashMap<String, u32>,
    pub(super) merges: Vec<(String, String)>,
    pub(super) ignore_merges: bool,
    pub(super) fuse_unknown: bool,
    /// Tokens recognised in the text before BPE.
    pub(super) added: Vec<(u32, AddedToken)>,
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) pre_tokenizer: Option<PreTokenizerWrapper>,
    pub(super) prefix: Vec<u32>,
    pub(super) suffix: Vec<u32>,
    pub(super) bos: Option<String>,
    pub(super) eos: Option<String>,
    pub(super) pad: Option<String>,
    /// What BPE puts where it knows no token; byte-level BPE knows one for each byte.
    pub(super) unknown: Option<String>,
    /// `unk_token` of the templates.
    pub(super) named_unknown: Option<String>,
}

impl Tokenizer {
    /// From the contents of `tokenizer.json` and, where there is one, of `tokenizer_config.json`. `folder`, where they
    /// lie, is for messages.
    ///
    /// # Errors
    /// [`Error::BadFile`] where the contents are not a tokenizer, [`Error::Unsupported`] where they are one that is not
    /// byte-level BPE.
    pub fn from_huggingface(folder: &Path, tokenizer_json: &[u8], tokenizer_config: Option<&[u8]>) -> Result<Self> {
        let parts = huggingface::parts(folder, tokenizer_json, tokenizer_config)?;
        Self::build(parts, &folder.join(huggingface::TOKENIZER_JSON))
    }

    /// From the metadata of a GGUF file. `path` is for messages.
    ///
    /// # Errors
    /// [`Error::BadFile`] where fields contradict each other, [`Error::Unsupported`] where they ask for another kind of
    /// tokenizer.
    pub fn from_gguf(path: &Path, vocabulary: GgufVocabulary) -> Result<Self> {
        Self::build(vocabulary.into_parts(path)?, path)
    }

    fn build(parts: Parts, path: &Path) -> Result<Self> {
        let bad = |what: String| Error::bad_file(path, what);
        if parts.vocab.is_empty() {
            return Err(bad("the tokenizer has no tokens".into()));
        }
        let ids = Arc::new(Ids::new(&parts, path)?);
        let pieces = Pieces::new(&parts, ids.len).ok_or_else(|| bad("its tokens are longer than 4 GiB".into()))?;
        let longest = longest(&parts, &pieces);
        if let Some(id) = parts.prefix.iter().chain(&parts.suffix).find(|id| pieces.get(**id).is_none()) {
            return Err(bad(format!("token {id}, added around each text, is not in the vocabulary")));
        }

        let vocab: bpe::Vocab = parts.vocab.into_iter().collect();
        if let Some(unknown) = parts.unknown.as_ref().filter(|u| !vocab.contains_key(*u)) {
            return Err(bad(format!("the unknown token {unknown:?} is not in the vocabulary")));
        }
        let mut builder = BPE::builder().vocab_and_merges(vocab, parts.merges);
        builder = builder.ignore_merges(parts.ignore_merges).fuse_unk(parts.fuse_unknown);
        if let Some(unknown) = parts.unknown.clone() {
            builder = builder.unk_token(unknown);
        }
        let bpe = builder.build().map_err(|e| bad(format!("the tokenizer's vocabulary and merges: {e}")))?;

        let model = SharedBpe { bpe: Arc::new(bpe), ids: ids.clone() };
        let encoder = |added: &[AddedToken]| {
            let mut encoder = Encoder::new(model.clone());
            encoder.with_normalizer(parts.normalizer.clone()).with_pre_tokenizer(parts.pre_tokenizer.clone());
            encoder.add_tokens(added);
            encoder
        };
        let added: Vec<AddedToken> = parts.added.into_iter().map(|(_, token)| token).collect();
        let (special, ordinary): (Vec<_>, Vec<_>) = added.iter().cloned().partition(|token| token.special);
        let special = special.into_iter().filter(|token| !token.content.is_empty());
        let special = special.filter_map(|token| Some((ids.get(&token.content)?, token.content)));
        let named = [
            ("bos_token", parts.bos),
            ("eos_token", parts.eos),
            ("pad_token", parts.pad),
            ("unk_token", parts.named_unknown),
        ];

        Ok(Self {
            parsing: encoder(&added),
            plain: encoder(&ordinary),
            pieces,
            longest,
            special: longest_first(special.map(|(id, content)| (content, id)).collect()),
            prefix: parts.prefix,
            suffix: parts.suffix,
            named: named.into_iter().filter_map(|(name, token)| Some((name, token?))).collect(),
            ids,
        })
    }

    /// The ids of `text`.
    ///
    /// # Errors
    /// [`Error::Internal`] where the tokenizer fails on it; none is known.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>> {
        let encoder = if options.parse_special { &self.parsing } else { &self.plain };
        let mut ids = Vec::new();
        if options.add_special {
            ids.extend_from_slice(&self.prefix);
        }
        append(encoder, text, &mut ids)?;
        if options.add_special {
            ids.extend_from_slice(&self.suffix);
        }
        Ok(ids)
    }

    /// The ids of a rendered chat. Special tokens are those that the template wrote; the same characters inside of a
    /// message are plain text, so that what a user writes cannot end a turn or begin one. (`transformers` takes both for
    /// tokens.) Nothing is added around it: the template writes all the model wants.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_chat(&self, chat: &RenderedChat) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        if chat.quoted().is_empty() {
            append(&self.parsing, chat.text(), &mut ids)?;
            return Ok(ids);
        }
        let mut position = 0;
        for found in find_unquoted(chat.text(), &self.special, chat.quoted()) {
            append(&self.plain, &chat.text()[position..found.start], &mut ids)?;
            ids.push(found.id);
            position = found.end;
        }
        append(&self.plain, &chat.text()[position..], &mut ids)?;
        Ok(ids)
    }

    /// The bytes of one token, `None` for an id without one. They need not be valid UTF-8 on their own.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.pieces.get(id)
    }

    /// The bytes of a sequence; ids without a token have none.
    pub fn decode_bytes(&self, ids: &[u32], skip_special: bool) -> Vec<u8> {
        let kept = ids.iter().filter(|id| !(skip_special && self.is_special(**id)));
        kept.filter_map(|id| self.token_bytes(*id)).flatten().copied().collect()
    }

    /// The text of a sequence, invalid UTF-8 replaced by U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids, skip_special)).into_owned()
    }

    /// Whether `id` is a control token, which is no part of what a reader sees.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.iter().any(|(_, special)| *special == id)
    }

    /// The id of a token by its content, special ones as they are written, others in the byte-level alphabet.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).or_else(|| self.parsing.get_model().bpe.token_to_id(token))
    }

    /// One more than the largest id. A model's own vocabulary may be larger, padded to a round size.
    pub fn vocab_size(&self) -> usize {
        self.ids.len as usize
    }

    /// Bytes that a text of `tokens` tokens can have at most. A longer text has more tokens for certain; a shorter one
    /// may have.
    pub fn max_text_len(&self, tokens: usize) -> usize {
        tokens.saturating_mul(self.longest)
    }

    /// Special tokens and their ids, the longest first.
    pub(super) fn special_tokens(&self) -> &[(String, u32)] {
        &self.special
    }

    /// `bos_token` and so on, by the names that templates use.
    pub(super) fn named_tokens(&self) -> &[(&'static str, String)] {
        &self.named
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

/// See [`Tokenizer::longest`].
fn longest(parts: &Parts, pieces: &Pieces) -> usize {
    // A composed character has a third of its parts' bytes or more: three Hangul jamo of three bytes are one syllable of
    // three. What other normalizers leave out is not known here.
    let factor = match &parts.normalizer {
        None => 1,
        Some(NormalizerWrapper::NFC(_)) => 3,
        Some(_) => return usize::MAX,
    };
    if parts.pre_tokenizer.as_ref().is_some_and(drops_text) {
        return usize::MAX;
    }
    // Such tokens take in the white space beside them, however much there is.
    if parts.added.iter().any(|(_, token)| token.lstrip || token.rstrip) {
        return usize::MAX;
    }
    let longest = pieces.ranges.iter().map(|(start, end)| end.saturating_sub(*start) as usize).max().unwrap_or(0);
    longest.saturating_mul(factor).max(1)
}

fn drops_text(splitter: &PreTokenizerWrapper) -> bool {
    match splitter {
        PreTokenizerWrapper::Split(split) => split.behavior == SplitDelimiterBehavior::Removed,
        PreTokenizerWrapper::Sequence(members) => members.as_ref().iter().any(drops_text),
        _ => false,
    }
}

fn append(encoder: &Encoder, text: &str, ids: &mut Vec<u32>) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let encoding =
        encoder.encode_fast(text, false).map_err(|e| Error::Internal(format!("the tokenizer failed: {e}")))?;
    ids.extend_from_slice(encoding.get_ids());
    Ok(())
}

/// Ids of the added tokens, as the file declares them.
struct Ids {
    added: HashMap<String, u32>,
    /// One more than the largest id of all.
    len: u32,
}

impl Ids {
    fn new(parts: &Parts, path: &Path) -> Result<Self> {
        let mut added = HashMap::with_capacity(parts.added.len());
        let mut by_id = HashSet::with_capacity(parts.added.len());
        for (id, token) in &parts.added {
            if let Some(other) = added.insert(token.content.clone(), *id) {
                let what = format!("the added token {:?} has two ids, {other} and {id}", token.content);
                return Err(Error::bad_file(path, what));
            }
            if !by_id.insert(*id) {
                return Err(Error::bad_file(path, format!("two added tokens have the id {id}")));
            }
        }
        let largest = parts.vocab.values().chain(added.values()).copied().max().unwrap_or(0);
        let tokens = parts.vocab.len() + added.len();
        let limit = tokens.saturating_mul(4).saturating_add(MAX_GAPS).min(MAX_VOCABULARY as usize);
        if largest as usize >= limit {
            let what = format!("a token has the id {largest}, expected less than {limit} for {tokens} tokens");
            return Err(Error::bad_file(path, what));
        }
        let mut taken = vec![false; largest as usize + 1];
        for (token, id) in &parts.vocab {
            if std::mem::replace(&mut taken[*id as usize], true) {
                return Err(Error::bad_file(
                    path,
                    format!("the id {id} of the token {token:?} belongs to another one too"),
                ));
            }
        }
        Ok(Self { added, len: largest + 1 })
    }

    fn get(&self, token: &str) -> Option<u32> {
        self.added.get(token).copied()
    }
}

/// The bytes of every token, one after the other.
struct Pieces {
    bytes: Vec<u8>,
    /// Start and end by id; [`NO_PIECE`] where there is no such token.
    ranges: Vec<(u32, u32)>,
}

const NO_PIECE: (u32, u32) = (u32::MAX, 0);

impl Pieces {
    /// `None` where offsets do not fit.
    fn new(parts: &Parts, len: u32) -> Option<Self> {
        let alphabet = Alphabet::new();
        let mut pieces = Self { bytes: Vec::new(), ranges: vec![NO_PIECE; len as usize] };
        for (token, id) in &parts.vocab {
            let start = u32::try_from(pieces.bytes.len()).ok()?;
            alphabet.decode_into(token, &mut pieces.bytes);
            pieces.ranges[*id as usize] = (start, u32::try_from(pieces.bytes.len()).ok()?);
        }
        for (id, token) in &parts.added {
            let start = u32::try_from(pieces.bytes.len()).ok()?;
            pieces.bytes.extend_from_slice(token.content.as_bytes());
            pieces.ranges[*id as usize] = (start, u32::try_from(pieces.bytes.len()).ok()?);
        }
        Some(pieces)
    }

    fn get(&self, id: u32) -> Option<&[u8]> {
        let (start, end) = *self.ranges.get(id as usize)?;
        self.bytes.get(start as usize..end as usize)
    }
}

/// One BPE for both encoders, in which added tokens have the ids that the file gives them (`tokenizers` would number them
/// anew where there are gaps).
#[derive(Clone)]
struct SharedBpe {
    bpe: Arc<BPE>,
    ids: Arc<Ids>,
}

impl Model for SharedBpe {
    type Trainer = BpeTrainer;

    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        self.bpe.tokenize(sequence)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).or_else(|| self.bpe.token_to_id(token))
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.bpe.id_to_token(id)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.bpe.get_vocab()
    }

    fn get_vocab_size(&self) -> usize {
        self.ids.len as usize
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        self.bpe.save(folder, prefix)
    }

    fn get_trainer(&self) -> BpeTrainer {
        self.bpe.get_trainer()
    }
}
