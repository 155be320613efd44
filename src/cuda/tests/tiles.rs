//! Products of many rows, on tensor cores and in float32.

use super::super::args::{Product, QuantiseArgs, TileFloatsArgs, TileProductsArgs};
use super::super::memory::DevicePtr;
use super::products::{expected, takes_int8, tolerance};
use super::{Bench, assert_close, in_other_order, values, weight};
use crate::quant::{Format, Weight};

#[test]
fn products_in_float32_of_every_format_match_the_reference_decoder() {
    let Some(mut bench) = Bench::open() else { return };
    let mut check = |weight: &Weight, count: usize, what: &str| {
        let (rows, cols) = (weight.rows(), weight.cols());
        let inputs: Vec<Vec<f32>> = (0..count).map(|i| values(91 + i as u32, cols)).collect();
        let out = bench.room::<f32>(count * rows);
        let product =
            Product { matrix: bench.matrix(weight), out: out.slice.start(), out_stride: rows as u32, ..Product::NONE };
        let args = TileFloatsArgs {
            products: [product, Product::NONE, Product::NONE, Product::NONE],
            input: bench.put(&inputs.concat()),
            products_count: 1,
            cols: cols as u32,
            count: count as u32,
            add: 0,
        };
        let grid = [rows.div_ceil(32), count.div_ceil(64), 1];
        bench.run(&bench.kernel("tile_floats"), grid, 256, 0, args);
        assert_close(&bench.gpu.download(out.slice), &expected(weight, &inputs, true), 2e-5, what);
        bench.kept.clear();
    };
    for format in Format::ALL {
        for (rows, cols, count) in [(16, 256, 1), (37, 512, 70), (5, 256, 9), (19, 100, 17), (3, 7, 2), (40, 320, 64)] {
            if cols % format.block_elements() == 0 {
                check(&weight(format, rows, cols, 5), count, &format!("{format} {count} x [{rows}, {cols}]"));
            }
        }
    }
    check(&in_other_order(48, 576, 3), 20, "columns in another order");
}

/// Rows of weights that a block takes.
const STRIPS: usize = 128;
/// Rows of activations that a block takes, and its shared memory: two stages of the largest format.
pub const BLOCKS: [(usize, usize); 2] = [(64, 114_688), (32, 92_160)];

#[test]
fn products_of_every_format_match_the_reference_decoder() {
    let Some(mut bench) = Bench::open() else { return };
    for format in Format::ALL {
        for (rows, cols, count) in [(16, 256, 1), (37, 512, 8), (48, 2048, 17), (300, 768, 130), (130, 320, 64)] {
            if cols % format.block_elements() != 0 || format == Format::F32 {
                continue;
            }
            let weights = [weight(format, rows, cols, 5), weight(format, 40, cols, 6)];
            if !weights.iter().all(takes_int8) {
                continue;
            }
            let inputs: Vec<Vec<f32>> = (0..count).map(|i| values(91 + i as u32, cols)).collect();
            let tiles = count * cols / 32;
            let (codes, factors) = (bench.room::<u32>(8 * tiles), bench.room::<f32>(2 * tiles));
            let quantise = QuantiseArgs {
                input: bench.put(&inputs.concat()),
                codes: codes.slice.start(),
                factors: factors.slice.start(),
                tiles: tiles as u32,
                unused: 0,
            };
            bench.run(&bench.kernel("quantise"), [tiles.div_ceil(32), 1, 1], 256, 0, quantise);
            for (add, (block_rows, room)) in [0, 1].into_iter().zip(BLOCKS) {
                let before: Vec<Vec<f32>> = weights.iter().map(|w| values(31, count * w.rows())).collect();
                let outs: Vec<_> = before.iter().map(|before| bench.gpu.upload(before)).collect();
                let bias = values(32, rows);
                let mut products = [Product::NONE; 4];
                for ((product, weight), out) in products.iter_mut().zip(&weights).zip(&outs) {
                    *product = Product {
                        matrix: bench.matrix(weight),
                        out: out.slice.start(),
                        out_stride: weight.rows() as u32,
                        ..Product::NONE
                    };
                }
                products[0].bias = if add == 1 { bench.put(&bias) } else { DevicePtr::NULL };
                let args = TileProductsArgs {
                    products,
                    codes: codes.slice.start(),
                    factors: factors.slice.start(),
                    products_count: 2,
                    cols: cols as u32,
                    count: count as u32,
                    add,
                    rows: block_rows as u32,
                    room: room as u32,
                };
                let groups = rows.div_ceil(STRIPS) + 1;
                let grid = [groups, count.div_ceil(block_rows), 1];
                bench.run(&bench.kernel("tile_products"), grid, 256, room, args);
                for (i, (weight, out)) in weights.iter().zip(&outs).enumerate() {
                    let mut wanted = expected(weight, &inputs, false);
                    if add == 1 {
                        wanted.iter_mut().zip(&before[i]).for_each(|(sum, before)| *sum += f64::from(*before));
                    }
                    if add == 1 && i == 0 {
                        wanted.iter_mut().enumerate().for_each(|(at, sum)| *sum += f64::from(bias[at % rows]));
                    }
                    let what = format!("{format} {count} x [{}, {cols}], add {add}", weight.rows());
                    assert_close(&bench.gpu.download(out.slice), &wanted, tolerance(format, false), &what);
                }
            }
            bench.kept.clear();
        }
    }
}
