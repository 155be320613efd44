//! Softmax attention over a paged KV cache.
//!
//! Queries of up to [`BLOCK_ROWS`] rows and of all heads that share a KV head pass over the pages together with an online
//! softmax (arXiv 1805.02867), so that a page is read once for all of them and no score matrix is kept.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::Workspace;
use super::kernels::sigmoid;
use super::matmul::Processor;
use super::memory::zeroed;
use super::pool::{SharedOutput, at_least};
use super::rope::{Angles, Rope};
use crate::error::{Error, Result};
use crate::model::{AttentionWeights, Batch, BatchSequence, LoadProgress, Mixer, ModelSpec};
use crate::state::StateLayout;

/// Rows of one sequence that a task takes together.
const BLOCK_ROWS: usize = 16;

/// Keys and values of all sequences, for every attention layer.
pub struct KvCache {
    /// One a trunk layer; `None` for layers without attention.
    layers: Vec<Option<KvLayer>>,
}

/// Keys and values of one layer: `[pages, kv_heads, page_tokens, head_dim]`.
pub struct KvLayer {
    page_tokens: usize,
    pages: usize,
    keys: Store,
    values: Store,
}

enum Store {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

impl Store {
    fn new(len: usize, exact: bool) -> Result<Self> {
        Ok(if exact { Store::F32(zeroed(len, 1, "KV cache")?) } else { Store::F16(zeroed(len, 1, "KV cache")?) })
    }

    fn name(&self) -> &'static str {
        match self {
            Store::F32(_) => "F32",
            Store::F16(_) => "F16",
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Store::F32(store) => size_of_val(store.as_slice()),
            Store::F16(store) => size_of_val(store.as_slice()),
        }
    }

    fn write(&mut self, at: usize, values: &[f32]) {
        match self {
            Store::F32(store) => store[at..at + values.len()].copy_from_slice(values),
            Store::F16(store) => store[at..at + values.len()].convert_from_f32_slice(values),
        }
    }

    /// `len` values from `at`, converted into `buffer` where they are not float32.
    fn read<'a>(&'a self, at: usize, len: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        match self {
            Store::F32(store) => &store[at..at + len],
            Store::F16(store) => {
                store[at..at + len].convert_to_f32_slice(&mut buffer[..len]);
                &buffer[..len]
            }
        }
    }
}

impl KvCache {
    /// Memory for every page of `layout`, in float32 where `exact`, else float16.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`], [`Error::Cancelled`] between two layers.
    pub fn new(spec: &ModelSpec, layout: &StateLayout, exact: bool, progress: &LoadProgress) -> Result<Self> {
        let sizes = [layout.page_tokens, spec.attention.kv_heads, spec.attention.head_dim];
        let len = sizes.iter().try_fold(layout.pages, |len, size| len.checked_mul(*size));
        let len = len.ok_or_else(|| Error::OutOfHostMemory { what: "KV cache".into(), bytes: u64::MAX })?;
        let layer = || -> Result<KvLayer> {
            progress.advance(0)?;
            let (keys, values) = (Store::new(len, exact)?, Store::new(len, exact)?);
            Ok(KvLayer { page_tokens: layout.page_tokens, pages: layout.pages, keys, values })
        };
        let layers = spec.layers.iter().map(|l| (l.mixer == Mixer::Attention).then(layer).transpose());
        Ok(Self { layers: layers.collect::<Result<_>>()? })
    }

    /// The number format of keys and values; `None` in a model without attention.
    pub fn type_name(&self) -> Option<&'static str> {
        self.layers.iter().flatten().next().map(|layer| layer.keys.name())
    }

    /// The cache of trunk layer `layer`.
    pub fn layer_mut(&mut self, layer: usize) -> Result<&mut KvLayer> {
        let found = self.layers.get_mut(layer).and_then(Option::as_mut);
        found.ok_or_else(|| Error::Internal(format!("layer {layer} has no KV cache")))
    }
}

/// What an attention layer needs beside its weights and its cache.
pub struct Context<'a> {
    pub spec: &'a ModelSpec,
    pub processor: &'a Processor,
    pub rope: &'a Rope,
}

