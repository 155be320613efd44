//! One running generation, as its reader sees it.

use std::sync::Arc;
use std::time::Duration;

use super::feed::Feed;
use super::{Model, StreamStats};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;

/// What [`Stream::next`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// More text, whole code points, never empty; everything since the last call, so possibly of several tokens.
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

/// A running generation. Dropping it cancels. It keeps its model alive.
///
/// One thread reads; [`Stream::cancel`] and [`Stream::stats`] may be called from any other at the same time.
pub struct Stream {
    feed: Arc<Feed>,
    _model: Model,
}

impl Stream {
    pub(super) fn new(model: Model, feed: Arc<Feed>) -> Self {
        Self { feed, _model: model }
    }

    /// The next piece of text. `timeout`: `Some(0)` never blocks, `None` waits as long as it takes.
    ///
    /// # Errors
    /// What ended the stream, after all text before it; the same at each call. [`Error::Cancelled`];
    /// [`Error::ContextFull`], also for a prompt with too many tokens; [`Error::InvalidArgument`] for a prompt that is
    /// empty, or a chat that is no JSON of messages or that the template refuses; a failure of the engine.
    pub fn next(&self, timeout: Option<Duration>) -> Result<Event> {
        self.feed.next(timeout)
    }

    /// Ends the generation at the next step boundary, or when its prompt is tokenised. Callable from any thread.
    pub fn cancel(&self) {
        self.feed.cancel();
    }

    /// Counts and times so far. Never blocks; each field is right by itself, the fields may be one step apart.
    pub fn stats(&self) -> StreamStats {
        self.feed.stats()
    }

    /// Ids of the tokens generated so far, the end-of-sequence token included.
    pub fn tokens(&self) -> Vec<u32> {
        self.feed.tokens()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.feed.cancel();
    }
}
