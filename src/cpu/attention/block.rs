//! A block of queries that passes over keys and values together.
//!
//! All queries that share a KV head, of one row or of several, read each key and value once. Queries lie side by side in
//! panels, so that scores need no horizontal sums; weights times values is a plain product. Few queries go another way:
//! see [`few`](super::few).

use super::few::{FEW, Queries, Stream};
use super::kv::{KvLayer, POSITIONS, Rows, Span};
use super::softmax::{LANES, Running};
use super::stored::CHUNK;
use crate::cpu::gemm::Gemm;
use crate::cpu::isa::Isa;
use crate::cpu::pool::at_least;

/// Sizes of a block.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Queries.
    pub queries: usize,
    pub head_dim: usize,
    /// Positions that are handed over together at most.
    pub page_tokens: usize,
}

impl Shape {
    /// Queries of a panel.
    fn width(self) -> usize {
        if self.queries <= LANES { LANES } else { 2 * LANES }
    }

    /// Whether keys and values are converted in registers.
    fn is_small(self) -> bool {
        self.queries <= FEW && self.head_dim.is_multiple_of(CHUNK)
    }

    fn few(self) -> Queries {
        Queries { count: self.queries, head_dim: self.head_dim, width: self.width() }
    }

    /// Queries with those that fill the last panel.
    fn padded(self) -> usize {
        self.queries.next_multiple_of(self.width())
    }
}

/// Queries, and what they have seen so far.
pub struct Block<'a> {
    shape: Shape,
    /// `[panels, head_dim, width]`; `[queries, head_dim]` where they are few.
    queries: &'a mut [f32],
    /// Weighted sums of values `[padded queries, head_dim]`.
    sums: &'a mut [f32],
    maxima: &'a mut [f32],
    totals: &'a mut [f32],
    corrections: &'a mut [f32],
    /// Scores, then weights, `[panels, page_tokens, width]`.
    scores: &'a mut [f32],
    /// Keys or values in float32.
    floats: &'a mut [f32],
}

impl<'a> Block<'a> {
    /// Queries that are all zero and have seen nothing, in `scratch`.
    pub fn new(shape: Shape, scratch: &'a mut Vec<f32>) -> Self {
        let (padded, head_dim) = (shape.padded(), shape.head_dim);
        let sizes = [padded * head_dim, padded * head_dim, padded, padded, padded, padded * shape.page_tokens];
        let rest = at_least(scratch, sizes.iter().sum::<usize>() + POSITIONS * head_dim);
        let (queries, rest) = rest.split_at_mut(sizes[0]);
        let (sums, rest) = rest.split_at_mut(sizes[1]);
        let (maxima, rest) = rest.split_at_mut(sizes[2]);
        let (totals, rest) = rest.split_at_mut(sizes[3]);
        let (corrections, rest) = rest.split_at_mut(sizes[4]);
        let (scores, floats) = rest.split_at_mut(sizes[5]);
        queries.fill(0.0);
        // Columns without a query are never written, and must not be slow or infinite.
        scores.fill(0.0);
        let mut block = Self { shape, queries, sums, maxima, totals, corrections, scores, floats };
        block.forget();
        block
    }

    /// Makes as if the queries had seen nothing.
    pub fn forget(&mut self) {
        self.sums.fill(0.0);
        self.maxima.fill(f32::NEG_INFINITY);
        self.totals.fill(0.0);
    }

    /// Sets query `index`, `head_dim` values that are scaled already.
    pub fn set_query(&mut self, index: usize, query: &[f32]) {
        let head_dim = self.shape.head_dim;
        if self.shape.is_small() {
            self.queries[index * head_dim..(index + 1) * head_dim].copy_from_slice(query);
            return;
        }
        let width = self.shape.width();
        let panel = &mut self.queries[index / width * width * head_dim..];
        for (row, x) in panel.chunks_exact_mut(width).zip(query) {
            row[index % width] = *x;
        }
    }

    /// Passes over the positions of `span`, of which query `i` sees the first `visible(i)`; `next` is what comes after it.
    pub fn attend(&mut self, isa: Isa, kv: &KvLayer, [span, next]: [Span; 2], visible: impl Fn(usize) -> usize) {
        let width = self.shape.width();
        // A stream of keys, then of values: what comes after each part.
        let keys_after =
            |part: Span| span.part_after(part).map_or_else(|| kv.values(span.first_part()), |p| kv.keys(p));
        let values_after =
            |part: Span| span.part_after(part).map_or_else(|| kv.keys(next.first_part()), |p| kv.values(p));
        for part in span.parts() {
            let (now, at) = (kv.keys(part), (part.first - span.first) * width);
            if self.shape.is_small() {
                let keys = Stream { now: now.loadable(isa, self.floats), next: keys_after(part) };
                isa.scores_of_few(self.shape.few(), self.queries, keys, &mut self.scores[at..]);
            } else {
                self.scores_of_many(isa, now, part.count, at);
            }
        }
        self.weigh_scores(isa, span.count, visible);
        for part in span.parts() {
            let (now, at) = (kv.values(part), (part.first - span.first) * width);
            if self.shape.is_small() {
                let values = Stream { now: now.loadable(isa, self.floats), next: values_after(part) };
                isa.weigh_for_few(self.shape.few(), &self.scores[at..], values, self.sums);
            } else {
                self.weigh_for_many(isa, now, part.count, at);
            }
        }
    }

