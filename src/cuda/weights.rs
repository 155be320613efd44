//! The weights on the device: the same bytes as on the host, in one piece, and what lies where in them.

use super::args::{Expert, Matrix, format_number, number};
use super::memory::{DevicePtr, DeviceSlice};
use crate::error::{Error, Result};
use crate::model::{
    Content, DeltaTensor, ExpertPart, FeedForward, LayerTensor, Mixer, ModelSpec, Place, Role, Tables, WeightPlan,
};
use crate::quant::packed::strip_bytes;

/// All weights of a model.
pub struct DeviceWeights {
    pub embedding: Weight,
    pub head: Weight,
    pub final_norm: DeviceSlice<f32>,
    pub layers: Vec<Layer>,
}

/// A matrix, and the bytes that reading it moves.
#[derive(Clone, Copy)]
pub struct Weight {
    pub matrix: Matrix,
    pub bias: DevicePtr<f32>,
    pub bytes: u64,
}

/// The weights of one layer.
pub struct Layer {
    pub input_norm: DeviceSlice<f32>,
    pub mixer: MixerWeights,
    pub feed_forward_norm: DeviceSlice<f32>,
    pub feed_forward: FeedForwardWeights,
}

pub enum MixerWeights {
    Attention(AttentionWeights),
    DeltaNet(DeltaWeights),
}

pub struct AttentionWeights {
    /// Queries, keys, values.
    pub inputs: [Weight; 3],
    pub output: Weight,
    pub query_norm: DeviceSlice<f32>,
    pub key_norm: DeviceSlice<f32>,
}

pub struct DeltaWeights {
    /// Queries, keys and values, and the output gate where that is a matrix of its own.
    pub qkv: Weight,
    pub z: Option<Weight>,
    /// Write strengths, and decay inputs where those are a matrix of their own.
    pub b: Weight,
    pub a: Option<Weight>,
    pub conv: DeviceSlice<f32>,
    pub decay: DeviceSlice<f32>,
    pub dt_bias: DeviceSlice<f32>,
    pub norm: DeviceSlice<f32>,
    pub output: Weight,
}

pub struct FeedForwardWeights {
    /// Absent in a dense layer, as is the next.
    pub router: Option<Weight>,
    pub shared_gate: Option<Weight>,
    /// The routed experts, then the shared one or that of a dense layer.
    pub experts: Vec<Expert>,
    /// Bytes that reading one routed expert moves.
    pub expert_bytes: u64,
    /// Bytes of the shared expert, or of a dense layer.
    pub shared_bytes: u64,
}

/// An image on the device, the plan that it was filled by, and its bytes on the host.
pub struct Image<'a> {
    pub device: DeviceSlice<u8>,
    pub plan: &'a WeightPlan,
    pub host: &'a [u8],
}

