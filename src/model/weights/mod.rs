//! The weights of a model by role, packed for the kernels: views of one image, which [`WeightPlan`] lays out.

mod host;
mod load;
mod plan;
mod views;

pub(super) use load::on_threads;
pub use load::send;
pub use plan::{Content, MatrixPlan, Place, Tables, WeightPlan};

use std::ops::Range;

use super::{LoadProgress, ModelSpec};
use crate::checkpoint::{Checkpoint, Role};
use crate::error::Result;
use crate::quant::{AlignedBuffer, Bytes};

/// The memory of a processor that holds a model's image, and what kernels get of it.
pub trait Store {
    /// A matrix.
    type Matrix: Clone;
    /// Values in float32.
    type Floats;
    /// The memory of an expert as a whole.
    type Block;

    /// The values at `place`.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for a place outside of the image; so the other functions.
    fn floats(&self, place: &Place) -> Result<Self::Floats>;

    /// The matrix of `role`, which `plan` describes, at `place`.
    ///
    /// # Errors
    /// As [`Store::floats`].
    fn matrix(&self, role: Role, place: &Place, plan: &MatrixPlan) -> Result<Self::Matrix>;

    /// The bytes `range` of the image.
    ///
    /// # Errors
    /// As [`Store::floats`].
    fn block(&self, range: Range<usize>) -> Result<Self::Block>;
}

/// Host memory.
#[derive(Debug)]
pub struct Host(pub Bytes);

/// All weights of a model.
pub struct Weights<S: Store = Host> {
    /// `[vocab, hidden]`.
    pub embedding: S::Matrix,
    /// `[hidden]`, ready to multiply (the `1 +` of Gemma-style norms is already added).
    pub final_norm: S::Floats,
    /// `[vocab, hidden]`; shares the embedding's memory where the head is tied.
    pub head: S::Matrix,
    /// Trunk layers, in order.
    pub layers: Vec<LayerWeights<S>>,
}

/// The weights of one layer.
pub struct LayerWeights<S: Store = Host> {
    /// Norm before the mixer, `[hidden]`.
    pub input_norm: S::Floats,
    /// The mixer.
    pub mixer: MixerWeights<S>,
    /// Norm before the feed-forward half, `[hidden]`.
    pub feed_forward_norm: S::Floats,
    /// The feed-forward half.
    pub feed_forward: FeedForwardWeights<S>,
}

/// The weights of a mixer.
pub enum MixerWeights<S: Store = Host> {
    /// See [`super::Mixer::Attention`].
    Attention(AttentionWeights<S>),
    /// See [`super::Mixer::DeltaNet`].
    DeltaNet(DeltaWeights<S>),
}

/// A matrix with an optional bias.
pub struct Linear<S: Store = Host> {
    /// `[out, in]`.
    pub matrix: S::Matrix,
    /// `[out]`.
    pub bias: Option<S::Floats>,
}

/// The weights of an attention layer. Shapes: see [`crate::checkpoint::LayerTensor`].
pub struct AttentionWeights<S: Store = Host> {
    /// Queries, with a gate behind each head's query where the model is gated.
    pub query: Linear<S>,
    /// Keys.
    pub key: Linear<S>,
    /// Values.
    pub value: Linear<S>,
    /// Output.
    pub output: Linear<S>,
    /// Norm of each query head, `[head_dim]`.
    pub query_norm: S::Floats,
    /// Norm of each key head, `[head_dim]`.
    pub key_norm: S::Floats,
}

/// The weights of a Gated DeltaNet layer.
pub struct DeltaWeights<S: Store = Host> {
    /// Projections to queries, keys, values and output gate.
    pub inputs: DeltaInputs<S>,
    /// Projections to write strength `b` and decay input `a`.
    pub gates: DeltaGates<S>,
    /// Depthwise causal convolution, `[kernel, conv_channels]`.
    pub conv: S::Floats,
    /// `-exp(A_log)`, `[value_heads]`.
    pub decay: S::Floats,
    /// `[value_heads]`.
    pub dt_bias: S::Floats,
    /// Norm of each value head's output, `[value_dim]`.
    pub norm: S::Floats,
    /// Output `[hidden, values]`.
    pub output: S::Matrix,
}

/// How a file lays out the projections to q, k, v, z. Rows stay as stored, because bitsandbytes' blocks may straddle
/// them; the activations are put in order instead.
pub enum DeltaInputs<S: Store = Host> {
    /// One matrix, by key head `[q d, k d, v r*d, z r*d]`.
    Interleaved(S::Matrix),
    /// `[2Kd + Vd, H]` and `[Vd, H]`.
    Split {
        /// Queries, keys, values.
        qkv: S::Matrix,
        /// Output gate.
        z: S::Matrix,
    },
}

