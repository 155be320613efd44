//! Gated DeltaNet (arXiv 2412.06464), as `Qwen3NextGatedDeltaNet` in transformers' modeling_qwen3_next.py.
//!
//! Projections, a short causal convolution, then for every value head a recurrence over a `[key_dim, value_dim]` state.
//! Rows of one sequence depend on each other, heads do not: a task is one head of one sequence.

use std::sync::{Mutex, PoisonError};

use super::Workspace;
use super::kernels::{DeltaStep, sigmoid, silu, softplus};
use super::matmul::{Inputs, Processor, Product};
use super::memory::zeroed;
use super::pool::{Scratch, SharedOutput, at_least};
use crate::error::{Error, Result};
use crate::model::{
    Batch, BatchSequence, DeltaGates, DeltaInputs, DeltaSpec, DeltaWeights, LoadProgress, Mixer, ModelSpec,
};

/// Added to the squared length of queries and keys (transformers' `l2norm`).
const L2_EPS: f32 = 1e-6;

/// Recurrent states of all sequences, for every DeltaNet layer.
pub struct DeltaStates {
    /// One a trunk layer; `None` for layers without DeltaNet.
    layers: Vec<Option<DeltaLayer>>,
    heads: usize,
}

/// Recurrent states of one layer.
pub struct DeltaLayer {
    /// `[slots, value_heads]` states of `[key_dim, value_dim]`; a lock each, taken by the one task that owns the head.
    states: Vec<Mutex<Vec<f32>>>,
    /// Last `kernel - 1` inputs of the convolution, oldest first: `[slots, kernel - 1, conv_channels]`.
    conv: Vec<f32>,
    conv_len: usize,
}

impl DeltaStates {
    /// Zero states for `slots` sequences.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`], [`Error::Cancelled`] between two layers.
    pub fn new(spec: &ModelSpec, slots: usize, progress: &LoadProgress) -> Result<Self> {
        let Some(delta) = &spec.delta else { return Ok(Self { layers: Vec::new(), heads: 0 }) };
        let conv_len = (delta.conv_kernel - 1) * delta.conv_channels();
        let layer = || -> Result<DeltaLayer> {
            progress.advance(0)?;
            let state = |_| Ok(Mutex::new(zeroed(delta.key_dim, delta.value_dim, "DeltaNet states")?));
            let states = (0..slots * delta.value_heads).map(state).collect::<Result<_>>()?;
            Ok(DeltaLayer { states, conv: zeroed(slots, conv_len, "convolution states")?, conv_len })
        };
        let layers = spec.layers.iter().map(|l| (l.mixer == Mixer::DeltaNet).then(layer).transpose());
        Ok(Self { layers: layers.collect::<Result<_>>()?, heads: delta.value_heads })
    }

    /// The states of trunk layer `layer`.
    pub fn layer_mut(&mut self, layer: usize) -> Result<&mut DeltaLayer> {
        let found = self.layers.get_mut(layer).and_then(Option::as_mut);
        found.ok_or_else(|| Error::Internal(format!("layer {layer} has no DeltaNet state")))
    }

    /// Forgets what slot `slot` holds, in every layer.
    pub fn clear(&mut self, slot: usize) {
        for layer in self.layers.iter_mut().flatten() {
            for state in &mut layer.states[slot * self.heads..(slot + 1) * self.heads] {
                state.get_mut().unwrap_or_else(PoisonError::into_inner).fill(0.0);
            }
            layer.conv_mut(slot).fill(0.0);
        }
    }
}

impl DeltaLayer {
    /// Bytes of all states of one sequence.
    pub fn bytes_per_sequence(&self) -> u64 {
        let slots = (self.conv.len() / self.conv_len.max(1)).max(1);
        let state = self.states.first().map_or(0, |state| state.lock().unwrap_or_else(PoisonError::into_inner).len());
        4 * (self.conv_len + self.states.len() / slots * state) as u64
    }

    fn conv(&self, slot: usize) -> &[f32] {
        &self.conv[slot * self.conv_len..(slot + 1) * self.conv_len]
    }

    fn conv_mut(&mut self, slot: usize) -> &mut [f32] {
        &mut self.conv[slot * self.conv_len..(slot + 1) * self.conv_len]
    }
}

/// What a DeltaNet layer needs beside its weights and its states.
pub struct Context<'a> {
    pub spec: &'a DeltaSpec,
    pub eps: f32,
    pub processor: &'a Processor,
}

/// The projections of a step, flat.
struct Projected<'a> {
    /// Queries, keys, values: the first `conv_channels` of every `qkv_width`.
    qkv: &'a [f32],
    qkv_width: usize,
    /// Output gates: the last `values` of every `z_width`.
    z: &'a [f32],
    z_width: usize,
    b: &'a [f32],
    a: &'a [f32],
    gate_width: usize,
    /// `b` and `a` are one buffer, by key head `[b r, a r]`.
    interleaved_gates: bool,
}

