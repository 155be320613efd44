//! The weights of a model by role, packed for the kernels.

use rayon::prelude::*;

use super::{FeedForward, LoadProgress, Mixer, ModelSpec};
use crate::checkpoint::{Checkpoint, DeltaTensor, ExpertPart, Kind, LayerTensor, Role, TensorInfo};
use crate::error::{Error, Result};
use crate::model::Family;
use crate::quant::{AlignedBuffer, Bytes, Format, Matrix, Weight, decode};

/// All weights of a model.
#[derive(Debug)]
pub struct Weights {
    /// `[vocab, hidden]`.
    pub embedding: Weight,
    /// `[hidden]`, ready to multiply (the `1 +` of Gemma-style norms is already added).
    pub final_norm: Vec<f32>,
    /// `[vocab, hidden]`; shares the embedding's memory where the head is tied.
    pub head: Weight,
    /// Trunk layers, in order.
    pub layers: Vec<LayerWeights>,
}

/// The weights of one layer.
#[derive(Debug)]
pub struct LayerWeights {
    /// Norm before the mixer, `[hidden]`.
    pub input_norm: Vec<f32>,
    /// The mixer.
    pub mixer: MixerWeights,
    /// Norm before the feed-forward half, `[hidden]`.
    pub feed_forward_norm: Vec<f32>,
    /// The feed-forward half.
    pub feed_forward: FeedForwardWeights,
}

/// The weights of a mixer.
#[derive(Debug)]
pub enum MixerWeights {
    /// See [`Mixer::Attention`].
    Attention(AttentionWeights),
    /// See [`Mixer::DeltaNet`].
    DeltaNet(DeltaWeights),
}

/// A matrix with an optional bias.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub matrix: Weight,
    /// `[out]`.
    pub bias: Option<Vec<f32>>,
}

/// The weights of an attention layer. Shapes: see [`LayerTensor`].
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
    pub query_norm: Vec<f32>,
    /// Norm of each key head, `[head_dim]`.
    pub key_norm: Vec<f32>,
}

/// The weights of a Gated DeltaNet layer.
#[derive(Debug)]
pub struct DeltaWeights {
    /// Projections to queries, keys, values and output gate.
    pub inputs: DeltaInputs,
    /// Projections to write strength `b` and decay input `a`.
    pub gates: DeltaGates,
    /// Depthwise causal convolution, `[kernel, conv_channels]`.
    pub conv: Vec<f32>,
    /// `-exp(A_log)`, `[value_heads]`.
    pub decay: Vec<f32>,
    /// `[value_heads]`.
    pub dt_bias: Vec<f32>,
    /// Norm of each value head's output, `[value_dim]`.
    pub norm: Vec<f32>,
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
    /// See [`FeedForward::Moe`].
    Moe(MoeWeights),
    /// See [`FeedForward::Dense`].
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
}

/// Bytes between two looks at the wish to cancel.
const READ_STEP: usize = 8 << 20;

impl Weights {
    /// Reads all weights that `spec` asks for, on `threads` threads that end with the load. The shapes were checked by
    /// [`super::check_shapes`].
    ///
    /// # Errors
    /// A failing read, a cancelled `progress`, or memory that is not to be had.
    pub fn load(checkpoint: &Checkpoint, spec: &ModelSpec, progress: &LoadProgress, threads: usize) -> Result<Self> {
        progress.set_total(checkpoint.tensors().iter().map(|t| t.bytes).sum());
        let reader = Reader { checkpoint, spec, progress };
        let embedding = reader.matrix(Role::Embedding)?;
        let head = if spec.tied_head { embedding.clone() } else { reader.matrix(Role::Head)? };
        let final_norm = reader.norm(Role::FinalNorm)?;
        let layers: Result<_> = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("qm-load-{i}"))
            .build_scoped(
                |thread| thread.run(),
                |pool| pool.install(|| (0..spec.layers.len()).into_par_iter().map(|i| reader.layer(i)).collect()),
            )
            .map_err(|e| Error::Internal(format!("cannot start {threads} threads: {e}")))?;
        Ok(Self { embedding, final_norm, head, layers: layers? })
    }
}

/// Bytes that `tensor` will occupy once it is loaded: norms, biases and the like as float32, matrices packed.
pub fn held_bytes(tensor: &TensorInfo) -> u64 {
    if is_vector(tensor.role) {
        return tensor.elements().saturating_mul(4);
    }
    let (count, rows, cols) = match tensor.shape[..] {
        // Gate and up become two matrices.
        [count, rows, cols] if matches!(tensor.role, Role::Layer(_, LayerTensor::ExpertsGateUp)) => {
            (count.saturating_mul(2), rows / 2, cols)
        }
        [count, rows, cols] => (count, rows, cols),
        [rows, cols] => (1, rows, cols),
        _ => (1, 1, tensor.shape.iter().product()),
    };
    match Weight::packed_bytes(tensor.format, rows, cols).filter(|_| tensor.can_be_packed()) {
        Some(one) => one.saturating_mul(count as u64),
        None => tensor.bytes.saturating_add(tensor.scale_bytes()),
    }
}

