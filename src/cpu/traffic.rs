//! Bytes that an operation must move between memory and processor: see [`crate::model::Cost`].

use super::attention::KvLayer;
use super::delta_net::DeltaLayer;
use crate::model::{AttentionWeights, Batch, DeltaGates, DeltaInputs, DeltaWeights, Linear, MoeWeights, SwiGlu};
use crate::quant::Weight;

/// Rows of the embedding.
pub fn embed(embedding: &Weight, rows: usize) -> u64 {
    let row = embedding.bytes() / embedding.rows().max(1);
    (row * rows) as u64
}

/// Weights; keys and values of each sequence, read up to its last row and written for its rows.
pub fn attention(weights: &AttentionWeights, kv: &KvLayer, batch: &Batch<'_>) -> u64 {
    let linear = |linear: &Linear| linear.matrix.bytes() + linear.bias.as_ref().map_or(0, |bias| 4 * bias.len());
    let linears = [&weights.query, &weights.key, &weights.value, &weights.output].map(linear);
    let positions: usize = batch.sequences.iter().map(|s| s.position + 2 * s.rows.len()).sum();
    linears.iter().sum::<usize>() as u64 + positions as u64 * kv.bytes_per_position()
}

/// Weights; the states of each sequence, read and written.
pub fn delta_net(weights: &DeltaWeights, layer: &DeltaLayer, batch: &Batch<'_>) -> u64 {
    let inputs = match &weights.inputs {
        DeltaInputs::Interleaved(all) => all.bytes(),
        DeltaInputs::Split { qkv, z } => qkv.bytes() + z.bytes(),
    };
    let gates = match &weights.gates {
        DeltaGates::Interleaved(all) => all.bytes(),
        DeltaGates::Split { b, a } => b.bytes() + a.bytes(),
    };
    let weights = inputs + gates + weights.output.bytes() + 4 * weights.conv.len();
    weights as u64 + 2 * batch.sequences.len() as u64 * layer.bytes_per_sequence()
}

/// The router, and the gate of the shared expert.
pub fn router(weights: &MoeWeights) -> u64 {
    (weights.router.bytes() + weights.shared.as_ref().map_or(0, |(_, gate)| gate.bytes())) as u64
}

/// The experts `active`, and the shared one.
pub fn experts(weights: &MoeWeights, active: impl Iterator<Item = usize>) -> u64 {
    let routed: u64 = active.filter_map(|expert| weights.experts.get(expert)).map(swiglu).sum();
    routed + weights.shared.as_ref().map_or(0, |(shared, _)| swiglu(shared))
}

/// A whole SwiGLU.
pub fn swiglu(weights: &SwiGlu) -> u64 {
    (weights.gate.bytes() + weights.up.bytes() + weights.down.bytes()) as u64
}
