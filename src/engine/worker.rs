//! The thread that owns a loaded model.
//!
//! It takes requests from a channel into a line, and from the line into free slots; then it runs steps, each one ragged
//! batch over all running sequences, until nothing is left to run, and sleeps on the channel. Everything that ends a
//! request ends it at a step's boundary, where its pages and slot go back to the pools.
//!
//! On a backend that chooses tokens itself, the next step is queued before the last one's tokens are read, as long as every
//! sequence only writes and nobody waits to be let in. A sequence that then turns out to be at its end has a row too many in
//! that step: what comes of it is dropped. Its pages and slot may have a new owner by then, who is safe: steps run in the
//! order in which they are queued, the new owner's begins with an empty state, and reads no position that it did not write.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use super::log::Log;
use super::pace::Pace;
use super::panics::catch;
use super::request::{Generate, Request, Work};
use super::schedule;
use super::steps::{Answer, Steps};
use super::{FinishReason, LogLevel};
use crate::error::{Error, Result};
use crate::model::{Backend, Batch, Choice, Costs, LogitRows, ModelSpec, Operation, Phase, ProfileCounters};
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
    layout: StateLayout,
    context_length: usize,
    prefill_chunk: usize,
    pace: Pace,
    eos_ids: Vec<u32>,
    profile: Arc<ProfileCounters>,
    log: Log,
    requests: Receiver<Request>,
    pools: Pools,
    /// In line, first come first served.
    waiting: VecDeque<Request>,
    running: Vec<Running>,
    steps: Steps,
    /// Those that are queued, in order.
    queued: VecDeque<Queued>,
    turn: usize,
    /// Sequences so far.
    sequences: u64,
    /// Why the model is of no use any more.
    broken: Option<Error>,
}

/// A request with memory.
struct Running {
    request: Request,
    memory: Sequence,
    /// Which of all sequences it is.
    number: u64,
    /// Rows that were queued.
    position: usize,
    /// Tokens that queued steps will choose.
    coming: usize,
}

/// A step that is queued.
struct Queued {
    phase: Phase,
    costs: Costs,
    shares: Vec<Share>,
    /// No other was queued, so that its time is its own.
    alone: bool,
}

/// What a sequence has of a step.
struct Share {
    sequence: u64,
    rows: usize,
    /// Rows of a prompt that is read.
    reads: bool,
    /// It gets logits or a token.
    asks: bool,
}

impl Running {
    /// Rows that can be queued.
    fn pending(&self) -> usize {
        self.request.tokens.len() + self.coming - self.position
    }

    /// Tokens that are generated, or will be by what is queued.
    fn generated(&self) -> Option<usize> {
        match &self.request.work {
            Work::Eval(_) => None,
            Work::Generate(generate) => Some(generate.generated + self.coming),
        }
    }

    /// Whether rows of it are read, and not written.
    fn reads(&self) -> bool {
        self.generated().is_none_or(|generated| generated == 0)
    }

    /// Whether it ends with what is queued, whatever that brings.
    fn ends_anyway(&self, context_length: usize) -> bool {
        let Work::Generate(generate) = &self.request.work else { return false };
        generate.generated + self.coming >= generate.limits.max_tokens
            || self.request.tokens.len() + self.coming > context_length
    }

    /// Puts the next `rows` rows into `batch`.
    fn push<'a>(&'a self, rows: usize, batch: &mut Batch<'a>) -> Result<()> {
        let (memory, position, end) = (&self.memory, self.position, self.position + rows);
        let tokens = match self.request.tokens.get(position..end) {
            Some(tokens) => tokens,
            None if rows == 1 && self.coming > 0 => &[Batch::CHOSEN],
            None => return Err(Error::Internal("a step beyond the tokens of a sequence".into())),
        };
        match &self.request.work {
            Work::Eval(_) => batch.push(memory, position, tokens, LogitRows::All),
            Work::Generate(_) if rows < self.pending() => batch.push(memory, position, tokens, LogitRows::None),
            Work::Generate(generate) => {
                let index = (generate.generated + self.coming) as u64;
                batch.push_choosing(memory, position, tokens, Choice { sampling: generate.sampling, index });
            }
        }
        Ok(())
    }
}

