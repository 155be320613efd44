//! Gated DeltaNet (arXiv 2412.06464), as `Qwen3NextGatedDeltaNet` in transformers' modeling_qwen3_next.py.
//!
//! Projections; then one task for each sequence and key head: a short causal convolution of its query's, its key's and its
//! values' channels, the gated delta rule for each value head that it serves, and the gated norm of their outputs. Rows
//! of one sequence depend on each other, key heads do not. What a task needs between these stays in the caches.

mod chunk;
mod elementwise;
mod projected;
mod rule;
mod states;
#[cfg(test)]
mod tests;

use chunk::{CHUNK, FEW, Keys, Values};
use projected::{Projected, Rows, channels, ratio, value_head};
use rule::DeltaStep;
pub use states::{DeltaLayer, DeltaStates, KeyHead};

use crate::cpu::Workspace;
use crate::cpu::int8::Int8Rows;
use crate::cpu::kernels::{sigmoid, softplus};
use crate::cpu::matmul::{Inputs, Outputs, Processor, Product};
use crate::cpu::pool::{Scratch, at_least};
use crate::model::{Batch, BatchSequence, DeltaGates, DeltaInputs, DeltaSpec, DeltaWeights};

/// Added to the squared length of queries and keys (transformers' `l2norm`).
const L2_EPS: f32 = 1e-6;

/// What a DeltaNet layer needs beside its weights and its states.
pub struct Context<'a> {
    pub spec: &'a DeltaSpec,
    pub eps: f32,
    pub processor: &'a Processor,
}

/// The vectors of a layer's weights.
#[derive(Clone, Copy)]
struct Vectors<'a> {
    /// `[kernel, conv_channels]`.
    conv: &'a [f32],
    decay: &'a [f32],
    dt_bias: &'a [f32],
    norm: &'a [f32],
}

impl Context<'_> {
    /// `x += delta_net(normed)`, advancing the states of the batch's sequences.
    pub fn run(&self, weights: &DeltaWeights, layer: &DeltaLayer, batch: &Batch<'_>, work: &mut Workspace) {
        let (rows, hidden, values) = (work.rows, weights.output.rows(), self.spec.values());
        let matrices = weights.inputs.matrices().chain(weights.gates.matrices());
        let inputs = self.processor.inputs(&work.normed[..rows * hidden], hidden, &mut work.int8, matrices);
        let projected = self.project(weights, inputs, &mut work.projections);
        let vectors =
            Vectors { conv: &weights.conv, decay: &weights.decay, dt_bias: &weights.dt_bias, norm: &weights.norm };
        let mixed = &mut work.mixed[..rows * values];
        let quantise = self.processor.takes_int8(&weights.output) && Int8Rows::takes(self.spec.value_dim);
        let outputs = self.processor.outputs(&mut *mixed, values, quantise.then_some(&mut work.int8));
        self.mix(vectors, &projected, layer, batch, outputs);

        let inputs = match quantise {
            true => self.processor.quantised(mixed, values, &work.int8),
            false => self.processor.inputs(mixed, values, &mut work.int8, [&weights.output]),
        };
        self.processor.multiply([Product::new(&weights.output, inputs, &mut work.x[..rows * hidden]).added()]);
    }

    /// All projections in one round.
    fn project<'b>(&'b self, weights: &DeltaWeights, inputs: Inputs<'_>, out: &'b mut [Vec<f32>; 4]) -> Projected<'b> {
        let [first, second, third, fourth] = out;
        let of_inputs = weights.inputs.matrices().zip([&mut *first, &mut *second]);
        let of_gates = weights.gates.matrices().zip([&mut *third, &mut *fourth]);
        self.processor.multiply(of_inputs.chain(of_gates).map(|(matrix, out)| {
            let len = inputs.len() * matrix.rows();
            Product::new(matrix, inputs, &mut out[..len])
        }));
        let (interleaved, qkv, z) = match &weights.inputs {
            DeltaInputs::Interleaved(all) => {
                let all = Rows { data: first, width: all.rows() };
                (true, all, all)
            }
            DeltaInputs::Split { qkv, z } => {
                (false, Rows { data: first, width: qkv.rows() }, Rows { data: second, width: z.rows() })
            }
        };
        let (interleaved_gates, b, a) = match &weights.gates {
            DeltaGates::Interleaved(all) => {
                let all = Rows { data: third, width: all.rows() };
                (true, all, all)
            }
            DeltaGates::Split { b, a } => {
                (false, Rows { data: third, width: b.rows() }, Rows { data: fourth, width: a.rows() })
            }
        };
        Projected { spec: self.spec, qkv, z, interleaved, b, a, interleaved_gates }
    }

    /// All that lies between the projections: `out` is `[rows, value_heads, value_dim]`.
    fn mix(
        &self,
        vectors: Vectors<'_>,
        projected: &Projected<'_>,
        layer: &DeltaLayer,
        batch: &Batch<'_>,
        out: Outputs<'_>,
    ) {
        let heads = self.spec.key_heads;
        self.processor.pool.run(batch.sequences.len() * heads, |task, scratch| {
            let (sequence, key_head) = (&batch.sequences[task / heads], task % heads);
            let mut state = layer.head(sequence.memory.slot, key_head);
            let head = Head { context: self, vectors, projected, key_head };
            head.advance(sequence, &mut state, scratch, out);
        });
    }
}

