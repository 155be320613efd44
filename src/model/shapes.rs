//! Every tensor the model needs, with the shape its config implies.

use std::collections::HashSet;

use super::config_limits::{FieldNames, GGUF, JSON};
use super::{DeltaSpec, Family, FeedForward, HeadOrder, Mixer, ModelSpec, MoeSpec};
use crate::checkpoint::{Checkpoint, DeltaTensor, ExpertPart, Kind, LayerTensor, Role, TensorInfo};
use crate::error::{Error, Result};
use crate::quant::Format;

/// Checks that every tensor that `spec` needs is there with the right shape, and that none is left over.
///
/// # Errors
/// [`Error::BadFile`] naming tensor, found shape, expected shape and the fields it follows from;
/// [`Error::Unsupported`] for a vector in a quantised type, or experts in one tensor of 4-bit codes.
pub fn check_shapes(checkpoint: &Checkpoint, spec: &ModelSpec) -> Result<()> {
    let names = match checkpoint.kind() {
        Kind::HuggingFace => &JSON,
        Kind::Gguf => &GGUF,
    };
    let mut check = Check { checkpoint, names, used: HashSet::with_capacity(checkpoint.tensors().len()) };
    let matrix = [(spec.vocab, names.vocab), (spec.hidden, names.hidden)];
    check.need(Role::Embedding, &matrix)?;
    check.need(Role::FinalNorm, &[(spec.hidden, names.hidden)])?;
    if !spec.tied_head {
        check.need(Role::Head, &matrix)?;
    }
    for (index, layer) in spec.layers.iter().enumerate() {
        let layer_index = u32::try_from(index).map_err(|_| Error::Internal(format!("layer {index}")))?;
        let mut layer_check = Layer { check: &mut check, index: layer_index, spec };
        layer_check.vector(LayerTensor::InputNorm, spec.hidden, names.hidden)?;
        layer_check.vector(LayerTensor::PostAttentionNorm, spec.hidden, names.hidden)?;
        match (layer.mixer, &spec.delta) {
            (Mixer::Attention, _) => layer_check.attention()?,
            (Mixer::DeltaNet, Some(delta)) => layer_check.delta(delta)?,
            (Mixer::DeltaNet, None) => return Err(Error::Internal("DeltaNet layers without their sizes".into())),
        }
        match (layer.feed_forward, &spec.moe) {
            (FeedForward::Moe, Some(moe)) => layer_check.moe(moe)?,
            (FeedForward::Moe, None) => return Err(Error::Internal("expert layers without their sizes".into())),
            (FeedForward::Dense, _) => {
                layer_check.swiglu(LayerTensor::Dense, spec.dense_width, names.dense_width)?;
            }
        }
    }
    check.nothing_left(spec)
}

/// A size, and the field it follows from.
type Axis = (usize, &'static str);

struct Check<'a> {
    checkpoint: &'a Checkpoint,
    names: &'static FieldNames,
    used: HashSet<Role>,
}

