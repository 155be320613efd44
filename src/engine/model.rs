//! A loaded model, as Rust programs and the C interface see it.

use std::sync::Arc;

use super::{ExpertStats, GenerateOptions, Generation, LoadOptions, MemoryStats, ModelInfo, Stream};
use crate::error::{Error, Result};
use crate::model::{LoadProgress, Source};

/// A loaded model. Clones share it; the last one to go, streams included, ends the engine's thread and frees the memory.
#[derive(Clone)]
pub struct Model {
    shared: Arc<Shared>,
}

struct Shared {
    info: ModelInfo,
}

/// What to continue.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// Plain text, continued as it is. Special tokens spelled out in it are recognised.
    Text(String),
    /// A chat: a JSON array of messages `{"role", "content", ...}`, rendered by the model's template.
    Chat(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

fn unavailable<T>() -> Result<T> {
    Err(Error::Internal("the engine is not built yet".into()))
}

impl Model {
    /// Loads a model; `progress` can be watched and cancelled from another thread.
    ///
    /// # Errors
    /// Broken or unsupported files, options out of range, [`Error::OverBudget`] with the numbers before any weight is
    /// read, [`Error::Cancelled`].
    pub fn load(_source: &Source, _options: &LoadOptions, _progress: &LoadProgress) -> Result<Model> {
        unavailable()
    }

    /// Facts about the model.
    pub fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// Starts a generation. Tokenises on the calling thread and returns without waiting for the engine.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for options out of range or an empty prompt, [`Error::ContextFull`] for a prompt longer
    /// than the context, [`Error::Busy`] while too many requests wait.
    pub fn stream(&self, _prompt: &Prompt, _options: &GenerateOptions) -> Result<Stream> {
        unavailable()
    }

    /// Generates to the end, and returns the whole text.
    ///
    /// # Errors
    /// As [`Model::stream`] and [`Stream::next`].
    pub fn generate(&self, _prompt: &Prompt, _options: &GenerateOptions) -> Result<Generation> {
        unavailable()
    }

    /// Logits `[n, vocab]` of every position of `ids`, computed in the engine beside the running streams.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no ids or an id that the vocabulary lacks, [`Error::ContextFull`],
    /// [`Error::OutOfHostMemory`] for the result, a failure of the engine.
    pub fn eval(&self, _ids: &[u32]) -> Result<Vec<f32>> {
        unavailable()
    }

    /// Token ids of `text`. `special`: special tokens spelled out in the text become their ids; otherwise they are text.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model without a tokenizer.
    pub fn tokenize(&self, _text: &str, _special: bool) -> Result<Vec<u32>> {
        unavailable()
    }

    /// Text of `ids`, bytes that are no UTF-8 replaced by U+FFFD. `special`: special tokens are spelled out; otherwise
    /// they are left out.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model without a tokenizer, [`Error::InvalidArgument`] for an unknown id.
    pub fn detokenize(&self, _ids: &[u32], _special: bool) -> Result<String> {
        unavailable()
    }

    /// The text that the model's template makes of `messages_json`, a JSON array of `{"role", "content", ...}`.
    /// `add_generation_prompt`: ends with the opening of the assistant's turn.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model without a template, [`Error::InvalidArgument`] for messages that are no such
    /// array or that the template refuses.
    pub fn render_chat(&self, _messages_json: &str, _add_generation_prompt: bool) -> Result<String> {
        unavailable()
    }

    /// Use of the routed experts since load.
    pub fn expert_stats(&self) -> ExpertStats {
        ExpertStats::default()
    }

    /// Activations of each routed expert of trunk layer `layer` since load.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a layer that the model does not have or that has no experts.
    pub fn expert_counts(&self, _layer: usize) -> Result<Vec<u64>> {
        unavailable()
    }

    /// Memory that the model holds, by component.
    pub fn memory(&self) -> MemoryStats {
        MemoryStats::default()
    }
}
