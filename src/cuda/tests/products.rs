//! Products of every format with one row.

use super::super::args::{Forms, INT8_FORMATS, Matrix, Product, ProductsArgs, QuantisedRow};
use super::super::memory::DevicePtr;
use super::{Bench, assert_close, decoded, dot, four_bit, in_other_order, quantised, rms_norm, values, weight};
use crate::quant::{Format, Group, Weight};

/// The kernel of every format.
const ANY: &str = "products_1";

/// Where the kernels' codebook of bytes stands for the codes, products are as far off as its rounding.
pub(super) fn tolerance(format: Format, exact: bool) -> f64 {
    if format == Format::Bnb4 && !exact { 1e-2 } else { 2e-5 }
}

pub(super) fn takes_int8(weight: &Weight) -> bool {
    let Weight::Packed(packed) = weight else { return false };
    packed.column_order().is_none() && !matches!(packed.format(), Format::F16 | Format::BF16)
}

/// What `weight` times each of `inputs` should be, `[inputs][rows]`.
pub(super) fn expected(weight: &Weight, inputs: &[Vec<f32>], exact: bool) -> Vec<f64> {
    let rows = decoded(weight);
    let product = |x: &Vec<f32>| {
        let x = if takes_int8(weight) && !exact { quantised(x) } else { x.clone() };
        rows.iter().map(|row| dot(row, &x)).collect::<Vec<f64>>()
    };
    inputs.iter().flat_map(product).collect()
}

fn one(bench: &mut Bench, weight: &Weight, format: Format, exact: bool) {
    let (rows, cols) = (weight.rows(), weight.cols());
    let inputs = [values(91, cols)];
    let matrix = bench.matrix(weight);
    let out = bench.room::<f32>(rows);
    let forms = Forms::of([&matrix], exact);
    let input = bench.put(&inputs[0]);
    let args = ProductsArgs {
        input,
        input_stride: cols as u32,
        cols: cols as u32,
        forms: forms.bits(),
        ..ProductsArgs::of(&[Product { matrix, out: out.slice.start(), out_stride: rows as u32, ..Product::NONE }])
    };
    bench.run(&bench.kernel(ANY), [3.min(rows.div_ceil(16)), 1, 1], 256, forms.bytes(1, cols), args);
    let found = bench.gpu.download(out.slice);
    let what = format!("{format} [{rows}, {cols}] exact {exact}");
    assert_close(&found, &expected(weight, &inputs, exact), tolerance(format, exact), &what);
}

#[test]
fn products_of_every_format_match_the_reference_decoder() {
    let Some(mut bench) = Bench::open() else { return };
    for format in Format::ALL {
        let packed = [(16, 256), (37, 512), (48, 2048), (80, 4096), (40, 2304)];
        let stored = [(5, 256), (1, 2048), (19, 100), (3, 7), (33, 320), (16, 64), (18, 4160)];
        for (rows, cols) in packed.into_iter().chain(stored) {
            let whole = cols % format.block_elements() == 0;
            if !whole {
                continue;
            }
            let weight = weight(format, rows, cols, (rows * 7 + cols) as u32);
            for exact in [true, false] {
                one(&mut bench, &weight, format, exact);
            }
        }
        bench.kept.clear();
    }
}

#[test]
fn columns_in_an_order_of_their_own_take_inputs_in_the_weights() {
    let Some(mut bench) = Bench::open() else { return };
    let weight = in_other_order(48, 576, 3);
    one(&mut bench, &weight, Format::Int4(Group::Of64), false);
}

#[test]
fn matrices_of_different_formats_share_a_normed_input_that_is_picked_biased_and_added() {
    let Some(mut bench) = Bench::open() else { return };
    let (cols, all, eps) = (768, 7, 1e-6);
    let weights = [
        weight(Format::Q4K, 272, cols, 1),
        weight(Format::BF16, 20, cols, 2),
        weight(Format::F32, 5, cols, 3),
        weight(Format::Q6K, 33, cols, 4),
    ];
    let pick = 5;
    let x: Vec<Vec<f32>> = (0..all).map(|i| values(50 + i, cols)).collect();
    let norm = values(77, cols);
    let bias: Vec<Vec<f32>> = weights.iter().map(|w| values(30, w.rows())).collect();
    let before: Vec<Vec<f32>> = weights.iter().map(|w| values(31, w.rows())).collect();
    let normed = [rms_norm(&x[pick], &norm, eps)];
    let matrices: Vec<Matrix> = weights.iter().map(|w| bench.matrix(w)).collect();
    let outs: Vec<_> = before.iter().map(|before| bench.gpu.upload(before)).collect();
    let forms = Forms::of(&matrices, false);
    let product = |i: usize, bench: &mut Bench| Product {
        matrix: matrices[i],
        bias: bench.put(&bias[i]),
        out: outs[i].slice.start(),
        out_stride: matrices[i].rows,
        unused: 0,
    };
    let args = ProductsArgs {
        input: bench.put(&x.concat()),
        norm: bench.put(&norm),
        pick: bench.put(&[pick as u32]),
        eps: eps as f32,
        input_stride: cols as u32,
        cols: cols as u32,
        add: 1,
        forms: forms.bits(),
        ..ProductsArgs::of(&[0, 1, 2, 3].map(|i| product(i, &mut bench)))
    };
    bench.run(&bench.kernel(ANY), [5, 1, 1], 256, forms.bytes(1, cols), args);
    for (i, weight) in weights.iter().enumerate() {
        let mut expected = expected(weight, &normed, false);
        for (at, value) in expected.iter_mut().enumerate() {
            *value += f64::from(bias[i][at % weight.rows()]) + f64::from(before[i][at]);
        }
        // Quantising is sensitive to the last bit of what is quantised.
        assert_close(&bench.gpu.download(outs[i].slice), &expected, 2e-3, &format!("matrix {i}"));
    }
}

