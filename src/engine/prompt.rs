//! Prompts into token ids, on a thread of their own: a tokenizer takes long over a long text, and neither the host's
//! frame nor the running streams wait for it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use super::Language;
use super::panics::catch;
use super::request::{Generate, Request, Ticket};
use crate::error::{Error, Result};
use crate::text::Tokenizer;

/// What to continue.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// Plain text, continued as it is. Special tokens spelled out in it are recognised.
    Text(String),
    /// A chat: a JSON array of messages `{"role", "content", ...}`, rendered by the model's template; or an object with
    /// `messages` and variables for the template.
    Chat(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// What a prompt must keep to, or it can never run.
#[derive(Debug, Clone, Copy)]
pub(super) struct PromptLimits {
    pub vocab: usize,
    pub context_length: usize,
    pub kv_tokens: usize,
}

impl PromptLimits {
    /// # Errors
    /// [`Error::InvalidArgument`] for no ids or one that the vocabulary lacks, [`Error::ContextFull`].
    pub(super) fn check(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::InvalidArgument("the prompt has no tokens, at least 1 is needed".into()));
        }
        check_ids(ids, self.vocab)?;
        let (tokens, context, pool) = (ids.len(), self.context_length, self.kv_tokens);
        if tokens > context {
            return Err(Error::ContextFull(format!("the prompt has {tokens} tokens, the context {context} positions")));
        }
        if tokens > pool {
            return Err(Error::ContextFull(format!("the prompt has {tokens} tokens, all KV pages {pool} positions")));
        }
        Ok(())
    }

    /// Refuses a text that is too long however it is cut into tokens, before time is spent on it.
    ///
    /// # Errors
    /// [`Error::ContextFull`].
    pub(super) fn check_text(&self, text: &str, tokenizer: &Tokenizer) -> Result<()> {
        let (bytes, context) = (text.len(), self.context_length);
        let most = tokenizer.max_text_len(context);
        if bytes > most {
            let why = format!("the prompt has {bytes} bytes, the context's {context} positions hold {most} at most");
            return Err(Error::ContextFull(why));
        }
        Ok(())
    }
}

/// Refuses ids beyond the vocabulary.
///
/// # Errors
/// [`Error::InvalidArgument`].
pub(super) fn check_ids(ids: &[u32], vocab: usize) -> Result<()> {
    match ids.iter().position(|id| *id as usize >= vocab) {
        None => Ok(()),
        Some(i) => Err(Error::InvalidArgument(format!("token id {} at {i}, the vocabulary has {vocab}", ids[i]))),
    }
}

/// A request for a stream whose prompt is not yet token ids.
pub(super) struct Draft {
    pub prompt: Prompt,
    pub generate: Box<Generate>,
    pub ticket: Ticket,
}

/// What the thread owns: it ends with the last sender of drafts.
pub(super) struct Prompts {
    pub language: Arc<Language>,
    pub limits: PromptLimits,
    pub drafts: Receiver<Draft>,
    /// To the engine's thread.
    pub requests: Sender<Request>,
}

impl Prompts {
    pub(super) fn run(self) {
        for Draft { prompt, generate, ticket } in self.drafts {
            if let Some(end) = generate.ended(Instant::now()) {
                generate.end(end);
                continue;
            }
            match catch(|| self.language.prompt_ids(prompt, &self.limits)).and_then(|ids| ids) {
                // Where the engine is gone, the stream ends with the request that nobody takes.
                Ok(ids) => drop(self.requests.send(Request::generate(ids, generate, ticket))),
                Err(error) => generate.end(Err(error)),
            }
        }
    }
}