impl<S: Store> DeltaInputs<S> {
    /// Queries, keys and values, with the output gate unless that is the second matrix.
    pub fn parts(&self) -> (&S::Matrix, Option<&S::Matrix>) {
        match self {
            DeltaInputs::Interleaved(qkvz) => (qkvz, None),
            DeltaInputs::Split { qkv, z } => (qkv, Some(z)),
        }
    }

    /// The matrices, in order.
    pub fn matrices(&self) -> impl Iterator<Item = &S::Matrix> {
        let (first, second) = self.parts();
        std::iter::once(first).chain(second)
    }
}

impl<S: Store> DeltaGates<S> {
    /// Write strengths, with the decay inputs unless those are the second matrix.
    pub fn parts(&self) -> (&S::Matrix, Option<&S::Matrix>) {
        match self {
            DeltaGates::Interleaved(ba) => (ba, None),
            DeltaGates::Split { b, a } => (b, Some(a)),
        }
    }

    /// The matrices, in order.
    pub fn matrices(&self) -> impl Iterator<Item = &S::Matrix> {
        let (first, second) = self.parts();
        std::iter::once(first).chain(second)
    }
}

/// How a file lays out the projections to b and a.
pub enum DeltaGates<S: Store = Host> {
    /// One matrix, by key head `[b r, a r]`.
    Interleaved(S::Matrix),
    /// `[Hv, H]` each.
    Split {
        /// Write strength.
        b: S::Matrix,
        /// Decay input.
        a: S::Matrix,
    },
}

/// The weights of a feed-forward half.
pub enum FeedForwardWeights<S: Store = Host> {
    /// See [`super::FeedForward::Moe`].
    Moe(MoeWeights<S>),
    /// See [`super::FeedForward::Dense`].
    Dense(SwiGlu<S>),
}

/// The weights of a Mixture-of-Experts layer.
pub struct MoeWeights<S: Store = Host> {
    /// `[experts, hidden]`.
    pub router: S::Matrix,
    /// Routed experts.
    pub experts: Vec<SwiGlu<S>>,
    /// The shared expert and the weights `[1, hidden]` of its sigmoid gate.
    pub shared: Option<(SwiGlu<S>, S::Matrix)>,
}

/// `down(silu(gate(x)) * up(x))`.
pub struct SwiGlu<S: Store = Host> {
    /// `[width, hidden]`.
    pub gate: S::Matrix,
    /// `[width, hidden]`.
    pub up: S::Matrix,
    /// `[hidden, width]`.
    pub down: S::Matrix,
    block: S::Block,
}

impl SwiGlu {
    /// The three matrices and their tables in one piece, from page to page.
    pub fn block(&self) -> &[u8] {
        &self.block
    }
}

impl Weights {
    /// [`pack`] and [`Weights::view`] in one.
    ///
    /// # Errors
    /// As [`pack`].
    pub fn load(
        checkpoint: &Checkpoint,
        plan: &WeightPlan,
        spec: &ModelSpec,
        progress: &LoadProgress,
        threads: usize,
    ) -> Result<Self> {
        Self::view(pack(checkpoint, plan, progress, threads)?, plan, spec)
    }

    /// The weights in `image`, which was filled by `plan`.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] where the three do not belong together.
    pub fn view(image: Bytes, plan: &WeightPlan, spec: &ModelSpec) -> Result<Self> {
        Self::of(&Host(image), plan, spec)
    }
}

/// Where the weights of another processor come from.
pub enum Origin<'a> {
    /// An image that is there, as that of a pack cache is.
    Image(Bytes),
    /// The files, whose weights are packed on their way.
    Files(&'a Checkpoint),
}

/// The memory of another processor, which is filled by copies, from several threads at a time.
pub trait Remote: Sync {
    /// What one thread copies by.
    type Lane;

    /// A lane for the calling thread.
    ///
    /// # Errors
    /// Memory that is not to be had, or whatever the processor reports; so the other functions.
    fn lane(&self) -> Result<Self::Lane>;

    /// Has `pack` fill zeroed memory of the length of `range`, a part of `place`, and copies it to `range` of the image. The
    /// copy may go on when this returns.
    ///
    /// # Errors
    /// As [`Remote::lane`], and those of `pack`.
    fn put(
        &self,
        lane: &mut Self::Lane,
        place: &Place,
        range: Range<usize>,
        pack: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()>;

    /// Waits for the lane's copies.
    ///
    /// # Errors
    /// As [`Remote::lane`].
    fn end(&self, lane: Self::Lane) -> Result<()>;
}

/// Reads and packs all weights of `plan` into its image, on `threads` threads that end with it.
///
/// # Errors
/// A failing read, a cancelled `progress`, or memory that is not to be had.
pub fn pack(checkpoint: &Checkpoint, plan: &WeightPlan, progress: &LoadProgress, threads: usize) -> Result<Bytes> {
    let mut image = AlignedBuffer::zeroed(plan.bytes(), "the weights")?;
    load::fill(&mut image, checkpoint, plan, progress, threads)?;
    Ok(image.into())
}