impl Image<'_> {
    /// What lies where.
    ///
    /// # Errors
    /// [`Error::Internal`] where plan, spec and image do not belong together.
    pub fn weights(&self, spec: &ModelSpec) -> Result<DeviceWeights> {
        let embedding = self.matrix(Role::Embedding)?;
        Ok(DeviceWeights {
            embedding,
            head: if spec.tied_head { embedding } else { self.matrix(Role::Head)? },
            final_norm: self.floats(Role::FinalNorm)?,
            layers: (0..spec.layers.len()).map(|index| self.layer(index, spec)).collect::<Result<_>>()?,
        })
    }

    fn layer(&self, index: usize, spec: &ModelSpec) -> Result<Layer> {
        let layer = spec.layers[index];
        let role = |tensor| Role::Layer(index as u32, tensor);
        Ok(Layer {
            input_norm: self.floats(role(LayerTensor::InputNorm))?,
            mixer: match layer.mixer {
                Mixer::Attention => MixerWeights::Attention(self.attention(role)?),
                Mixer::DeltaNet => MixerWeights::DeltaNet(self.delta(role)?),
            },
            feed_forward_norm: self.floats(role(LayerTensor::PostAttentionNorm))?,
            feed_forward: match layer.feed_forward {
                FeedForward::Moe => self.moe(role, spec)?,
                FeedForward::Dense => {
                    let (dense, bytes) = self.swiglu(|part| role(LayerTensor::Dense(part)))?;
                    FeedForwardWeights {
                        router: None,
                        shared_gate: None,
                        experts: vec![dense],
                        expert_bytes: 0,
                        shared_bytes: bytes,
                    }
                }
            },
        })
    }

    fn attention(&self, role: impl Fn(LayerTensor) -> Role) -> Result<AttentionWeights> {
        use LayerTensor as T;
        let linear = |matrix, bias| -> Result<Weight> {
            let bias = if self.has(role(bias)) { self.floats(role(bias))?.start() } else { DevicePtr::NULL };
            Ok(Weight { bias, ..self.matrix(role(matrix))? })
        };
        Ok(AttentionWeights {
            inputs: [linear(T::Query, T::QueryBias)?, linear(T::Key, T::KeyBias)?, linear(T::Value, T::ValueBias)?],
            output: linear(T::Output, T::OutputBias)?,
            query_norm: self.floats(role(T::QueryNorm))?,
            key_norm: self.floats(role(T::KeyNorm))?,
        })
    }

    fn delta(&self, role: impl Fn(LayerTensor) -> Role) -> Result<DeltaWeights> {
        use DeltaTensor as D;
        let role = |tensor| role(LayerTensor::Delta(tensor));
        let matrices = |together, one, two| -> Result<(Weight, Option<Weight>)> {
            match self.has(role(together)) {
                true => Ok((self.matrix(role(together))?, None)),
                false => Ok((self.matrix(role(one))?, Some(self.matrix(role(two))?))),
            }
        };
        let (qkv, z) = matrices(D::QkvzInterleaved, D::Qkv, D::Z)?;
        let (b, a) = matrices(D::BaInterleaved, D::B, D::A)?;
        Ok(DeltaWeights {
            qkv,
            z,
            b,
            a,
            conv: self.floats(role(D::Conv))?,
            decay: self.floats(role(if self.has(role(D::NegExpA)) { D::NegExpA } else { D::ALog }))?,
            dt_bias: self.floats(role(D::DtBias))?,
            norm: self.floats(role(D::Norm))?,
            output: self.matrix(role(D::Out))?,
        })
    }

    fn moe(&self, role: impl Fn(LayerTensor) -> Role, spec: &ModelSpec) -> Result<FeedForwardWeights> {
        use LayerTensor as T;
        let spec = spec.moe.as_ref().ok_or_else(|| Error::Internal("an expert layer without experts".into()))?;
        let routed = (0..spec.experts).map(|e| self.swiglu(|part| role(T::Expert(e as u32, part))));
        let routed = routed.collect::<Result<Vec<_>>>()?;
        let shared = match spec.shared_width {
            0 => None,
            _ => Some((self.swiglu(|part| role(T::SharedExpert(part)))?, self.matrix(role(T::SharedExpertGate))?)),
        };
        let (shared_bytes, shared_gate) = shared.map_or((0, None), |((_, bytes), gate)| (bytes, Some(gate)));
        Ok(FeedForwardWeights {
            router: Some(self.matrix(role(T::Router))?),
            shared_gate,
            expert_bytes: routed.first().map_or(0, |(_, bytes)| *bytes),
            shared_bytes,
            experts: routed.iter().map(|(expert, _)| *expert).chain(shared.map(|((shared, _), _)| shared)).collect(),
        })
    }

    fn swiglu(&self, role: impl Fn(ExpertPart) -> Role) -> Result<(Expert, u64)> {
        let [gate, up, down] = [
            self.matrix(role(ExpertPart::Gate))?,
            self.matrix(role(ExpertPart::Up))?,
            self.matrix(role(ExpertPart::Down))?,
        ];
        let expert = Expert { gate: gate.matrix, up: up.matrix, down: down.matrix };
        Ok((expert, gate.bytes + up.bytes + down.bytes))
    }

    fn has(&self, role: Role) -> bool {
        self.plan.place(role).is_some()
    }

    fn place(&self, role: Role) -> Result<&Place> {
        self.plan.place(role).ok_or_else(|| Error::Internal(format!("the plan has no place for {role:?}")))
    }

    fn floats(&self, role: Role) -> Result<DeviceSlice<f32>> {
        let range = &self.place(role)?.range;
        Ok(self.device.part(range.start, range.len())?.cast())
    }

    fn matrix(&self, role: Role) -> Result<Weight> {
        let place = self.place(role)?;
        let Content::Matrix(plan) = place.content else {
            return Err(Error::Internal(format!("{role:?} is no matrix")));
        };
        let whole = self.device.part(place.range.start, place.range.len())?;
        let overflow = || Error::Internal(format!("the tables of {role:?} are longer than its place"));
        let table_bytes = plan.table_bytes().filter(|len| *len <= whole.len()).ok_or_else(overflow)?;
        let body = whole.part(table_bytes, whole.len() - table_bytes)?;
        let table = whole.part(0, table_bytes)?;
        let strip = if plan.packed { strip_bytes(plan.format, plan.cols).ok_or_else(overflow)? } else { 0 };
        let mut matrix = Matrix {
            data: body.start(),
            rows: number(plan.rows),
            cols: number(plan.cols),
            format: format_number(plan.format),
            packed: plan.packed.into(),
            strip_bytes: number(strip),
            ..Matrix::NONE
        };
        match plan.tables {
            Tables::None => {}
            Tables::Codebook => matrix.codebook = table.cast().start(),
            Tables::ColumnOrder => {
                if !self.is_in_order(place, plan.cols) {
                    matrix.order = table.cast().start();
                }
            }
            Tables::Scales { block_size, .. } => {
                let values: DeviceSlice<f32> = table.cast();
                (matrix.codebook, matrix.absmax) = (values.start(), values.at(16)?);
                matrix.block_size = number(block_size);
            }
        }
        Ok(Weight { matrix, bias: DevicePtr::NULL, bytes: whole.len() as u64 })
    }

    /// Whether the columns of the matrix at `place` stand in the usual order, though its file says that they may not.
    fn is_in_order(&self, place: &Place, cols: usize) -> bool {
        let table = self.host.get(place.range.clone()).unwrap_or_default().as_chunks::<4>().0;
        table.iter().take(cols).map(|bytes| u32::from_ne_bytes(*bytes)).eq(0..number(cols))
    }
}
