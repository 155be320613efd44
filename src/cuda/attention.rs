//! Attention over the paged KV cache, between the projections.

use super::args::{AttentionArgs, number};
use super::device::DeviceInfo;
use super::memory::{DeviceMemory, DevicePtr, DeviceSlice};
use super::module::{Kernel, Modules};
use super::plan::{KvParts, head_blocks};
use super::step::Step;
use super::stream::Stream;
use super::weights::AttentionWeights;
use crate::error::Result;
use crate::model::{AttentionSpec, ModelSpec};
use crate::state::{KvFormat, StateLayout};

/// Query heads that share a block.
const HEADS: usize = 8;
/// Rows of one step whose contexts may be cut into parts.
const FEW_ROWS: usize = 16;
/// Positions of a part at least.
const PART: usize = 16;
/// Parts of a context at most.
const MOST_PARTS: usize = 64;
/// Values in front of the sums that a part leaves of a head.
pub(super) const PARTIAL_SUMS: usize = 4;

/// On tensor cores: warps of a block for one row at most, positions that one takes together, and positions that such a block
/// takes alone: parts have to be merged, which takes as long as so many more. Beyond them, positions of a part, or half as many.
const MOST_WARPS: usize = 12;
const POSITIONS: usize = 16;
const HALVES_PART: usize = 64;
/// Channels of a head that a block takes which merges parts.
const JOINED_CHANNELS: usize = 64;
const WARP: usize = 32;
/// Rows that a block takes where many do.
const ROWS_TOGETHER: usize = 8;
const ALONE: usize = 256;

pub struct Attention {
    /// Rows of sequences that have one each: appends their keys and values by itself.
    step: Kernel,
    /// The same on tensor cores, for usual heads in halves, and the warps of a block.
    halves: Option<(Kernel, usize)>,
    /// Merges what its blocks have seen of the parts of a context.
    join: Kernel,
    append: Kernel,
    rows: Kernel,
    /// The same on tensor cores.
    rows_halves: Option<Kernel>,
    multiprocessors: usize,
    spec: AttentionSpec,
    eps: f32,
    head_blocks: usize,
    page_tokens: usize,
}

/// Keys and values of one layer: `[pages, kv_heads, page_tokens, head_dim]`.
#[derive(Clone, Copy)]
pub struct KvLayer {
    pub keys: DeviceSlice<u8>,
    pub values: DeviceSlice<u8>,
    pub key_scales: DeviceSlice<u16>,
    pub value_scales: DeviceSlice<u16>,
}

impl KvLayer {
    /// The layer whose memory is `parts`.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for another plan's parts.
    pub(super) fn in_memory(memory: &DeviceMemory, parts: &KvParts) -> Result<Self> {
        Ok(Self {
            keys: memory.part(parts.keys)?,
            values: memory.part(parts.values)?,
            key_scales: memory.part(parts.key_scales)?,
            value_scales: memory.part(parts.value_scales)?,
        })
    }

    /// Bytes of keys and values of one position.
    pub fn bytes_per_position(&self, layout: &StateLayout) -> u64 {
        let all = self.keys.len() + self.values.len() + 2 * (self.key_scales.len() + self.value_scales.len());
        (all / (layout.pages * layout.page_tokens).max(1)) as u64
    }

    /// Queues small numbers for page `page` of `pages`: something that attention can read.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] beyond the end.
    pub fn invent(&self, stream: &Stream, page: usize, pages: usize) -> Result<()> {
        // 0x2c2c is 0.065 as a half, 0x2c2c2c2c 2.4e-12 as a float, and 44 steps of such a scale otherwise.
        for store in [self.keys, self.values] {
            let len = store.len() / pages.max(1);
            stream.fill(store.part(page * len, len)?, 0x2c)?;
        }
        for scales in [self.key_scales, self.value_scales] {
            let len = scales.len() / pages.max(1);
            stream.fill(scales.part(page * len, len)?, 0x2c)?;
        }
        Ok(())
    }
}

/// Activations that a layer works with.
#[derive(Clone, Copy)]
pub struct AttentionWork {
    /// `[rows, heads, head_dim or twice that]`.
    pub queries: DeviceSlice<f32>,
    /// `[rows, kv_heads, head_dim]`, as are the values.
    pub keys: DeviceSlice<f32>,
    pub values: DeviceSlice<f32>,
    pub angles: DeviceSlice<f32>,
    /// `[rows, heads, head_dim]`.
    pub out: DeviceSlice<f32>,
    pub partials: DeviceSlice<f32>,
    pub counters: DeviceSlice<u32>,
}

