//! Feed-forward halves: routed experts, the shared expert, and dense layers.
//!
//! Rows are grouped by expert, so that each expert's weights are decoded once for all rows that chose it. All experts of
//! a step run in two rounds of tasks: gate and up, then down.

use std::ops::Range;
use std::time::Instant;

use super::Workspace;
use super::int8::Int8Rows;
use super::kernels::{sigmoid, silu};
use super::matmul::{Inputs, Processor, tile_rows};
use super::pool::{Scratch, SharedOutput};
use crate::model::{MoeSpec, MoeWeights, Operation, SwiGlu};

/// Which rows visit which experts.
#[derive(Default)]
pub struct Routing {
    /// The choices of each row, `top_k` a row, best first.
    choices: Vec<Choice>,
    /// Row of each entry, grouped by expert.
    rows: Vec<u32>,
    /// Experts that any row chose, with their entries.
    groups: Vec<Group>,
}

#[derive(Clone, Copy)]
struct Choice {
    expert: usize,
    weight: f32,
    /// Where the expert's output for this row will be found.
    entry: usize,
}

struct Group {
    expert: usize,
    first_entry: usize,
    entries: usize,
}

impl Routing {
    /// The expert of every (row, choice) of the last step.
    pub fn activations(&self) -> impl Iterator<Item = usize> {
        self.choices.iter().map(|c| c.expert)
    }

    /// The experts that any row of the last step visits.
    pub fn active(&self) -> impl Iterator<Item = usize> {
        self.groups.iter().map(|group| group.expert)
    }

    /// Softmax over all experts in float32, the `top_k` best, renormalised where the model says so
    /// (`Qwen3NextTopKRouter` in transformers). Equal probabilities go to the lower index. A row whose logits are not
    /// finite gets weights that are no numbers: its own stream fails when it samples, the others go on.
    fn route(&mut self, logits: &[f32], spec: &MoeSpec) {
        self.choices.clear();
        let mut order: Vec<usize> = Vec::with_capacity(spec.experts);
        for logits in logits.chunks_exact(spec.experts) {
            let maximum = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let finite = logits.iter().all(|l| l.is_finite());
            let total: f32 = if finite { logits.iter().map(|l| (l - maximum).exp()).sum() } else { f32::NAN };
            order.clear();
            order.extend(0..spec.experts);
            let better = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
            if spec.top_k < spec.experts {
                order.select_nth_unstable_by(spec.top_k, better);
                order.truncate(spec.top_k);
            }
            order.sort_unstable_by(better);
            let probability = |e: usize| (logits[e] - maximum).exp() / total;
            let norm = if spec.normalise_top_k { order.iter().map(|e| probability(*e)).sum() } else { 1.0 };
            self.choices.extend(order.iter().map(|&expert| Choice {
                expert,
                weight: probability(expert) / norm,
                entry: 0,
            }));
        }
        self.group(spec);
    }

    fn group(&mut self, spec: &MoeSpec) {
        let mut next = vec![0usize; spec.experts + 1];
        for choice in &self.choices {
            next[choice.expert + 1] += 1;
        }
        self.groups.clear();
        for expert in 0..spec.experts {
            let entries = next[expert + 1];
            next[expert + 1] += next[expert];
            if entries > 0 {
                self.groups.push(Group { expert, first_entry: next[expert], entries });
            }
        }
        self.rows.clear();
        self.rows.resize(self.choices.len(), 0);
        for (i, choice) in self.choices.iter_mut().enumerate() {
            choice.entry = next[choice.expert];
            next[choice.expert] += 1;
            self.rows[choice.entry] = (i / spec.top_k) as u32;
        }
    }
}

/// What a feed-forward half needs beside its weights.
pub struct Context<'a> {
    pub hidden: usize,
    pub processor: &'a Processor,
}

/// One expert and the rows it computes.
struct Job<'a> {
    weights: &'a SwiGlu,
    inputs: Inputs<'a>,
    /// The rows of `inputs`, which all tiles of the job share.
    slices: Vec<&'a [f32]>,
    /// Where its SwiGLU activations `[inputs, width]` start.
    hidden_at: usize,
    /// Where its outputs `[inputs, hidden]` start.
    out_at: usize,
}

