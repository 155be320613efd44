//! What a processor must be able to do to run the network, and the batch it does it for.

use std::ops::{DerefMut, Range};

use super::{Costs, Sampling};
use crate::error::{Error, Result};
use crate::state::{Sequence, StateLayout};

/// One step's work: rows `(sequence, position)` of any number of sequences.
///
/// One row of a sequence is decode, many rows are prefill; the backend treats both alike. Rows of one sequence are
/// contiguous and in the order of their positions.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    /// Token id of each row, below the vocabulary's size; or [`Batch::CHOSEN`].
    pub tokens: Vec<u32>,
    /// The sequences that the rows belong to, in row order.
    pub sequences: Vec<BatchSequence<'a>>,
}

/// The rows of one sequence in a [`Batch`].
#[derive(Debug)]
pub struct BatchSequence<'a> {
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Position of the first row. At 0 the backend starts from an empty state, whatever the slot held before.
    pub position: usize,
    /// Where the sequence's memory lies. Its pages cover every position up to the last row's.
    pub memory: &'a Sequence,
    /// Which of the rows need logits.
    pub logits: LogitRows,
    /// The backend chooses a token by the logits of the last row, and keeps the logits to itself.
    pub choice: Option<Choice>,
}

/// How a backend chooses the next token of a sequence, as [`super::Sampler`] would.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The stream's settings.
    pub sampling: Sampling,
    /// Tokens that were chosen for the stream before: the counter of the draws.
    pub index: u64,
}

impl Choice {
    /// Whether it is too early for the end of the text.
    pub fn keeps_end_away(&self) -> bool {
        self.index < self.sampling.min_tokens as u64
    }
}

/// Which rows of a sequence need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// None: a prefill chunk that is not the last.
    None,
    /// The last row only: the next token is sampled from it.
    Last,
    /// Every row.
    All,
}

impl<'a> Batch<'a> {
    /// Stands for the token that the step before chose for the same slot: for a sequence of one row, on a backend that
    /// chooses.
    pub const CHOSEN: u32 = u32::MAX;

    /// Appends the rows of one sequence.
    pub fn push(&mut self, memory: &'a Sequence, position: usize, tokens: &[u32], logits: LogitRows) {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.sequences.push(BatchSequence { rows: start..self.tokens.len(), position, memory, logits, choice: None });
    }

    /// Appends the rows of one sequence, of which the last one's logits choose the next token.
    pub fn push_choosing(&mut self, memory: &'a Sequence, position: usize, tokens: &[u32], choice: Choice) {
        self.push(memory, position, tokens, LogitRows::Last);
        self.sequences.iter_mut().last().into_iter().for_each(|sequence| sequence.choice = Some(choice));
    }

    /// Batch rows whose logits are wanted, in order: row `i` of the head's output belongs to the `i`-th.
    pub fn logit_rows(&self) -> Vec<usize> {
        self.sequences.iter().flat_map(BatchSequence::logit_rows).collect()
    }
}

impl BatchSequence<'_> {
    /// Batch rows of the sequence whose logits are wanted.
    pub fn logit_rows(&self) -> Range<usize> {
        match self.logits {
            LogitRows::None => self.rows.end..self.rows.end,
            LogitRows::Last => self.rows.end.saturating_sub(1).max(self.rows.start)..self.rows.end,
            LogitRows::All => self.rows.clone(),
        }
    }
}

impl Batch<'_> {
    /// Refuses what a backend for `vocab` tokens, steps of `max_rows` rows and the memory of `layout` must not compute.
    /// `chooses`: it knows what [`Batch::CHOSEN`] stands for.
    ///
    /// # Errors
    /// [`Error::Internal`] for rows or memory that were not planned, [`Error::InvalidArgument`] for a token id out of range.
    pub fn check(&self, vocab: usize, max_rows: usize, layout: &StateLayout, chooses: bool) -> Result<()> {
        let rows = self.tokens.len();
        if rows > max_rows {
            return Err(Error::Internal(format!("a step of {rows} rows, at most {max_rows} were planned")));
        }
        let known = |token: &u32| (*token as usize) < vocab || (chooses && *token == Self::CHOSEN);
        if let Some(token) = self.tokens.iter().find(|token| !known(token)) {
            return Err(Error::InvalidArgument(format!("token id {token}, vocabulary of {vocab}")));
        }
        for s in &self.sequences {
            let pages = (s.position + s.rows.len()).div_ceil(layout.page_tokens);
            let reachable = s.memory.pages.iter().all(|p| (*p as usize) < layout.pages);
            if s.memory.slot >= layout.slots || s.memory.pages.len() < pages || !reachable {
                return Err(Error::Internal(format!("a sequence of {} positions lacks memory", s.position)));
            }
        }
        Ok(())
    }
}