impl Check<'_> {
    fn has(&self, role: Role) -> bool {
        self.checkpoint.tensor(role).is_some()
    }

    /// Requires the tensor with `role` to have exactly these axes.
    fn need(&mut self, role: Role, axes: &[Axis]) -> Result<()> {
        let tensor = self.checkpoint.require(role)?;
        if !tensor.shape.iter().copied().eq(axes.iter().map(|a| a.0)) {
            return Err(self.wrong(tensor, axes));
        }
        // Its blocks of codes run over the ends of matrices, so that one expert's would not begin with a block.
        if axes.len() > 2 && tensor.format == Format::Bnb4 {
            return Err(Error::unsupported(
                self.checkpoint.file_path(tensor),
                format!(
                    "tensor {} of type {} with the shape {:?}; supported in this type: matrices, one for each expert",
                    tensor.name, tensor.format, tensor.shape
                ),
            ));
        }
        self.accept(tensor, axes.len() == 1)
    }

    /// Marks a tensor as used, after checking that a vector is stored in floats.
    fn accept(&mut self, tensor: &TensorInfo, vector: bool) -> Result<()> {
        if vector && !matches!(tensor.format, Format::F32 | Format::F16 | Format::BF16) {
            return Err(Error::unsupported(
                self.checkpoint.file_path(tensor),
                format!("tensor {} of type {}; supported: F32, F16, BF16", tensor.name, tensor.format),
            ));
        }
        self.used.insert(tensor.role);
        Ok(())
    }

    fn wrong(&self, tensor: &TensorInfo, axes: &[Axis]) -> Error {
        let sizes: Vec<usize> = axes.iter().map(|a| a.0).collect();
        let fields: Vec<&str> = axes.iter().map(|a| a.1).collect();
        let fields = fields.join(", ");
        Error::bad_file(
            self.checkpoint.file_path(tensor),
            format!("tensor {} has the shape {:?}; expected {sizes:?} from {fields}", tensor.name, tensor.shape),
        )
    }

    /// Every tensor with a role must have been used.
    fn nothing_left(&self, spec: &ModelSpec) -> Result<()> {
        let Some(tensor) = self.checkpoint.tensors().iter().find(|t| !self.used.contains(&t.role)) else {
            return Ok(());
        };
        let why = match tensor.role {
            Role::Layer(index, _) if index as usize >= spec.layers.len() => {
                format!("the model has {} layers ({})", spec.layers.len(), self.names.layers)
            }
            Role::Layer(
                _,
                LayerTensor::QueryBias | LayerTensor::KeyBias | LayerTensor::ValueBias | LayerTensor::OutputBias,
            ) => format!("the attention has no bias ({})", self.names.bias),
            Role::Layer(_, LayerTensor::Expert(expert, _)) => {
                format!("the layer does not use expert {expert} by itself ({})", self.names.experts)
            }
            _ => "the layer's kind or another form of the same weight rules it out".to_string(),
        };
        Err(Error::bad_file(
            self.checkpoint.file_path(tensor),
            format!("tensor {} of shape {:?} has no place in the model: {why}", tensor.name, tensor.shape),
        ))
    }
}

struct Layer<'a, 'c> {
    check: &'a mut Check<'c>,
    index: u32,
    spec: &'a ModelSpec,
}

impl Layer<'_, '_> {
    fn role(&self, tensor: LayerTensor) -> Role {
        Role::Layer(self.index, tensor)
    }

    fn has(&self, tensor: LayerTensor) -> bool {
        self.check.has(self.role(tensor))
    }

    fn hidden(&self) -> Axis {
        (self.spec.hidden, self.check.names.hidden)
    }

    fn vector(&mut self, tensor: LayerTensor, size: usize, from: &'static str) -> Result<()> {
        self.check.need(self.role(tensor), &[(size, from)])
    }

    /// A matrix that reads the residual stream.
    fn reads_hidden(&mut self, tensor: LayerTensor, rows: usize, from: &'static str) -> Result<()> {
        let hidden = self.hidden();
        self.check.need(self.role(tensor), &[(rows, from), hidden])
    }

    /// A matrix that writes the residual stream.
    fn writes_hidden(&mut self, tensor: LayerTensor, columns: usize, from: &'static str) -> Result<()> {
        let hidden = self.hidden();
        self.check.need(self.role(tensor), &[hidden, (columns, from)])
    }

    fn attention(&mut self) -> Result<()> {
        let a = &self.spec.attention;
        let names = self.check.names;
        let heads = a.heads * a.head_dim;
        let keys = a.kv_heads * a.head_dim;
        let queries = if a.gated { 2 * heads } else { heads };
        self.reads_hidden(LayerTensor::Query, queries, names.heads)?;
        self.reads_hidden(LayerTensor::Key, keys, names.kv_heads)?;
        self.reads_hidden(LayerTensor::Value, keys, names.kv_heads)?;
        self.writes_hidden(LayerTensor::Output, heads, names.heads)?;
        self.vector(LayerTensor::QueryNorm, a.head_dim, names.head_dim)?;
        self.vector(LayerTensor::KeyNorm, a.head_dim, names.head_dim)?;
        if a.bias {
            self.vector(LayerTensor::QueryBias, queries, names.heads)?;
            self.vector(LayerTensor::KeyBias, keys, names.kv_heads)?;
            self.vector(LayerTensor::ValueBias, keys, names.kv_heads)?;
            // Converters of GGUF drop the output's bias where it is zero.
            if self.check.checkpoint.kind() == Kind::HuggingFace || self.has(LayerTensor::OutputBias) {
                self.vector(LayerTensor::OutputBias, self.spec.hidden, names.hidden)?;
            }
        }
        Ok(())
    }