/// A key head and the value heads that it serves.
struct Head<'a> {
    context: &'a Context<'a>,
    vectors: Vectors<'a>,
    projected: &'a Projected<'a>,
    key_head: usize,
}

impl Head<'_> {
    /// All rows of a sequence, a chunk at a time.
    fn advance(&self, sequence: &BatchSequence<'_>, state: &mut KeyHead, scratch: &mut Scratch, out: Outputs<'_>) {
        let spec = self.context.spec;
        let width = 2 * spec.key_dim + ratio(spec) * spec.value_dim;
        let taps = spec.conv_kernel;
        let chunk = CHUNK.min(sequence.rows.len());
        // The convolution's weights and window, what comes out of it, and what comes out of the delta rule with a row more.
        let sizes = [taps * width, (taps - 1 + chunk) * width, chunk * width, (chunk + 1) * spec.value_dim];
        let Scratch { values, more, weights: products, .. } = scratch;
        let values = at_least(values, sizes.iter().sum());
        let (conv, values) = values.split_at_mut(sizes[0]);
        let (window, values) = values.split_at_mut(sizes[1]);
        let (mixed, outputs) = values.split_at_mut(sizes[2]);
        let mut at = 0;
        for (first, len) in channels(spec, self.key_head) {
            for (conv, all) in conv.chunks_exact_mut(width).zip(self.vectors.conv.chunks_exact(spec.conv_channels())) {
                conv[at..at + len].copy_from_slice(&all[first..first + len]);
            }
            at += len;
        }
        let past = (taps - 1) * width;
        window[..past].copy_from_slice(&state.conv);
        for first in sequence.rows.clone().step_by(chunk.max(1)) {
            let rows = first..sequence.rows.end.min(first + chunk);
            for (row, input) in rows.clone().zip(window[past..].chunks_exact_mut(width)) {
                self.projected.conv_inputs(row, self.key_head, input);
            }
            let mixed = &mut mixed[..rows.len() * width];
            self.convolve(&window[..past + rows.len() * width], conv, width, mixed);
            window.copy_within(rows.len() * width..rows.len() * width + past, 0);
            self.recur(rows, mixed, &mut state.states, outputs, [more, products], out);
        }
        state.conv.copy_from_slice(&window[..past]);
    }

    /// Convolution and SiLU, then the normalisation of queries and keys.
    fn convolve(&self, window: &[f32], conv: &[f32], width: usize, mixed: &mut [f32]) {
        let (isa, key_dim) = (self.context.processor.isa, self.context.spec.key_dim);
        isa.convolve(window, conv, width, mixed);
        for row in mixed.chunks_exact_mut(width) {
            let (query, rest) = row.split_at_mut(key_dim);
            isa.l2_normalise(query, (key_dim as f32).powf(-0.5), L2_EPS);
            isa.l2_normalise(&mut rest[..key_dim], 1.0, L2_EPS);
        }
    }

    /// The delta rule for every value head, and the gated norm of its output. `mixed` has the convolution's channels of
    /// batch rows `rows`.
    fn recur(
        &self,
        rows: std::ops::Range<usize>,
        mixed: &[f32],
        states: &mut [f32],
        outputs: &mut [f32],
        [scratch, products]: [&mut Vec<f32>; 2],
        out: Outputs<'_>,
    ) {
        let (spec, isa) = (self.context.spec, self.context.processor.isa);
        let (key_dim, value_dim) = (spec.key_dim, spec.value_dim);
        let (n, stride) = (rows.len(), mixed.len() / rows.len());
        let (mut g, mut beta) = ([0f32; CHUNK], [0f32; CHUNK]);
        let (normed, head_out) = outputs.split_at_mut(value_dim);
        let head_out = &mut head_out[..n * value_dim];
        let keys = (n >= FEW).then(|| Keys::new(isa, [n, key_dim, stride], [mixed, &mixed[key_dim..]], products));
        for (index, state) in states.chunks_exact_mut(key_dim * value_dim).enumerate() {
            let head = value_head(spec, self.key_head, index);
            for (i, row) in rows.clone().enumerate() {
                let (b, a) = self.projected.gates(row, self.key_head, index);
                g[i] = self.vectors.decay[head] * softplus(a + self.vectors.dt_bias[head]);
                beta[i] = sigmoid(b);
            }
            let v = &mixed[2 * key_dim + index * value_dim..];
            match &keys {
                Some(keys) => {
                    let values = Values { v, stride, g: &g[..n], beta: &beta[..n] };
                    keys.advance(isa, &values, state, scratch, head_out);
                }
                None => {
                    let mut decays = g;
                    isa.exp_in_place(&mut decays[..n], 0.0);
                    for (i, (mixed, out)) in
                        mixed.chunks_exact(stride).zip(head_out.chunks_exact_mut(value_dim)).enumerate()
                    {
                        let (q, rest) = mixed.split_at(key_dim);
                        let v = &v[i * stride..][..value_dim];
                        let step = DeltaStep { q, k: &rest[..key_dim], v, decay: decays[i], beta: beta[i] };
                        isa.delta_step(state, &step, normed, out);
                    }
                }
            }
            for (row, value) in rows.clone().zip(head_out.chunks_exact_mut(value_dim)) {
                isa.rms_norm(value, self.vectors.norm, self.context.eps, normed);
                isa.silu_mul(self.projected.z(row, self.key_head, index), normed, value);
                // SAFETY: each head of a row is in one task.
                unsafe { out.put(row, head * value_dim, value) };
            }
        }
    }
}
