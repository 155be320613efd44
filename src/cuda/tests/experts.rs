//! Feed-forward halves: experts of every format, with one row and with many.

use super::super::args::{
    CombineNormArgs, Expert, Forms, Item, Matrix, MoeArgs, NormArgs, QuantiseArgs, QuantisedRow, TileMoeArgs,
};
use super::super::memory::{DevicePtr, DeviceSlice};
use super::super::moe::{Moe, MoeShape};
use super::routing::{launch_route, no_moe, route};
use super::tiles::BLOCKS;
use super::{
    Bench, assert_close, assert_quantised, decoded, dot, rms_norm, sigmoid, silu, unquantised, values, weight,
};
use crate::quant::{Format, Group, Weight};

struct Shape {
    hidden: usize,
    experts: usize,
    top_k: usize,
    width: usize,
    shared_width: usize,
}

fn swiglu(weights: &[Weight; 3], x: &[f32]) -> Vec<f64> {
    let [gate, up, down] = weights.each_ref().map(decoded);
    let hidden: Vec<f32> = gate.iter().zip(&up).map(|(g, u)| (silu(dot(g, x)) * dot(u, x)) as f32).collect();
    down.iter().map(|row| dot(row, &hidden)).collect()
}

/// The three matrices of an expert, each behind its codebook, as an image has them.
fn expert_bytes(weights: &[Weight; 3]) -> Vec<u8> {
    let mut out = Vec::new();
    for weight in weights {
        let Weight::Packed(packed) = weight else { unreachable!("experts of the kernels for one format are packed") };
        out.extend(packed.codebook().iter().flat_map(|value| value.to_ne_bytes()));
        out.extend(packed.data());
        out.resize(out.len().next_multiple_of(128), 0);
    }
    out
}

/// `expert` where its bytes begin at `start`.
fn spaced(expert: &Expert, weights: &[Weight; 3], start: DeviceSlice<u8>) -> Expert {
    let mut at = 0;
    let mut next = |matrix: Matrix, weight: &Weight| {
        let Weight::Packed(packed) = weight else { unreachable!("experts of the kernels for one format are packed") };
        let placed = Matrix { data: start.at(at + 64).unwrap(), ..matrix };
        at = (at + 64 + packed.data().len()).next_multiple_of(128);
        placed
    };
    Expert {
        gate: next(expert.gate, &weights[0]),
        up: next(expert.up, &weights[1]),
        down: next(expert.down, &weights[2]),
    }
}

/// Which kernels compute a layer.
#[derive(Clone, Copy)]
enum Kernels {
    /// Those for anything.
    Any,
    /// Those of one row for experts of this format, with so many blocks of weights in shared memory.
    OneRow(Format, [usize; 2]),
    /// Those of few rows for experts of this format, with blocks of the device, and pairs of blocks of weights in shared memory.
    Few(Format, usize, usize),
    /// Those on tensor cores, with the rows of a block and its shared memory, and blocks for the second half.
    Tiles((usize, usize), usize),
}