/// One task: rows `first..first + rows` (of the sequence) against one KV head.
struct Task<'a> {
    sequence: &'a BatchSequence<'a>,
    kv_head: usize,
    first: usize,
    rows: usize,
}

impl Context<'_> {
    /// `x += attention(normed)`.
    pub fn run(&self, weights: &AttentionWeights, kv: &mut KvLayer, batch: &Batch<'_>, work: &mut Workspace) {
        let (attention, rows, hidden) = (&self.spec.attention, work.rows, self.spec.hidden);
        let head_dim = attention.head_dim;
        let query_width = weights.query.matrix.rows();
        let kv_width = attention.kv_heads * head_dim;
        let [queries, keys, values, ..] = &mut work.projections;
        let (queries, keys) = (&mut queries[..rows * query_width], &mut keys[..rows * kv_width]);
        let values = &mut values[..rows * kv_width];
        let linears = [&weights.query, &weights.key, &weights.value];
        let matrices = linears.map(|linear| &linear.matrix);
        let inputs = self.processor.inputs(&work.normed[..rows * hidden], hidden, &mut work.int8, matrices);
        self.processor.multiply([
            weights.query.product(inputs, &mut *queries),
            weights.key.product(inputs, &mut *keys),
            weights.value.product(inputs, &mut *values),
        ]);

        let angles: Vec<Angles> =
            batch.sequences.iter().flat_map(|s| (0..s.rows.len()).map(|i| self.rope.angles(s.position + i))).collect();
        let query_stride = query_width / attention.heads;
        self.processor.pool.run_chunks(queries, query_width, |row, queries, scratch| {
            self.prepare_heads(queries, query_stride, &weights.query_norm, &angles[row], &mut scratch.values);
        });
        self.processor.pool.run_chunks(keys, kv_width, |row, keys, scratch| {
            self.prepare_heads(keys, head_dim, &weights.key_norm, &angles[row], &mut scratch.values);
        });
        kv.append(batch, keys, values, head_dim);

        let mixed_width = attention.heads * head_dim;
        let tasks = self.tasks(batch);
        let out = SharedOutput::new(&mut work.mixed[..rows * mixed_width]);
        self.processor.pool.run(tasks.len(), |t, scratch| {
            self.attend(&tasks[t], kv, queries, query_stride, &mut scratch.values, out);
        });

        let mixed = &work.mixed[..rows * mixed_width];
        let inputs = self.processor.inputs(mixed, mixed_width, &mut work.int8, [&weights.output.matrix]);
        self.processor.multiply([weights.output.product(inputs, &mut work.x[..rows * hidden]).added()]);
    }

    /// Normalises and rotates each head of one row; heads start `stride` apart.
    fn prepare_heads(&self, row: &mut [f32], stride: usize, norm: &[f32], angles: &Angles, scratch: &mut Vec<f32>) {
        let head_dim = self.spec.attention.head_dim;
        let normed = at_least(scratch, head_dim);
        for head in row.chunks_exact_mut(stride) {
            let head = &mut head[..head_dim];
            self.processor.isa.rms_norm(head, norm, self.spec.norm_eps, normed);
            angles.rotate(normed);
            head.copy_from_slice(normed);
        }
    }

    fn tasks<'b>(&self, batch: &'b Batch<'b>) -> Vec<Task<'b>> {
        let kv_heads = self.spec.attention.kv_heads;
        let blocks =
            batch.sequences.iter().flat_map(|s| (0..s.rows.len()).step_by(BLOCK_ROWS).map(move |first| (s, first)));
        let task = |(sequence, first): (&'b BatchSequence<'b>, usize), kv_head| {
            let rows = BLOCK_ROWS.min(sequence.rows.len() - first);
            Task { sequence, kv_head, first, rows }
        };
        // Last blocks see the longest context: they go first, so that no worker is left with one at the end.
        let mut tasks: Vec<_> = blocks.flat_map(|block| (0..kv_heads).map(move |h| task(block, h))).collect();
        tasks.reverse();
        tasks
    }

    fn attend(
        &self,
        task: &Task<'_>,
        kv: &KvLayer,
        queries: &[f32],
        query_stride: usize,
        scratch: &mut Vec<f32>,
        out: SharedOutput<'_>,
    ) {
        let attention = &self.spec.attention;
        let (head_dim, page_tokens) = (attention.head_dim, kv.page_tokens);
        let group = attention.heads / attention.kv_heads;
        let lanes = task.rows * group;
        let scale = (head_dim as f32).powf(-0.5);

        let page_len = page_tokens * head_dim;
        let scratch = at_least(scratch, 2 * page_len + page_tokens + lanes * (head_dim + 2));
        let (key_buffer, scratch) = scratch.split_at_mut(page_len);
        let (value_buffer, scratch) = scratch.split_at_mut(page_len);
        let (scores, scratch) = scratch.split_at_mut(page_tokens);
        let (sums, scratch) = scratch.split_at_mut(lanes * head_dim);
        let (maxima, totals) = scratch.split_at_mut(lanes);
        let totals = &mut totals[..lanes];
        sums.fill(0.0);
        maxima.fill(f32::NEG_INFINITY);
        totals.fill(0.0);

        let query_width = attention.heads * query_stride;
        let query = |lane: usize| {
            let row = task.sequence.rows.start + task.first + lane / group;
            let head = task.kv_head * group + lane % group;
            let at = row * query_width + head * query_stride;
            (row, head, &queries[at..at + query_stride])
        };
        let first_position = task.sequence.position + task.first;
        let end = first_position + task.rows;
        for (page, &index) in task.sequence.memory.pages.iter().enumerate().take(end.div_ceil(page_tokens)) {
            let base = page * page_tokens;
            let filled = page_tokens.min(end - base);
            let at = (index as usize * attention.kv_heads + task.kv_head) * page_len;
            let keys = kv.keys.read(at, filled * head_dim, key_buffer);
            let values = kv.values.read(at, filled * head_dim, value_buffer);
            for lane in 0..lanes {
                let visible = (first_position + lane / group + 1).saturating_sub(base).min(filled);
                if visible == 0 {
                    continue;
                }
                let scores = &mut scores[..visible];
                self.processor.isa.scores(&query(lane).2[..head_dim], &keys[..visible * head_dim], scores);
                let maximum = scores.iter().fold(maxima[lane], |m, s| m.max(s * scale));
                let correction = (maxima[lane] - maximum).exp();
                for s in scores.iter_mut() {
                    *s = (*s * scale - maximum).exp();
                }
                let sum = &mut sums[lane * head_dim..(lane + 1) * head_dim];
                sum.iter_mut().for_each(|s| *s *= correction);
                self.processor.isa.weighted_sum(scores, &values[..visible * head_dim], sum);
                totals[lane] = totals[lane] * correction + scores.iter().sum::<f32>();
                maxima[lane] = maximum;
            }
        }
        for lane in 0..lanes {
            let (row, head, query) = query(lane);
            let at = (row * attention.heads + head) * head_dim;
            for (i, sum) in sums[lane * head_dim..(lane + 1) * head_dim].iter().enumerate() {
                let gate = if attention.gated { sigmoid(query[head_dim + i]) } else { 1.0 };
                out.set(at + i, sum / totals[lane] * gate);
            }
        }
    }
}

impl KvLayer {
    /// Bytes that the keys and values of one position occupy.
    pub fn bytes_per_position(&self) -> u64 {
        let positions = (self.pages * self.page_tokens).max(1);
        ((self.keys.bytes() + self.values.bytes()) / positions) as u64
    }

    /// Writes the rows' keys and values to the pages of their sequences.
    fn append(&mut self, batch: &Batch<'_>, keys: &[f32], values: &[f32], head_dim: usize) {
        let kv_width = keys.len() / batch.tokens.len().max(1);
        let kv_heads = kv_width / head_dim;
        for s in &batch.sequences {
            for (i, row) in s.rows.clone().enumerate() {
                let position = s.position + i;
                let page = s.memory.pages[position / self.page_tokens] as usize;
                for head in 0..kv_heads {
                    let at = ((page * kv_heads + head) * self.page_tokens + position % self.page_tokens) * head_dim;
                    let from = row * kv_width + head * head_dim;
                    self.keys.write(at, &keys[from..from + head_dim]);
                    self.values.write(at, &values[from..from + head_dim]);
                }
            }
        }
    }
}