impl Projected<'_> {
    /// Inputs of the convolution in `row`.
    fn conv_inputs(&self, row: usize, channels: usize) -> &[f32] {
        &self.qkv[row * self.qkv_width..][..channels]
    }

    /// Output gates of value head `head` in `row`.
    fn z(&self, row: usize, head: usize, spec: &DeltaSpec) -> &[f32] {
        let values = (row + 1) * self.z_width - spec.values();
        &self.z[values + head * spec.value_dim..][..spec.value_dim]
    }

    /// Write strength and decay input of value head `head` in `row`, before their activations.
    fn gates(&self, row: usize, head: usize, spec: &DeltaSpec) -> (f32, f32) {
        let at = row * self.gate_width;
        if self.interleaved_gates {
            let ratio = spec.value_heads / spec.key_heads;
            let column = (head / ratio) * 2 * ratio + head % ratio;
            (self.b[at + column], self.a[at + column + ratio])
        } else {
            (self.b[at + head], self.a[at + head])
        }
    }
}

/// Puts one row from the order by key head, `[q, k, v r times, z r times]`, into the flat order q, k, v, z.
fn flatten(spec: &DeltaSpec, row: &mut [f32], scratch: &mut Vec<f32>) {
    let source = at_least(scratch, row.len());
    source.copy_from_slice(row);
    let values = spec.value_heads / spec.key_heads * spec.value_dim;
    let (queries, rest) = row.split_at_mut(spec.keys());
    let (keys, rest) = rest.split_at_mut(spec.keys());
    let (all_values, gates) = rest.split_at_mut(spec.values());
    for (head, source) in source.chunks_exact(2 * spec.key_dim + 2 * values).enumerate() {
        let mut source = source;
        for (part, len) in [
            (&mut *queries, spec.key_dim),
            (&mut *keys, spec.key_dim),
            (&mut *all_values, values),
            (&mut *gates, values),
        ] {
            let (now, later) = source.split_at(len);
            part[head * len..(head + 1) * len].copy_from_slice(now);
            source = later;
        }
    }
}