/// Launches `moe_combine`, and where rows are such `moe_combine_norm` with a copy of them: both add up the same, and the second one
/// norms it.
fn combine(bench: &mut Bench, args: MoeArgs, x: DeviceSlice<f32>) {
    let (count, hidden) = (args.count as usize, args.hidden as usize);
    let copy = bench.gpu.upload(&bench.gpu.download(x));
    bench.run(&bench.kernel("moe_combine"), [count, hidden.div_ceil(512), 1], 128, 0, args);
    let shape = MoeShape {
        hidden,
        experts: args.experts as usize,
        top_k: args.top_k as usize,
        width: args.width as usize,
        shared_width: args.shared_width as usize,
        normalise: true,
    };
    if !Moe::norms_behind(&shape, count) {
        return;
    }
    let (floats, weight) = (bench.room::<f32>(count * hidden), values(77, hidden));
    let (codes, factors) = (bench.room::<u8>(count * hidden), bench.room::<f32>(count * hidden / 16));
    let norm = NormArgs {
        weight: bench.put(&weight),
        out: floats.slice.start(),
        row: QuantisedRow { codes: codes.slice.cast().start(), factors: factors.slice.start() },
        eps: 1e-6,
        width: args.hidden,
        count: args.count,
        ..NormArgs::NONE
    };
    let both = CombineNormArgs { moe: MoeArgs { x: copy.slice.start(), ..args }, norm };
    bench.run(&bench.kernel("moe_combine_norm"), [count, 1, 1], hidden / 4, 0, both);
    let summed = bench.gpu.download(copy.slice);
    assert_eq!(summed, bench.gpu.download(x));
    let normed: Vec<f32> = summed.chunks(hidden).flat_map(|x| rms_norm(x, &weight, 1e-6)).collect();
    let wanted: Vec<f64> = normed.iter().copied().map(f64::from).collect();
    let floats = bench.gpu.download(floats.slice);
    assert_close(&floats, &wanted, 1e-5, "rows normed for the layer behind");
    let (codes, factors) = (bench.gpu.download(codes.slice), bench.gpu.download(factors.slice));
    assert_quantised(&codes, &factors, &floats, "rows normed for the layer behind");
}

