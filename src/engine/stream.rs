//! One running generation, as its reader sees it.

use std::time::Duration;

use super::{Model, StreamStats};
use crate::error::{Error, Result};

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
pub struct Stream {
    _model: Model,
}

impl Stream {
    /// The next piece of text. `timeout`: `Some(0)` never blocks, `None` waits as long as it takes.
    ///
    /// # Errors
    /// What ended the stream, after all text before it: [`Error::Cancelled`], [`Error::ContextFull`], a failure of the
    /// engine; the same at each call.
    pub fn next(&self, _timeout: Option<Duration>) -> Result<Event> {
        Err(Error::Internal("the engine is not built yet".into()))
    }

    /// Ends the generation at the next step boundary. Callable from any thread.
    pub fn cancel(&self) {}

    /// Counts and times so far. Never blocks; each field is right by itself, the fields may be one step apart.
    pub fn stats(&self) -> StreamStats {
        StreamStats::default()
    }

    /// Ids of the tokens generated so far, the end-of-sequence token included.
    pub fn tokens(&self) -> Vec<u32> {
        Vec::new()
    }
}
