//! Products of many rows, on tensor cores and in float32.

use super::super::args::{
    NormArgs, Product, QuantiseArgs, QuantisedRow, TileFloatsArgs, TileFloatsFewArgs, TileProductsArgs,
};
use super::super::memory::DevicePtr;
use super::super::module::Kernel;
use super::super::split::{Shape, Split};
use super::products::{expected, takes_int8, tolerance};
use super::{Bench, assert_close, assert_quantised, in_other_order, rms_norm, values, weight};
use crate::quant::{Format, Weight};

/// Rows of a weight and of activations that a block takes.
const FLOAT_TILE: usize = 64;

#[test]
fn products_in_float32_of_every_format_match_the_reference_decoder() {
    let Some(mut bench) = Bench::open() else { return };
    let clusters = bench.kernel("tile_floats_few").overlaps;
    let is_plain = |weight: &Weight| matches!(weight, Weight::Stored(matrix) if matrix.format() == Format::F32);
    // Of two matrices; the second is added to what its rows of the output hold, and has a bias, as the first then does.
    let mut check = |weights: [&Weight; 2], count: usize, columns: usize, what: &str| {
        let cols = weights[0].cols();
        let inputs: Vec<Vec<f32>> = (0..count).map(|i| values(91 + i as u32, cols)).collect();
        let input = bench.put(&inputs.concat());
        let parts = cols.div_ceil(columns);
        let groups: usize = weights.iter().map(|weight| weight.rows().div_ceil(FLOAT_TILE)).sum();
        let tiles = groups * count.div_ceil(FLOAT_TILE);
        let sums = bench.room::<f32>(tiles * parts * FLOAT_TILE * FLOAT_TILE);
        let counters = bench.gpu.upload(&vec![0u32; tiles]);
        let plain = cols.is_multiple_of(64) && weights.iter().all(|weight| is_plain(weight));
        let strips: usize = weights.iter().map(|weight| weight.rows().div_ceil(16)).sum();
        let norm_weight = values(12, cols);
        let normed: Vec<Vec<f32>> = inputs.iter().map(|x| rms_norm(x, &norm_weight, 1e-6)).collect();
        for (add, few, norms) in
            [(0, false, false), (1, false, false), (0, true, false), (1, true, false), (0, true, true), (1, true, true)]
        {
            if few && !(plain && clusters) {
                continue;
            }
            let before: Vec<Vec<f32>> = weights.iter().map(|w| values(31, count * w.rows())).collect();
            let outs: Vec<_> = weights
                .iter()
                .zip(&before)
                .map(|(w, before)| if add == 1 { bench.gpu.upload(before) } else { bench.room(count * w.rows()) })
                .collect();
            let bias = values(32, weights[1].rows());
            let mut products = [Product::NONE; 4];
            for ((product, weight), out) in products.iter_mut().zip(weights).zip(&outs) {
                *product = Product {
                    matrix: bench.matrix(weight),
                    out: out.slice.start(),
                    out_stride: weight.rows() as u32,
                    ..Product::NONE
                };
            }
            products[1].bias = bench.put(&bias);
            let args = TileFloatsArgs {
                products,
                input,
                parts: sums.slice.start(),
                counters: counters.slice.start(),
                products_count: 2,
                cols: cols as u32,
                count: count as u32,
                add,
                columns: columns as u32,
                unused: 0,
            };
            let left = bench.room::<f32>(count * cols);
            let (codes, factors) = (bench.room::<u8>(count * cols), bench.room::<f32>(count * cols / 16));
            match few {
                true => {
                    let norm = NormArgs {
                        x: input,
                        weight: bench.put(&norm_weight),
                        out: left.slice.start(),
                        row: QuantisedRow { codes: codes.slice.cast().start(), factors: factors.slice.start() },
                        eps: 1e-6,
                        width: cols as u32,
                        count: count as u32,
                        ..NormArgs::NONE
                    };
                    let norm = if norms { norm } else { NormArgs::NONE };
                    let of_norm = if norms { count.div_ceil(4) } else { 0 };
                    let args = TileFloatsFewArgs { products: args, norm, groups: strips as u32, unused: 0 };
                    let grid = [4, strips + of_norm, count.div_ceil(32)];
                    bench.run(&bench.kernel("tile_floats_few"), grid, 256, 0, args)
                }
                false => {
                    let grid = [groups, count.div_ceil(FLOAT_TILE), parts];
                    bench.run(&bench.kernel("tile_floats"), grid, 256, 0, args)
                }
            };
            for (i, (weight, out)) in weights.iter().zip(&outs).enumerate() {
                let mut wanted = expected(weight, if norms { &normed } else { &inputs }, true);
                for (at, sum) in wanted.iter_mut().enumerate() {
                    *sum += if i == 1 { f64::from(bias[at % weight.rows()]) } else { 0.0 };
                    *sum += if add == 1 { f64::from(before[i][at]) } else { 0.0 };
                }
                let what = format!("{what}, product {i}, add {add}, few {few}, normed {norms}");
                assert_close(&bench.gpu.download(out.slice), &wanted, 2e-5, &what);
            }
            if norms {
                let wanted: Vec<f64> = normed.concat().into_iter().map(f64::from).collect();
                let left = bench.gpu.download(left.slice);
                assert_close(&left, &wanted, 1e-5, &format!("{what}, normed rows"));
                let (codes, factors) = (bench.gpu.download(codes.slice), bench.gpu.download(factors.slice));
                assert_quantised(&codes, &factors, &left, &format!("{what}, normed rows"));
            }
            assert!(bench.gpu.download(counters.slice).iter().all(|count| *count == 0), "{what}: counters");
        }
        bench.kept.clear();
    };
    for format in Format::ALL {
        let sizes = [
            (16, 256, 1, 256),
            (37, 512, 70, 128),
            (5, 256, 9, 64),
            (19, 100, 17, 64),
            (3, 7, 2, 64),
            (70, 320, 64, 192),
        ];
        for (rows, cols, count, columns) in sizes {
            if cols % format.block_elements() == 0 {
                let what = format!("{format} {count} x [{rows}, {cols}] by {columns}");
                check([&weight(format, rows, cols, 5), &weight(format, 2, cols, 6)], count, columns, &what);
            }
        }
    }
    let ordered = in_other_order(48, 576, 3);
    check([&ordered, &weight(Format::F32, 1, 576, 7)], 20, 576, "columns in another order");
    // As long as a router's, with the parts of a device.
    check([&weight(Format::F32, 66, 2048, 8), &weight(Format::F32, 1, 2048, 9)], 66, 704, "a router");
    // More columns than the warps of a cluster take at a time, and a last part of them.
    check([&weight(Format::F32, 17, 2112, 8), &weight(Format::F32, 16, 2112, 9)], 3, 2112, "few rows");
}

