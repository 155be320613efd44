//! The convolution, the delta rule and the gated norm, step by step and for many rows, against the recurrence in float64.

use super::super::args::{DeltaArgs, Place, QuantisedRow, Sequence};
use super::super::delta_net::RECENT;
use super::super::testing::Buffer;
use super::{Bench, assert_close, sigmoid, silu, unquantised, values};

#[derive(Clone, Copy)]
struct Shape {
    key_heads: usize,
    ratio: usize,
    key_dim: usize,
    value_dim: usize,
    taps: usize,
    interleaved: bool,
    tiled: bool,
    /// Decay inputs and write strengths before their functions, at most: from 30 on everything is kept or forgotten.
    gates: f32,
    /// A row of sixteen forgets what was before it so thoroughly that the sum of log decays has no digits left for the
    /// others, which keep nearly everything.
    bursts: bool,
}

/// One sequence's memory in float64.
#[derive(Clone, Default)]
struct Memory {
    /// Inputs of the convolution so far, `[positions][channels]`.
    inputs: Vec<Vec<f64>>,
    /// `[value_heads][key_dim][value_dim]`.
    states: Vec<f64>,
}

struct Weights {
    conv: Vec<f32>,
    decay: Vec<f32>,
    dt_bias: Vec<f32>,
    norm: Vec<f32>,
}

impl Shape {
    fn value_heads(&self) -> usize {
        self.key_heads * self.ratio
    }

    fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_heads() * self.value_dim
    }

    fn head(&self, key_head: usize, index: usize) -> usize {
        if self.tiled { key_head + index * self.key_heads } else { key_head * self.ratio + index }
    }

    /// Places of q, k, v, z, b, a and the head's number.
    fn places(&self) -> [Place; 7] {
        let place = |base: usize, step: usize, index_step: usize| Place {
            base: base as u32,
            step: step as u32,
            index_step: index_step as u32,
        };
        let (hk, r, kd, vd) = (self.key_heads, self.ratio, self.key_dim, self.value_dim);
        let head = if self.tiled { place(0, 1, hk) } else { place(0, r, 1) };
        if self.interleaved {
            let all = 2 * kd + 2 * r * vd;
            let (q, k, v) = (place(0, all, 0), place(kd, all, 0), place(2 * kd, all, vd));
            return [q, k, v, place(2 * kd + r * vd, all, vd), place(0, 2 * r, 1), place(r, 2 * r, 1), head];
        }
        let (q, k) = (place(0, kd, 0), place(hk * kd, kd, 0));
        let flat = |base| if self.tiled { place(base, vd, hk * vd) } else { place(base, r * vd, vd) };
        [q, k, flat(2 * hk * kd), flat(0), head, head, head]
    }
}

fn at(place: &Place, key_head: usize, index: usize) -> usize {
    place.base as usize + key_head * place.step as usize + index * place.index_step as usize
}

