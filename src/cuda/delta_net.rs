//! Gated DeltaNet between the projections: convolution, delta rule, gated norm.

use super::args::{DeltaArgs, Place, QuantisedRow, number};
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
const CONV_ROWS: usize = 16;

/// Rows of a chunk, and bytes of what the kernels keep of it for a key head and for a value head (`delta_net/chunk.cuh`).
const CHUNK: usize = 32;
const CHUNK_KEY_BYTES: usize = 4 * 2 * CHUNK * USUAL;
const CHUNK_HEAD_BYTES: usize = 4 * 2 * CHUNK * CHUNK + 2 * 4 * CHUNK;
/// Rows after which a state takes in those that it has left beside it, and values of one of them and of what is kept of all for a
/// value head (`delta_net/recent.cuh`).
const PERIOD: usize = 8;
const ROW: usize = 2 * USUAL;
pub(super) const RECENT: usize = (PERIOD - 1) * ROW + PERIOD + 8;
/// Blocks of the scan that share a value head.
const SCAN_PARTS: usize = 4;
/// What a block of the scan copies to shared memory while it works on what it copied before.
const STAGES: usize = 2;

pub struct DeltaNet {
    /// Rows of sequences that have one each: convolves by itself.
    step: Kernel,
    conv: Kernel,
    /// What follows the convolution of many rows.
    rows: Rows,
    spec: DeltaSpec,
    eps: f32,
}

/// The delta rule and the gated norm of many rows.
enum Rows {
    /// Heads of [`USUAL`] channels, chunk by chunk. A chunk costs what two rows cost one after another: sequences of a few
    /// rows have no kernel of their own.
    Chunks { prepare: Kernel, scan: Kernel, gate: Kernel },
    /// All others.
    Any(Kernel),
}

/// Bytes that the chunks of a step of up to `rows` rows and `sequences` sequences take.
pub(super) fn chunk_bytes(spec: &DeltaSpec, rows: usize, sequences: usize) -> usize {
    if !is_usual(spec) {
        return 0;
    }
    let heads = |count: usize, bytes: usize| count.saturating_mul(bytes);
    let bytes = heads(spec.key_heads, CHUNK_KEY_BYTES).saturating_add(heads(spec.value_heads, CHUNK_HEAD_BYTES));
    (rows / CHUNK).saturating_add(sequences).saturating_mul(bytes)
}

/// Values of the rows beside the states of `slots` sequences.
pub(super) fn recent_values(spec: &DeltaSpec, slots: usize) -> usize {
    if is_usual(spec) { slots.saturating_mul(spec.value_heads).saturating_mul(RECENT) } else { 0 }
}

fn is_usual(spec: &DeltaSpec) -> bool {
    spec.key_dim == USUAL && spec.value_dim == USUAL
}

/// States of one layer.
#[derive(Clone, Copy)]
pub struct DeltaStates {
    /// `[slots, taps, channels]`.
    pub conv: DeviceSlice<f32>,
    /// `[slots, value_heads, key_dim, value_dim]`.
    pub states: DeviceSlice<f32>,
    /// [`recent_values`]: what is not in `states` yet. Zeros: nothing.
    pub recent: DeviceSlice<f32>,
}

impl DeltaStates {
    /// The layer whose memory is `parts`.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for another plan's parts.
    pub(super) fn in_memory(memory: &DeviceMemory, parts: &StateParts) -> Result<Self> {
        Ok(Self {
            conv: memory.part(parts.conv)?,
            states: memory.part(parts.states)?,
            recent: memory.part(parts.recent)?,
        })
    }

