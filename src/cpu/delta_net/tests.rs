use super::*;
use crate::cpu::isa::Isa;
use crate::cpu::testing::{tiers, values};
use crate::model::{HeadOrder, LogitRows};
use crate::state::Sequence;

/// The projections and vectors of one sequence, in the flat order of heads.
struct Case {
    spec: DeltaSpec,
    rows: usize,
    qkv: Vec<f32>,
    z: Vec<f32>,
    b: Vec<f32>,
    a: Vec<f32>,
    conv: Vec<f32>,
    decay: Vec<f32>,
    dt_bias: Vec<f32>,
    norm: Vec<f32>,
}

impl Case {
    fn new(
        [key_heads, value_heads, key_dim, value_dim]: [usize; 4],
        head_order: HeadOrder,
        rows: usize,
        forget: f32,
    ) -> Self {
        let spec = DeltaSpec { key_heads, value_heads, key_dim, value_dim, conv_kernel: 4, head_order };
        Self {
            rows,
            qkv: values(1, rows * spec.conv_channels()),
            z: values(2, rows * spec.values()),
            b: values(3, rows * value_heads),
            a: values(4, rows * value_heads).iter().map(|a| forget * a).collect(),
            conv: values(5, 4 * spec.conv_channels()),
            decay: values(6, value_heads).iter().map(|x| -x.abs() - 0.01).collect(),
            dt_bias: values(7, value_heads),
            norm: values(8, value_dim),
            spec,
        }
    }

    /// Rows from the flat order to that by key head: `[q, k, v r, z r]` and `[b r, a r]`.
    fn interleaved(&self) -> (Vec<f32>, Vec<f32>) {
        let (spec, r) = (&self.spec, ratio(&self.spec));
        let (mut inputs, mut gates) = (Vec::new(), Vec::new());
        for row in 0..self.rows {
            let qkv = &self.qkv[row * spec.conv_channels()..];
            let (z, b, a) = (
                &self.z[row * spec.values()..],
                &self.b[row * r * spec.key_heads..],
                &self.a[row * r * spec.key_heads..],
            );
            for head in 0..spec.key_heads {
                for (first, len) in channels(spec, head) {
                    inputs.extend_from_slice(&qkv[first..first + len]);
                }
                inputs.extend_from_slice(&z[head * r * spec.value_dim..(head + 1) * r * spec.value_dim]);
                gates.extend_from_slice(&b[head * r..(head + 1) * r]);
                gates.extend_from_slice(&a[head * r..(head + 1) * r]);
            }
        }
        (inputs, gates)
    }

    /// `[rows, value_heads, value_dim]` by the definition, in float64.
    fn reference(&self) -> Vec<f64> {
        let spec = &self.spec;
        let (channels, keys) = (spec.conv_channels(), spec.keys());
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let mut out = vec![0.0; self.rows * spec.values()];
        let convolved = |row: usize, c: usize| -> f64 {
            let taps = (0..4).filter_map(|tap| (row + tap).checked_sub(3).map(|earlier| (tap, earlier)));
            let sum: f64 = taps
                .map(|(tap, earlier)| {
                    f64::from(self.conv[tap * channels + c]) * f64::from(self.qkv[earlier * channels + c])
                })
                .sum();
            sum * sigmoid(sum)
        };
        for head in 0..spec.value_heads {
            let key_head = spec.key_head_of(head);
            let mut state = vec![0.0; spec.key_dim * spec.value_dim];
            for row in 0..self.rows {
                let part = |at: usize, len: usize| (at..at + len).map(|c| convolved(row, c)).collect::<Vec<f64>>();
                let unit = |x: Vec<f64>| {
                    let length = (x.iter().map(|x| x * x).sum::<f64>() + f64::from(L2_EPS)).sqrt();
                    x.into_iter().map(|x| x / length).collect::<Vec<f64>>()
                };
                let q = unit(part(key_head * spec.key_dim, spec.key_dim));
                let k = unit(part(keys + key_head * spec.key_dim, spec.key_dim));
                let v = part(2 * keys + head * spec.value_dim, spec.value_dim);
                let gate = row * spec.value_heads + head;
                let input = f64::from(self.a[gate] + self.dt_bias[head]);
                let decay = (f64::from(self.decay[head]) * input.exp().ln_1p()).exp();
                let beta = sigmoid(f64::from(self.b[gate]));
                state.iter_mut().for_each(|s| *s *= decay);
                let width = spec.value_dim;
                let along =
                    |state: &[f64], x: &[f64], j: usize| (0..x.len()).map(|i| state[i * width + j] * x[i]).sum::<f64>();
                let u: Vec<f64> = (0..width).map(|j| beta * (v[j] - along(&state, &k, j))).collect();
                for (i, k) in k.iter().enumerate() {
                    u.iter().enumerate().for_each(|(j, u)| state[i * width + j] += k * u);
                }
                let o: Vec<f64> = (0..width).map(|j| along(&state, &q, j) / (spec.key_dim as f64).sqrt()).collect();
                let rms = (o.iter().map(|o| o * o).sum::<f64>() / width as f64 + 1e-6).sqrt();
                for (j, o) in o.iter().enumerate() {
                    let z = f64::from(self.z[row * spec.values() + head * width + j]);
                    let norm = f64::from(self.norm[j]);
                    out[(row * spec.value_heads + head) * width + j] = o / rms * norm * z * sigmoid(z);
                }
            }
        }
        out
    }