/// One row of one sequence: its output `[value_heads][value_dim]`.
fn advance(shape: &Shape, weights: &Weights, memory: &mut Memory, row: [&[f32]; 4]) -> Vec<f64> {
    let [qkv, z, b, a] = row;
    let (kd, vd, heads, channels) = (shape.key_dim, shape.value_dim, shape.value_heads(), shape.channels());
    let places = shape.places();
    let mut input = vec![f64::NAN; channels];
    for key_head in 0..shape.key_heads {
        for i in 0..kd {
            input[key_head * kd + i] = qkv[at(&places[0], key_head, 0) + i].into();
            input[(shape.key_heads + key_head) * kd + i] = qkv[at(&places[1], key_head, 0) + i].into();
        }
        for index in 0..shape.ratio {
            for i in 0..vd {
                let to = 2 * shape.key_heads * kd + shape.head(key_head, index) * vd + i;
                input[to] = qkv[at(&places[2], key_head, index) + i].into();
            }
        }
    }
    memory.inputs.push(input);
    memory.states.resize(heads * kd * vd, 0.0);
    let mixed: Vec<f64> = (0..channels)
        .map(|c| {
            let taps = memory.inputs.iter().rev().zip((0..shape.taps).rev());
            silu(taps.map(|(x, t)| x[c] * f64::from(weights.conv[t * channels + c])).sum())
        })
        .collect();
    let normalised = |x: &[f64], scale: f64| -> Vec<f64> {
        let factor = scale / (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
        x.iter().map(|x| x * factor).collect()
    };
    let mut out = vec![f64::NAN; heads * vd];
    for key_head in 0..shape.key_heads {
        let q = normalised(&mixed[key_head * kd..][..kd], (kd as f64).powf(-0.5));
        let k = normalised(&mixed[(shape.key_heads + key_head) * kd..][..kd], 1.0);
        for index in 0..shape.ratio {
            let head = shape.head(key_head, index);
            let v = &mixed[2 * shape.key_heads * kd + head * vd..][..vd];
            let state = &mut memory.states[head * kd * vd..][..kd * vd];
            let input = f64::from(a[at(&places[5], key_head, index)]) + f64::from(weights.dt_bias[head]);
            let decay = (f64::from(weights.decay[head]) * input.exp().ln_1p()).exp();
            let beta = sigmoid(b[at(&places[4], key_head, index)].into());
            let out = &mut out[head * vd..][..vd];
            for column in 0..vd {
                let recalled: f64 = (0..kd).map(|i| decay * state[i * vd + column] * k[i]).sum();
                let update = beta * (v[column] - recalled);
                for i in 0..kd {
                    state[i * vd + column] = decay * state[i * vd + column] + k[i] * update;
                }
                out[column] = (0..kd).map(|i| state[i * vd + column] * q[i]).sum();
            }
            let scale = 1.0 / (out.iter().map(|x| x * x).sum::<f64>() / vd as f64 + 1e-6).sqrt();
            let z = &z[at(&places[3], key_head, index)..];
            for (i, out) in out.iter_mut().enumerate() {
                *out *= scale * f64::from(weights.norm[i]) * silu(z[i].into());
            }
        }
    }
    out
}

struct Device {
    conv: Buffer<f32>,
    states: Buffer<f32>,
    recent: Buffer<f32>,
}

/// One step of `rows[s]` rows of sequence `s`, whose slots go down to 1.
fn step(bench: &mut Bench, shape: &Shape, weights: &Weights, device: &Device, memory: &mut [Memory], rows: &[usize]) {
    let (heads, vd, channels) = (shape.value_heads(), shape.value_dim, shape.channels());
    let count: usize = rows.iter().sum();
    let z_width = heads * vd;
    let (qkv_width, gate_width) = if shape.interleaved { (channels + z_width, 2 * heads) } else { (channels, heads) };
    let seed = 1000 + memory.iter().map(|m| m.inputs.len() as u32).sum::<u32>();
    let qkv = values(seed, count * qkv_width);
    let z = if shape.interleaved { qkv.clone() } else { values(seed + 1, count * z_width) };
    let z_stride = if shape.interleaved { qkv_width } else { z_width };
    let gates = |seed| values(seed, count * gate_width).iter().map(|x| x * shape.gates).collect::<Vec<f32>>();
    let b = gates(seed + 2);
    let mut a = if shape.interleaved { b.clone() } else { gates(seed + 3) };
    if shape.bursts {
        a.iter_mut().enumerate().for_each(|(i, a)| *a += if i / heads % 16 == 3 { 20_000.0 } else { -5.0 });
    }
    let (mut sequences, mut expected, mut row) = (Vec::new(), Vec::new(), 0);
    for (s, memory) in memory.iter_mut().enumerate() {
        sequences.push(Sequence {
            first_row: row as u32,
            rows: rows[s] as u32,
            position: memory.inputs.len() as u32,
            slot: (rows.len() - s) as u32,
            first_page: 0,
            unused: [0; 3],
        });
        for _ in 0..rows[s] {
            let parts = [
                &qkv[row * qkv_width..(row + 1) * qkv_width],
                &z[row * z_stride..(row + 1) * z_stride],
                &b[row * gate_width..(row + 1) * gate_width],
                &a[row * gate_width..(row + 1) * gate_width],
            ];
            expected.extend(advance(shape, weights, memory, parts));
            row += 1;
        }
    }
    let (out, convolved) = (bench.room::<f32>(count * z_width), bench.room::<f32>(count * channels));
    let chunks = bench.room::<u8>((count / 32 + rows.len()) * (shape.key_heads * 32768 + heads * 8448));
    let [q, k, v, z_place, b_place, a_place, head] = shape.places();
    let usual = shape.key_dim == 128 && vd == 128;
    let most = rows.iter().copied().max().unwrap_or(0);
    // Of steps of single rows some leave them quantised.
    let quantises = usual && most == 1 && (seed / 2).is_multiple_of(2);
    let (codes, factors) = (bench.room::<u8>(count * z_width), bench.room::<f32>(count * z_width / 16));
    let args = DeltaArgs {
        qkv: bench.put(&qkv),
        z: bench.put(&z),
        b: bench.put(&b),
        a: bench.put(&a),
        conv: bench.put(&weights.conv),
        decay: bench.put(&weights.decay),
        dt_bias: bench.put(&weights.dt_bias),
        norm: bench.put(&weights.norm),
        conv_state: device.conv.slice.start(),
        states: device.states.slice.start(),
        recent: device.recent.slice.start(),
        convolved: convolved.slice.start(),
        chunks: chunks.slice.start(),
        out: out.slice.start(),
        row: match quantises {
            true => QuantisedRow { codes: codes.slice.cast().start(), factors: factors.slice.start() },
            false => QuantisedRow::NONE,
        },
        sequences: bench.put(&sequences),
        eps: 1e-6,
        sequences_count: rows.len() as u32,
        key_heads: shape.key_heads as u32,
        ratio: shape.ratio as u32,
        key_dim: shape.key_dim as u32,
        value_dim: vd as u32,
        taps: shape.taps as u32,
        channels: channels as u32,
        qkv_stride: qkv_width as u32,
        z_stride: z_stride as u32,
        b_stride: gate_width as u32,
        a_stride: gate_width as u32,
        q,
        k,
        v,
        z_place,
        b_place,
        a_place,
        head,
        unused: 0,
    };
    let launch = |name: &'static str, grid: [usize; 3], block: usize, shared: usize| {
        bench.run(&bench.kernel(name), grid, block, shared, args);
    };
    let any = |name| launch(name, [heads, rows.len(), 1], 256, 4 * (2 * shape.key_dim + 2 * vd + 64));
    match (usual, most) {
        (true, 1) => launch("delta_step", [heads, rows.len(), 1], 512, 0),
        (_, 1) => any("delta_any"),
        _ => launch("delta_conv", [channels.div_ceil(256), rows.len(), 2], 256, 0),
    }
    if most > 1 && usual {
        launch("delta_prepare", [shape.key_heads, most.div_ceil(32), rows.len()], 256, 0);
        launch("delta_scan", [4, heads, rows.len()], 64, 2 * (32768 + 8448));
        launch("delta_gate", [count, 1, 1], 256, 0);
    } else if most > 1 {
        any("delta_any_rows");
    }
    let what =
        format!("{}x{vd} ratio {} gates {}, {rows:?} rows after {seed}", shape.key_dim, shape.ratio, shape.gates);
    if quantises {
        let (codes, factors) = (bench.gpu.download(codes.slice), bench.gpu.download(factors.slice));
        assert_close(&unquantised(&codes, &factors, 32), &expected, 5e-3, &format!("{what}, quantised"));
    } else {
        assert_close(&bench.gpu.download(out.slice), &expected, 1e-4, &what);
    }
}