    /// Queues zeros for slot `slot` of `slots`.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] beyond the end.
    pub fn clear(&self, stream: &Stream, slot: usize, slots: usize) -> Result<()> {
        [self.conv, self.states, self.recent].into_iter().try_for_each(|all| {
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
    /// [`chunk_bytes`] of the step.
    pub chunks: DeviceSlice<u8>,
    /// `[rows, value_heads, value_dim]`.
    pub out: DeviceSlice<f32>,
    /// What [`DeltaNet::quantises`] leaves in place of `out`.
    pub row: QuantisedRow,
}

impl DeltaNet {
    pub fn new(modules: &Modules, spec: &DeltaSpec, eps: f32) -> Result<Self> {
        let usual = is_usual(spec);
        let kernel = |name| modules.kernel(name);
        let step = if usual { modules.kernel_beside_others("delta_step")? } else { kernel("delta_any")? };
        let rows = match usual {
            true => Rows::Chunks {
                prepare: kernel("delta_prepare")?,
                scan: kernel("delta_scan")?,
                gate: kernel("delta_gate")?,
            },
            false => Rows::Any(kernel("delta_any_rows")?),
        };
        Ok(Self { step, conv: kernel("delta_conv")?, rows, spec: spec.clone(), eps })
    }

    /// Whether a step's output can be left quantised.
    pub fn quantises(&self, step: &Step) -> bool {
        is_usual(&self.spec) && step.single_rows
    }

    /// Bytes that `rows` rows of a sequence move of its states from `position` on: the recurrent one is read and written, and of
    /// the last inputs of the convolution, which stand in a ring, those are read that are needed and as many written as there are
    /// rows. A single row, of a step of such, is left beside the state, which takes in those of [`PERIOD`] steps at once. Behind a
    /// prompt fewer rows are there than are counted here, for the first [`PERIOD`] steps: a few percent of the state.
    pub fn state_bytes(&self, step: &Step, rows: usize, position: usize, slot: usize) -> u64 {
        let DeltaSpec { value_heads, key_dim, value_dim, conv_kernel, .. } = self.spec;
        let inputs = (conv_kernel.saturating_sub(1) + rows.min(conv_kernel)) * self.spec.conv_channels();
        let state = 4 * value_heads * key_dim * value_dim;
        let beside = 4 * value_heads * ROW;
        let moved = match (position + slot) % PERIOD {
            _ if !is_usual(&self.spec) || !step.single_rows || position == 0 => 2 * state,
            before if before == PERIOD - 1 => 2 * state + before * beside,
            before => state + (before + 1) * beside,
        };
        (4 * inputs + moved) as u64
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
        let sequences = step.sequences.len();
        let heads = self.spec.value_heads;
        let launch = |kernel: &Kernel, grid: [usize; 3], block: u32, shared: usize| {
            // SAFETY: the kernel's argument, of sizes that were checked; a step's slots are those of the states.
            unsafe { kernel.launch(grid.map(number), [block, 1, 1]).shared(number(shared)).arg(args).queue(stream) }
        };
        let any = |kernel: &Kernel| {
            launch(kernel, [heads, sequences, 1], 256, 4 * (2 * self.spec.key_dim + 2 * self.spec.value_dim + 64))
        };
        if step.single_rows {
            return match is_usual(&self.spec) {
                true => launch(&self.step, [heads, sequences, 1], 512, 0),
                false => any(&self.step),
            };
        }
        let channels = self.spec.conv_channels().div_ceil(256);
        launch(&self.conv, [channels, sequences, step.most_rows.div_ceil(CONV_ROWS)], 256, 0)?;
        match &self.rows {
            Rows::Any(kernel) => any(kernel),
            Rows::Chunks { prepare, scan, gate } => {
                launch(prepare, [self.spec.key_heads, step.most_rows.div_ceil(CHUNK), sequences], 256, 0)?;
                let shared = STAGES * (CHUNK_KEY_BYTES + CHUNK_HEAD_BYTES);
                launch(scan, [SCAN_PARTS, heads, sequences], 64, shared)?;
                launch(gate, [step.count(), 1, 1], 256, 0)
            }
        }
    }

    fn args(&self, step: &Step, weights: &DeltaWeights, states: &DeltaStates, work: &DeltaWork) -> Result<DeltaArgs> {
        let (spec, count) = (&self.spec, step.count());
        let rows = |data: DeviceSlice<f32>, width: u32| data.holding(count * width as usize, "projections");
        let [first, second, third, fourth] = work.projections;
        let ((all, gate), (strength, decay)) = (weights.inputs.parts(), weights.gates.parts());
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
            recent: states.recent.start(),
            convolved: match step.single_rows {
                true => DevicePtr::NULL,
                false => work.convolved.holding(count * channels, "convolved rows")?,
            },
            chunks: match step.single_rows {
                true => DevicePtr::NULL,
                false => work.chunks.holding(chunk_bytes(spec, count, step.sequences.len()), "chunks of rows")?,
            },
            out: work.out.holding(count * spec.values(), "the output of heads")?,
            row: work.row,
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
