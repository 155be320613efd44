//! The weights of a model by role, packed for the kernels: views of one image, which [`WeightPlan`] lays out.

mod load;
mod plan;
mod views;

pub(super) use load::on_threads;
pub use plan::{Content, MatrixPlan, Place, Tables, WeightPlan};

use super::{LoadProgress, ModelSpec};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::quant::{AlignedBuffer, Bytes, Floats, Weight};
use views::Image;

/// All weights of a model.
#[derive(Debug)]
pub struct Weights {
    /// `[vocab, hidden]`.
    pub embedding: Weight,
    /// `[hidden]`, ready to multiply (the `1 +` of Gemma-style norms is already added).
    pub final_norm: Floats,
    /// `[vocab, hidden]`; shares the embedding's memory where the head is tied.
    pub head: Weight,
    /// Trunk layers, in order.
    pub layers: Vec<LayerWeights>,
}

/// The weights of one layer.
#[derive(Debug)]
pub struct LayerWeights {
    /// Norm before the mixer, `[hidden]`.
    pub input_norm: Floats,
    /// The mixer.
    pub mixer: MixerWeights,
    /// Norm before the feed-forward half, `[hidden]`.
    pub feed_forward_norm: Floats,
    /// The feed-forward half.
    pub feed_forward: FeedForwardWeights,
}

/// The weights of a mixer.
#[derive(Debug)]
pub enum MixerWeights {
    /// See [`super::Mixer::Attention`].
    Attention(AttentionWeights),
    /// See [`super::Mixer::DeltaNet`].
    DeltaNet(DeltaWeights),
}

/// A matrix with an optional bias.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub matrix: Weight,
    /// `[out]`.
    pub bias: Option<Floats>,
}

/// The weights of an attention layer. Shapes: see [`crate::checkpoint::LayerTensor`].
#[derive(Debug)]
pub struct AttentionWeights {
    /// Queries, with a gate behind each head's query where the model is gated.
    pub query: Linear,
    /// Keys.
    pub key: Linear,
    /// Values.
    pub value: Linear,
    /// Output.
    pub output: Linear,
    /// Norm of each query head, `[head_dim]`.
    pub query_norm: Floats,
    /// Norm of each key head, `[head_dim]`.
    pub key_norm: Floats,
}

/// The weights of a Gated DeltaNet layer.
#[derive(Debug)]
pub struct DeltaWeights {
    /// Projections to queries, keys, values and output gate.
    pub inputs: DeltaInputs,
    /// Projections to write strength `b` and decay input `a`.
    pub gates: DeltaGates,
    /// Depthwise causal convolution, `[kernel, conv_channels]`.
    pub conv: Floats,
    /// `-exp(A_log)`, `[value_heads]`.
    pub decay: Floats,
    /// `[value_heads]`.
    pub dt_bias: Floats,
    /// Norm of each value head's output, `[value_dim]`.
    pub norm: Floats,
    /// Output `[hidden, values]`.
    pub output: Weight,
}

/// How a file lays out the projections to q, k, v, z. Rows stay as stored, because bitsandbytes' blocks may straddle
/// them; the activations are put in order instead.
#[derive(Debug)]
pub enum DeltaInputs {
    /// One matrix, by key head `[q d, k d, v r*d, z r*d]`.
    Interleaved(Weight),
    /// `[2Kd + Vd, H]` and `[Vd, H]`.
    Split {
        /// Queries, keys, values.
        qkv: Weight,
        /// Output gate.
        z: Weight,
    },
}

impl DeltaInputs {
    /// The matrices, in order.
    pub fn matrices(&self) -> impl Iterator<Item = &Weight> {
        let (first, second) = match self {
            DeltaInputs::Interleaved(qkvz) => (qkvz, None),
            DeltaInputs::Split { qkv, z } => (qkv, Some(z)),
        };
        std::iter::once(first).chain(second)
    }
}

impl DeltaGates {
    /// The matrices, in order.
    pub fn matrices(&self) -> impl Iterator<Item = &Weight> {
        let (first, second) = match self {
            DeltaGates::Interleaved(ba) => (ba, None),
            DeltaGates::Split { b, a } => (b, Some(a)),
        };
        std::iter::once(first).chain(second)
    }
}

/// How a file lays out the projections to b and a.
#[derive(Debug)]
pub enum DeltaGates {
    /// One matrix, by key head `[b r, a r]`.
    Interleaved(Weight),
    /// `[Hv, H]` each.
    Split {
        /// Write strength.
        b: Weight,
        /// Decay input.
        a: Weight,
    },
}

/// The weights of a feed-forward half.
#[derive(Debug)]
pub enum FeedForwardWeights {
    /// See [`super::FeedForward::Moe`].
    Moe(MoeWeights),
    /// See [`super::FeedForward::Dense`].
    Dense(SwiGlu),
}

/// The weights of a Mixture-of-Experts layer.
#[derive(Debug)]
pub struct MoeWeights {
    /// `[experts, hidden]`.
    pub router: Weight,
    /// Routed experts.
    pub experts: Vec<SwiGlu>,
    /// The shared expert and the weights `[1, hidden]` of its sigmoid gate.
    pub shared: Option<(SwiGlu, Weight)>,
}

/// `down(silu(gate(x)) * up(x))`.
#[derive(Debug)]
pub struct SwiGlu {
    /// `[width, hidden]`.
    pub gate: Weight,
    /// `[width, hidden]`.
    pub up: Weight,
    /// `[hidden, width]`.
    pub down: Weight,
    block: Bytes,
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
        Image { bytes: image, plan }.weights(spec)
    }
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
