//! The thread that owns a loaded model.
//!
//! It takes requests from a channel into a line, and from the line into free slots; then it runs steps, each one ragged
//! batch over all running sequences, until nothing is left to run, and sleeps on the channel. Everything that ends a
//! request ends it at a step's boundary, where its pages and slot go back to the pools.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use super::log::Log;
use super::pace::Pace;
use super::panics::catch;
use super::request::{Generate, Request, Work};
use super::schedule;
use super::{FinishReason, LogLevel};
use crate::error::{Error, Result};
use crate::model::{
    Backend, Batch, Costs, LogitRows, Logits, ModelSpec, Operation, Phase, ProfileCounters, Timed, forward,
};
use crate::state::{Pools, Sequence, StateLayout};

/// What the thread is given.
pub(super) struct WorkerParts {
    pub spec: Arc<ModelSpec>,
    pub backend: Box<dyn Backend>,
    pub layout: StateLayout,
    pub context_length: usize,
    pub prefill_chunk: usize,
    pub pace: Pace,
    pub eos_ids: Vec<u32>,
    pub profile: Arc<ProfileCounters>,
    pub log: Log,
}

/// Everything that the engine's thread owns.
pub(super) struct Worker {
    parts: WorkerParts,
    requests: Receiver<Request>,
    pools: Pools,
    /// In line, first come first served.
    waiting: VecDeque<Request>,
    running: Vec<Running>,
    /// Logits of a step, `[logit_rows, vocab]`.
    logits: Logits,
    steps: usize,
    /// Why the model is of no use any more.
    broken: Option<Error>,
}

/// A request with memory.
struct Running {
    request: Request,
    memory: Sequence,
    /// Rows processed.
    position: usize,
}

impl Running {
    fn pending(&self) -> usize {
        self.request.tokens.len() - self.position
    }

    /// How many of the next `rows` rows need logits.
    fn logit_rows(&self, rows: usize) -> usize {
        match self.request.logit_rows(self.position, rows) {
            LogitRows::None => 0,
            LogitRows::Last => rows.min(1),
            LogitRows::All => rows,
        }
    }
}

/// What a step's logits made of a request.
enum Next {
    Continue,
    End(Result<FinishReason>),
}

impl Worker {
    /// Takes the memory of every later step.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`].
    pub(super) fn new(mut parts: WorkerParts, requests: Receiver<Request>) -> Result<Self> {
        let rows = logit_rows(parts.layout.slots, parts.prefill_chunk);
        let refused = || Error::OutOfHostMemory { what: format!("the logits of {rows} rows"), bytes: u64::MAX };
        let logits = parts.backend.logits(rows.checked_mul(parts.spec.vocab).ok_or_else(refused)?)?;
        Ok(Self {
            requests,
            pools: Pools::new(parts.layout)?,
            waiting: VecDeque::new(),
            running: Vec::with_capacity(parts.layout.slots),
            logits,
            steps: 0,
            broken: None,
            parts,
        })
    }

    /// Serves requests until every handle of the model is gone.
    pub(super) fn run(mut self) {
        self.parts.backend.attach();
        while self.receive() {
            if let Err(panic) = catch(|| self.step()) {
                self.break_down(panic);
            }
        }
    }