fn check(
    bench: &mut Bench,
    shape: &Shape,
    formats: [Format; 3],
    shared_format: Format,
    (count, exact): (usize, bool),
    kernels: Kernels,
) {
    let Shape { hidden, experts, top_k, width, shared_width } = *shape;
    // So few different logits among many experts that many are equal, or all.
    let ties = match experts {
        0..=100 => 16.0,
        101..=150 => 1.0,
        _ => 0.4,
    };
    let small = |format: Format| if format == Format::F32 { 1.0 } else { 0.2 };
    let expert = |formats: [Format; 3], width: usize, seed: u32| {
        let [gate, up, down] = formats;
        [weight(gate, width, hidden, seed), weight(up, width, hidden, seed + 1), weight(down, hidden, width, seed + 2)]
    };
    let mut all: Vec<[Weight; 3]> = (0..experts).map(|e| expert(formats, width, 10 * e as u32)).collect();
    if shared_width > 0 {
        all.push(expert([shared_format; 3], shared_width, 999));
    }
    let x: Vec<Vec<f32>> = (0..count).map(|i| values(40 + i as u32, hidden)).collect();
    let norm: Vec<f32> = values(8, hidden).iter().map(|w| w * small(formats[0])).collect();
    let normed: Vec<Vec<f32>> = x.iter().map(|x| rms_norm(x, &norm, 1e-6)).collect();
    // With ties.
    let logits: Vec<f32> = values(15, count * experts).iter().map(|l| (l * ties).round() / ties).collect();
    let gates = values(16, count);

    let table: Vec<Expert> = all
        .iter()
        .map(|[gate, up, down]| Expert { gate: bench.matrix(gate), up: bench.matrix(up), down: bench.matrix(down) })
        .collect();
    // Kernels for anything quantise nothing but a single row.
    let floats = exact || (count > 1 && matches!(kernels, Kernels::Any));
    let gate_up = Forms::of(table.iter().flat_map(|e| [&e.gate, &e.up]), floats);
    let down = Forms::of(table.iter().map(|e| &e.down), floats);
    let routed = count * top_k;
    let entries = routed + if shared_width > 0 { count } else { 0 };
    let item_rows = match (kernels, count) {
        (Kernels::Tiles((rows, _), _), _) => rows as u32,
        (_, 1) => 1,
        (_, 2) => 2,
        (_, 3..=5) => 4,
        _ => 8,
    };
    let max_items = entries + 1;
    let out = bench.gpu.upload(&x.concat());
    let (choices, shares) = (bench.room::<u32>(routed), bench.room::<f32>(routed));
    let (entry_rows, entry_of) = (bench.room::<u32>(entries), bench.room::<u32>(routed));
    let (items, item_count) = (bench.room::<Item>(max_items), bench.room::<u32>(1));
    let activations = bench.room::<f32>(routed * width + count * shared_width);
    let outputs = bench.room::<f32>(entries * hidden);
    let one = count == 1;
    let input = if one { out.slice.start() } else { bench.put(&normed.concat()) };
    let args = MoeArgs {
        table: bench.put(&table),
        logits: bench.put(&logits),
        shared_gate: if experts > 0 { bench.put(&gates) } else { DevicePtr::NULL },
        input,
        norm: if one { bench.put(&norm) } else { DevicePtr::NULL },
        x: out.slice.start(),
        choices: choices.slice.start(),
        shares: shares.slice.start(),
        entry_rows: entry_rows.slice.start(),
        entry_of: entry_of.slice.start(),
        items: items.slice.start(),
        item_count: item_count.slice.start(),
        activations: activations.slice.start(),
        outputs: outputs.slice.start(),
        experts: experts as u32,
        top_k: top_k as u32,
        width: width as u32,
        shared_width: shared_width as u32,
        hidden: hidden as u32,
        count: count as u32,
        max_items: max_items as u32,
        gate_up_forms: gate_up.bits(),
        down_forms: down.bits(),
        item_rows,
        ..no_moe()
    };
    let widest = if top_k > 0 { width } else { 0 }.max(shared_width);
    let strips = [widest.div_ceil(16), hidden.div_ceil(16)];
    if let Kernels::OneRow(format, slots) = kernels {
        // The experts' matrices, equally spaced in one piece.
        let block = expert_bytes(&all[0]);
        let together: Vec<u8> = all[..experts].iter().flat_map(expert_bytes).collect();
        let routed = bench.gpu.upload(&together);
        let active = top_k + usize::from(shared_width > 0);
        let len = top_k * width + shared_width;
        let (codes, factors) = (bench.room::<u8>(len), bench.room::<f32>(len / 8));
        let args = MoeArgs {
            routed: spaced(&table[0], &all[0], routed.slice),
            shared: table.get(experts).copied().unwrap_or(args.shared),
            spacing: block.len() as u64,
            row: QuantisedRow { codes: codes.slice.cast().start(), factors: factors.slice.start() },
            gate_up_slots: slots[0] as u32,
            down_slots: slots[1] as u32,
            ..args
        };
        let [gate_up, down] = ["moe_gate_up_1", "moe_down_1"].map(|name| bench.int8_kernel(name, format));
        let bytes = table[0].gate.block_bytes(256);
        let tiles = (hidden.div_ceil(32) * 40).next_multiple_of(16);
        if !bench.run(&gate_up, [9, 1, 1], 512, tiles + 16 * slots[0] * bytes, args) {
            return bench.kept.clear();
        }
        unquantised(&bench.gpu.download(codes.slice), &bench.gpu.download(factors.slice), 16);
        let shared = active * (slots[1] * bytes + widest / 2 * 3);
        if !bench.run(&down, [strips[1], 1, 1], 32 * active, shared, args) {
            return bench.kept.clear();
        }
        let chosen: Vec<u32> = route(&logits[..experts], top_k, true).iter().map(|(expert, _)| *expert).collect();
        assert_eq!(bench.gpu.download(choices.slice), chosen);
    } else if let Kernels::Few(format, blocks, slots) = kernels {
        let block = expert_bytes(&all[0]);
        let together: Vec<u8> = all[..experts].iter().flat_map(expert_bytes).collect();
        let at = bench.gpu.upload(&together);
        let len = routed * width + count * shared_width;
        let (codes, factors) = (bench.room::<u8>(len), bench.room::<f32>(len / 8));
        let (row_codes, row_factors) = (bench.room::<u32>(count * hidden / 4), bench.room::<f32>(count * hidden / 16));
        let (quantised, scales) = (row_codes.slice.start(), row_factors.slice.start());
        let tiles = (count * hidden / 32) as u32;
        let quantise = QuantiseArgs { input, codes: quantised, factors: scales, tiles, early: 0 };
        bench.run(&bench.kernel("quantise"), [(count * hidden).div_ceil(1024), 1, 1], 256, 0, quantise);
        let args = MoeArgs {
            routed: spaced(&table[0], &all[0], at.slice),
            shared: table.get(experts).copied().unwrap_or(args.shared),
            spacing: block.len() as u64,
            entry_of: DevicePtr::NULL,
            row: QuantisedRow { codes: codes.slice.cast().start(), factors: factors.slice.start() },
            gate_up_slots: slots as u32,
            down_slots: slots as u32,
            ..args
        };
        launch_route(bench, args);
        let [gate_up, down] = ["moe_gate_up_few", "moe_down_few"].map(|name| bench.int8_kernel(name, format));
        let (warps, bytes) = (12, table[0].gate.block_bytes(256));
        // Room for the rows of all items.
        let pairs = routed + count.div_ceil(2);
        let shared = |columns: usize, pair: usize| (warps * slots * 2 * bytes + pairs * columns / 256 * pair).max(6272);
        let tile_args = TileMoeArgs { moe: args, codes: quantised, factors: scales, room: 0, unused: 0 };
        if !bench.run(&gate_up, [blocks, 1, 1], 32 * warps, shared(hidden, 640), tile_args) {
            return bench.kept.clear();
        }
        unquantised(&bench.gpu.download(codes.slice), &bench.gpu.download(factors.slice), 16);
        if !bench.run(&down, [blocks, 1, 1], 32 * warps, shared(widest, 768), args) {
            return bench.kept.clear();
        }
        combine(bench, args, out.slice);
    } else if let Kernels::Tiles((_, room), blocks) = kernels {
        assert_eq!([gate_up.bits(), down.bits()], [Forms::INT8_ONLY.bits(); 2]);
        let values = [count * hidden, routed * width + count * shared_width];
        let most = values[0].max(values[1]);
        let (codes, factors) = (bench.room::<u32>(most / 4), bench.room::<f32>(most / 16));
        let quantise = |input, values: usize| {
            let tiles = values as u32 / 32;
            let (codes, factors) = (codes.slice.start(), factors.slice.start());
            let args = QuantiseArgs { input, codes, factors, tiles, early: 0 };
            bench.run(&bench.kernel("quantise"), [values.div_ceil(1024), 1, 1], 256, 0, args);
        };
        let (codes, factors) = (codes.slice.start(), factors.slice.start());
        let tile_args = TileMoeArgs { moe: args, codes, factors, room: room as u32, unused: 0 };
        launch_route(bench, args);
        bench.run(&bench.kernel("moe_group"), [1, 1, 1], 1024, 8 * (experts + 1), args);
        quantise(input, values[0]);
        // A launch for each format that experts have.
        let of_formats = [[formats[0], shared_format], [formats[2], shared_format]].map(|[routed, shared]| {
            if shared_width > 0 && shared != routed { vec![routed, shared] } else { vec![routed] }
        });
        for format in &of_formats[0] {
            let kernel = bench.int8_kernel("tile_gate_up", *format);
            if !bench.run(&kernel, [widest.div_ceil(64), max_items, 1], 256, room, tile_args) {
                return bench.kept.clear();
            }
        }
        quantise(activations.slice.start(), values[1]);
        for format in &of_formats[1] {
            if !bench.run(&bench.int8_kernel("tile_down", *format), [blocks, max_items, 1], 256, room, tile_args) {
                return bench.kept.clear();
            }
        }
        combine(bench, args, out.slice);
    } else if one {
        launch_route(bench, args);
        bench.run(&bench.kernel("moe_gate_up_1"), [strips[0], max_items, 1], 256, gate_up.bytes(1, hidden), args);
        let warps = (top_k + 1).min(16);
        let shared = warps * down.bytes(1, widest).next_multiple_of(16);
        bench.run(&bench.kernel("moe_down_1"), [strips[1], 1, 1], 32 * warps, shared, args);
    } else {
        let together = item_rows as usize;
        launch_route(bench, args);
        bench.run(&bench.kernel("moe_group"), [1, 1, 1], 1024, 8 * (experts + 1), args);
        let shared = [gate_up.bytes(together, hidden), down.bytes(together, widest)];
        bench.run(&bench.kernel("moe_gate_up_many"), [strips[0], max_items, 1], 256, shared[0], args);
        bench.run(&bench.kernel("moe_down_many"), [strips[1], max_items, 1], 256, shared[1], args);
        combine(bench, args, out.slice);
    }
    let mut expected = Vec::new();
    for row in 0..count {
        let mut sum: Vec<f64> = x[row].iter().map(|x| f64::from(*x)).collect();
        let mut add = |expert: usize, share: f64| {
            for (sum, value) in sum.iter_mut().zip(swiglu(&all[expert], &normed[row])) {
                *sum += share * value;
            }
        };
        for (expert, share) in route(&logits[row * experts..(row + 1) * experts], top_k, true) {
            add(expert as usize, share);
        }
        if shared_width > 0 {
            add(experts, if experts > 0 { sigmoid(f64::from(gates[row])) } else { 1.0 });
        }
        expected.extend(sum);
    }
    let tolerance = if exact { 2e-5 } else { 3e-2 };
    let what = format!("{formats:?} {shared_format} {count} rows, exact {exact}");
    assert_close(&bench.gpu.download(out.slice), &expected, tolerance, &what);
    bench.kept.clear();
}