/// What a step made of a request.
enum Next {
    Continue,
    End(Result<FinishReason>),
}

impl Worker {
    /// Takes the memory of every later step.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`].
    pub(super) fn new(parts: WorkerParts, requests: Receiver<Request>) -> Result<Self> {
        let WorkerParts { spec, backend, layout, context_length, prefill_chunk, pace, eos_ids, profile, log } = parts;
        let rows = logit_rows(layout.slots, prefill_chunk);
        Ok(Self {
            steps: Steps::new(spec, backend, eos_ids.clone(), layout.slots, rows)?,
            pools: Pools::new(layout)?,
            waiting: VecDeque::new(),
            running: Vec::with_capacity(layout.slots),
            queued: VecDeque::new(),
            turn: 0,
            sequences: 0,
            broken: None,
            layout,
            context_length,
            prefill_chunk,
            pace,
            eos_ids,
            profile,
            log,
            requests,
        })
    }

    /// Serves requests until every handle of the model is gone.
    pub(super) fn run(mut self) {
        self.steps.attach();
        while self.receive() {
            if let Err(panic) = catch(|| self.step()) {
                self.break_down(panic);
            }
        }
    }

    /// Takes new requests into the line; waits for one if there is nothing else to do. `false`: no handle is left.
    fn receive(&mut self) -> bool {
        if self.running.is_empty() && self.waiting.is_empty() && self.queued.is_empty() {
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
        let mut counted = Duration::ZERO;
        if self.queued.is_empty() {
            self.admit();
            self.grow();
            if self.running.is_empty() {
                return;
            }
            let rows = self.rows();
            counted += self.queue(&rows);
        }
        while !self.queued.is_empty() && self.queued.len() < self.steps.depth() {
            let Some(rows) = self.rows_ahead() else { break };
            counted += self.queue(&rows);
        }
        self.collect(start, counted);
    }

    /// Rows of each sequence in the next step, where all tokens are known.
    fn rows(&mut self) -> Vec<usize> {
        let pending: Vec<usize> = self.running.iter().map(Running::pending).collect();
        let mut rows = schedule::rows(&pending, self.pace.chunk(&pending), self.turn);
        self.cut_evaluations(&mut rows);
        self.turn = self.turn.wrapping_add(1);
        rows
    }

    /// Rows of each sequence in a step behind one that is queued; `None` where that one's tokens must be known first.
    fn rows_ahead(&mut self) -> Option<Vec<usize>> {
        let lets_in = !self.waiting.is_empty() && self.pools.free_slots() > 0;
        if lets_in || self.running.iter().any(|running| running.reads() || running.pending() != 1) {
            return None;
        }
        let mut rows = vec![0; self.running.len()];
        for (running, rows) in self.running.iter_mut().zip(&mut rows) {
            if !running.ends_anyway(self.context_length) {
                *rows = 1;
                if !self.pools.reserve(&mut running.memory, running.position + 1) {
                    return None;
                }
            }
        }
        rows.contains(&1).then_some(rows)
    }

    fn end_cancelled_and_expired(&mut self) {
        let now = Instant::now();
        for request in std::mem::take(&mut self.waiting) {
            match request.ended(now) {
                Some(end) => request.end(end),
                None => self.waiting.push_back(request),
            }
        }
        self.end_where(|running| running.request.ended(now));
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
                generate.writer.started();
                let begun = self.steps.begin_stream(memory.slot, &generate.sampling, &request.tokens);
                if let Err(error) = begun {
                    self.pools.close(memory);
                    request.end(Err(error));
                    continue;
                }
            }
            if request.invented > 0
                && let Err(error) = self.steps.invent(&memory, request.invented)
            {
                self.steps.end_stream(memory.slot);
                self.pools.close(memory);
                request.end(Err(error));
                continue;
            }
            let number = self.sequences;
            self.sequences += 1;
            self.running.push(Running { position: request.invented, coming: 0, number, request, memory });
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
                let (number, mut error) = (running.number, Some(self.pool_full(needed)));
                self.end_where(|running| if running.number == number { error.take().map(Err) } else { None });
            }
        }
    }

    /// Leaves evaluations no more rows, which all need logits, than there is memory for beside a row for each slot.
    fn cut_evaluations(&self, rows: &mut [usize]) {
        let mut left = eval_rows(self.prefill_chunk);
        let all = self.running.iter().zip(rows);
        for (_, rows) in all.filter(|(running, _)| matches!(running.request.work, Work::Eval(_))) {
            let more = rows.saturating_sub(1).min(left);
            *rows = (*rows).min(more + 1);
            left -= more;
        }
    }

    /// Queues a step of the given rows of each sequence. The time that is counted to its operations.
    fn queue(&mut self, rows: &[usize]) -> Duration {
        let told = |running: &Running, rows: usize| Share {
            sequence: running.number,
            rows,
            reads: running.reads(),
            asks: running.generated().is_none() || rows == running.pending(),
        };
        let mut batch = Batch::default();
        let mut shares = Vec::with_capacity(rows.len());
        let mut pushed = Ok(());
        for (running, &rows) in self.running.iter().zip(rows).filter(|(_, rows)| **rows > 0) {
            shares.push(told(running, rows));
            pushed = pushed.and_then(|()| running.push(rows, &mut batch));
        }
        if let Err(error) = pushed {
            self.break_down(error);
            return Duration::ZERO;
        }
        let costs = match self.steps.queue(batch) {
            Ok(costs) => costs,
            Err(error) => {
                self.fail(&shares, &error);
                return Duration::ZERO;
            }
        };
        for (running, &rows) in self.running.iter_mut().zip(rows).filter(|(_, rows)| **rows > 0) {
            let chooses = running.generated().is_some() && rows == running.pending();
            running.position += rows;
            running.coming += usize::from(chooses);
        }
        let phase = if shares.iter().any(|share| share.reads) { Phase::Prefill } else { Phase::Decode };
        let time = costs.total().time;
        let alone = self.queued.is_empty();
        self.queued.push_back(Queued { phase, costs, shares, alone });
        time
    }

    /// Waits for the oldest step, and gives each sequence what came of it. `counted` of the time since `start` is already
    /// counted to operations.
    fn collect(&mut self, start: Instant, counted: Duration) {
        let Some(Queued { phase, mut costs, shares, alone }) = self.queued.pop_front() else { return };
        let place = |running: &[Running], share: &Share| running.iter().position(|r| r.number == share.sequence);
        let wanted: Vec<bool> = shares.iter().map(|share| place(&self.running, share).is_some()).collect();
        let (answers, waited) = match self.steps.collect(&wanted) {
            Ok(collected) => collected,
            Err(error) => return self.fail(&shares, &error),
        };
        // Before the streams hear of their ends, so that who waits for one finds its steps counted.
        costs.add(&waited);
        if alone {
            let time = costs.total().time.saturating_sub(waited[Operation::Sampling].time);
            self.pace.note(shares.iter().map(|share| share.rows).sum(), time);
        }
        let rows = shares.iter().zip(&wanted).map(|(share, wanted)| if *wanted { share.rows } else { 0 }).sum();
        if rows > 0 {
            self.profile.record_step(phase, rows, &costs);
        }
        let computed = Instant::now();
        let mut answers = answers.into_iter();
        let mut ends = Vec::new();
        for share in &shares {
            let answer = if share.asks { answers.next() } else { None };
            let Some(running) = place(&self.running, share).and_then(|place| self.running.get_mut(place)) else {
                continue;
            };
            if let Next::End(end) = running.take(share, answer, &self.eos_ids, self.context_length) {
                ends.push((share.sequence, end));
            }
        }
        self.end_where(|running| {
            let place = ends.iter().position(|(sequence, _)| *sequence == running.number)?;
            Some(ends.swap_remove(place).1)
        });
        let sampling = computed.elapsed();
        let other = start.elapsed().saturating_sub(counted + waited.total().time + sampling);
        self.profile.record_time(phase, Operation::Sampling, sampling);
        self.profile.record_time(phase, Operation::Other, other);
    }

    /// A step with these shares failed, and with it those that are queued.
    fn fail(&mut self, shares: &[Share], error: &Error) {
        self.log.line(LogLevel::Error, &format!("a step failed: {error}"));
        let queued = std::mem::take(&mut self.queued);
        let all = || shares.iter().chain(queued.iter().flat_map(|step| &step.shares));
        self.end_where(|running| all().any(|share| share.sequence == running.number).then(|| Err(error.clone())));
    }

    /// Ends every running request for which `end` has an answer; `end` sees each once.
    fn end_where(&mut self, mut end: impl FnMut(&Running) -> Option<Result<FinishReason>>) {
        let running = std::mem::take(&mut self.running);
        for running in running {
            match end(&running) {
                None => self.running.push(running),
                Some(end) => {
                    self.steps.end_stream(running.memory.slot);
                    self.pools.close(running.memory);
                    running.request.end(end);
                }
            }
        }
    }

    fn pool_full(&self, positions: usize) -> Error {
        Error::ContextFull(format!(
            "position {positions} of a sequence needs a KV page; all {} pages of {} positions are taken by {} sequences \
             (load option kv_tokens)",
            self.layout.pages,
            self.layout.page_tokens,
            self.running.len()
        ))
    }

    /// After a panic nothing that the step touched can be trusted: all requests end, now and later.
    fn break_down(&mut self, error: Error) {
        self.log.line(LogLevel::Error, &format!("the engine stopped: {error}"));
        self.queued.clear();
        let running = std::mem::take(&mut self.running);
        let requests = running.into_iter().map(|running| running.request);
        requests.chain(std::mem::take(&mut self.waiting)).for_each(|request| request.end(Err(error.clone())));
        self.broken = Some(error);
    }
}

