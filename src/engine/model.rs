//! A loaded model and its streams, as Rust programs and the C interface see them.

use std::sync::Arc;
use std::time::Duration;

use super::{GenerateOptions, LoadOptions};
use crate::error::{Error, Result};
use crate::model::{LoadProgress, ModelSpec, Source};

/// A loaded model. Clones share it; the last one to go, streams included, ends the engine's thread and frees the memory.
#[derive(Clone)]
pub struct Model {
    _shared: Arc<()>,
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

/// What [`Stream::next`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// More text, whole code points, never empty.
    Text(String),
    /// Nothing within the time given.
    Pending,
    /// The generation ended; every later call says so again.
    Done(FinishReason),
}

/// Why a generation ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence token.
    EndOfSequence,
    /// A stop string.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// The deadline passed.
    Deadline,
}

/// Counts and times of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StreamStats {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Prompt tokens processed so far.
    pub prefilled_tokens: u64,
    /// Tokens generated so far.
    pub generated_tokens: u64,
    /// Time in line before the first step.
    pub queued: Duration,
    /// Time from the first step to the first token.
    pub prefill: Duration,
    /// Time from the first token to the last so far.
    pub decode: Duration,
    /// Why it ended, once it has.
    pub finish: Option<FinishReason>,
}

/// Facts about a loaded model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Sizes and layers.
    pub spec: ModelSpec,
    /// Positions one stream can hold.
    pub context_length: usize,
    /// Streams that can run at the same time.
    pub streams: usize,
    /// Parameters of the trunk.
    pub parameters: u64,
    /// A chat template is present.
    pub has_chat_template: bool,
    /// A tokenizer is present.
    pub has_tokenizer: bool,
}

/// A running generation. Dropping it cancels.
pub struct Stream {
    _model: Model,
}

fn unavailable<T>() -> Result<T> {
    Err(Error::Internal("the engine is not built yet".into()))
}

impl Model {
    /// Loads a model; `progress` can be watched and cancelled from another thread.
    pub fn load(_source: &Source, _options: &LoadOptions, _progress: &LoadProgress) -> Result<Model> {
        unavailable()
    }

    /// Starts a generation. Returns at once.
    pub fn stream(&self, _prompt: &Prompt, _options: &GenerateOptions) -> Result<Stream> {
        unavailable()
    }

    /// Logits `[n, vocab]` of every position of `ids`, computed in the engine beside the running streams.
    pub fn eval(&self, _ids: &[u32]) -> Result<Vec<f32>> {
        unavailable()
    }
}

impl Stream {
    /// The next piece of text. `timeout`: `Some(0)` never blocks, `None` waits as long as it takes.
    ///
    /// # Errors
    /// What ended the stream: [`Error::Cancelled`], [`Error::ContextFull`], a failure of the engine; the same at each call.
    pub fn next(&self, _timeout: Option<Duration>) -> Result<Event> {
        unavailable()
    }

    /// Ends the generation at the next step boundary. Callable from any thread.
    pub fn cancel(&self) {}
}