/// One row through the kernel of `format`, for three matrices of it, of which each warp has `slots` blocks in shared memory.
fn decode(bench: &mut Bench, format: Format, name: &str, cols: usize, (blocks, slots): (usize, usize)) {
    let weights = [272, 37, 17].map(|rows| weight(format, rows, cols, rows as u32));
    let tolerance = if format == Format::Bnb4 { 1e-2 } else { 2e-3 };
    decode_with(bench, &weights, (format, name, tolerance), (blocks, slots));
}

fn decode_with(
    bench: &mut Bench,
    weights: &[Weight],
    (format, name, tolerance): (Format, &str, f64),
    (blocks, slots): (usize, usize),
) {
    let (cols, eps) = (weights[0].cols(), 1e-6);
    let (x, norm) = (values(50, cols), values(77, cols));
    let int8 = takes_int8(&weights[0]);
    for (normed, quantises) in [(true, false), (false, false), (false, true)] {
        if quantises && !int8 {
            continue;
        }
        let matrices: Vec<Matrix> = weights.iter().map(|w| bench.matrix(w)).collect();
        let before: Vec<Vec<f32>> = weights.iter().map(|w| values(31, w.rows())).collect();
        let outs: Vec<_> = before.iter().map(|before| bench.gpu.upload(before)).collect();
        let forms = Forms::of(&matrices, false);
        let bias = values(30, 272);
        let products: Vec<Product> = (matrices.iter().zip(&outs))
            .map(|(matrix, out)| Product {
                matrix: *matrix,
                bias: bench.put(&bias),
                out: out.slice.start(),
                out_stride: matrix.rows,
                unused: 0,
            })
            .collect();
        let row = if quantises { quantised_row(bench, &x) } else { QuantisedRow::NONE };
        let args = ProductsArgs {
            input: if quantises { DevicePtr::NULL } else { bench.put(&[values(1, cols), x.clone()].concat()) },
            norm: if normed { bench.put(&norm) } else { DevicePtr::NULL },
            pick: bench.put(&[1u32]),
            eps: eps as f32,
            input_stride: cols as u32,
            cols: cols as u32,
            add: 1,
            forms: forms.bits(),
            slots: slots as u32,
            early: u32::from(normed),
            row,
            ..ProductsArgs::of(&products)
        };
        let copied = if int8 { 16 * slots * matrices[0].block_bytes(256) } else { 0 };
        let shared = forms.bytes(1, cols).next_multiple_of(16) + copied;
        if !bench.run(&bench.kernel(name), [blocks, 1, 1], 512, shared, args) {
            bench.kept.clear();
            continue;
        }
        let input = if normed { rms_norm(&x, &norm, eps) } else { x.clone() };
        for (i, weight) in weights.iter().enumerate() {
            let mut expected = expected(weight, std::slice::from_ref(&input), false);
            for (row, value) in expected.iter_mut().enumerate() {
                *value += f64::from(bias[row]) + f64::from(before[i][row]);
            }
            let what = format!(
                "{name}, {format} [{}, {cols}], matrix {i}, {slots} slots, quantised {quantises}",
                weight.rows()
            );
            assert_close(&bench.gpu.download(outs[i].slice), &expected, tolerance, &what);
        }
        bench.kept.clear();
    }
}

#[test]
fn one_row_with_codebooks_of_any_signs() {
    let Some(mut bench) = Bench::open() else { return };
    let fp4 = [0.0, 1.0 / 16.0, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0].map(|twelfths| twelfths / 12.0);
    let falling = std::array::from_fn(|i| if i < 8 { fp4[i] } else { -fp4[i - 8] });
    let mixed: [f32; 16] = values(12, 16).try_into().unwrap();
    // With both signs in a half, a codebook is rounded to half as many steps.
    for (table, tolerance) in [(falling, 1e-2), (mixed, 2e-2), ([0.0; 16], 1e-2), (falling.map(|x| x * 1e-6), 1e-2)] {
        let weights = [272, 37, 17].map(|rows| four_bit(table, rows, 512, rows as u32));
        decode_with(&mut bench, &weights, (Format::Bnb4, "products_1_bnb4", tolerance), (7, 2));
    }
}