impl Attention {
    pub fn new(
        modules: &Modules,
        device: &DeviceInfo,
        spec: &ModelSpec,
        layout: &StateLayout,
        kv: KvFormat,
    ) -> Result<Self> {
        let by_head = |name: &str| modules.kernel(&format!("{name}_{kv}_{}", channels(spec.attention.head_dim)));
        Ok(Self {
            step: by_head("attention_step")?,
            halves: halves(modules, spec, kv)?,
            join: modules.kernel("attention_join")?,
            append: by_head("kv_append")?,
            rows: by_head("attention_rows")?,
            rows_halves: rows_halves(modules, spec, kv)?,
            multiprocessors: device.multiprocessors as usize,
            spec: spec.attention.clone(),
            eps: spec.norm_eps,
            head_blocks: head_blocks(spec),
            page_tokens: layout.page_tokens,
        })
    }

    /// Parts that the contexts of a step are cut into, so that every multiprocessor has work: a power of two, so that
    /// recorded steps serve for long.
    pub fn splits(&self, step: &Step) -> usize {
        if step.count() > FEW_ROWS {
            return 1;
        }
        let blocks = self.spec.kv_heads * self.head_blocks * step.count();
        let most = (self.multiprocessors / blocks.max(1)).clamp(1, MOST_PARTS);
        let wanted = match &self.halves {
            Some(_) if step.single_rows && step.longest <= ALONE => 1,
            Some(_) if step.single_rows => step.longest.div_ceil(HALVES_PART),
            _ => step.longest.div_ceil(PART),
        };
        let wanted = wanted.clamp(1, most).next_power_of_two();
        if wanted > most { wanted / 2 } else { wanted }
    }

    /// Appends a step's keys and values, and `out = softmax(q · keys / sqrt(head_dim)) values`, gated where the model is.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for memory that is too small.
    pub fn run(
        &self,
        stream: &Stream,
        step: &Step,
        weights: &AttentionWeights,
        kv: &KvLayer,
        work: &AttentionWork,
    ) -> Result<()> {
        let spec = &self.spec;
        let (count, splits) = (step.count(), self.splits(step));
        let query_stride = spec.head_dim * if spec.gated { 2 } else { 1 };
        let (heads, kv_width) = (count * spec.heads, count * spec.kv_heads * spec.head_dim);
        let pairs = spec.rope.dim / 2;
        let args = AttentionArgs {
            queries: work.queries.holding(heads * query_stride, "queries")?,
            keys: work.keys.holding(kv_width, "keys")?,
            values: work.values.holding(kv_width, "values")?,
            query_norm: weights.query_norm.holding(spec.head_dim, "the norm of queries")?,
            key_norm: weights.key_norm.holding(spec.head_dim, "the norm of keys")?,
            angles: work.angles.holding(2 * count * pairs, "rotary angles")?,
            key_pages: kv.keys.start(),
            value_pages: kv.values.start(),
            key_scales: kv.key_scales.start(),
            value_scales: kv.value_scales.start(),
            rows: step.rows.start(),
            sequences: step.sequences.start(),
            pages: step.pages.start(),
            out: work.out.holding(heads * spec.head_dim, "the output of attention")?,
            partials: match splits {
                1 => DevicePtr::NULL,
                _ => work.partials.holding(heads * splits * (spec.head_dim + PARTIAL_SUMS), "the sums of parts")?,
            },
            counters: work.counters.holding(count * spec.kv_heads * self.head_blocks, "counters of parts")?,
            eps: self.eps,
            count: number(count),
            heads: number(spec.heads),
            kv_heads: number(spec.kv_heads),
            head_dim: number(spec.head_dim),
            query_stride: number(query_stride),
            pairs: number(pairs),
            page_tokens: number(self.page_tokens),
            splits: number(splits),
            gated: spec.gated.into(),
        };
        let grid = [number(spec.kv_heads * self.head_blocks), number(splits), number(count)];
        let shared = number(shared_bytes(spec.head_dim));
        if let Some((kernel, warps)) = self.halves.as_ref().filter(|_| step.single_rows) {
            let shared = number(halves_bytes(spec.head_dim, *warps));
            // SAFETY: as below.
            unsafe { kernel.launch(grid, [32 * number(*warps), 1, 1]).shared(shared).arg(args).queue(stream)? };
            if splits == 1 {
                return Ok(());
            }
            let grid = [spec.head_dim.div_ceil(JOINED_CHANNELS), spec.heads, count].map(number);
            // SAFETY: as below.
            return unsafe { self.join.launch(grid, [256, 1, 1]).spread().arg(args).queue(stream) };
        }
        if step.single_rows {
            // SAFETY: the kernel's argument, of sizes that were checked; a step's pages are those of the cache.
            return unsafe { self.step.launch(grid, [256, 1, 1]).shared(shared).arg(args).queue(stream) };
        }
        let append = self.append.launch([number(spec.kv_heads), number(count), 1], [32, 1, 1]);
        // SAFETY: as above.
        unsafe { append.arg(args).queue(stream)? };
        if let Some(kernel) = self.rows_halves.as_ref().filter(|_| splits == 1) {
            let groups = number(step.most_rows.div_ceil(ROWS_TOGETHER));
            let grid = [grid[0], groups, number(step.sequences.len())];
            let launch = kernel.launch(grid, [256, 1, 1]).shared(number(rows_halves_bytes(spec.head_dim)));
            // SAFETY: as above.
            return unsafe { launch.arg(args).queue(stream) };
        }
        // SAFETY: as above.
        unsafe { self.rows.launch(grid, [256, 1, 1]).shared(shared).arg(args).queue(stream) }
    }
}