/// What a backend tells about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendInfo {
    /// The instruction set or device that its kernels are made for.
    pub kernels: &'static str,
    /// The number format of keys and values.
    pub kv_type: &'static str,
}

/// Host memory for logits.
pub type Logits = Box<dyn DerefMut<Target = [f32]> + Send>;

/// A processor that runs the network. It owns the weights, the activations of the step in progress and the memory of all
/// sequences. Each operation is coarse, so that a backend may fuse inside it as it likes.
pub trait Backend: Send {
    /// Tells the backend that the calling thread, which belongs to the library, will run every step from now on.
    fn attach(&mut self) {}

    /// Starts a step: looks up the embedding of every row. `[rows, hidden]`
    fn embed(&mut self, batch: &Batch<'_>) -> Result<()>;

    /// `x += attention(norm(x))` with layer `layer`, appending the rows to the KV cache.
    fn attention(&mut self, layer: usize, batch: &Batch<'_>) -> Result<()>;

    /// `x += delta_net(norm(x))` with layer `layer`, advancing the sequences' recurrent states.
    fn delta_net(&mut self, layer: usize, batch: &Batch<'_>) -> Result<()>;

    /// `x += experts(norm(x))` with layer `layer`: router, routed experts, shared expert.
    fn moe(&mut self, layer: usize) -> Result<()>;

    /// `x += swiglu(norm(x))` with layer `layer`.
    fn dense(&mut self, layer: usize) -> Result<()>;

    /// Logits of [`Batch::logit_rows`], `[rows, vocab]` row-major, into `logits`, which is exactly that long. No sequence has a
    /// [`Choice`].
    fn head(&mut self, batch: &Batch<'_>, logits: &mut [f32]) -> Result<()>;

    /// How many steps can be queued at a time on a backend that chooses tokens itself; 0: it does not. One that does runs
    /// steps in the order in which they are queued, and ends each with [`Backend::choose`] in place of [`Backend::head`]; what
    /// it learns between them of streams and sequences takes effect behind the steps queued before.
    fn steps_ahead(&self) -> usize {
        0
    }

    /// A stream begins in slot `slot` behind `prompt`: what its tokens' penalties depend on.
    ///
    /// # Errors
    /// [`Error::Internal`] by default: see [`Backend::steps_ahead`].
    fn begin_stream(&mut self, _slot: usize, _sampling: &Sampling, _prompt: &[u32]) -> Result<()> {
        Err(Error::Internal("this backend does not choose tokens".into()))
    }

    /// Ends the telling of a step, and does not wait for it: what its sequences asked for comes with [`Backend::collect`].
    ///
    /// # Errors
    /// [`Error::Internal`] by default: see [`Backend::steps_ahead`]. After an error, nothing is queued any more.
    fn choose(&mut self, _batch: &Batch<'_>) -> Result<()> {
        Err(Error::Internal("this backend does not choose tokens".into()))
    }

    /// Waits for the oldest queued step, and gives its tokens, in the order of the sequences with a [`Choice`]; the logits of
    /// the others go to the beginning of `logits`, in their order. `wanted` says for each sequence of the step whether anybody
    /// still cares for it: of the others no expert is counted.
    ///
    /// # Errors
    /// [`Error::Internal`] by default: see [`Backend::steps_ahead`]. After an error, nothing is queued any more. A token that
    /// cannot be chosen is an error in its place, as [`super::Sampler::sample`] has it.
    fn collect(&mut self, _wanted: &[bool], _logits: &mut [f32]) -> Result<Vec<Result<u32>>> {
        Err(Error::Internal("this backend does not choose tokens".into()))
    }

    /// Host memory for `len` logits, of the kind that [`Backend::head`] fills fastest.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`].
    fn logits(&mut self, len: usize) -> Result<Logits> {
        let refused = |_| Error::OutOfHostMemory { what: "logits".into(), bytes: 4 * len as u64 };
        let mut logits = Vec::new();
        logits.try_reserve_exact(len).map_err(refused)?;
        logits.resize(len, 0.0);
        Ok(Box::new(logits))
    }

    /// Fills the memory of a sequence with random values, as if `positions` tokens had been read: for measuring what a long
    /// context costs without reading one.
    fn invent(&mut self, _memory: &Sequence, _positions: usize) -> Result<()> {
        Err(Error::Internal("this backend cannot invent a context".into()))
    }

    /// Bytes that the operations moved since this was last asked, and the time of the router within [`Backend::moe`]; the
    /// time of everything else is measured outside. A backend that does not count says nothing.
    fn take_costs(&mut self) -> Costs {
        Costs::default()
    }

    /// What computes, for information.
    fn info(&self) -> BackendInfo {
        BackendInfo { kernels: "unknown", kv_type: "unknown" }
    }
}