const BASE: Shape = Shape {
    key_heads: 2,
    ratio: 2,
    key_dim: 128,
    value_dim: 128,
    taps: 4,
    interleaved: false,
    tiled: false,
    gates: 1.0,
    bursts: false,
};

/// Steps of N sequences, of so many rows each, one after another.
fn run<const N: usize>(bench: &mut Bench, shape: &Shape, steps: &[[usize; N]]) {
    let (channels, heads) = (shape.channels(), shape.value_heads());
    let weights = Weights {
        conv: values(1, shape.taps * channels),
        decay: values(2, heads).iter().map(|x| -0.6 - 0.5 * x).collect(),
        dt_bias: values(3, heads),
        norm: values(4, shape.value_dim),
    };
    let device = Device {
        conv: bench.room((N + 1) * shape.taps * channels),
        states: bench.room((N + 1) * heads * shape.key_dim * shape.value_dim),
        recent: bench.room((N + 1) * heads * RECENT),
    };
    let mut memory = vec![Memory::default(); N];
    for rows in steps {
        step(bench, shape, &weights, &device, &mut memory, rows);
    }
    bench.kept.clear();
}

#[test]
fn delta_net_matches_the_recurrence_in_float64() {
    let Some(mut bench) = Bench::open() else { return };
    let shapes = [
        BASE,
        Shape { interleaved: true, key_heads: 3, ..BASE },
        Shape { tiled: true, ratio: 3, ..BASE },
        Shape { key_dim: 24, value_dim: 40, ratio: 1, ..BASE },
        Shape { key_dim: 16, value_dim: 8, taps: 3, tiled: true, key_heads: 3, ..BASE },
        Shape { key_dim: 128, value_dim: 64, interleaved: true, ratio: 4, ..BASE },
    ];
    let steps = [[1, 1], [1, 1], [1, 5], [7, 1], [1, 1], [2, 2], [1, 1], [1, 33], [1, 1], [2, 150], [1, 1]];
    for shape in &shapes {
        run(&mut bench, shape, &steps);
    }
    run(&mut bench, &BASE, &[[1; 7], [1; 7], [1; 7]]);
}