    fn delta(&mut self, delta: &DeltaSpec) -> Result<()> {
        let names = self.check.names;
        let (keys, values, heads) = (delta.keys(), delta.values(), delta.value_heads);
        let tensor = LayerTensor::Delta;
        // Interleaving goes by key head, which only makes sense where value heads are grouped by key head.
        let grouped = delta.head_order == HeadOrder::Grouped;
        let flat = self.has(tensor(DeltaTensor::Qkv)) || self.spec.family != Family::Qwen3Next;
        if grouped && (!flat || self.has(tensor(DeltaTensor::QkvzInterleaved))) {
            self.reads_hidden(tensor(DeltaTensor::QkvzInterleaved), 2 * keys + 2 * values, names.key_heads)?;
        } else {
            self.reads_hidden(tensor(DeltaTensor::Qkv), 2 * keys + values, names.key_heads)?;
            self.reads_hidden(tensor(DeltaTensor::Z), values, names.value_heads)?;
        }
        if grouped && self.has(tensor(DeltaTensor::BaInterleaved)) {
            self.reads_hidden(tensor(DeltaTensor::BaInterleaved), 2 * heads, names.value_heads)?;
        } else {
            self.reads_hidden(tensor(DeltaTensor::B), heads, names.value_heads)?;
            self.reads_hidden(tensor(DeltaTensor::A), heads, names.value_heads)?;
        }
        let conv = [(delta.conv_channels(), names.key_heads), (delta.conv_kernel, names.kernel)];
        let role = self.role(tensor(DeltaTensor::Conv));
        self.check.need(role, &conv)?;
        self.check.accept(self.check.checkpoint.require(role)?, true)?;
        let decay = match self.check.checkpoint.kind() {
            Kind::HuggingFace => DeltaTensor::ALog,
            Kind::Gguf => DeltaTensor::NegExpA,
        };
        self.vector(tensor(decay), heads, names.value_heads)?;
        self.vector(tensor(DeltaTensor::DtBias), heads, names.value_heads)?;
        self.vector(tensor(DeltaTensor::Norm), delta.value_dim, names.value_dim)?;
        self.writes_hidden(tensor(DeltaTensor::Out), values, names.value_heads)
    }

    fn moe(&mut self, moe: &MoeSpec) -> Result<()> {
        let names = self.check.names;
        self.reads_hidden(LayerTensor::Router, moe.experts, names.experts)?;
        let experts = (moe.experts, names.experts);
        let hidden = self.hidden();
        if self.has(LayerTensor::ExpertsGateUp) || self.has(LayerTensor::Experts(ExpertPart::Down)) {
            if self.has(LayerTensor::ExpertsGateUp) {
                let axes = [experts, (2 * moe.width, names.width), hidden];
                self.check.need(self.role(LayerTensor::ExpertsGateUp), &axes)?;
            } else {
                for part in [ExpertPart::Gate, ExpertPart::Up] {
                    let axes = [experts, (moe.width, names.width), hidden];
                    self.check.need(self.role(LayerTensor::Experts(part)), &axes)?;
                }
            }
            let axes = [experts, hidden, (moe.width, names.width)];
            self.check.need(self.role(LayerTensor::Experts(ExpertPart::Down)), &axes)?;
        } else {
            for expert in 0..moe.experts as u32 {
                self.swiglu(|part| LayerTensor::Expert(expert, part), moe.width, names.width)?;
            }
        }
        if moe.shared_width > 0 {
            self.swiglu(LayerTensor::SharedExpert, moe.shared_width, names.shared_width)?;
            let role = self.role(LayerTensor::SharedExpertGate);
            match self.check.checkpoint.require(role)?.shape.len() {
                1 => self.check.need(role, &[hidden])?,
                _ => self.check.need(role, &[(1, "one gate"), hidden])?,
            }
        }
        Ok(())
    }

    fn swiglu(&mut self, tensor: impl Fn(ExpertPart) -> LayerTensor, width: usize, from: &'static str) -> Result<()> {
        self.reads_hidden(tensor(ExpertPart::Gate), width, from)?;
        self.reads_hidden(tensor(ExpertPart::Up), width, from)?;
        self.writes_hidden(tensor(ExpertPart::Down), width, from)
    }
}
