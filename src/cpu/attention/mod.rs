//! Softmax attention over a paged KV cache.
//!
//! Queries of up to [`BLOCK_ROWS`] rows and of all heads that share a KV head pass over the pages together with an online
//! softmax (arXiv 1805.02867), so that a page is read once for all of them and no score matrix is kept. Where a step has
//! fewer such blocks than threads could use, the pages of a block are cut into parts, and who finishes the last part
//! merges them (as Flash-Decoding does).

mod block;
mod convert;
mod few;
mod kv;
mod softmax;
mod stored;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use block::{Block, Seen, Shape};
use kv::Span;
pub use kv::{KvCache, KvLayer};

use crate::cpu::Workspace;
use crate::cpu::int8::Int8Rows;
use crate::cpu::matmul::{Outputs, Processor};
use crate::cpu::pool::at_least;
use crate::cpu::rope::Rope;
use crate::model::{AttentionSpec, AttentionWeights, Batch, BatchSequence, ModelSpec};

/// Rows of one sequence that a task takes together.
const BLOCK_ROWS: usize = 16;
/// The same where there are few blocks, and the most rows whose pages are cut into parts: a part keeps its own sums.
const SMALL_BLOCK_ROWS: usize = 4;
/// Pages of a part at least, so that merging stays a small share of the work.
const PART_PAGES: usize = 2;
/// Tasks for each thread, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 3;

/// What an attention layer needs beside its weights and its cache.
pub struct Context<'a> {
    pub spec: &'a ModelSpec,
    pub processor: &'a Processor,
    pub rope: &'a Rope,
}

/// Rows `first..first + rows` (of the sequence) against one KV head.
struct Job<'a> {
    sequence: &'a BatchSequence<'a>,
    kv_head: usize,
    first: usize,
    rows: usize,
    /// Parts that are not done.
    left: AtomicUsize,
    /// What each part has seen; merged in their order, so that the result does not depend on who was first.
    seen: Vec<Mutex<Seen>>,
}

impl Job<'_> {
    /// Pages that hold what the last of the rows sees.
    fn pages(&self, page_tokens: usize) -> usize {
        (self.sequence.position + self.first + self.rows).div_ceil(page_tokens)
    }

    /// Parts that its pages are cut into.
    fn parts(&self) -> usize {
        self.seen.len()
    }

    /// The pages of part `part`.
    fn part(&self, part: usize, page_tokens: usize) -> Range<usize> {
        let pages = self.pages(page_tokens);
        part * pages / self.parts()..(part + 1) * pages / self.parts()
    }
}

/// The queries of a step, `[rows, heads, stride]`, each head's `head_dim` followed by its gate where there is one.
#[derive(Clone, Copy)]
struct Queries<'a> {
    data: &'a [f32],
    stride: usize,
}

impl<'a> Queries<'a> {
    fn head(self, row: usize, head: usize, spec: &AttentionSpec) -> &'a [f32] {
        &self.data[(row * spec.heads + head) * self.stride..][..self.stride]
    }
}