impl Running {
    /// What a step brought.
    fn take(&mut self, share: &Share, answer: Option<Answer<'_>>, eos_ids: &[u32], context_length: usize) -> Next {
        match (&mut self.request.work, answer) {
            (Work::Eval(eval), Some(Answer::Logits(logits))) => {
                eval.logits.extend_from_slice(logits);
                let done = self.position == self.request.tokens.len();
                if done { Next::End(Ok(FinishReason::Length)) } else { Next::Continue }
            }
            (Work::Generate(generate), answer) => {
                if share.reads {
                    generate.writer.prefilled(share.rows);
                }
                match answer {
                    None => Next::Continue,
                    Some(Answer::Token(Ok(token))) => {
                        self.coming = self.coming.saturating_sub(1);
                        generate.advance(token, &mut self.request.tokens, eos_ids, context_length)
                    }
                    Some(Answer::Token(Err(error))) => Next::End(Err(error)),
                    Some(Answer::Logits(_)) => Next::End(Err(no_answer())),
                }
            }
            (Work::Eval(_), _) => Next::End(Err(no_answer())),
        }
    }
}

fn no_answer() -> Error {
    Error::Internal("a step brought something else than was asked for".into())
}

impl Generate {
    /// Tells the stream of its next token.
    fn advance(&mut self, token: u32, tokens: &mut Vec<u32>, eos_ids: &[u32], context_length: usize) -> Next {
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