impl<'a> Job<'a> {
    fn new(weights: &'a SwiGlu, inputs: Inputs<'a>, hidden_at: usize, out_at: usize) -> Self {
        Self { weights, slices: inputs.slices(), inputs, hidden_at, out_at }
    }
}

impl Context<'_> {
    /// `x += experts(normed)`.
    pub fn moe(&self, weights: &MoeWeights, spec: &MoeSpec, work: &mut Workspace) {
        let start = Instant::now();
        let (rows, hidden) = (work.rows, self.hidden);
        let inputs = self.processor.inputs(&work.normed[..rows * hidden], hidden, &mut work.int8);
        let [logits, shared_gates, ..] = &mut work.projections;
        let logits = &mut logits[..rows * spec.experts];
        self.processor.matmul(&weights.router, None, inputs.exact(), logits);
        work.routing.route(logits, spec);
        work.costs[Operation::Router].time += start.elapsed();

        let routing = &work.routing;
        let mut jobs: Vec<Job<'_>> = Vec::with_capacity(routing.groups.len() + 1);
        for group in &routing.groups {
            let picked = &routing.rows[group.first_entry..group.first_entry + group.entries];
            let (hidden_at, out_at) = (group.first_entry * spec.width, group.first_entry * hidden);
            jobs.push(Job::new(&weights.experts[group.expert], inputs.picked(picked), hidden_at, out_at));
        }
        let entries = routing.choices.len();
        let shared_at = entries * hidden;
        if let Some((shared, gate)) = &weights.shared {
            self.processor.matmul(gate, None, inputs.exact(), &mut shared_gates[..rows]);
            jobs.push(Job::new(shared, inputs, entries * spec.width, shared_at));
        }
        let activations = &mut work.expert_hidden[..entries * spec.width + rows * spec.shared_width];
        self.gate_and_up(&jobs, activations);
        self.down(&jobs, activations, &mut work.hidden_int8, &mut work.expert_out);

        let (out, shared) = (&work.expert_out, weights.shared.is_some());
        self.processor.pool.run_chunks(&mut work.x[..rows * hidden], hidden, |row, x, _| {
            let mut add = |weight: f32, at: usize| {
                for (x, y) in x.iter_mut().zip(&out[at..at + hidden]) {
                    *x += weight * y;
                }
            };
            for choice in &routing.choices[row * spec.top_k..(row + 1) * spec.top_k] {
                add(choice.weight, choice.entry * hidden);
            }
            if shared {
                add(sigmoid(shared_gates[row]), shared_at + row * hidden);
            }
        });
    }

    /// `x += swiglu(normed)`.
    pub fn dense(&self, weights: &SwiGlu, work: &mut Workspace) {
        let (rows, hidden) = (work.rows, self.hidden);
        let inputs = self.processor.inputs(&work.normed[..rows * hidden], hidden, &mut work.int8);
        let jobs = [Job::new(weights, inputs, 0, 0)];
        let activations = &mut work.expert_hidden[..rows * weights.gate.rows()];
        self.gate_and_up(&jobs, activations);
        self.down(&jobs, activations, &mut work.hidden_int8, &mut work.expert_out);
        for (x, y) in work.x[..rows * hidden].iter_mut().zip(&work.expert_out) {
            *x += y;
        }
    }

    /// `activations = silu(gate(x)) * up(x)` of every job.
    fn gate_and_up(&self, jobs: &[Job<'_>], activations: &mut [f32]) {
        let shared = SharedOutput::new(activations);
        let rows = |job: &Job<'_>| job.weights.gate.rows();
        self.each_tile(jobs, rows, |job, rows, scratch| {
            let (n, width) = (job.slices.len(), job.weights.gate.rows());
            let gate = self.processor.project(&job.weights.gate, rows.clone(), &job.inputs, &job.slices, scratch);
            let len = gate.len();
            // Both products use the same scratch: the first one's moves aside.
            std::mem::swap(&mut scratch.values, &mut scratch.more);
            self.processor.project(&job.weights.up, rows.clone(), &job.inputs, &job.slices, scratch);
            for (at, (gate, up)) in scratch.more[..len].iter().zip(&scratch.values[..len]).enumerate() {
                let (row, input) = (rows.start + at / n, at % n);
                shared.set(job.hidden_at + input * width + row, silu(*gate) * up);
            }
        });
    }

    /// `out = down(activations)` of every job.
    fn down(&self, jobs: &[Job<'_>], activations: &[f32], int8: &mut Int8Rows, out: &mut [f32]) {
        let quantised = jobs.iter().all(|job| Int8Rows::takes(job.weights.down.cols()));
        let all = match quantised {
            true => self.processor.inputs(activations, activations.len(), int8),
            false => Inputs::all(activations, activations.len()),
        };
        let inputs = |job: &Job<'_>| all.part(job.hidden_at, job.slices.len(), job.weights.down.cols());
        let jobs: Vec<_> =
            jobs.iter().map(|job| Job::new(job.weights, inputs(job), job.hidden_at, job.out_at)).collect();
        let shared = SharedOutput::new(out);
        let rows = |job: &Job<'_>| job.weights.down.rows();
        self.each_tile(&jobs, rows, |job, rows, scratch| {
            let n = job.slices.len();
            let values = self.processor.project(&job.weights.down, rows.clone(), &job.inputs, &job.slices, scratch);
            for (at, value) in values.iter().enumerate() {
                shared.set(job.out_at + (at % n) * self.hidden + rows.start + at / n, *value);
            }
        });
    }

    /// Calls `work(job, weight rows, scratch)` for tiles that cover the `rows(job)` weight rows of every job.
    fn each_tile(
        &self,
        jobs: &[Job<'_>],
        rows: impl Fn(&Job<'_>) -> usize,
        work: impl Fn(&Job<'_>, Range<usize>, &mut Scratch) + Sync,
    ) {
        let total: usize = jobs.iter().map(&rows).sum();
        let tile = tile_rows(total, self.processor.pool.threads());
        let tiles: Vec<(usize, Range<usize>)> = jobs
            .iter()
            .enumerate()
            .flat_map(|(i, job)| {
                let rows = rows(job);
                (0..rows).step_by(tile).map(move |first| (i, first..rows.min(first + tile)))
            })
            .collect();
        self.processor.pool.run(tiles.len(), |t, scratch| {
            let (job, rows) = &tiles[t];
            work(&jobs[*job], rows.clone(), scratch);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_grouped_by_expert_and_every_choice_finds_its_entry() {
        let spec = MoeSpec { experts: 4, top_k: 2, width: 1, shared_width: 0, normalise_top_k: true };
        let mut routing = Routing::default();
        let logits = [0.0, 1.0, 2.0, -1.0, 3.0, 0.0, 2.0, 0.0, 0.0, 5.0, 0.0, 4.0];
        routing.route(&logits, &spec);
        let chosen: Vec<_> = routing.activations().collect();
        assert_eq!(chosen, [2, 1, 0, 2, 1, 3]);
        for (i, choice) in routing.choices.iter().enumerate() {
            assert_eq!(routing.rows[choice.entry] as usize, i / 2);
            let group = routing.groups.iter().find(|g| g.expert == choice.expert).unwrap();
            assert!((group.first_entry..group.first_entry + group.entries).contains(&choice.entry));
        }
        for pair in routing.choices.chunks(2) {
            assert!((pair[0].weight + pair[1].weight - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn weights_are_plain_probabilities_without_normalisation_and_ties_go_to_the_lower_index() {
        let spec = MoeSpec { experts: 4, top_k: 2, width: 1, shared_width: 0, normalise_top_k: false };
        let mut routing = Routing::default();
        routing.route(&[0.0; 4], &spec);
        assert_eq!(routing.activations().collect::<Vec<_>>(), [0, 1]);
        assert!(routing.choices.iter().all(|c| (c.weight - 0.25).abs() < 1e-7));
    }

    #[test]
    fn logits_that_are_not_finite_fail_their_own_row_only() {
        for normalise_top_k in [true, false] {
            let spec = MoeSpec { experts: 3, top_k: 2, width: 1, shared_width: 0, normalise_top_k };
            let mut routing = Routing::default();
            let (nan, infinity) = (f32::NAN, f32::INFINITY);
            routing.route(&[0.0, nan, 1.0, 0.0, 1.0, 2.0, infinity, 0.0, 0.0, nan, nan, nan], &spec);
            let weights: Vec<bool> = routing.choices.iter().map(|c| c.weight.is_nan()).collect();
            assert_eq!(weights, [true, true, false, false, true, true, true, true]);
        }
    }
}