    /// Scores of `count` keys, to value `at` of each panel.
    fn scores_of_many(&mut self, isa: Isa, keys: Rows<'_>, count: usize, at: usize) {
        let (head_dim, width) = (self.shape.head_dim, self.shape.width());
        let keys = keys.floats(isa, self.floats);
        let panels = self.queries.chunks_exact(width * head_dim);
        for (panel, scores) in panels.zip(self.scores.chunks_exact_mut(self.shape.page_tokens * width)) {
            let product = Gemm {
                rows: count,
                inner: head_dim,
                cols: width,
                a: keys,
                a_strides: [head_dim, 1],
                b: panel,
                b_stride: width,
                c_stride: width,
                scale: 0.0,
            };
            isa.gemm(&product, &mut scores[at..]);
        }
    }

    /// Adds `count` values, with the weights from value `at` of each panel.
    fn weigh_for_many(&mut self, isa: Isa, values: Rows<'_>, count: usize, at: usize) {
        let (head_dim, width) = (self.shape.head_dim, self.shape.width());
        let values = values.floats(isa, self.floats);
        let weights = self.scores.chunks_exact(self.shape.page_tokens * width);
        for (panel, (sums, weights)) in self.sums.chunks_mut(width * head_dim).zip(weights).enumerate() {
            let product = Gemm {
                rows: width.min(self.shape.queries - panel * width),
                inner: count,
                cols: head_dim,
                a: &weights[at..],
                a_strides: [1, width],
                b: values,
                b_stride: head_dim,
                c_stride: head_dim,
                scale: 1.0,
            };
            isa.gemm(&product, sums);
        }
    }

    /// Turns the scores of `count` positions into weights, and puts the sums of earlier ones right.
    fn weigh_scores(&mut self, isa: Isa, count: usize, visible: impl Fn(usize) -> usize) {
        let Shape { queries, head_dim, page_tokens } = self.shape;
        let width = self.shape.width();
        for (panel, scores) in self.scores.chunks_exact_mut(page_tokens * width).enumerate() {
            let scores = &mut scores[..count * width];
            let lanes = panel * width..(panel + 1) * width;
            for (lane, query) in lanes.clone().take_while(|query| *query < queries).enumerate() {
                for hidden in scores.chunks_exact_mut(width).skip(visible(query)) {
                    hidden[lane] = f32::NEG_INFINITY;
                }
            }
            let mut running = Running {
                maxima: &mut self.maxima[lanes.clone()],
                totals: &mut self.totals[lanes.clone()],
                corrections: &mut self.corrections[lanes.clone()],
            };
            isa.softmax_block(scores, width, &mut running);
            let sums = self.sums[lanes.start * head_dim..].chunks_exact_mut(head_dim);
            // Most maxima last for the rest of the context.
            for (sum, correction) in sums.zip(running.corrections).filter(|(_, correction)| **correction != 1.0) {
                sum.iter_mut().for_each(|x| *x *= *correction);
            }
        }
    }

    /// What the queries have seen, for [`Block::merge`].
    pub fn seen(&self) -> Seen {
        let Shape { queries, head_dim, .. } = self.shape;
        Seen {
            sums: self.sums[..queries * head_dim].to_vec(),
            maxima: self.maxima[..queries].to_vec(),
            totals: self.totals[..queries].to_vec(),
        }
    }

    /// Adds what the same queries have seen elsewhere.
    pub fn merge(&mut self, other: &Seen) {
        let head_dim = self.shape.head_dim;
        let theirs = other.sums.chunks_exact(head_dim).zip(&other.maxima).zip(&other.totals);
        let ours = self.sums.chunks_exact_mut(head_dim).zip(self.maxima.iter_mut()).zip(self.totals.iter_mut());
        for (((sum, maximum), total), ((other_sum, other_maximum), other_total)) in ours.zip(theirs) {
            let largest = maximum.max(*other_maximum);
            // Both may have seen nothing.
            let weight = |m: f32| if m == f32::NEG_INFINITY { 0.0 } else { (m - largest).exp() };
            let (ours, theirs) = (weight(*maximum), weight(*other_maximum));
            for (x, y) in sum.iter_mut().zip(other_sum) {
                *x = *x * ours + y * theirs;
            }
            *total = *total * ours + other_total * theirs;
            *maximum = largest;
        }
    }

    /// The result of query `index`, `head_dim` values.
    pub fn result(&mut self, index: usize) -> &mut [f32] {
        let head_dim = self.shape.head_dim;
        let sum = &mut self.sums[index * head_dim..(index + 1) * head_dim];
        let inverse = 1.0 / self.totals[index];
        sum.iter_mut().for_each(|x| *x *= inverse);
        sum
    }
}

/// What the queries of a block have seen of a part of the context.
#[derive(Debug, Default)]
pub struct Seen {
    sums: Vec<f32>,
    maxima: Vec<f32>,
    totals: Vec<f32>,
}
