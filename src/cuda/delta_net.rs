//! Gated DeltaNet between the projections: convolution, delta rule, gated norm.

use super::args::{DeltaArgs, Place, number};
use super::memory::{DeviceMemory, DevicePtr, DeviceSlice};
use super::module::{Kernel, Modules};
use super::plan::StateParts;
use super::step::Step;
use super::stream::Stream;
use super::weights::DeltaWeights;
use crate::error::Result;
use crate::model::{DeltaSpec, HeadOrder};

/// Channels of keys and values for which there are kernels that keep the state in registers.
const USUAL: usize = 128;

/// Rows of a sequence that a block of the convolution takes.
const CONV_ROWS: usize = 64;

pub struct DeltaNet {
    /// Rows of sequences that have one each: convolves by itself.
    step: Kernel,
    /// Its blocks stand in clusters of four that share a head.
    clusters: bool,
    rows: Kernel,
    conv: Kernel,
    /// The gated norm of the heads, where `rows` leaves it to another kernel.
    gate: Option<Kernel>,
    spec: DeltaSpec,
    eps: f32,
}

/// States of one layer.
#[derive(Clone, Copy)]
pub struct DeltaStates {
    /// `[slots, taps, channels]`.
    pub conv: DeviceSlice<f32>,
    /// `[slots, value_heads, key_dim, value_dim]`.
    pub states: DeviceSlice<f32>,
}

impl DeltaStates {
    /// The layer whose memory is `parts`.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for another plan's parts.
    pub(super) fn in_memory(memory: &DeviceMemory, parts: &StateParts) -> Result<Self> {
        Ok(Self { conv: memory.part(parts.conv)?, states: memory.part(parts.states)? })
    }

    /// Queues zeros for slot `slot` of `slots`.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] beyond the end.
    pub fn clear(&self, stream: &Stream, slot: usize, slots: usize) -> Result<()> {
        [self.conv, self.states].into_iter().try_for_each(|all| {
            let len = all.len() / slots.max(1);
            stream.clear(all.part(slot * len, len)?)
        })
    }
}

/// Activations that a layer works with.
#[derive(Clone, Copy)]
pub struct DeltaWork {
    /// As the matrices give them: queries, keys, values (and output gates); output gates; write strengths (and decay
    /// inputs); decay inputs.
    pub projections: [DeviceSlice<f32>; 4],
    /// `[rows, channels]`.
    pub convolved: DeviceSlice<f32>,
    /// `[rows, value_heads, value_dim]`.
    pub out: DeviceSlice<f32>,
}

impl DeltaNet {
    pub fn new(modules: &Modules, spec: &DeltaSpec, eps: f32) -> Result<Self> {
        let usual = spec.key_dim == USUAL && spec.value_dim == USUAL;
        let clustered = usual.then(|| modules.kernel("delta_step")).transpose()?.filter(|kernel| kernel.overlaps);
        let clusters = clustered.is_some();
        let step = clustered.map_or_else(|| modules.kernel("delta_any"), Ok)?;
        let rows = modules.kernel(if usual { "delta_rows" } else { "delta_any_rows" })?;
        let gate = usual.then(|| modules.kernel("delta_gate")).transpose()?;
        Ok(Self { step, clusters, rows, conv: modules.kernel("delta_conv")?, gate, spec: spec.clone(), eps })
    }

    /// `out = norm(delta_rule(conv(q, k, v))) * silu(z)`, advancing the states of the step's sequences.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for memory that is too small.
    pub fn run(
        &self,
        stream: &Stream,
        step: &Step,
        weights: &DeltaWeights,
        states: &DeltaStates,
        work: &DeltaWork,
    ) -> Result<()> {
        let args = self.args(step, weights, states, work)?;
        let sequences = number(step.sequences.len());
        let heads = number(self.spec.value_heads);
        let launch = |kernel: &Kernel, four: bool| {
            let (grid, shared) = match four {
                true => ([4, heads, sequences], 0),
                false => ([heads, sequences, 1], 4 * (2 * self.spec.key_dim + 2 * self.spec.value_dim + 64)),
            };
            // SAFETY: the kernel's argument, of sizes that were checked; a step's slots are those of the states.
            unsafe { kernel.launch(grid, [256, 1, 1]).shared(number(shared)).arg(args).queue(stream) }
        };
        if step.single_rows {
            return launch(&self.step, self.clusters);
        }
        let grid = [self.spec.conv_channels().div_ceil(256), step.sequences.len(), step.most_rows.div_ceil(CONV_ROWS)];
        let conv = self.conv.launch(grid.map(number), [256, 1, 1]);
        // SAFETY: as above.
        unsafe { conv.arg(args).queue(stream)? };
        launch(&self.rows, self.gate.is_some())?;
        let Some(gate) = &self.gate else { return Ok(()) };
        // SAFETY: as above.
        unsafe { gate.launch([number(step.count()), 1, 1], [256, 1, 1]).arg(args).queue(stream) }
    }

