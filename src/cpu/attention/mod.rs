//! Softmax attention over a paged KV cache.
//!
//! Queries of up to [`BLOCK_ROWS`] rows and of all heads that share a KV head pass over the pages together with an online
//! softmax (arXiv 1805.02867), so that a page is read once for all of them and no score matrix is kept.

mod convert;
mod kv;

use crate::cpu::Workspace;
use crate::cpu::kernels::sigmoid;
use crate::cpu::matmul::Processor;
use crate::cpu::pool::{SharedOutput, at_least};
use crate::cpu::rope::{Angles, Rope};
use crate::model::{AttentionWeights, Batch, BatchSequence, ModelSpec};
use kv::Span;
pub use kv::{KvCache, KvLayer};

/// Rows of one sequence that a task takes together.
const BLOCK_ROWS: usize = 16;

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
        kv.append(self.processor.isa, batch, keys, values);

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
        let (head_dim, page_tokens) = (attention.head_dim, kv.page_tokens());
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
            let span = Span { page: index, kv_head: task.kv_head, first: 0, count: filled };
            let keys = kv.keys(self.processor.isa, span, key_buffer);
            let values = kv.values(self.processor.isa, span, value_buffer);
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