/// Rows of weights that a block takes.
const STRIPS: usize = 128;
/// Rows of activations that a block takes, and its shared memory: two stages of the largest format.
pub const BLOCKS: [(usize, usize); 2] = [(64, 114_688), (32, 92_160)];

/// A launch of products of many rows.
struct Launch {
    add: bool,
    /// Rows of the activations that a block takes.
    rows: usize,
    /// Parts of the columns, and where there are several the stages of a block, at most: fewer where a device has no room.
    split: usize,
    stages: usize,
}

impl Launch {
    /// Its kernel, and how it is launched for `count` rows of `cols` values and weights of `rows` rows, the largest of which has
    /// `bytes` bytes a block.
    fn kernel(
        &self,
        bench: &Bench,
        format: Format,
        (rows, bytes): (&[usize], usize),
        cols: usize,
        count: usize,
    ) -> (Kernel, Split) {
        let shape = Shape {
            weights: rows,
            weight_bytes: bytes,
            chunks: cols.div_ceil(256),
            rows: self.rows.min(count),
            inputs: count.div_ceil(self.rows),
        };
        if self.split == 1 {
            let room = BLOCKS.iter().find(|(rows, _)| *rows == self.rows).unwrap().1;
            let blocks = rows.iter().map(|rows| rows.div_ceil(STRIPS)).sum();
            let whole = Split { parts: 1, blocks, cluster: 1, room, shared: room };
            return (bench.int8_kernel("tile_products", format), whole);
        }
        let kernel = bench.int8_kernel("tile_products_few", format);
        let with = |stages| Split::with(self.split, stages, &shape, kernel.overlaps);
        let split = (1..=self.stages).rev().map(with).find(|split| split.shared <= kernel.shared_memory);
        let split = split.unwrap_or(with(1));
        (kernel, split)
    }
}

