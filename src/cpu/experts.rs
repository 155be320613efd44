//! Feed-forward halves: routed experts, the shared expert, and dense layers.
//!
//! Rows are grouped by expert, so that each expert's weights are decoded once for all rows that chose it. All experts of
//! a step run in two rounds of tasks: gate and up, whose tasks leave their part of the activations quantised; then down,
//! whose tasks each own some columns of the residual stream and add every expert's share to them.

use std::time::Instant;

use super::Workspace;
use super::int8::{Ahead, Int8Rows, RowGroup};
use super::isa::Isa;
use super::kernels::{kernel, sigmoid};
use super::matmul::{Inputs, Processor, Product, few_strips, in_row_order, strips_per_task};
use super::pool::{Pool, SharedOutput, at_least};
use super::vector_math::fma;
use crate::model::{MoeSpec, MoeWeights, Operation, SwiGlu};
use crate::quant::packed::{ROWS, TILE};

/// Strips that make up a whole tile of the next product's columns.
const STRIPS_OF_A_TILE: usize = TILE / ROWS;
/// Jobs of a thread from which on tasks are whole jobs, but for those that have far more rows than others.
const JOBS_PER_THREAD: usize = 6;
/// Tasks of a thread that have as much work as the largest, then.
const TASKS_PER_THREAD: usize = 12;
/// Strips of a task of the last product at least: its runs in each expert should not be too short.
const STRIPS_OF_DOWN: usize = 2;

/// Which rows visit which experts.
#[derive(Default)]
pub struct Routing {
    /// The choices of each row, `top_k` a row, best first.
    choices: Vec<Choice>,
    /// Row of each entry, grouped by expert.
    rows: Vec<u32>,
    /// Share of each entry's output in its row's sum.
    weights: Vec<f32>,
    /// Experts that any row chose, with their entries.
    groups: Vec<Group>,
}

#[derive(Clone, Copy, Default)]
struct Choice {
    expert: usize,
    weight: f32,
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
    fn route(&mut self, logits: &[f32], spec: &MoeSpec, pool: &Pool) {
        self.choices.clear();
        self.choices.resize(logits.len() / spec.experts * spec.top_k, Choice::default());
        pool.run_chunks(&mut self.choices, spec.top_k, |row, choices, _| {
            let logits = &logits[row * spec.experts..(row + 1) * spec.experts];
            let finite = logits.iter().all(|l| l.is_finite());
            best(logits, choices);
            let maximum = choices.first().map_or(0.0, |choice| logits[choice.expert]);
            let share = |expert: usize| (logits[expert] - maximum).exp();
            let total: f32 = match (finite, spec.normalise_top_k) {
                (false, _) => f32::NAN,
                (true, true) => choices.iter().map(|choice| share(choice.expert)).sum(),
                (true, false) => (0..spec.experts).map(share).sum(),
            };
            choices.iter_mut().for_each(|choice| choice.weight = share(choice.expert) / total);
        });
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
        self.rows.resize(self.choices.len(), 0);
        self.weights.resize(self.choices.len(), 0.0);
        for (i, choice) in self.choices.iter().enumerate() {
            let entry = next[choice.expert];
            next[choice.expert] += 1;
            self.rows[entry] = (i / spec.top_k) as u32;
            self.weights[entry] = choice.weight;
        }
    }
}

/// Puts the experts of the largest logits into `choices`, best first; of equal ones those with the lower index.
fn best(logits: &[f32], choices: &mut [Choice]) {
    let better = |a: f32, b: f32| a.total_cmp(&b).is_gt();
    let mut found = 0;
    for (expert, &logit) in logits.iter().enumerate() {
        if found == choices.len() {
            match choices.last() {
                Some(worst) if better(logit, logits[worst.expert]) => found -= 1,
                _ => continue,
            }
        }
        let at = choices[..found].partition_point(|choice| !better(logit, logits[choice.expert]));
        choices[at..=found].rotate_right(1);
        choices[at].expert = expert;
        found += 1;
    }
}

/// Where the sums of a block of inputs go: `totals[rows[i]][s] += scales[i] * sums[s][i]` for each of the strips `s`.
pub struct Scatter<'a> {
    first: usize,
    /// `None`: from `first` on, in order.
    rows: Option<&'a [u32]>,
    /// `None`: 1.
    scales: Option<&'a [f32]>,
    strips: usize,
}