#[test]
fn experts_of_every_format_add_their_weighted_sum() {
    let Some(mut bench) = Bench::open() else { return };
    let shape = Shape { hidden: 512, experts: 6, top_k: 3, width: 256, shared_width: 512 };
    let kinds = [
        ([Format::Q4K, Format::Q4K, Format::Q6K], Format::Q8_0),
        ([Format::Q5K; 3], Format::BF16),
        ([Format::Bnb4; 3], Format::Bnb4),
        ([Format::Int4(Group::Of128); 3], Format::F16),
        ([Format::BF16; 3], Format::F32),
        ([Format::F32; 3], Format::Q4_0),
    ];
    for (formats, shared) in kinds {
        for count in [1, 2, 5, 11] {
            for exact in [true, false] {
                check(&mut bench, &shape, formats, shared, (count, exact), Kernels::Any);
            }
        }
    }
}

#[test]
fn odd_sizes_missing_shared_experts_and_dense_layers() {
    let Some(mut bench) = Bench::open() else { return };
    let shapes = [
        Shape { hidden: 100, experts: 5, top_k: 2, width: 36, shared_width: 0 },
        Shape { hidden: 96, experts: 20, top_k: 20, width: 32, shared_width: 24 },
        Shape { hidden: 2304, experts: 3, top_k: 1, width: 40, shared_width: 8 },
        Shape { hidden: 99, experts: 40, top_k: 33, width: 20, shared_width: 0 },
        Shape { hidden: 320, experts: 0, top_k: 0, width: 0, shared_width: 1000 },
        // As many outputs of a row as the threads that norm it, one more, and the longest rows that a block norms.
        Shape { hidden: 128, experts: 40, top_k: 31, width: 16, shared_width: 32 },
        Shape { hidden: 128, experts: 40, top_k: 32, width: 16, shared_width: 32 },
        Shape { hidden: 4096, experts: 3, top_k: 2, width: 16, shared_width: 0 },
    ];
    for shape in &shapes {
        for (format, count) in [(Format::F32, 1), (Format::F32, 9), (Format::F16, 1), (Format::F16, 3)] {
            check(&mut bench, shape, [format; 3], format, (count, true), Kernels::Any);
        }
    }
}