    fn args(&self, step: &Step, weights: &DeltaWeights, states: &DeltaStates, work: &DeltaWork) -> Result<DeltaArgs> {
        let (spec, count) = (&self.spec, step.count());
        let rows = |data: DeviceSlice<f32>, width: u32| data.holding(count * width as usize, "projections");
        let [first, second, third, fourth] = work.projections;
        let ((all, gate), (strength, decay)) = (weights.qkv_and_z(), weights.b_and_a());
        let (qkv_stride, b_stride) = (all.matrix.rows, strength.matrix.rows);
        let qkv = rows(first, qkv_stride)?;
        let b = rows(third, b_stride)?;
        let (z, z_stride) = match gate {
            Some(z) => (rows(second, z.matrix.rows)?, z.matrix.rows),
            None => (qkv, qkv_stride),
        };
        let (a, a_stride) = match decay {
            Some(a) => (rows(fourth, a.matrix.rows)?, a.matrix.rows),
            None => (b, b_stride),
        };
        let places = Places::new(spec, gate.is_none(), decay.is_none());
        let channels = spec.conv_channels();
        Ok(DeltaArgs {
            qkv,
            z,
            b,
            a,
            conv: weights.conv.holding(spec.conv_kernel * channels, "the convolution")?,
            decay: weights.decay.holding(spec.value_heads, "the decay")?,
            dt_bias: weights.dt_bias.holding(spec.value_heads, "the bias of the decay")?,
            norm: weights.norm.holding(spec.value_dim, "the norm of heads")?,
            conv_state: states.conv.start(),
            states: states.states.start(),
            convolved: match step.single_rows {
                true => DevicePtr::NULL,
                false => work.convolved.holding(count * channels, "convolved rows")?,
            },
            out: work.out.holding(count * spec.values(), "the output of heads")?,
            sequences: step.sequences.start(),
            eps: self.eps,
            sequences_count: number(step.sequences.len()),
            key_heads: number(spec.key_heads),
            ratio: number(spec.value_heads / spec.key_heads),
            key_dim: number(spec.key_dim),
            value_dim: number(spec.value_dim),
            taps: number(spec.conv_kernel),
            channels: number(channels),
            qkv_stride,
            z_stride,
            b_stride,
            a_stride,
            q: places.q,
            k: places.k,
            v: places.v,
            z_place: places.z,
            b_place: places.b,
            a_place: places.a,
            head: places.head,
            unused: 0,
        })
    }
}

/// Where the parts of a head lie in a row of the projections.
struct Places {
    q: Place,
    k: Place,
    v: Place,
    z: Place,
    b: Place,
    a: Place,
    head: Place,
}

impl Places {
    /// `together`: everything of a key head in one piece, `[q, k, v r times, z r times]`; `gates_together`: `[b r, a r]`.
    fn new(spec: &DeltaSpec, together: bool, gates_together: bool) -> Self {
        let (key, value, ratio) = (spec.key_dim, spec.value_dim, spec.value_heads / spec.key_heads);
        let place = |base: usize, step: usize, index: usize| Place {
            base: number(base),
            step: number(step),
            index_step: number(index),
        };
        // Where value head `index` of a key head stands among all, in units of one head.
        let (step, index) = match spec.head_order {
            HeadOrder::Grouped => (ratio, 1),
            HeadOrder::Tiled => (1, spec.key_heads),
        };
        let head = place(0, step, index);
        let (q, k, v, z) = match together {
            true => {
                let all = 2 * key + 2 * ratio * value;
                let values = 2 * key;
                (
                    place(0, all, 0),
                    place(key, all, 0),
                    place(values, all, value),
                    place(values + ratio * value, all, value),
                )
            }
            false => (
                place(0, key, 0),
                place(spec.keys(), key, 0),
                place(2 * spec.keys(), step * value, index * value),
                place(0, step * value, index * value),
            ),
        };
        let (b, a) = match gates_together {
            true => (place(0, 2 * ratio, 1), place(ratio, 2 * ratio, 1)),
            false => (head, head),
        };
        Self { q, k, v, z, b, a, head }
    }
}