kernel! {
    /// Adds `sums` to `totals` as `to` tells.
    scatter = scatter_body(sums: &[[f32; ROWS]], to: &Scatter<'_>, totals: &mut [[f32; ROWS]])
}

#[inline(always)]
fn scatter_body<const FMA: bool>(sums: &[[f32; ROWS]], to: &Scatter<'_>, totals: &mut [[f32; ROWS]]) {
    let inputs = sums.len() / to.strips.max(1);
    for i in 0..inputs {
        let row = to.rows.map_or(to.first + i, |rows| rows[i] as usize);
        let scale = to.scales.map_or(1.0, |scales| scales[i]);
        let totals = &mut totals[row * to.strips..][..to.strips];
        for (total, sums) in totals.iter_mut().zip(sums[i..].iter().step_by(inputs)) {
            for slot in 0..ROWS {
                total[slot] = fma::<FMA>(scale, sums[slot], total[slot]);
            }
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
    /// Where its SwiGLU activations `[inputs, width]` start.
    hidden_at: usize,
    /// Which row each input is; `None`: all, in order.
    rows: Option<&'a [u32]>,
    /// What each input's output is multiplied with; `None`: 1.
    scales: Option<&'a [f32]>,
}

impl Context<'_> {
    /// `x += experts(normed)`.
    pub fn moe(&self, weights: &MoeWeights, spec: &MoeSpec, work: &mut Workspace) {
        let start = Instant::now();
        let (rows, hidden) = (work.rows, self.hidden);
        let any = weights.experts.iter().take(1).chain(weights.shared.iter().map(|(shared, _)| shared));
        let first_half = any.flat_map(|expert| [&expert.gate, &expert.up]);
        let inputs = self.processor.inputs(&work.normed[..rows * hidden], hidden, &mut work.int8, first_half);
        let [logits, shared_gates, ..] = &mut work.projections;
        let (logits, shared_gates) = (&mut logits[..rows * spec.experts], &mut shared_gates[..rows]);
        match &weights.shared {
            Some((_, gate)) => {
                self.processor.multiply([
                    Product::new(&weights.router, inputs.exact(), &mut *logits),
                    Product::new(gate, inputs.exact(), &mut *shared_gates),
                ]);
                shared_gates.iter_mut().for_each(|gate| *gate = sigmoid(*gate));
            }
            None => self.processor.matmul(&weights.router, inputs.exact(), logits),
        }
        work.routing.route(logits, spec, &self.processor.pool);
        work.costs[Operation::Router].time += start.elapsed();

        let routing = &work.routing;
        let entries = routing.choices.len();
        let mut jobs: Vec<Job<'_>> = Vec::with_capacity(routing.groups.len() + 1);
        for group in &routing.groups {
            let entries = group.first_entry..group.first_entry + group.entries;
            let (picked, hidden_at) = (&routing.rows[entries.clone()], group.first_entry * spec.width);
            jobs.push(Job {
                weights: &weights.experts[group.expert],
                inputs: inputs.picked(picked),
                hidden_at,
                rows: Some(picked),
                scales: Some(&routing.weights[entries]),
            });
        }
        if let Some((shared, _)) = &weights.shared {
            let hidden_at = entries * spec.width;
            jobs.push(Job { weights: shared, inputs, hidden_at, rows: None, scales: Some(shared_gates) });
        }
        let len = entries * spec.width + rows * spec.shared_width;
        self.run(&jobs, &mut work.expert_hidden[..len], &mut work.hidden_int8, &mut work.x[..rows * hidden]);
    }

    /// `x += swiglu(normed)`.
    pub fn dense(&self, weights: &SwiGlu, work: &mut Workspace) {
        let (rows, hidden) = (work.rows, self.hidden);
        let first_half = [&weights.gate, &weights.up];
        let inputs = self.processor.inputs(&work.normed[..rows * hidden], hidden, &mut work.int8, first_half);
        let jobs = [Job { weights, inputs, hidden_at: 0, rows: None, scales: None }];
        let len = rows * weights.gate.rows();
        self.run(&jobs, &mut work.expert_hidden[..len], &mut work.hidden_int8, &mut work.x[..rows * hidden]);
    }

    /// `x += scale * down(silu(gate(input)) * up(input))` for every job.
    fn run(&self, jobs: &[Job<'_>], activations: &mut [f32], int8: &mut Int8Rows, x: &mut [f32]) {
        let wants_int8 = |job: &Job<'_>| self.processor.takes_int8(&job.weights.down);
        let (integer, float) = (jobs.iter().any(wants_int8), !jobs.iter().all(wants_int8));
        self.gate_and_up(jobs, activations, integer.then_some(&mut *int8), float);
        self.down(jobs, activations, integer.then_some(&*int8), x);
    }

    /// `activations = silu(gate(input)) * up(input)` of every job: as int8 for jobs whose last product takes that, and in
    /// float32 for all where `float`.
    fn gate_and_up(&self, jobs: &[Job<'_>], activations: &mut [f32], int8: Option<&mut Int8Rows>, float: bool) {
        let int8 = int8.map(|int8| int8.share(activations.len()));
        let activations = SharedOutput::new(activations);
        let strips = |job: &Job<'_>| job.weights.gate.rows().div_ceil(ROWS);
        let threads = self.processor.pool.threads();
        let inputs = jobs.iter().map(|job| job.inputs.len()).max().unwrap_or(0);
        let all = jobs.iter().map(strips).sum();
        let per_task = strips_per_task(all, inputs, threads, STRIPS_OF_A_TILE);
        // Each task gathers its rows first: whole experts where there are many, but none with far more rows than others.
        let work = |job: &Job<'_>| job.inputs.len() * strips(job);
        let most = jobs.iter().map(work).sum::<usize>() / (threads * TASKS_PER_THREAD);
        let per_task = |job: &Job<'_>| match jobs.len() >= JOBS_PER_THREAD * threads {
            true => (most / job.inputs.len().max(1)).clamp(1, strips(job)).next_multiple_of(STRIPS_OF_A_TILE),
            false => per_task,
        };
        let mut tasks = Vec::with_capacity(all.div_ceil(STRIPS_OF_A_TILE));
        for job in jobs {
            let (strips, per_task) = (strips(job), per_task(job));
            tasks.extend((0..strips).step_by(per_task).map(|first| (job, first..strips.min(first + per_task))));
        }
        self.processor.pool.run(tasks.len(), |task, scratch| {
            let (job, strips) = (tasks[task].0, tasks[task].1.clone());
            let (gate, up, width) = (&job.weights.gate, &job.weights.up, job.weights.gate.rows());
            let after = tasks.get(task + 1).map_or(&[][..], |(job, strips)| job.weights.gate.strips_from(strips.start));
            let int8 = int8.filter(|_| self.processor.takes_int8(&job.weights.down));
            let group = self.hidden(job);
            let (mut gates, mut ups) = (std::mem::take(&mut scratch.strip), std::mem::take(&mut scratch.second_strip));
            let (mut values, mut products) = (std::mem::take(&mut scratch.more), std::mem::take(&mut scratch.values));
            let mut gathered = std::mem::take(&mut scratch.panels);
            self.processor.for_blocks([gate, up], &job.inputs, &mut gathered, |block, operand| {
                // Two strips make a tile of the next product's columns, which is quantised as a whole.
                for piece in few_strips(strips.clone(), block.len(), STRIPS_OF_A_TILE) {
                    let next = if piece.end < strips.end { gate.strips_from(piece.end) } else { after };
                    let ahead = Ahead { run: piece.len() * gate.strip_bytes(), next: up.strips_from(piece.start) };
                    self.processor.strips(gate, piece.clone(), operand, ahead, scratch, &mut gates);
                    let ahead = Ahead { run: piece.len() * up.strip_bytes(), next };
                    self.processor.strips(up, piece.clone(), operand, ahead, scratch, &mut ups);
                    let products = at_least(&mut products, gates.len() * ROWS);
                    self.processor.isa.silu_mul(gates.as_flattened(), ups.as_flattened(), products);
                    let products = products.as_chunks::<ROWS>().0;
                    let values = at_least(&mut values, piece.len() * ROWS);
                    for (i, input) in block.clone().enumerate() {
                        for (values, strip) in values.as_chunks_mut().0.iter_mut().zip(products.chunks(block.len())) {
                            *values = in_row_order(&strip[i]);
                        }
                        let column = piece.start * ROWS;
                        if float {
                            let len = values.len().min(width - column);
                            // SAFETY: each strip of a job is in one task.
                            let out = unsafe { activations.part(job.hidden_at + input * width + column, len) };
                            out.copy_from_slice(&values[..len]);
                        }
                        if let Some(int8) = int8 {
                            // SAFETY: as above.
                            unsafe { int8.quantize(self.processor.isa, group, input, column, values) };
                        }
                    }
                }
            });
            (scratch.strip, scratch.second_strip, scratch.more, scratch.values) = (gates, ups, values, products);
            scratch.panels = gathered;
        });
    }

    /// The SwiGLU activations of a job.
    fn hidden(&self, job: &Job<'_>) -> RowGroup {
        let (rows, cols) = (job.inputs.len(), job.weights.down.cols());
        RowGroup::new(job.hidden_at, rows, cols, self.processor.isa.panel_rows())
    }

    /// `x += scale * down(activations)` of every job.
    fn down(&self, jobs: &[Job<'_>], activations: &[f32], int8: Option<&Int8Rows>, x: &mut [f32]) {
        let hidden = self.hidden;
        let rows = x.len() / hidden;
        let inputs: Vec<Inputs<'_>> = jobs
            .iter()
            .map(|job| {
                let int8 = int8.filter(|_| self.processor.takes_int8(&job.weights.down));
                Inputs::part(activations, int8, self.hidden(job))
            })
            .collect();
        let strips = hidden.div_ceil(ROWS);
        let most = inputs.iter().map(Inputs::len).max().unwrap_or(0);
        let per_task = strips_per_task(strips, most, self.processor.pool.threads(), STRIPS_OF_DOWN);
        let x = SharedOutput::new(x);
        self.processor.pool.run(strips.div_ceil(per_task), |task, scratch| {
            let strips = task * per_task..strips.min((task + 1) * per_task);
            let (mut sums, mut gathered) = (std::mem::take(&mut scratch.strip), std::mem::take(&mut scratch.panels));
            let mut totals = std::mem::take(&mut scratch.second_strip);
            totals.clear();
            totals.resize(rows * strips.len(), [0.0; ROWS]);
            for (index, (job, inputs)) in jobs.iter().zip(&inputs).enumerate() {
                let down = &job.weights.down;
                // After the last job comes the first one's part in the next task.
                let (next, first) = jobs.get(index + 1).map_or((&jobs[0], strips.end), |job| (job, strips.start));
                let next = next.weights.down.strips_from(first);
                self.processor.for_blocks([down], inputs, &mut gathered, |block, operand| {
                    let ahead = Ahead { run: strips.len() * down.strip_bytes(), next };
                    self.processor.strips(down, strips.clone(), operand, ahead, scratch, &mut sums);
                    let (rows, scales) = (job.rows.map(|r| &r[block.clone()]), job.scales.map(|s| &s[block.clone()]));
                    let to = Scatter { first: block.start, rows, scales, strips: strips.len() };
                    self.processor.isa.scatter(&sums, &to, &mut totals);
                });
            }
            for (row, totals) in totals.chunks_exact(strips.len()).enumerate() {
                for (strip, totals) in strips.clone().zip(totals) {
                    let first = strip * ROWS;
                    // SAFETY: each strip is in one task.
                    let x = unsafe { x.part(row * hidden + first, ROWS.min(hidden - first)) };
                    x.iter_mut().zip(in_row_order(totals)).for_each(|(x, total)| *x += total);
                }
            }
            (scratch.strip, scratch.second_strip, scratch.panels) = (sums, totals, gathered);
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
        routing.route(&logits, &spec, &Pool::new(1).unwrap());
        let chosen: Vec<_> = routing.activations().collect();
        assert_eq!(chosen, [2, 1, 0, 2, 1, 3]);
        for (i, choice) in routing.choices.iter().enumerate() {
            let group = routing.groups.iter().find(|g| g.expert == choice.expert).unwrap();
            let entries = group.first_entry..group.first_entry + group.entries;
            let found: Vec<_> = entries.filter(|&entry| routing.rows[entry] as usize == i / 2).collect();
            assert_eq!(found.len(), 1);
            assert_eq!(routing.weights[found[0]], choice.weight);
        }
        for pair in routing.choices.chunks(2) {
            assert!((pair[0].weight + pair[1].weight - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn weights_are_plain_probabilities_without_normalisation_and_ties_go_to_the_lower_index() {
        let spec = MoeSpec { experts: 4, top_k: 2, width: 1, shared_width: 0, normalise_top_k: false };
        let mut routing = Routing::default();
        routing.route(&[0.0; 4], &spec, &Pool::new(1).unwrap());
        assert_eq!(routing.activations().collect::<Vec<_>>(), [0, 1]);
        assert!(routing.choices.iter().all(|c| (c.weight - 0.25).abs() < 1e-7));
    }

    #[test]
    fn logits_that_are_not_finite_fail_their_own_row_only() {
        for normalise_top_k in [true, false] {
            let spec = MoeSpec { experts: 3, top_k: 2, width: 1, shared_width: 0, normalise_top_k };
            let mut routing = Routing::default();
            let (nan, infinity) = (f32::NAN, f32::INFINITY);
            routing.route(
                &[0.0, nan, 1.0, 0.0, 1.0, 2.0, infinity, 0.0, 0.0, nan, nan, nan],
                &spec,
                &Pool::new(2).unwrap(),
            );
            let weights: Vec<bool> = routing.choices.iter().map(|c| c.weight.is_nan()).collect();
            assert_eq!(weights, [true, true, false, false, true, true, true, true]);
        }
    }
}
