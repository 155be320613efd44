//! What a processor must be able to do to run the network, and the batch it does it for.

use std::ops::{DerefMut, Range};

use super::Costs;
use crate::error::{Error, Result};
use crate::state::{Sequence, StateLayout};

/// One step's work: rows `(sequence, position)` of any number of sequences.
///
/// One row of a sequence is decode, many rows are prefill; the backend treats both alike. Rows of one sequence are
/// contiguous and in the order of their positions.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    /// Token id of each row; each below the vocabulary's size.
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
    /// Appends the rows of one sequence.
    pub fn push(&mut self, memory: &'a Sequence, position: usize, tokens: &[u32], logits: LogitRows) {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.sequences.push(BatchSequence { rows: start..self.tokens.len(), position, memory, logits });
    }

    /// Batch rows whose logits are wanted, in order: row `i` of the head's output belongs to the `i`-th.
    pub fn logit_rows(&self) -> Vec<usize> {
        let rows = |s: &BatchSequence<'_>| match s.logits {
            LogitRows::None => s.rows.end..s.rows.end,
            LogitRows::Last => s.rows.end.saturating_sub(1).max(s.rows.start)..s.rows.end,
            LogitRows::All => s.rows.clone(),
        };
        self.sequences.iter().flat_map(rows).collect()
    }
}

impl Batch<'_> {
    /// Refuses what a backend for `vocab` tokens, steps of `max_rows` rows and the memory of `layout` must not compute.
    ///
    /// # Errors
    /// [`Error::Internal`] for rows or memory that were not planned, [`Error::InvalidArgument`] for a token id out of range.
    pub fn check(&self, vocab: usize, max_rows: usize, layout: &StateLayout) -> Result<()> {
        let rows = self.tokens.len();
        if rows > max_rows {
            return Err(Error::Internal(format!("a step of {rows} rows, at most {max_rows} were planned")));
        }
        if let Some(token) = self.tokens.iter().find(|t| **t as usize >= vocab) {
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

    /// Logits of [`Batch::logit_rows`], `[rows, vocab]` row-major, into `logits`, which is exactly that long.
    fn head(&mut self, batch: &Batch<'_>, logits: &mut [f32]) -> Result<()>;

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