/// Products of two weights, the first of which has a bias where the launch adds, against the decoded weights.
fn check(bench: &mut Bench, format: Format, (rows, cols, count): (usize, usize, usize), launches: &[Launch]) {
    let weights = [weight(format, rows, cols, 5), weight(format, 40, cols, 6)];
    if !weights.iter().all(takes_int8) {
        return;
    }
    let inputs: Vec<Vec<f32>> = (0..count).map(|i| values(91 + i as u32, cols)).collect();
    let decoded = weights.each_ref().map(|weight| expected(weight, &inputs, false));
    let tiles = count * cols / 32;
    let (codes, factors) = (bench.room::<u32>(8 * tiles), bench.room::<f32>(2 * tiles));
    let quantise = QuantiseArgs {
        input: bench.put(&inputs.concat()),
        codes: codes.slice.start(),
        factors: factors.slice.start(),
        tiles: tiles as u32,
        early: 0,
    };
    bench.run(&bench.kernel("quantise"), [tiles.div_ceil(32), 1, 1], 256, 0, quantise);
    let matrices = weights.each_ref().map(|weight| bench.matrix(weight));
    let bias = values(32, rows);
    let bias_there = bench.put(&bias);
    for launch in launches {
        let before: Vec<Vec<f32>> = weights.iter().map(|w| values(31, count * w.rows())).collect();
        let outs: Vec<_> = before
            .iter()
            .map(|before| if launch.add { bench.gpu.upload(before) } else { bench.room(before.len()) })
            .collect();
        let mut products = [Product::NONE; 4];
        for ((product, matrix), out) in products.iter_mut().zip(matrices).zip(&outs) {
            *product = Product { matrix, out: out.slice.start(), out_stride: matrix.rows, ..Product::NONE };
        }
        products[0].bias = if launch.add { bias_there } else { DevicePtr::NULL };
        let bytes = matrices.iter().map(|matrix| matrix.block_bytes(256)).max().unwrap();
        let all_rows = weights.each_ref().map(Weight::rows);
        let (kernel, split) = launch.kernel(bench, format, (&all_rows, bytes), cols, count);
        let args = TileProductsArgs {
            products,
            codes: codes.slice.start(),
            factors: factors.slice.start(),
            products_count: 2,
            cols: cols as u32,
            count: count as u32,
            add: launch.add.into(),
            rows: launch.rows as u32,
            room: split.room as u32,
            split: split.parts as u32,
            unused: 0,
        };
        let grid = [split.blocks, count.div_ceil(launch.rows), 1];
        // As prompts launch it, and as steps record it.
        if !bench.run_clusters(&kernel, (split.cluster, launch.add), grid, 256, split.shared, args) {
            continue;
        }
        for (i, (weight, out)) in weights.iter().zip(&outs).enumerate() {
            let mut wanted = decoded[i].clone();
            if launch.add {
                wanted.iter_mut().zip(&before[i]).for_each(|(sum, before)| *sum += f64::from(*before));
            }
            if launch.add && i == 0 {
                wanted.iter_mut().enumerate().for_each(|(at, sum)| *sum += f64::from(bias[at % rows]));
            }
            let Launch { add, split, stages, .. } = launch;
            let what =
                format!("{format} {count} x [{}, {cols}], add {add}, {split} parts, {stages} stages", weight.rows());
            assert_close(&bench.gpu.download(out.slice), &wanted, tolerance(format, false), &what);
        }
    }
    bench.kept.clear();
}

#[test]
fn products_of_every_format_match_the_reference_decoder() {
    let Some(mut bench) = Bench::open() else { return };
    let launches = [(false, 64), (true, 32)].map(|(add, rows)| Launch { add, rows, split: 1, stages: 2 });
    for format in Format::ALL.into_iter().filter(|format| *format != Format::F32) {
        for (rows, cols, count) in
            [(16, 256, 1), (37, 512, 8), (48, 2048, 17), (300, 768, 130), (130, 320, 64), (50, 288, 33)]
        {
            if cols % format.block_elements() == 0 {
                check(&mut bench, format, (rows, cols, count), &launches);
            }
        }
    }
}

#[test]
fn products_whose_columns_are_in_parts_match_the_reference_decoder() {
    let Some(mut bench) = Bench::open() else { return };
    let launch = |(add, rows, split, stages)| Launch { add, rows, split, stages };
    let launches =
        [(false, 32, 2, 1), (true, 64, 2, 4), (true, 32, 4, 2), (false, 64, 4, 1), (false, 32, 8, 2), (true, 64, 8, 1)]
            .map(launch);
    for format in Format::ALL.into_iter().filter(|format| *format != Format::F32) {
        // Fewer columns than parts take, as many, and so many that stages are used again, with a last step of some parts.
        for (rows, cols, count) in
            [(37, 512, 1), (130, 1280, 70), (16, 2048, 8), (50, 288, 33), (19, 4608, 9), (21, 2336, 64)]
        {
            if cols % format.block_elements() == 0 {
                check(&mut bench, format, (rows, cols, count), &launches);
            }
        }
    }
}