impl Context<'_> {
    /// `x += attention(normed)`.
    pub fn run(&self, weights: &AttentionWeights, kv: &mut KvLayer, batch: &Batch<'_>, work: &mut Workspace) {
        let (attention, rows, hidden) = (&self.spec.attention, work.rows, self.spec.hidden);
        let query_width = weights.query.matrix.rows();
        let kv_width = attention.kv_heads * attention.head_dim;
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

        self.processor.pool.run_chunks(keys, kv_width, |row, keys, scratch| {
            for head in keys.chunks_exact_mut(attention.head_dim) {
                let normed = at_least(&mut scratch.values, attention.head_dim);
                self.prepare(head, &weights.key_norm, row, normed);
                head.copy_from_slice(normed);
            }
        });
        kv.append(self.processor.isa, batch, keys, values);

        let mixed_width = attention.heads * attention.head_dim;
        let mixed = &mut work.mixed[..rows * mixed_width];
        let output = &weights.output.matrix;
        let quantise = self.processor.takes_int8(output) && Int8Rows::takes(attention.head_dim);
        let out = self.processor.outputs(&mut *mixed, mixed_width, quantise.then_some(&mut work.int8));
        let queries = Queries { data: queries, stride: query_width / attention.heads };
        self.attend(batch, kv, queries, &weights.query_norm, out);

        let inputs = match quantise {
            true => self.processor.quantised(mixed, mixed_width, &work.int8),
            false => self.processor.inputs(mixed, mixed_width, &mut work.int8, [output]),
        };
        self.processor.multiply([weights.output.product(inputs, &mut work.x[..rows * hidden]).added()]);
    }

    /// `out = rope(norm(head))` for a query or key of batch row `row`.
    fn prepare(&self, head: &[f32], norm: &[f32], row: usize, out: &mut [f32]) {
        self.processor.isa.rms_norm(head, norm, self.spec.norm_eps, out);
        self.rope.rotate(row, out);
    }

    /// The attention proper: `out[row, head] = softmax(q · keys / sqrt(head_dim)) values`, times the gate.
    fn attend(&self, batch: &Batch<'_>, kv: &KvLayer, queries: Queries<'_>, norm: &[f32], out: Outputs<'_>) {
        let threads = self.processor.pool.threads();
        let jobs = jobs(batch, self.spec.attention.kv_heads, kv.page_tokens(), threads);
        let tasks: Vec<(&Job<'_>, usize)> =
            jobs.iter().flat_map(|job| (0..job.parts()).map(move |part| (job, part))).collect();
        self.processor.pool.run(tasks.len(), |task, scratch| {
            let (job, part) = tasks[task];
            let head_dim = self.spec.attention.head_dim;
            let (more, query) = (&mut scratch.more, at_least(&mut scratch.values, head_dim));
            self.attend_part(job, part, kv, (queries, norm), (more, query), out);
        });
    }

    /// One part of a job; the last part to be done writes the result.
    fn attend_part(
        &self,
        job: &Job<'_>,
        part: usize,
        kv: &KvLayer,
        (queries, norm): (Queries<'_>, &[f32]),
        (scratch, query): (&mut Vec<f32>, &mut [f32]),
        out: Outputs<'_>,
    ) {
        let attention = &self.spec.attention;
        let (head_dim, page_tokens) = (attention.head_dim, kv.page_tokens());
        let group = attention.heads / attention.kv_heads;
        // Query `i` of the block is that of head `i % group` of row `i / group`.
        let place = |i: usize| (job.sequence.rows.start + job.first + i / group, job.kv_head * group + i % group);
        let shape = Shape { queries: job.rows * group, head_dim, page_tokens };
        let mut block = Block::new(shape, scratch);
        let scale = (head_dim as f32).powf(-0.5);
        for i in 0..shape.queries {
            let (row, head) = place(i);
            self.prepare(&queries.head(row, head, attention)[..head_dim], norm, row, query);
            query.iter_mut().for_each(|x| *x *= scale);
            block.set_query(i, query);
        }

        let first_position = job.sequence.position + job.first;
        let end = first_position + job.rows;
        let pages = job.part(part, page_tokens);
        let span = |page: usize| {
            let count = if pages.contains(&page) { page_tokens.min(end - page * page_tokens) } else { 0 };
            let index = job.sequence.memory.pages.get(page).copied().unwrap_or_default();
            Span { page: index, kv_head: job.kv_head, first: 0, count }
        };
        for page in pages.clone() {
            let visible = |i: usize| (first_position + i / group + 1).saturating_sub(page * page_tokens);
            block.attend(self.processor.isa, kv, [span(page), span(page + 1)], visible);
        }

        if job.parts() > 1 {
            *lock(&job.seen[part]) = block.seen();
            // Acquires what the other parts released before they counted themselves as done.
            if job.left.fetch_sub(1, Ordering::AcqRel) > 1 {
                return;
            }
            block.forget();
            job.seen.iter().for_each(|seen| block.merge(&lock(seen)));
        }
        for i in 0..shape.queries {
            let (row, head) = place(i);
            let result = block.result(i);
            if attention.gated {
                self.processor.isa.mul_sigmoid(result, &queries.head(row, head, attention)[head_dim..]);
            }
            // SAFETY: each head of a row is in one job, whose last part alone comes here.
            unsafe { out.put(row, head * head_dim, result) };
        }
    }
}

/// Cuts a step into jobs of about [`TASKS_PER_THREAD`] tasks a thread for each sequence: how a sequence is cut does not
/// depend on what runs beside it.
fn jobs<'a>(batch: &'a Batch<'_>, kv_heads: usize, page_tokens: usize, threads: usize) -> Vec<Job<'a>> {
    let wanted = threads * TASKS_PER_THREAD;
    let mut jobs = Vec::new();
    for sequence in &batch.sequences {
        let count = |block_rows: usize| kv_heads * sequence.rows.len().div_ceil(block_rows);
        let (block_rows, most_parts) = match count(BLOCK_ROWS) >= wanted || threads == 1 {
            true => (BLOCK_ROWS, 1),
            false => (SMALL_BLOCK_ROWS, wanted.div_ceil(count(SMALL_BLOCK_ROWS).max(1))),
        };
        for first in (0..sequence.rows.len()).step_by(block_rows) {
            let rows = block_rows.min(sequence.rows.len() - first);
            for kv_head in 0..kv_heads {
                let mut job = Job { sequence, kv_head, first, rows, left: AtomicUsize::new(0), seen: Vec::new() };
                let parts = most_parts.min(job.pages(page_tokens) / PART_PAGES).max(1);
                job.left = AtomicUsize::new(parts);
                job.seen.resize_with(parts, Mutex::default);
                jobs.push(job);
            }
        }
    }
    // Last blocks see the longest context: they go first, so that no worker is left with one at the end.
    jobs.reverse();
    jobs
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    // A task that panicked fails the step, whatever it left.
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