/// Single rows are left beside the state, which takes them in once in eight, by the position and the slot; rows of a prompt find
/// any number of them there.
#[test]
fn the_delta_rule_adds_rows_that_are_not_in_its_state() {
    let Some(mut bench) = Bench::open() else { return };
    for gates in [1.0, 30.0] {
        let shape = Shape { key_heads: 1, gates, ..BASE };
        run(&mut bench, &shape, &[[1; 3]; 20]);
        let prompts = [[1, 2, 3], [40, 1, 2]];
        let steps: Vec<[usize; 3]> =
            (0..12).flat_map(|i| vec![[1; 3]; i % 9].into_iter().chain([prompts[i % 2]])).collect();
        run(&mut bench, &shape, &steps);
    }
}

#[test]
fn chunks_of_the_delta_rule_begin_and_end_anywhere() {
    let Some(mut bench) = Bench::open() else { return };
    let shape = Shape { key_heads: 1, ..BASE };
    run(&mut bench, &shape, &[[65, 3], [31, 32], [33, 1], [64, 130], [1, 1]]);
}

#[test]
fn the_delta_rule_keeps_or_forgets_everything_where_its_gates_say_so() {
    let Some(mut bench) = Bench::open() else { return };
    for gates in [0.0, 5.0, 30.0, 200.0] {
        run(&mut bench, &Shape { key_heads: 1, gates, ..BASE }, &[[65, 20], [40, 2], [1, 1]]);
    }
    run(&mut bench, &Shape { key_heads: 1, bursts: true, ..BASE }, &[[65, 20], [40, 2], [1, 1]]);
}