impl Context<'_> {
    /// `x += delta_net(normed)`, advancing the states of the batch's sequences.
    pub fn run(&self, weights: &DeltaWeights, layer: &mut DeltaLayer, batch: &Batch<'_>, work: &mut Workspace) {
        let (rows, hidden) = (work.rows, weights.output.rows());
        let (channels, values) = (self.spec.conv_channels(), self.spec.values());
        let [first, second, third, fourth, heads_out] = &mut work.projections;
        let matrices = weights.inputs.matrices().chain(weights.gates.matrices());
        let inputs = self.processor.inputs(&work.normed[..rows * hidden], hidden, &mut work.int8, matrices);
        let projected = self.project(weights, inputs, [first, second, third, fourth]);

        let mixed = &mut work.mixed[..rows * channels];
        let sequence_of: Vec<&BatchSequence<'_>> =
            batch.sequences.iter().flat_map(|s| s.rows.clone().map(move |_| s)).collect();
        let states = &*layer;
        self.processor.pool.run_chunks(mixed, channels, |row, out, _| {
            let sequence = sequence_of[row];
            self.convolve(weights, &projected, sequence, row, states.conv(sequence.memory.slot), out);
        });
        for sequence in &batch.sequences {
            self.remember_inputs(&projected, sequence, layer);
        }

        let heads_out = &mut heads_out[..rows * values];
        let out = SharedOutput::new(heads_out);
        let (heads, mixed, layer) = (self.spec.value_heads, &*mixed, &*layer);
        self.processor.pool.run(batch.sequences.len() * heads, |task, scratch| {
            let (sequence, head) = (&batch.sequences[task / heads], task % heads);
            let state = &layer.states[sequence.memory.slot * heads + head];
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            self.recur(weights, &projected, mixed, sequence, head, &mut state, &mut scratch.values, out);
        });
        let inputs = self.processor.inputs(heads_out, values, &mut work.int8, [&weights.output]);
        self.processor.multiply([Product::new(&weights.output, inputs, &mut work.x[..rows * hidden]).added()]);
    }

    /// All projections in one round.
    fn project<'b>(&self, weights: &DeltaWeights, inputs: Inputs<'_>, out: [&'b mut Vec<f32>; 4]) -> Projected<'b> {
        let [first, second, third, fourth] = out;
        let of_inputs = weights.inputs.matrices().zip([&mut *first, &mut *second]);
        let of_gates = weights.gates.matrices().zip([&mut *third, &mut *fourth]);
        self.processor.multiply(of_inputs.chain(of_gates).map(|(matrix, out)| {
            let len = inputs.len() * matrix.rows();
            Product::new(matrix, inputs, &mut out[..len])
        }));
        let ((qkv, qkv_width), (z, z_width)): ((&[f32], usize), (&[f32], usize)) = match &weights.inputs {
            DeltaInputs::Interleaved(qkvz) => {
                let width = qkvz.rows();
                let flat = |_, row: &mut [f32], scratch: &mut Scratch| flatten(self.spec, row, &mut scratch.values);
                self.processor.pool.run_chunks(&mut first[..inputs.len() * width], width, flat);
                ((&*first, width), (&*first, width))
            }
            DeltaInputs::Split { qkv, z } => ((&*first, qkv.rows()), (&*second, z.rows())),
        };
        let (interleaved_gates, gate_width, b, a): (bool, usize, &[f32], &[f32]) = match &weights.gates {
            DeltaGates::Interleaved(ba) => (true, ba.rows(), &*third, &*third),
            DeltaGates::Split { b, .. } => (false, b.rows(), &*third, &*fourth),
        };
        Projected { qkv, qkv_width, z, z_width, b, a, gate_width, interleaved_gates }
    }

    /// Depthwise causal convolution, SiLU, and the normalisation of queries and keys, for one row.
    fn convolve(
        &self,
        weights: &DeltaWeights,
        projected: &Projected<'_>,
        sequence: &BatchSequence<'_>,
        row: usize,
        past: &[f32],
        out: &mut [f32],
    ) {
        let (kernel, channels) = (self.spec.conv_kernel, out.len());
        let local = row - sequence.rows.start;
        out.fill(0.0);
        for (tap, weights) in weights.conv.chunks_exact(channels).enumerate() {
            let input = match (local + tap).checked_sub(kernel - 1) {
                Some(earlier) => projected.conv_inputs(sequence.rows.start + earlier, channels),
                None => &past[(local + tap) * channels..][..channels],
            };
            for ((out, weight), input) in out.iter_mut().zip(weights).zip(input) {
                *out += weight * input;
            }
        }
        out.iter_mut().for_each(|x| *x = silu(*x));
        let keys = self.spec.keys();
        for (i, head) in out[..2 * keys].chunks_exact_mut(self.spec.key_dim).enumerate() {
            let is_query = i < self.spec.key_heads;
            let scale = if is_query { (self.spec.key_dim as f32).powf(-0.5) } else { 1.0 };
            let length = (head.iter().map(|x| x * x).sum::<f32>() + L2_EPS).sqrt();
            head.iter_mut().for_each(|x| *x *= scale / length);
        }
    }

    /// Keeps the last `kernel - 1` inputs of the convolution for the next step.
    fn remember_inputs(&self, projected: &Projected<'_>, sequence: &BatchSequence<'_>, layer: &mut DeltaLayer) {
        let (kept, channels, rows) = (self.spec.conv_kernel - 1, self.spec.conv_channels(), sequence.rows.len());
        let past = layer.conv_mut(sequence.memory.slot);
        if rows < kept {
            past.copy_within(rows * channels.., 0);
        }
        for (i, column) in past.chunks_exact_mut(channels).enumerate() {
            if let Some(row) = (rows + i).checked_sub(kept) {
                column.copy_from_slice(projected.conv_inputs(sequence.rows.start + row, channels));
            }
        }
    }

    /// The gated delta rule over all rows of a sequence for one value head, and the gated norm of its output.
    #[expect(clippy::too_many_arguments, reason = "the operands of one recurrence")]
    fn recur(
        &self,
        weights: &DeltaWeights,
        projected: &Projected<'_>,
        mixed: &[f32],
        sequence: &BatchSequence<'_>,
        head: usize,
        state: &mut [f32],
        scratch: &mut Vec<f32>,
        out: SharedOutput<'_>,
    ) {
        let (spec, channels) = (self.spec, self.spec.conv_channels());
        let (key_dim, value_dim) = (spec.key_dim, spec.value_dim);
        let (delta, head_out) = at_least(scratch, 2 * value_dim).split_at_mut(value_dim);
        let key_head = spec.key_head_of(head);
        for row in sequence.rows.clone() {
            let part = |at: usize, len: usize| &mixed[row * channels + at..row * channels + at + len];
            let (b, a) = projected.gates(row, head, spec);
            let step = DeltaStep {
                q: part(key_head * key_dim, key_dim),
                k: part(spec.keys() + key_head * key_dim, key_dim),
                v: part(2 * spec.keys() + head * value_dim, value_dim),
                decay: (weights.decay[head] * softplus(a + weights.dt_bias[head])).exp(),
                beta: sigmoid(b),
            };
            self.processor.isa.delta_step(state, &step, delta, head_out);
            self.processor.isa.rms_norm(head_out, &weights.norm, self.eps, delta);
            for (i, (value, z)) in delta.iter().zip(projected.z(row, head, spec)).enumerate() {
                out.set((row * spec.value_heads + head) * value_dim + i, value * silu(*z));
            }
        }
    }
}
