//! Feed-forward halves: routed experts, the shared expert, and dense layers.
//!
//! Rows are grouped by expert, so that each expert's weights are decoded once for all rows that chose it. All experts of
//! a step run in two rounds of tasks: gate and up, then down.

use super::Workspace;
use super::kernels::{Isa, sigmoid, silu};
use super::matmul::{Inputs, matmul, tile_rows};
use super::pool::{Pool, SharedOutput, at_least};
use crate::error::{Error, Result};
use crate::model::{MoeSpec, MoeWeights, SwiGlu};

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

    /// Softmax over all experts in float32, the `top_k` best, renormalised where the model says so
    /// (`Qwen3NextTopKRouter` in transformers). Equal probabilities go to the lower index.
    fn route(&mut self, logits: &[f32], spec: &MoeSpec) -> Result<()> {
        self.choices.clear();
        let mut order: Vec<usize> = Vec::with_capacity(spec.experts);
        for (row, logits) in logits.chunks_exact(spec.experts).enumerate() {
            if logits.iter().any(|l| !l.is_finite()) {
                return Err(Error::Internal(format!("the router's logits of row {row} of this step are not finite")));
            }
            let maximum = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f32 = logits.iter().map(|l| (l - maximum).exp()).sum();
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
        Ok(())
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
    pub pool: &'a Pool,
    pub isa: Isa,
}

/// One expert and the rows it computes.
struct Job<'a> {
    weights: &'a SwiGlu,
    inputs: Vec<&'a [f32]>,
    /// Where its SwiGLU activations `[inputs, width]` start.
    hidden_at: usize,
    /// Where its outputs `[inputs, hidden]` start.
    out_at: usize,
}

impl Context<'_> {
    /// `x += experts(normed)`.
    pub fn moe(&self, weights: &MoeWeights, spec: &MoeSpec, work: &mut Workspace) -> Result<()> {
        let (rows, hidden) = (work.rows, self.hidden);
        let normed = &work.normed[..rows * hidden];
        let inputs = Inputs::all(normed, hidden);
        let [logits, shared_gates, ..] = &mut work.projections;
        let logits = &mut logits[..rows * spec.experts];
        matmul(self.pool, self.isa, &weights.router, None, inputs, logits);
        work.routing.route(logits, spec)?;

        let routing = &work.routing;
        let mut jobs: Vec<Job<'_>> = Vec::with_capacity(routing.groups.len() + 1);
        for group in &routing.groups {
            let picked = &routing.rows[group.first_entry..group.first_entry + group.entries];
            jobs.push(Job {
                weights: &weights.experts[group.expert],
                inputs: Inputs::picked(normed, hidden, picked).slices(),
                hidden_at: group.first_entry * spec.width,
                out_at: group.first_entry * hidden,
            });
        }
        let entries = routing.choices.len();
        let shared_at = entries * hidden;
        if let Some((shared, gate)) = &weights.shared {
            matmul(self.pool, self.isa, gate, None, inputs, &mut shared_gates[..rows]);
            let hidden_at = entries * spec.width;
            jobs.push(Job { weights: shared, inputs: inputs.slices(), hidden_at, out_at: shared_at });
        }
        self.run(&jobs, &mut work.expert_hidden, &mut work.expert_out);

        let (out, shared) = (&work.expert_out, weights.shared.is_some());
        self.pool.run_chunks(&mut work.x[..rows * hidden], hidden, |row, x, _| {
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
        Ok(())
    }

    /// `x += swiglu(normed)`.
    pub fn dense(&self, weights: &SwiGlu, work: &mut Workspace) {
        let (rows, hidden) = (work.rows, self.hidden);
        let inputs = Inputs::all(&work.normed[..rows * hidden], hidden).slices();
        let jobs = [Job { weights, inputs, hidden_at: 0, out_at: 0 }];
        self.run(&jobs, &mut work.expert_hidden, &mut work.expert_out);
        for (x, y) in work.x[..rows * hidden].iter_mut().zip(&work.expert_out) {
            *x += y;
        }
    }

    fn run(&self, jobs: &[Job<'_>], activations: &mut [f32], out: &mut [f32]) {
        let shared = SharedOutput::new(activations);
        self.each_tile(
            jobs,
            |job| job.weights.gate.rows(),
            |job, first, count, scratch| {
                let (n, width) = (job.inputs.len(), job.weights.gate.rows());
                let decoded = at_least(&mut scratch.weights, 4 * self.hidden);
                let (gate, up) = at_least(&mut scratch.values, 2 * count * n).split_at_mut(count * n);
                self.isa.project(&job.weights.gate, first, &job.inputs, decoded, gate);
                self.isa.project(&job.weights.up, first, &job.inputs, decoded, up);
                for (at, (gate, up)) in gate.iter().zip(up.iter()).enumerate() {
                    let (row, input) = (first + at / n, at % n);
                    shared.set(job.hidden_at + input * width + row, silu(*gate) * up);
                }
            },
        );
        let (activations, shared) = (&*activations, SharedOutput::new(out));
        self.each_tile(
            jobs,
            |job| job.weights.down.rows(),
            |job, first, count, scratch| {
                let (n, width) = (job.inputs.len(), job.weights.down.cols());
                let inputs = Inputs::all(&activations[job.hidden_at..job.hidden_at + n * width], width).slices();
                let decoded = at_least(&mut scratch.weights, 4 * width);
                let values = at_least(&mut scratch.values, count * n);
                self.isa.project(&job.weights.down, first, &inputs, decoded, values);
                for (at, value) in values.iter().enumerate() {
                    shared.set(job.out_at + (at % n) * self.hidden + first + at / n, *value);
                }
            },
        );
    }

    /// Calls `work(job, first weight row, rows, scratch)` for tiles that cover the `rows(job)` weight rows of every job.
    fn each_tile(
        &self,
        jobs: &[Job<'_>],
        rows: impl Fn(&Job<'_>) -> usize,
        work: impl Fn(&Job<'_>, usize, usize, &mut super::pool::Scratch) + Sync,
    ) {
        let total: usize = jobs.iter().map(&rows).sum();
        let tile = tile_rows(total, self.pool.threads());
        let tiles: Vec<(usize, usize, usize)> = jobs
            .iter()
            .enumerate()
            .flat_map(|(i, job)| {
                let rows = rows(job);
                (0..rows).step_by(tile).map(move |first| (i, first, tile.min(rows - first)))
            })
            .collect();
        self.pool.run(tiles.len(), |t, scratch| {
            let (job, first, count) = tiles[t];
            work(&jobs[job], first, count, scratch);
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
        routing.route(&logits, &spec).unwrap();
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
        routing.route(&[0.0; 4], &spec).unwrap();
        assert_eq!(routing.activations().collect::<Vec<_>>(), [0, 1]);
        assert!(routing.choices.iter().all(|c| (c.weight - 0.25).abs() < 1e-7));
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        let spec = MoeSpec { experts: 2, top_k: 1, width: 1, shared_width: 0, normalise_top_k: true };
        assert!(Routing::default().route(&[0.0, f32::NAN], &spec).is_err());
    }
}