/// `x` as the kernels in front of such a kernel leave it.
fn quantised_row(bench: &mut Bench, x: &[f32]) -> QuantisedRow {
    let (mut codes, mut factors) = (Vec::new(), Vec::new());
    for tile in x.chunks(32) {
        let largest = tile.iter().fold(0f32, |m, x| m.max(x.abs()));
        let scale = largest / 127.0;
        let tile: Vec<i8> = tile.iter().map(|x| (x * (127.0 / largest)).round_ties_even() as i8).collect();
        factors.extend([scale, scale * tile.iter().map(|code| i32::from(*code)).sum::<i32>() as f32]);
        codes.extend(tile.chunks(4).map(|four| u32::from_le_bytes([0, 1, 2, 3].map(|i| four[i] as u8))));
    }
    QuantisedRow { codes: bench.put(&codes), factors: bench.put(&factors) }
}

#[test]
fn one_row_through_the_kernels_of_each_format() {
    let Some(mut bench) = Bench::open() else { return };
    for (i, cols) in [256usize, 512, 768, 2048, 2304, 4096, 6144].into_iter().enumerate() {
        for (format, name) in INT8_FORMATS {
            // More slots than there are blocks, and fewer.
            decode(&mut bench, format, &format!("products_1_{name}"), cols, ([7, 2][i % 2], 1 + i % 3));
        }
        for (format, name) in [(Format::F16, "products_1_f16"), (Format::BF16, "products_1_bf16")] {
            decode(&mut bench, format, name, cols, (7, 0));
        }
        decode(&mut bench, Format::F32, "products_1_f32", cols, (82, 0));
    }
}

/// `count` rows through the kernel of `format`, for three matrices of it, with as many blocks, and slots of each warp.
fn several(
    bench: &mut Bench,
    format: Format,
    (cols, count): (usize, usize),
    (blocks, slots): (usize, usize),
    add: bool,
) {
    let weights = [272, 37, 17].map(|rows| weight(format, rows, cols, rows as u32));
    let tolerance = if format == Format::Bnb4 { 1e-2 } else { 2e-3 };
    let inputs: Vec<Vec<f32>> = (0..count).map(|i| values(50 + i as u32, cols)).collect();
    let matrices: Vec<Matrix> = weights.iter().map(|w| bench.matrix(w)).collect();
    let before: Vec<Vec<f32>> = weights.iter().map(|w| values(31, count * w.rows())).collect();
    let outs: Vec<_> =
        (before.iter()).map(|before| if add { bench.gpu.upload(before) } else { bench.room(before.len()) }).collect();
    let bias = values(30, 272);
    let products: Vec<Product> = (0..weights.len())
        .map(|i| Product {
            matrix: matrices[i],
            bias: if i == 1 { bench.put(&bias) } else { DevicePtr::NULL },
            out: outs[i].slice.start(),
            out_stride: matrices[i].rows,
            unused: 0,
        })
        .collect();
    let args = ProductsArgs {
        cols: cols as u32,
        add: add.into(),
        slots: slots as u32,
        row: quantised_row(bench, &inputs.concat()),
        count: count as u32,
        ..ProductsArgs::of(&products)
    };
    let kernel = bench.int8_kernel("products_8", format);
    let shared = cols / 256 * 2816 + 16 * slots * matrices[0].block_bytes(256);
    if bench.run(&kernel, [blocks, 1, 1], 512, shared, args) {
        for (i, weight) in weights.iter().enumerate() {
            let mut expected = expected(weight, &inputs, false);
            for (at, value) in expected.iter_mut().enumerate() {
                *value += if i == 1 { f64::from(bias[at % weight.rows()]) } else { 0.0 };
                *value += if add { f64::from(before[i][at]) } else { 0.0 };
            }
            let what =
                format!("{format}, {count} x [{}, {cols}], matrix {i}, {slots} slots, added {add}", weight.rows());
            assert_close(&bench.gpu.download(outs[i].slice), &expected, tolerance, &what);
        }
    }
    bench.kept.clear();
}

#[test]
fn up_to_eight_rows_through_the_kernels_of_each_format() {
    let Some(mut bench) = Bench::open() else { return };
    let sizes = [(256, 8), (512, 2), (768, 5), (2048, 3), (2304, 8), (4096, 7), (6144, 4)];
    for (i, (cols, count)) in sizes.into_iter().enumerate() {
        for (format, _) in INT8_FORMATS {
            // More slots than there are blocks, and fewer.
            several(&mut bench, format, (cols, count), ([7, 2][i % 2], 1 + i % 3), i % 3 > 0);
        }
    }
}