fn is_vector(role: Role) -> bool {
    use DeltaTensor as D;
    use LayerTensor as T;
    match role {
        Role::FinalNorm => true,
        Role::Embedding | Role::Head => false,
        Role::Layer(_, tensor) => matches!(
            tensor,
            T::InputNorm
                | T::PostAttentionNorm
                | T::QueryNorm
                | T::KeyNorm
                | T::QueryBias
                | T::KeyBias
                | T::ValueBias
                | T::OutputBias
                | T::Delta(D::Conv | D::ALog | D::NegExpA | D::DtBias | D::Norm)
        ),
    }
}

/// `[rows, cols]` to `[cols, rows]`.
fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| values.iter().skip(col).step_by(cols).copied()).collect()
}

struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    spec: &'a ModelSpec,
    progress: &'a LoadProgress,
}

impl Reader<'_> {
    fn layer(&self, index: usize) -> Result<LayerWeights> {
        let layer = self.spec.layers[index];
        let role = |tensor| Role::Layer(index as u32, tensor);
        Ok(LayerWeights {
            input_norm: self.norm(role(LayerTensor::InputNorm))?,
            mixer: match layer.mixer {
                Mixer::Attention => MixerWeights::Attention(self.attention(role)?),
                Mixer::DeltaNet => MixerWeights::DeltaNet(self.delta(role)?),
            },
            feed_forward_norm: self.norm(role(LayerTensor::PostAttentionNorm))?,
            feed_forward: match layer.feed_forward {
                FeedForward::Moe => FeedForwardWeights::Moe(self.moe(role)?),
                FeedForward::Dense => FeedForwardWeights::Dense(self.swiglu(|p| role(LayerTensor::Dense(p)))?),
            },
        })
    }

    fn attention(&self, role: impl Fn(LayerTensor) -> Role) -> Result<AttentionWeights> {
        let linear = |matrix, bias| -> Result<Linear> {
            let bias = self.checkpoint.tensor(role(bias)).map(|t| self.vector(t)).transpose()?;
            Ok(Linear { matrix: self.matrix(role(matrix))?, bias })
        };
        Ok(AttentionWeights {
            query: linear(LayerTensor::Query, LayerTensor::QueryBias)?,
            key: linear(LayerTensor::Key, LayerTensor::KeyBias)?,
            value: linear(LayerTensor::Value, LayerTensor::ValueBias)?,
            output: linear(LayerTensor::Output, LayerTensor::OutputBias)?,
            query_norm: self.norm(role(LayerTensor::QueryNorm))?,
            key_norm: self.norm(role(LayerTensor::KeyNorm))?,
        })
    }

    fn delta(&self, role: impl Fn(LayerTensor) -> Role) -> Result<DeltaWeights> {
        let role = |tensor| role(LayerTensor::Delta(tensor));
        let vector = |tensor| self.vector(self.checkpoint.require(role(tensor))?);
        let has = |tensor| self.checkpoint.tensor(role(tensor)).is_some();
        let inputs = if has(DeltaTensor::QkvzInterleaved) {
            DeltaInputs::Interleaved(self.matrix(role(DeltaTensor::QkvzInterleaved))?)
        } else {
            DeltaInputs::Split { qkv: self.matrix(role(DeltaTensor::Qkv))?, z: self.matrix(role(DeltaTensor::Z))? }
        };
        let gates = if has(DeltaTensor::BaInterleaved) {
            DeltaGates::Interleaved(self.matrix(role(DeltaTensor::BaInterleaved))?)
        } else {
            DeltaGates::Split { b: self.matrix(role(DeltaTensor::B))?, a: self.matrix(role(DeltaTensor::A))? }
        };
        let decay = if has(DeltaTensor::NegExpA) {
            vector(DeltaTensor::NegExpA)?
        } else {
            vector(DeltaTensor::ALog)?.into_iter().map(|a| -a.exp()).collect()
        };
        Ok(DeltaWeights {
            inputs,
            gates,
            conv: transposed(&vector(DeltaTensor::Conv)?, self.conv_kernel()),
            decay,
            dt_bias: vector(DeltaTensor::DtBias)?,
            norm: vector(DeltaTensor::Norm)?,
            output: self.matrix(role(DeltaTensor::Out))?,
        })
    }

    fn conv_kernel(&self) -> usize {
        self.spec.delta.as_ref().map_or(1, |delta| delta.conv_kernel)
    }

    fn moe(&self, role: impl Fn(LayerTensor) -> Role) -> Result<MoeWeights> {
        let spec = self.spec.moe.as_ref().ok_or_else(|| Error::Internal("an expert layer without experts".into()))?;
        let shared = match spec.shared_width {
            0 => None,
            _ => Some((
                self.swiglu(|p| role(LayerTensor::SharedExpert(p)))?,
                self.matrix(role(LayerTensor::SharedExpertGate))?,
            )),
        };
        Ok(MoeWeights {
            router: self.matrix(role(LayerTensor::Router))?,
            experts: self.experts(spec.experts, &role)?,
            shared,
        })
    }

    fn experts(&self, experts: usize, role: &impl Fn(LayerTensor) -> Role) -> Result<Vec<SwiGlu>> {
        let fused = |part| self.fused(role(LayerTensor::Experts(part)), experts);
        if self.checkpoint.tensor(role(LayerTensor::ExpertsGateUp)).is_some() {
            let gate_up = self.fused(role(LayerTensor::ExpertsGateUp), experts)?;
            let pairs = gate_up.iter().zip(fused(ExpertPart::Down)?);
            return pairs
                .map(|(gate_up, down)| {
                    let width = gate_up.rows() / 2;
                    let (gate, up) = (gate_up.view(0..width)?, gate_up.view(width..2 * width)?);
                    Ok(SwiGlu { gate: Weight::new(gate)?, up: Weight::new(up)?, down: Weight::new(down)? })
                })
                .collect();
        }
        if self.checkpoint.tensor(role(LayerTensor::Experts(ExpertPart::Gate))).is_some() {
            let gate_up = fused(ExpertPart::Gate)?.into_iter().zip(fused(ExpertPart::Up)?);
            let all = gate_up.zip(fused(ExpertPart::Down)?);
            let pack = |((gate, up), down)| {
                Ok(SwiGlu { gate: Weight::new(gate)?, up: Weight::new(up)?, down: Weight::new(down)? })
            };
            return all.map(pack).collect();
        }
        (0..experts).map(|e| self.swiglu(|part| role(LayerTensor::Expert(e as u32, part)))).collect()
    }

    fn swiglu(&self, role: impl Fn(ExpertPart) -> Role) -> Result<SwiGlu> {
        Ok(SwiGlu {
            gate: self.matrix(role(ExpertPart::Gate))?,
            up: self.matrix(role(ExpertPart::Up))?,
            down: self.matrix(role(ExpertPart::Down))?,
        })
    }

    /// A 3-D tensor as one matrix an expert; all share one buffer until they are packed.
    fn fused(&self, role: Role, experts: usize) -> Result<Vec<Matrix>> {
        let info = self.checkpoint.require(role)?;
        let [count, rows, cols] = info.shape[..] else {
            return Err(Error::Internal(format!("{} is no 3-D tensor", info.name)));
        };
        if count != experts {
            return Err(Error::Internal(format!("{} holds {count} experts, not {experts}", info.name)));
        }
        let all = Matrix::new(info.format, count * rows, cols, self.bytes(info)?)?;
        (0..count).map(|e| all.view(e * rows..(e + 1) * rows)).collect()
    }

    fn matrix(&self, role: Role) -> Result<Weight> {
        let info = self.checkpoint.require(role)?;
        let (rows, cols) = match info.shape[..] {
            [cols] => (1, cols),
            [rows, cols] => (rows, cols),
            _ => return Err(Error::Internal(format!("{} is no matrix: {:?}", info.name, info.shape))),
        };
        let matrix = match info.format {
            Format::Bnb4 => Matrix::four_bit(rows, cols, self.bytes(info)?, self.checkpoint.four_bit(info)?),
            format => Matrix::new(format, rows, cols, self.bytes(info)?),
        }?;
        Weight::new(matrix)
    }

    /// A norm's weights, ready to multiply. Hybrid families store `w - 1` in Hugging Face files; GGUF never does.
    fn norm(&self, role: Role) -> Result<Vec<f32>> {
        let mut weights = self.vector(self.checkpoint.require(role)?)?;
        if self.checkpoint.kind() == Kind::HuggingFace && self.spec.family != Family::Qwen3Moe {
            weights.iter_mut().for_each(|w| *w += 1.0);
        }
        Ok(weights)
    }

    fn vector(&self, info: &TensorInfo) -> Result<Vec<f32>> {
        let bytes = self.bytes(info)?;
        let mut values = vec![0.0; info.shape.iter().product()];
        if info.format.bytes_for(values.len() as u64) != Some(bytes.len() as u64) || info.format == Format::Bnb4 {
            let what = format!("tensor {}: a {} vector of {} is not supported", info.name, info.format, values.len());
            return Err(Error::unsupported(self.checkpoint.file_path(info), what));
        }
        decode(info.format, &bytes, &mut values);
        Ok(values)
    }

    fn bytes(&self, info: &TensorInfo) -> Result<Bytes> {
        let len = usize::try_from(info.bytes)
            .map_err(|_| Error::OutOfHostMemory { what: info.name.clone(), bytes: info.bytes })?;
        let mut buffer = AlignedBuffer::zeroed(len, &info.name)?;
        for (i, part) in buffer.chunks_mut(READ_STEP).enumerate() {
            self.checkpoint.read(info, (i * READ_STEP) as u64, part)?;
            self.progress.advance(part.len() as u64)?;
        }
        Ok(buffer.into())
    }
}