#[test]
fn one_row_through_the_kernels_of_experts_of_one_format() {
    let Some(mut bench) = Bench::open() else { return };
    let shapes = [
        Shape { hidden: 512, experts: 20, top_k: 10, width: 256, shared_width: 512 },
        Shape { hidden: 2048, experts: 4, top_k: 3, width: 256, shared_width: 0 },
    ];
    let formats = Format::ALL.into_iter().filter(|f| ![Format::F32, Format::F16, Format::BF16].contains(f));
    for (i, format) in formats.enumerate() {
        for shape in &shapes {
            let slots = [1 + i % 4, 1 + i % 3];
            check(&mut bench, shape, [format; 3], format, (1, false), Kernels::OneRow(format, slots));
        }
    }
    for experts in [120, 200] {
        let many = Shape { hidden: 256, experts, top_k: 4, width: 256, shared_width: 256 };
        let kernels = Kernels::OneRow(Format::Q4K, [5, 1]);
        check(&mut bench, &many, [Format::Q4K; 3], Format::Q4K, (1, false), kernels);
    }
}

#[test]
fn few_rows_through_the_kernels_of_experts_of_one_format() {
    let Some(mut bench) = Bench::open() else { return };
    let shapes = [
        Shape { hidden: 512, experts: 9, top_k: 4, width: 256, shared_width: 512 },
        Shape { hidden: 768, experts: 4, top_k: 3, width: 512, shared_width: 0 },
    ];
    let formats = Format::ALL.into_iter().filter(|f| ![Format::F32, Format::F16, Format::BF16].contains(f));
    for (i, format) in formats.enumerate() {
        for (shape, (count, blocks)) in shapes.iter().zip([(5, 3), (2 + i % 2, 7)]) {
            let kernels = Kernels::Few(format, blocks, 1 + i % 2);
            check(&mut bench, shape, [format; 3], format, (count, false), kernels);
        }
    }
    // Units of which a block has fewer than warps, which 8, 4 or 2 share, or one more than warps.
    let long = Shape { hidden: 2048, experts: 5, top_k: 4, width: 1024, shared_width: 512 };
    for blocks in [300, 100, 60, 24] {
        check(&mut bench, &long, [Format::Q4K; 3], Format::Q4K, (2, false), Kernels::Few(Format::Q4K, blocks, 2));
    }
    // More experts than threads, more rows than bits of a word, and a row of each item that is alone.
    for (experts, top_k, count) in [(200, 3, 2), (120, 4, 37), (3, 2, 64)] {
        let many = Shape { hidden: 256, experts, top_k, width: 256, shared_width: 256 };
        check(&mut bench, &many, [Format::Q4K; 3], Format::Q4K, (count, false), Kernels::Few(Format::Q4K, 3, 1));
    }
}

