//! Steps of the network, from batches to tokens: queued, and collected in the same order.
//!
//! A backend that chooses tokens itself has several steps queued at a time, and brings ids to the host. For any other the
//! choosing is done here, and the step that is queued is over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::{Sampler, Sampling};
use crate::error::{Error, Result};
use crate::model::{Backend, Batch, Costs, Logits, ModelSpec, Operation, Timed, forward, queue};
use crate::state::Sequence;

/// A backend, and what it takes to choose tokens by its logits.
pub(super) struct Steps {
    spec: Arc<ModelSpec>,
    backend: Box<dyn Backend>,
    /// What ends a text.
    eos_ids: Vec<u32>,
    /// Logits of a step that come to the host, `[logit_rows, vocab]`.
    logits: Logits,
    /// Of the slots' streams, where they choose here.
    samplers: Vec<Option<Sampler>>,
    /// What the queued steps' sequences ask for.
    queued: VecDeque<Vec<Asked>>,
}

/// What a sequence of a step asks for.
struct Asked {
    slot: usize,
    /// Rows of logits.
    rows: usize,
    chooses: bool,
}

/// What a sequence of a step gets.
pub(super) enum Answer<'a> {
    /// The next token; an error where none could be chosen.
    Token(Result<u32>),
    /// Logits of its rows, as many as it asked for.
    Logits(&'a [f32]),
}

impl Steps {
    /// Takes the memory of every later step, for `slots` streams and `rows` rows of logits.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`].
    pub(super) fn new(
        spec: Arc<ModelSpec>,
        mut backend: Box<dyn Backend>,
        eos_ids: Vec<u32>,
        slots: usize,
        rows: usize,
    ) -> Result<Self> {
        let refused = || Error::OutOfHostMemory { what: format!("the logits of {rows} rows"), bytes: u64::MAX };
        let logits = backend.logits(rows.checked_mul(spec.vocab).ok_or_else(refused)?)?;
        let samplers = (0..slots).map(|_| None).collect();
        Ok(Self { spec, backend, eos_ids, logits, samplers, queued: VecDeque::new() })
    }

    /// See [`Backend::attach`].
    pub(super) fn attach(&mut self) {
        self.backend.attach();
    }

    /// Steps that can be queued at a time.
    pub(super) fn depth(&self) -> usize {
        self.backend.steps_ahead().max(1)
    }

    /// A stream begins in slot `slot` behind `prompt`.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`], whatever the backend reports.
    pub(super) fn begin_stream(&mut self, slot: usize, sampling: &Sampling, prompt: &[u32]) -> Result<()> {
        if self.backend.steps_ahead() > 0 {
            return self.backend.begin_stream(slot, sampling, prompt);
        }
        let sampler = Sampler::new(*sampling, self.spec.vocab, prompt, &self.eos_ids)?;
        let place = self.samplers.get_mut(slot).ok_or_else(|| Error::Internal(format!("a stream in slot {slot}")))?;
        *place = Some(sampler);
        Ok(())
    }

    /// The stream in slot `slot` ends.
    pub(super) fn end_stream(&mut self, slot: usize) {
        self.samplers.get_mut(slot).into_iter().for_each(|sampler| *sampler = None);
    }

    /// See [`Backend::invent`].
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub(super) fn invent(&mut self, memory: &Sequence, positions: usize) -> Result<()> {
        self.backend.invent(memory, positions)
    }

    /// Queues a step, or runs it. What that cost.
    ///
    /// # Errors
    /// Whatever the backend reports. Nothing is queued any more then.
    pub(super) fn queue(&mut self, batch: Batch<'_>) -> Result<Costs> {
        let outcome = self.tell(batch);
        if outcome.is_err() {
            self.queued.clear();
        }
        outcome
    }

    fn tell(&mut self, mut batch: Batch<'_>) -> Result<Costs> {
        let asked = batch.sequences.iter().map(|sequence| Asked {
            slot: sequence.memory.slot,
            rows: sequence.logit_rows().len(),
            chooses: sequence.choice.is_some(),
        });
        self.queued.push_back(asked.collect());
        let ahead = self.backend.steps_ahead() > 0;
        let mut backend = Timed::new(self.backend.as_mut());
        if ahead {
            queue(&self.spec, &mut backend, &batch)?;
        } else {
            batch.sequences.iter_mut().for_each(|sequence| sequence.choice = None);
            let logits = self.logits.get_mut(..batch.logit_rows().len() * self.spec.vocab);
            let logits = logits.ok_or_else(|| Error::Internal("a step with more logits than were planned".into()))?;
            forward(&self.spec, &mut backend, &batch, logits)?;
        }
        let costs = backend.finish();
        Ok(if ahead { costs.queued() } else { costs })
    }

    /// Waits for the oldest step. What each sequence that asked for something gets, in order, and what the wait cost.
    /// `wanted` says for each sequence of the step whether anybody still cares.
    ///
    /// # Errors
    /// Whatever the backend reports. Nothing is queued any more then.
    pub(super) fn collect(&mut self, wanted: &[bool]) -> Result<(Vec<Answer<'_>>, Costs)> {
        let asked = self.queued.pop_front().ok_or_else(|| Error::Internal("no step is queued".into()))?;
        let (start, mut costs) = (Instant::now(), Costs::default());
        let mut tokens = Vec::new().into_iter();
        let ahead = self.backend.steps_ahead() > 0;
        if ahead {
            let collected = self.backend.collect(wanted, &mut self.logits);
            tokens = collected.inspect_err(|_| self.queued.clear())?.into_iter();
            costs = self.backend.take_costs();
            costs[Operation::Device].time = start.elapsed();
        }
        let mut unread = &mut self.logits[..];
        let mut answers = Vec::with_capacity(asked.len());
        for Asked { slot, rows, chooses } in asked.into_iter().filter(|asked| asked.rows > 0) {
            if ahead && chooses {
                let missing = || Err(Error::Internal("a step with fewer tokens than were asked for".into()));
                answers.push(Answer::Token(tokens.next().unwrap_or_else(missing)));
                continue;
            }
            let (own, rest) = unread.split_at_mut(rows * self.spec.vocab);
            unread = rest;
            answers.push(match self.samplers.get_mut(slot) {
                Some(Some(sampler)) if chooses => Answer::Token(sampler.sample(own)),
                _ if chooses => Answer::Token(Err(Error::Internal("a stream runs that was not started".into()))),
                _ => Answer::Logits(own),
            });
        }
        if !ahead {
            costs[Operation::Sampling].time = start.elapsed();
        }
        Ok((answers, costs))
    }
}