    /// Takes new requests into the line; waits for one if there is nothing else to do. `false`: no handle is left.
    fn receive(&mut self) -> bool {
        if self.running.is_empty() && self.waiting.is_empty() {
            match self.requests.recv() {
                Ok(request) => self.waiting.push_back(request),
                Err(_) => return false,
            }
        }
        loop {
            match self.requests.try_recv() {
                Ok(request) => self.waiting.push_back(request),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn step(&mut self) {
        let start = Instant::now();
        if let Some(error) = &self.broken {
            self.waiting.drain(..).for_each(|request| request.end(Err(error.clone())));
            return;
        }
        self.end_cancelled_and_expired();
        self.admit();
        self.grow();
        if self.running.is_empty() {
            return;
        }
        let pending: Vec<usize> = self.running.iter().map(Running::pending).collect();
        let mut rows = schedule::rows(&pending, self.parts.pace.chunk(&pending), self.steps);
        self.cut_evaluations(&mut rows);
        self.steps = self.steps.wrapping_add(1);
        let phase = self.phase(&rows);
        let costs = match self.compute(&rows) {
            Ok(costs) => costs,
            Err(error) => {
                self.parts.log.line(LogLevel::Error, &format!("a step failed: {error}"));
                self.end_where(|index, _| (rows[index] > 0).then(|| Err(error.clone())));
                return;
            }
        };
        self.parts.pace.note(rows.iter().sum(), costs.total().time);
        // Before the streams hear of their ends, so that who waits for one finds its steps counted.
        self.parts.profile.record_step(phase, rows.iter().sum(), &costs);
        let computed = Instant::now();
        self.distribute(&rows);
        let sampling = computed.elapsed();
        let other = start.elapsed().saturating_sub(costs.total().time + sampling);
        self.parts.profile.record_time(phase, Operation::Sampling, sampling);
        self.parts.profile.record_time(phase, Operation::Other, other);
    }

    fn end_cancelled_and_expired(&mut self) {
        let now = Instant::now();
        for request in std::mem::take(&mut self.waiting) {
            match request.ended(now) {
                Some(end) => request.end(end),
                None => self.waiting.push_back(request),
            }
        }
        self.end_where(|_, running| running.request.ended(now));
    }

    /// Moves requests from the line into free slots, with pages for their whole prompts, in order: a long prompt that
    /// must wait for pages is not overtaken.
    fn admit(&mut self) {
        while let Some(request) = self.waiting.front() {
            let Some(mut memory) = self.pools.open() else { return };
            if !self.pools.reserve(&mut memory, request.tokens.len()) {
                self.pools.close(memory);
                if !self.running.is_empty() {
                    return;
                }
                // Nobody holds a page, so it will never fit.
                let error = self.pool_full(request.tokens.len());
                if let Some(request) = self.waiting.pop_front() {
                    request.end(Err(error));
                }
                continue;
            }
            let Some(mut request) = self.waiting.pop_front() else { return };
            request.ticket = None;
            if let Work::Generate(generate) = &mut request.work {
                let started = generate.start(self.parts.spec.vocab, &request.tokens, &self.parts.eos_ids);
                if let Err(error) = started {
                    self.pools.close(memory);
                    request.end(Err(error));
                    continue;
                }
            }
            if request.invented > 0
                && let Err(error) = self.parts.backend.invent(&memory, request.invented)
            {
                self.pools.close(memory);
                request.end(Err(error));
                continue;
            }
            self.running.push(Running { position: request.invented, request, memory });
        }
    }

    /// Gets pages for the next row of each sequence; those that get none end, and what they held serves the others.
    fn grow(&mut self) {
        let mut index = 0;
        while let Some(running) = self.running.get_mut(index) {
            let needed = running.position + 1;
            if self.pools.reserve(&mut running.memory, needed) {
                index += 1;
            } else {
                let error = self.pool_full(needed);
                self.end_at(index, Err(error));
            }
        }
    }

    /// Leaves evaluations no more rows, which all need logits, than there is memory for beside a row for each slot.
    fn cut_evaluations(&self, rows: &mut [usize]) {
        let mut left = eval_rows(self.parts.prefill_chunk);
        let all = self.running.iter().zip(rows);
        for (_, rows) in all.filter(|(running, _)| matches!(running.request.work, Work::Eval(_))) {
            let more = rows.saturating_sub(1).min(left);
            *rows = (*rows).min(more + 1);
            left -= more;
        }
    }

    /// Which kind of work the given rows of each sequence are.
    fn phase(&self, rows: &[usize]) -> Phase {
        let reads = |running: &Running| match &running.request.work {
            Work::Eval(_) => true,
            Work::Generate(generate) => generate.generated == 0,
        };
        let mut working = self.running.iter().zip(rows).filter(|(_, rows)| **rows > 0);
        if working.any(|(running, _)| reads(running)) { Phase::Prefill } else { Phase::Decode }
    }

    /// Runs the network over the given rows of each sequence.
    fn compute(&mut self, rows: &[usize]) -> Result<Costs> {
        let mut batch = Batch::default();
        for (running, &rows) in self.running.iter().zip(rows).filter(|(_, rows)| **rows > 0) {
            let tokens = running.request.tokens.get(running.position..running.position + rows);
            let tokens = tokens.ok_or_else(|| Error::Internal("a step beyond the tokens of a sequence".into()))?;
            batch.push(&running.memory, running.position, tokens, running.request.logit_rows(running.position, rows));
        }
        let logits = self.logits.get_mut(..batch.logit_rows().len() * self.parts.spec.vocab);
        let logits = logits.ok_or_else(|| Error::Internal("a step with more logits than were planned".into()))?;
        let mut backend = Timed::new(self.parts.backend.as_mut());
        forward(&self.parts.spec, &mut backend, &batch, logits)?;
        Ok(backend.finish())
    }

    /// Gives each sequence its logits, and ends those that are done.
    fn distribute(&mut self, rows: &[usize]) {
        let mut unread = &mut self.logits[..];
        let mut ends = Vec::with_capacity(rows.len());
        for (running, &rows) in self.running.iter_mut().zip(rows) {
            let (own, rest) = unread.split_at_mut(running.logit_rows(rows) * self.parts.spec.vocab);
            unread = rest;
            running.position += rows;
            let next = match &mut running.request.work {
                Work::Eval(eval) => {
                    eval.logits.extend_from_slice(own);
                    let done = running.position == running.request.tokens.len();
                    if done { Next::End(Ok(FinishReason::Length)) } else { Next::Continue }
                }
                Work::Generate(generate) => {
                    if generate.generated == 0 {
                        generate.writer.prefilled(rows);
                    }
                    if own.is_empty() {
                        Next::Continue
                    } else {
                        generate.advance(
                            own,
                            &mut running.request.tokens,
                            &self.parts.eos_ids,
                            self.parts.context_length,
                        )
                    }
                }
            };
            ends.push(match next {
                Next::Continue => None,
                Next::End(end) => Some(end),
            });
        }
        self.end_where(|index, _| ends[index].take());
    }

    /// Ends every running request for which `end` has an answer; `end` sees each once, with its index.
    fn end_where(&mut self, mut end: impl FnMut(usize, &Running) -> Option<Result<FinishReason>>) {
        let running = std::mem::take(&mut self.running);
        for (index, running) in running.into_iter().enumerate() {
            match end(index, &running) {
                None => self.running.push(running),
                Some(end) => {
                    self.pools.close(running.memory);
                    running.request.end(end);
                }
            }
        }
    }

    fn end_at(&mut self, index: usize, end: Result<FinishReason>) {
        let mut end = Some(end);
        self.end_where(|i, _| if i == index { end.take() } else { None });
    }

    fn pool_full(&self, positions: usize) -> Error {
        Error::ContextFull(format!(
            "position {positions} of a sequence needs a KV page; all {} pages of {} positions are taken by {} sequences \
             (load option kv_tokens)",
            self.parts.layout.pages,
            self.parts.layout.page_tokens,
            self.running.len()
        ))
    }

    /// After a panic nothing that the step touched can be trusted: all requests end, now and later.
    fn break_down(&mut self, error: Error) {
        self.parts.log.line(LogLevel::Error, &format!("the engine stopped: {error}"));
        let running = std::mem::take(&mut self.running);
        let requests = running.into_iter().map(|running| running.request);
        requests.chain(std::mem::take(&mut self.waiting)).for_each(|request| request.end(Err(error.clone())));
        self.broken = Some(error);
    }
}

impl Generate {
    /// Draws the next token from `logits`, and tells the stream.
    fn advance(&mut self, logits: &mut [f32], tokens: &mut Vec<u32>, eos_ids: &[u32], context_length: usize) -> Next {
        let no_sampler = || Error::Internal("a stream runs that was not started".into());
        let token = match self.sampler.as_mut().ok_or_else(no_sampler).and_then(|sampler| sampler.sample(logits)) {
            Ok(token) => token,
            Err(error) => return Next::End(Err(error)),
        };
        tokens.push(token);
        self.generated += 1;

        let mut text = String::new();
        let ends_here = eos_ids.contains(&token) && !self.limits.ignore_eos;
        let stopped = !ends_here && self.output.push(token, &mut text);
        self.writer.token(token, &text);
        if ends_here {
            Next::End(Ok(FinishReason::EndOfSequence))
        } else if stopped {
            Next::End(Ok(FinishReason::Stop))
        } else if self.generated >= self.limits.max_tokens {
            Next::End(Ok(FinishReason::Length))
        } else if tokens.len() > context_length {
            let generated = self.generated;
            let error = format!("{context_length} positions, of which {generated} tokens were generated");
            Next::End(Err(Error::ContextFull(error)))
        } else {
            Next::Continue
        }
    }
}

/// Rows of evaluations that one step has, beside a row for each slot, at most: enough to read the weights once for many
/// rows, at 40 MB of logits for a vocabulary of 152 thousand.
fn eval_rows(prefill_chunk: usize) -> usize {
    prefill_chunk.min(64)
}

/// Rows of logits that a step has at most.
pub(super) fn logit_rows(slots: usize, prefill_chunk: usize) -> usize {
    slots.saturating_add(eval_rows(prefill_chunk))
}
