//! The weights by role, as views of their image.

use super::plan::{Content, Place, WeightPlan};
use super::{
    AttentionWeights, DeltaGates, DeltaInputs, DeltaWeights, FeedForwardWeights, LayerWeights, Linear, MixerWeights,
    MoeWeights, Store, SwiGlu, Weights,
};
use crate::checkpoint::{DeltaTensor, ExpertPart, LayerTensor, Role};
use crate::error::{Error, Result};
use crate::model::{FeedForward, Mixer, ModelSpec};

impl<S: Store> Weights<S> {
    /// The weights in the image that `store` holds, which was filled by `plan`.
    ///
    /// # Errors
    /// [`Error::Internal`] where the three do not belong together.
    pub fn of(store: &S, plan: &WeightPlan, spec: &ModelSpec) -> Result<Self> {
        Image { store, plan }.weights(spec)
    }
}

/// An image and the plan by which it was filled.
struct Image<'a, S> {
    store: &'a S,
    plan: &'a WeightPlan,
}

impl<S: Store> Image<'_, S> {
    fn weights(&self, spec: &ModelSpec) -> Result<Weights<S>> {
        let embedding = self.matrix(Role::Embedding)?;
        Ok(Weights {
            head: if spec.tied_head { embedding.clone() } else { self.matrix(Role::Head)? },
            embedding,
            final_norm: self.floats(Role::FinalNorm)?,
            layers: (0..spec.layers.len()).map(|i| self.layer(i, spec)).collect::<Result<_>>()?,
        })
    }

    fn layer(&self, index: usize, spec: &ModelSpec) -> Result<LayerWeights<S>> {
        let layer = spec.layers[index];
        let role = |tensor| Role::Layer(index as u32, tensor);
        Ok(LayerWeights {
            input_norm: self.floats(role(LayerTensor::InputNorm))?,
            mixer: match layer.mixer {
                Mixer::Attention => MixerWeights::Attention(self.attention(role)?),
                Mixer::DeltaNet => MixerWeights::DeltaNet(self.delta(role)?),
            },
            feed_forward_norm: self.floats(role(LayerTensor::PostAttentionNorm))?,
            feed_forward: match layer.feed_forward {
                FeedForward::Moe => FeedForwardWeights::Moe(self.moe(role, spec)?),
                FeedForward::Dense => FeedForwardWeights::Dense(self.swiglu(|p| role(LayerTensor::Dense(p)))?),
            },
        })
    }

    fn attention(&self, role: impl Fn(LayerTensor) -> Role) -> Result<AttentionWeights<S>> {
        let linear = |matrix, bias| -> Result<Linear<S>> {
            let bias = self.has(role(bias)).then(|| self.floats(role(bias))).transpose()?;
            Ok(Linear { matrix: self.matrix(role(matrix))?, bias })
        };
        Ok(AttentionWeights {
            query: linear(LayerTensor::Query, LayerTensor::QueryBias)?,
            key: linear(LayerTensor::Key, LayerTensor::KeyBias)?,
            value: linear(LayerTensor::Value, LayerTensor::ValueBias)?,
            output: linear(LayerTensor::Output, LayerTensor::OutputBias)?,
            query_norm: self.floats(role(LayerTensor::QueryNorm))?,
            key_norm: self.floats(role(LayerTensor::KeyNorm))?,
        })
    }

    fn delta(&self, role: impl Fn(LayerTensor) -> Role) -> Result<DeltaWeights<S>> {
        use DeltaTensor as D;
        let role = |tensor| role(LayerTensor::Delta(tensor));
        let matrix = |tensor| self.matrix(role(tensor));
        let floats = |tensor| self.floats(role(tensor));
        Ok(DeltaWeights {
            inputs: match self.has(role(D::QkvzInterleaved)) {
                true => DeltaInputs::Interleaved(matrix(D::QkvzInterleaved)?),
                false => DeltaInputs::Split { qkv: matrix(D::Qkv)?, z: matrix(D::Z)? },
            },
            gates: match self.has(role(D::BaInterleaved)) {
                true => DeltaGates::Interleaved(matrix(D::BaInterleaved)?),
                false => DeltaGates::Split { b: matrix(D::B)?, a: matrix(D::A)? },
            },
            conv: floats(D::Conv)?,
            decay: if self.has(role(D::NegExpA)) { floats(D::NegExpA)? } else { floats(D::ALog)? },
            dt_bias: floats(D::DtBias)?,
            norm: floats(D::Norm)?,
            output: matrix(D::Out)?,
        })
    }

    fn moe(&self, role: impl Fn(LayerTensor) -> Role, spec: &ModelSpec) -> Result<MoeWeights<S>> {
        use LayerTensor as T;
        let spec = spec.moe.as_ref().ok_or_else(|| Error::Internal("an expert layer without experts".into()))?;
        let shared = match spec.shared_width {
            0 => None,
            _ => Some((self.swiglu(|p| role(T::SharedExpert(p)))?, self.matrix(role(T::SharedExpertGate))?)),
        };
        let expert = |e| self.swiglu(|part| role(T::Expert(e as u32, part)));
        Ok(MoeWeights {
            router: self.matrix(role(T::Router))?,
            experts: (0..spec.experts).map(expert).collect::<Result<_>>()?,
            shared,
        })
    }

    /// Three matrices, and the pages that hold them and nothing else.
    fn swiglu(&self, role: impl Fn(ExpertPart) -> Role) -> Result<SwiGlu<S>> {
        let start = self.place(role(ExpertPart::Gate))?.range.start;
        let end = self.place(role(ExpertPart::Down))?.range.end.next_multiple_of(WeightPlan::PAGE);
        Ok(SwiGlu {
            gate: self.matrix(role(ExpertPart::Gate))?,
            up: self.matrix(role(ExpertPart::Up))?,
            down: self.matrix(role(ExpertPart::Down))?,
            block: self.store.block(start..end)?,
        })
    }

    fn has(&self, role: Role) -> bool {
        self.plan.place(role).is_some()
    }

    fn place(&self, role: Role) -> Result<&Place> {
        self.plan.place(role).ok_or_else(|| Error::Internal(format!("the plan has no place for {role:?}")))
    }

    fn floats(&self, role: Role) -> Result<S::Floats> {
        self.store.floats(self.place(role)?)
    }

    fn matrix(&self, role: Role) -> Result<S::Matrix> {
        let place = self.place(role)?;
        let Content::Matrix(plan) = &place.content else {
            return Err(Error::Internal(format!("{role:?} is no matrix")));
        };
        self.store.matrix(role, place, plan)
    }
}
