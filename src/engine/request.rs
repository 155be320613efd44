//! What the engine's thread is asked to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use super::feed::Writer;
use super::language::Output;
use super::{FinishReason, Sampling};
use crate::error::{Error, Result};

/// One request, in line or running.
pub(super) struct Request {
    /// The prompt; later, with the tokens generated.
    pub tokens: Vec<u32>,
    /// The first of them are not read: random memory stands for them. See [`super::Model::stream_behind`].
    pub invented: usize,
    pub work: Work,
    /// Held while in line.
    pub ticket: Option<Ticket>,
}

pub(super) enum Work {
    Generate(Box<Generate>),
    Eval(Eval),
}

/// A generation for a stream.
pub(super) struct Generate {
    pub writer: Writer,
    pub sampling: Sampling,
    pub output: Output,
    pub limits: Limits,
    pub generated: usize,
}

/// When a generation ends.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub max_tokens: usize,
    pub ignore_eos: bool,
    pub deadline: Option<Instant>,
}

/// Logits of every position.
pub(super) struct Eval {
    /// Has the capacity for all of them.
    pub logits: Vec<f32>,
    pub reply: SyncSender<Result<Vec<f32>>>,
}

impl Generate {
    /// What ends the generation before its next step, if anything does.
    pub(super) fn ended(&self, now: Instant) -> Option<Result<FinishReason>> {
        if self.writer.is_cancelled() {
            return Some(Err(Error::Cancelled));
        }
        let expired = self.limits.deadline.is_some_and(|deadline| now >= deadline);
        expired.then_some(Ok(FinishReason::Deadline))
    }

    /// Ends the generation.
    pub(super) fn end(mut self, end: Result<FinishReason>) {
        let mut text = String::new();
        self.output.finish(&mut text);
        self.writer.end(&text, end);
    }
}

impl Request {
    /// A generation that continues `tokens`.
    pub(super) fn generate(tokens: Vec<u32>, generate: Box<Generate>, ticket: Ticket) -> Self {
        generate.writer.prompt(tokens.len());
        Self { tokens, invented: 0, work: Work::Generate(generate), ticket: Some(ticket) }
    }

    /// What ends the request before its next step, if anything does.
    pub(super) fn ended(&self, now: Instant) -> Option<Result<FinishReason>> {
        match &self.work {
            Work::Generate(generate) => generate.ended(now),
            Work::Eval(_) => None,
        }
    }

    /// Ends the request.
    pub(super) fn end(self, end: Result<FinishReason>) {
        match self.work {
            Work::Generate(generate) => generate.end(end),
            Work::Eval(eval) => {
                // The caller waits for it; should it be gone, so is the wish.
                let _ = eval.reply.send(end.map(|_| eval.logits));
            }
        }
    }
}

/// A place in line, counted.
pub(super) struct Ticket(Arc<AtomicUsize>);

impl Ticket {
    /// Requests that may wait: a host that has more is not waiting for text any more.
    pub(super) const MAX: usize = 1024;

    /// A place in the line that `waiting` counts.
    ///
    /// # Errors
    /// [`Error::Busy`] when the line is full.
    pub(super) fn take(waiting: &Arc<AtomicUsize>) -> Result<Self> {
        let ticket = Ticket(waiting.clone());
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        if before >= Self::MAX {
            return Err(Error::Busy(format!("{before} requests wait for a free stream, at most {} may", Self::MAX)));
        }
        Ok(ticket)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