#[test]
fn experts_on_tensor_cores_add_their_weighted_sum() {
    let Some(mut bench) = Bench::open() else { return };
    let shape = Shape { hidden: 512, experts: 3, top_k: 2, width: 256, shared_width: 512 };
    for (format, (count, blocks)) in
        [(Format::Q4K, (5, 1)), (Format::Q6K, (2, 3)), (Format::Q8_0, (11, 4)), (Format::Bnb4, (70, 2))]
    {
        for block in BLOCKS {
            check(&mut bench, &shape, [format; 3], format, (count, false), Kernels::Tiles(block, blocks));
        }
    }
    // Experts of several formats.
    let mixed = [Format::Q4K, Format::Q4K, Format::Q6K];
    check(&mut bench, &shape, mixed, Format::Q8_0, (7, false), Kernels::Tiles(BLOCKS[0], 1));
    // Sizes that fill neither a block of columns nor a block's strips, and a dense layer.
    let odd = Shape { hidden: 320, experts: 2, top_k: 1, width: 96, shared_width: 0 };
    check(&mut bench, &odd, [Format::Q8_0; 3], Format::Q8_0, (9, false), Kernels::Tiles(BLOCKS[0], 1));
    let dense = Shape { hidden: 320, experts: 0, top_k: 0, width: 0, shared_width: 992 };
    check(&mut bench, &dense, [Format::Q4_0; 3], Format::Q4_0, (9, false), Kernels::Tiles(BLOCKS[1], 2));
}