    /// The layer's result where the rows come in steps of `steps` rows, the last ones again and again.
    fn run(&self, isa: Isa, steps: &[usize], interleaved: bool) -> Vec<f32> {
        let spec = &self.spec;
        let processor = Processor::new(2, true, isa).unwrap();
        let context = Context { spec, eps: 1e-6, processor: &processor };
        let layer = DeltaLayer::new(spec, 2).unwrap();
        let memory = Sequence { slot: 1, pages: Vec::new() };
        let (all, gates) = if interleaved { self.interleaved() } else { Default::default() };
        let vectors = Vectors { conv: &self.conv, decay: &self.decay, dt_bias: &self.dt_bias, norm: &self.norm };
        let mut out = vec![f32::NAN; self.rows * spec.values()];
        let (mut done, mut step) = (0, 0);
        while done < self.rows {
            let n = steps[step % steps.len()].min(self.rows - done);
            let mut batch = Batch::default();
            batch.push(&memory, done, &vec![0; n], LogitRows::None);
            let part = |data: &[f32], width: usize| data[done * width..(done + n) * width].to_vec();
            let (inputs_width, gates_width) = (spec.conv_channels() + spec.values(), 2 * spec.value_heads);
            let (qkv, z, b, a) = if interleaved {
                (part(&all, inputs_width), Vec::new(), part(&gates, gates_width), Vec::new())
            } else {
                let heads = spec.value_heads;
                (
                    part(&self.qkv, spec.conv_channels()),
                    part(&self.z, spec.values()),
                    part(&self.b, heads),
                    part(&self.a, heads),
                )
            };
            let projected = if interleaved {
                let (all, gates) = (Rows { data: &qkv, width: inputs_width }, Rows { data: &b, width: gates_width });
                Projected { spec, qkv: all, z: all, interleaved, b: gates, a: gates, interleaved_gates: true }
            } else {
                let rows = |data, width| Rows { data, width };
                Projected {
                    spec,
                    qkv: rows(&qkv, spec.conv_channels()),
                    z: rows(&z, spec.values()),
                    interleaved,
                    b: rows(&b, spec.value_heads),
                    a: rows(&a, spec.value_heads),
                    interleaved_gates: false,
                }
            };
            let out = &mut out[done * spec.values()..(done + n) * spec.values()];
            context.mix(vectors, &projected, &layer, &batch, context.processor.outputs(out, spec.values(), None));
            (done, step) = (done + n, step + 1);
        }
        out
    }
}

fn assert_near(found: &[f32], expected: &[f64], what: &str) {
    let worst = found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f64::from(*f) - e).abs())
        .fold(0.0, |worst: f64, d| if d > worst || d.is_nan() { d } else { worst });
    // Outputs are normalised: their size is about 1.
    assert!(worst < 2e-5, "{what}: {worst:e}");
}

#[test]
fn any_steps_have_the_result_of_the_definition() {
    let shapes = [[2, 4, 128, 128], [1, 3, 33, 20], [3, 3, 16, 40]];
    for shape in shapes {
        for order in [HeadOrder::Grouped, HeadOrder::Tiled] {
            let case = Case::new(shape, order, 150, 1.0);
            let expected = case.reference();
            for isa in tiers() {
                for steps in [&[150][..], &[1], &[64], &[65, 2, 3], &[7, 1, 30]] {
                    let found = case.run(isa, steps, false);
                    assert_near(&found, &expected, &format!("{isa:?}, {shape:?}, {order:?}, steps of {steps:?}"));
                }
            }
        }
    }
}

#[test]
fn projections_by_key_head_have_the_result_of_flat_ones() {
    let case = Case::new([2, 4, 32, 24], HeadOrder::Grouped, 70, 1.0);
    let flat = case.run(Isa::Portable, &[30], false);
    assert_eq!(case.run(Isa::Portable, &[30], true), flat);
}

#[test]
fn states_that_are_forgotten_at_once_or_never_stay_exact() {
    for forget in [60.0, 300.0, -100.0] {
        let case = Case::new([1, 2, 64, 64], HeadOrder::Grouped, 100, forget);
        let expected = case.reference();
        for isa in tiers() {
            for steps in [&[100][..], &[1]] {
                assert_near(&case.run(isa, steps, false), &expected, &format!("{isa:?}, {forget}, steps of {steps:?}"));
            }
        }
    }
}
