//! The text side of a loaded model: its tokenizer, its chat template, and the ids that end a generation.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::log::Log;
use super::prompt::PromptLimits;
use super::{LogLevel, Prompt};

use crate::error::{Error, Result};
use crate::model::{GgufTokenizer, TextFiles};
use crate::text::{ChatTemplate, EncodeOptions, GgufVocabulary, StopMatcher, TextDecoder, Tokenizer};

/// What turns a model's text into ids and back. A model may lack any of it: without a tokenizer it takes and gives ids
/// only, without a template it has no chats.
pub struct Language {
    path: PathBuf,
    tokenizer: Option<Tokenizer>,
    /// The template, or why there is none.
    template: Result<ChatTemplate>,
    /// Ids that end a generation.
    pub(super) eos_ids: Vec<u32>,
}

impl Language {
    /// The text side of the model at `path`, which is for messages.
    ///
    /// # Errors
    /// [`Error::BadFile`] for a broken template.
    pub fn new(path: &Path, tokenizer: Option<Tokenizer>, template: Option<&str>, eos_ids: Vec<u32>) -> Result<Self> {
        let template = match (&tokenizer, template) {
            (Some(tokenizer), Some(source)) => Ok(ChatTemplate::new(path, source, tokenizer)?),
            _ => Err(ChatTemplate::missing(path)),
        };
        Ok(Self { path: path.to_path_buf(), tokenizer, template, eos_ids })
    }

    /// The text side of a checkpoint. A template that is not understood costs the chats, not the model.
    ///
    /// # Errors
    /// [`Error::BadFile`] or [`Error::Unsupported`] for a tokenizer that is broken or of another kind.
    pub(super) fn read(path: &Path, files: TextFiles, log: &Log) -> Result<Self> {
        let tokenizer = match (&files.tokenizer_json, files.gguf) {
            (Some(json), _) => Some(Tokenizer::from_huggingface(path, json, files.tokenizer_config.as_deref())?),
            (None, Some(gguf)) => Some(Tokenizer::from_gguf(path, gguf.into())?),
            (None, None) => None,
        };
        if tokenizer.is_none() {
            log.line(LogLevel::Warning, "no tokenizer was found: the model takes and gives token ids only");
        }
        let mut language = Self::new(path, tokenizer, None, files.eos_ids)?;
        if let (Some(tokenizer), Some(source)) = (&language.tokenizer, &files.chat_template) {
            language.template = ChatTemplate::new(path, source, tokenizer);
            if let Err(error) = &language.template {
                log.line(LogLevel::Warning, &format!("chats are not available: {error}"));
            }
        }
        Ok(language)
    }

    pub(super) fn has_tokenizer(&self) -> bool {
        self.tokenizer.is_some()
    }

    pub(super) fn has_template(&self) -> bool {
        self.template.is_ok()
    }

    pub(super) fn tokenizer(&self) -> Result<&Tokenizer> {
        let none =
            || Error::unsupported(&self.path, "text, because the model has no tokenizer; token ids are supported");
        self.tokenizer.as_ref().ok_or_else(none)
    }

    /// Ids of `text`; `special`: special tokens spelled out in it become their ids.
    pub(super) fn tokenize(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        self.tokenizer()?.encode(text, EncodeOptions { parse_special: special, ..Default::default() })
    }

    pub(super) fn render(&self, chat: &str) -> Result<String> {
        Ok(self.template()?.render(chat)?.text().to_owned())
    }

    fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().map_err(Error::clone)
    }

    /// Refuses a prompt that can be seen to fail without rendering or tokenising it.
    pub(super) fn check_prompt(&self, prompt: &Prompt, limits: &PromptLimits) -> Result<()> {
        match prompt {
            Prompt::Text(text) => limits.check_text(text, self.tokenizer()?),
            Prompt::Chat(_) => self.template().and(self.tokenizer()).map(|_| ()),
            Prompt::Tokens(ids) => limits.check(ids),
        }
    }

    /// The ids of a prompt, which keep to the limits.
    pub(super) fn prompt_ids(&self, prompt: Prompt, limits: &PromptLimits) -> Result<Vec<u32>> {
        let ids = match prompt {
            Prompt::Text(text) => {
                limits.check_text(&text, self.tokenizer()?)?;
                self.tokenizer()?.encode(&text, EncodeOptions::default())?
            }
            Prompt::Chat(chat) => {
                let rendered = self.template()?.render(&chat)?;
                limits.check_text(rendered.text(), self.tokenizer()?)?;
                self.tokenizer()?.encode_chat(&rendered)?
            }
            Prompt::Tokens(ids) => ids,
        };
        limits.check(&ids)?;
        Ok(ids)
    }
}

impl From<GgufTokenizer> for GgufVocabulary {
    fn from(metadata: GgufTokenizer) -> Self {
        let GgufTokenizer { model, pre, tokens, types, merges, bos_id, eos_id, add_bos, add_eos } = metadata;
        Self { model, pre, tokens, types, merges, bos_id, eos_id, add_bos, add_eos }
    }
}

/// The text of one generation, as its tokens come.
pub(super) struct Output {
    language: Arc<Language>,
    decoder: TextDecoder,
    stop: StopMatcher,
    /// Special tokens that are stop strings: they have no text that could match.
    stop_ids: Vec<u32>,
    /// Decoded text on its way to the matcher.
    decoded: String,
}

impl Output {
    pub(super) fn new(language: Arc<Language>, stop: &[String]) -> Self {
        let special = |text: &String| {
            let tokenizer = language.tokenizer.as_ref()?;
            tokenizer.token_id(text).filter(|id| tokenizer.is_special(*id))
        };
        let stop_ids = stop.iter().filter_map(special).collect();
        let (decoder, stop) = (TextDecoder::new(), StopMatcher::new(stop));
        Self { language, decoder, stop, stop_ids, decoded: String::new() }
    }

    /// Takes the next token, appends the text that is certain to `out`, and says whether a stop string is complete.
    /// Special tokens have no text.
    pub(super) fn push(&mut self, token: u32, out: &mut String) -> bool {
        let Some(tokenizer) = &self.language.tokenizer else { return false };
        if tokenizer.is_special(token) {
            return self.stop_ids.contains(&token);
        }
        self.decoded.clear();
        self.decoder.push(tokenizer.token_bytes(token).unwrap_or_default(), &mut self.decoded);
        self.stop.push(&self.decoded, out)
    }

    /// Ends the text: what was held back for a stop string or an incomplete code point.
    pub(super) fn finish(&mut self, out: &mut String) {
        self.decoded.clear();
        self.decoder.finish(&mut self.decoded);
        self.stop.push(&self.decoded, out);
        self.stop.finish(out);
    }
}