/// Channels of a head that a lane takes: the fewest that cover it, as kernels are called by them.
pub(super) fn channels(head_dim: usize) -> usize {
    head_dim.div_ceil(WARP).next_power_of_two()
}

/// The kernel for one row on tensor cores, where there is one for such heads and their store, and the warps of a block.
fn halves(modules: &Modules, spec: &ModelSpec, kv: KvFormat) -> Result<Option<(Kernel, usize)>> {
    let Some(dim) = halves_head(&spec.attention, kv) else { return Ok(None) };
    let kernel = modules.kernel(&format!("attention_halves_{dim}"))?;
    let warps = (1..=MOST_WARPS).rev().find(|warps| halves_bytes(dim, *warps) <= kernel.shared_memory);
    Ok(warps.map(|warps| (kernel, warps)))
}

/// The kernel for many rows on tensor cores, likewise.
fn rows_halves(modules: &Modules, spec: &ModelSpec, kv: KvFormat) -> Result<Option<Kernel>> {
    let Some(dim) = halves_head(&spec.attention, kv) else { return Ok(None) };
    let kernel = modules.kernel(&format!("attention_rows_halves_{dim}"))?;
    Ok((rows_halves_bytes(dim) <= kernel.shared_memory).then_some(kernel))
}

/// Channels of a head, where there are kernels on tensor cores for it. A lane's share of them must turn all the same way.
fn halves_head(spec: &AttentionSpec, kv: KvFormat) -> Option<usize> {
    let (dim, pairs) = (spec.head_dim, spec.rope.dim / 2);
    (kv == KvFormat::F16 && [128, 256].contains(&dim) && pairs.is_multiple_of(dim / 32)).then_some(dim)
}

/// Shared memory of a block for many rows: see `RowsShared` in `kernels/attention/attention_rows_halves.cu`.
pub(super) fn rows_halves_bytes(head_dim: usize) -> usize {
    let (tiles, queries, heads) = (2 * 2 * 2 * head_dim * POSITIONS, 2 * 2 * HEADS * head_dim, 4 * head_dim);
    tiles + ROWS_TOGETHER * (queries + heads)
}

/// Shared memory of a block of `warps` warps: see `HalvesShared` in `kernels/attention/attention_halves.cu`.
pub(super) fn halves_bytes(head_dim: usize, warps: usize) -> usize {
    let slot = 2 * 2 * head_dim * POSITIONS + 2 * 4 * HEADS;
    let (queries, heads, own) = (2 * 2 * HEADS * head_dim, 4 * (HEADS + 1) * head_dim, 2 * 2 * head_dim);
    let merging = 4 * HEADS * WARP + 2 * 4 * HEADS;
    queries + heads + own + merging + warps * slot
}

/// Shared memory of a block: eight queries, and a key.
fn shared_bytes(head_dim: usize) -> usize {
    4 * 9 * head_dim
}
