//! Every kernel of a packed weight against float64 over the reference decoder's values.

use super::*;
use crate::cpu::isa::Isa;
use crate::cpu::matmul::{Inputs, Processor};
use crate::cpu::testing::tiers;
use crate::quant::{AbsMax, AlignedBuffer, Format, FourBit, Group, Matrix, Weight};

/// Runs `test` on every tier of this processor.
fn each_tier(test: impl Fn(Isa)) {
    tiers().into_iter().for_each(test);
}

pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Random codes; every 16-bit float of a block is an ordinary number.
    pub fn matrix(&mut self, format: Format, rows: usize, cols: usize) -> Matrix {
        let len = format.bytes_for((rows * cols) as u64).unwrap() as usize;
        let mut buffer = AlignedBuffer::zeroed(len, "test").unwrap();
        buffer.iter_mut().for_each(|b| *b = (self.next() >> 32) as u8);
        if format == Format::Bnb4 {
            let mut absmax = AlignedBuffer::zeroed(rows * cols / 16, "test").unwrap();
            absmax.as_chunks_mut::<4>().0.iter_mut().for_each(|a| *a = (1.5 + self.unit()).to_le_bytes());
            let scales = FourBit { table: NF4, block_size: 64, absmax: AbsMax::Plain(absmax.into()) };
            return Matrix::four_bit(rows, cols, buffer.into(), scales).unwrap();
        }
        for block in buffer.chunks_exact_mut(format.block_bytes()) {
            for at in floats(format) {
                let value = self.unit();
                let bytes = match format {
                    Format::BF16 => half::bf16::from_f32(value).to_le_bytes(),
                    _ => half::f16::from_f32(value).to_le_bytes(),
                };
                block[*at..at + 2].copy_from_slice(&bytes);
            }
            if matches!(format, Format::Int4(_)) {
                block[2] %= 17;
            }
        }
        Matrix::new(format, rows, cols, buffer.into()).unwrap()
    }
}

/// The values of NF4 (QLoRA, arXiv 2305.14314, appendix E), to seven digits.
const NF4: [f32; 16] = [
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.09105, 0.0, 0.0795803, 0.1609302, 0.2461123,
    0.3379152, 0.4407098, 0.562617, 0.7229568, 1.0,
];

/// Formats that have integer kernels in some tier, and codes that are whole numbers.
const QUANTISED: [Format; 9] = [
    Format::Q8_0,
    Format::Q4_0,
    Format::Q4K,
    Format::Q5K,
    Format::Q6K,
    Format::Int4(Group::Of32),
    Format::Int4(Group::Of64),
    Format::Int4(Group::Of128),
    Format::Int4(Group::Of256),
];

/// Where the 16-bit floats of a block are.
fn floats(format: Format) -> &'static [usize] {
    match format {
        Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q6K => &[208],
        _ => &[0],
    }
}

fn reference(matrix: &Matrix, inputs: &[f32]) -> Vec<f64> {
    let mut weights = vec![0.0; matrix.cols()];
    let mut out = vec![0.0; inputs.len() / matrix.cols() * matrix.rows()];
    for row in 0..matrix.rows() {
        matrix.decode_row(row, &mut weights);
        for (i, x) in inputs.chunks_exact(matrix.cols()).enumerate() {
            out[i * matrix.rows() + row] = weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
        }
    }
    out
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    let largest = expected.iter().fold(1e-30, |m: f64, e| m.max(e.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*f) - e).abs() / largest < 1e-5, "{what}, value {i}: {f} for {e}");
    }
}

const SHAPES: [(usize, usize); 8] =
    [(16, 256), (17, 512), (48, 768), (16, 32), (33, 352), (20, 320), (18, 384), (250, 256)];

#[test]
fn products_with_float_activations_match_float64_for_every_packed_format() {
    each_tier(|isa| {
        let mut random = Random(1);
        let processor = Processor::new(2, true, isa).unwrap();
        for format in [Format::F16, Format::BF16].into_iter().chain(QUANTISED) {
            for (rows, cols) in SHAPES.into_iter().filter(|(_, cols)| cols.is_multiple_of(format.block_elements())) {
                let matrix = random.matrix(format, rows, cols);
                let weight = Weight::new(matrix.clone()).unwrap();
                assert!(matches!(weight, Weight::Packed(_)));
                for n in [1, 3] {
                    let inputs: Vec<f32> = (0..n * cols).map(|_| random.unit()).collect();
                    let mut out = vec![f32::NAN; n * rows];
                    processor.matmul(&weight, Inputs::all(&inputs, cols), &mut out);
                    assert_close(
                        &out,
                        &reference(&matrix, &inputs),
                        &format!("{} {format} [{rows}, {cols}], {n} inputs", isa.name()),
                    );
                }
            }
        }
    });
}

#[test]
fn products_with_quantised_activations_are_exact_up_to_the_scales() {
    each_tier(|isa| {
        let mut random = Random(2);
        let processor = Processor::new(2, false, isa).unwrap();
        for format in QUANTISED {
            for (rows, cols) in SHAPES.into_iter().filter(|(_, cols)| cols.is_multiple_of(format.block_elements())) {
                let matrix = random.matrix(format, rows, cols);
                let weight = Weight::new(matrix.clone()).unwrap();
                for n in [1, 2, 4, 7, 12, 15, 101] {
                    // Activations that int8 holds without loss: whole numbers up to 127, one of them reached in every tile.
                    let mut inputs: Vec<f32> = (0..n * cols).map(|_| (random.unit() * 127.4).round()).collect();
                    for tile in inputs.chunks_exact_mut(32) {
                        tile[(random.next() % 32) as usize] = if random.unit() < 0.0 { 127.0 } else { -127.0 };
                    }
                    let mut int8 = Int8Rows::default();
                    let mut out = vec![f32::NAN; n * rows];
                    let rows_of_inputs = processor.inputs(&inputs, cols, &mut int8, [&weight]);
                    processor.matmul(&weight, rows_of_inputs, &mut out);
                    assert_close(
                        &out,
                        &reference(&matrix, &inputs),
                        &format!("{} {format} [{rows}, {cols}], {n} inputs", isa.name()),
                    );
                }
            }
        }
    });
}

/// More rows than pass over a strip together, and picked ones, whose panels are others than those they are gathered from.
#[test]
fn products_with_many_and_with_picked_rows_are_those_of_each_row() {
    each_tier(|isa| {
        let mut random = Random(7);
        let processor = Processor::new(2, false, isa).unwrap();
        let (rows, cols) = (33, 64);
        for format in [Format::Q8_0, Format::Q4_0] {
            let matrix = random.matrix(format, rows, cols);
            let weight = Weight::new(matrix.clone()).unwrap();
            for n in [193, 205, 400] {
                let mut inputs: Vec<f32> = (0..n * cols).map(|_| (random.unit() * 127.4).round()).collect();
                inputs.chunks_exact_mut(32).for_each(|tile| tile[11] = -127.0);
                let expected = reference(&matrix, &inputs);
                let what = format!("{} {format}, {n} inputs", isa.name());
                let mut int8 = Int8Rows::default();
                let all = processor.inputs(&inputs, cols, &mut int8, [&weight]);
                let mut out = vec![f32::NAN; n * rows];
                processor.matmul(&weight, all, &mut out);
                assert_close(&out, &expected, &what);

                let picked: Vec<u32> = (0..n as u32).rev().filter(|row| row % 37 != 5).collect();
                let mut out = vec![f32::NAN; picked.len() * rows];
                processor.matmul(&weight, all.picked(&picked), &mut out);
                let of_picked = picked.iter().flat_map(|row| &expected[*row as usize * rows..][..rows]);
                assert_close(&out, &of_picked.copied().collect::<Vec<_>>(), &format!("{what}, picked"));
            }
        }
    });
}

/// A router may be quantised, and its inputs are not.
#[test]
fn quantised_weights_take_inputs_that_are_not() {
    each_tier(|isa| {
        let mut random = Random(8);
        let processor = Processor::new(2, false, isa).unwrap();
        for format in [Format::Q8_0, Format::Q4K, Format::Bnb4] {
            let matrix = random.matrix(format, 48, 256);
            let weight = Weight::new(matrix.clone()).unwrap();
            for n in [1, 5] {
                let inputs: Vec<f32> = (0..n * 256).map(|_| random.unit()).collect();
                let what = format!("{} {format}, {n} inputs", isa.name());
                let packed = matches!(&weight, Weight::Packed(packed) if packed.format() == format);
                assert!(packed, "{what}");
                let mut out = vec![f32::NAN; n * 48];
                processor.matmul(&weight, Inputs::all(&inputs, 256), &mut out);
                let mut expected = vec![f32::NAN; n * 48];
                Processor::new(1, true, isa).unwrap().matmul(&weight, Inputs::all(&inputs, 256), &mut expected);
                assert_eq!(out, expected, "{what}");
                assert!(out.iter().any(|x| *x != 0.0), "{what}");

                let mut int8 = Int8Rows::default();
                let exact = processor.inputs(&inputs, 256, &mut int8, [&weight]).exact();
                processor.matmul(&weight, exact, &mut out);
                assert_eq!(out, expected, "{what}, exact");
            }
        }
    });
}

#[test]
fn sums_do_not_overflow_at_the_largest_codes() {
    each_tier(|isa| {
        let processor = Processor::new(1, false, isa).unwrap();
        for (format, code) in [
            (Format::Q8_0, 0x80u8),
            (Format::Q8_0, 0x7f),
            (Format::Q4_0, 0xff),
            (Format::Q4K, 0xff),
            (Format::Q5K, 0xff),
            (Format::Q6K, 0xff),
            (Format::Int4(Group::Of128), 0xff),
            (Format::Int4(Group::Of128), 0),
        ] {
            let (rows, cols) = (16, 256);
            let mut buffer = AlignedBuffer::zeroed(format.bytes_for(rows * cols).unwrap() as usize, "test").unwrap();
            buffer.fill(code);
            for block in buffer.chunks_exact_mut(format.block_bytes()) {
                floats(format).iter().for_each(|at| block[*at..at + 2].copy_from_slice(&half::f16::ONE.to_le_bytes()));
                if matches!(format, Format::Int4(_)) {
                    block[2] = if code == 0 { 16 } else { 0 };
                }
            }
            let matrix = Matrix::new(format, rows as usize, cols as usize, buffer.into()).unwrap();
            let weight = Weight::new(matrix.clone()).unwrap();
            for sign in [127.0, -127.0] {
                let inputs = vec![sign; cols as usize];
                let mut int8 = Int8Rows::default();
                let mut out = vec![f32::NAN; rows as usize];
                let rows_of_inputs = processor.inputs(&inputs, cols as usize, &mut int8, [&weight]);
                processor.matmul(&weight, rows_of_inputs, &mut out);
                assert_close(&out, &reference(&matrix, &inputs), &format!("{} {format} {code:#x}", isa.name()));
            }
        }
    });
}

#[test]
fn quantised_activations_are_within_half_a_step_and_a_zero_tile_stays_zero() {
    each_tier(|isa| {
        let mut random = Random(3);
        let mut data: Vec<f32> = (0..128).map(|_| random.unit()).collect();
        data[32..64].fill(0.0);
        // Rows of 64 columns, which may share a panel.
        let mut int8 = Int8Rows::default();
        let group = RowGroup::new(0, 2, 64, isa.panel_rows());
        let shared = int8.share(data.len());
        for (row, data) in data.chunks_exact(64).enumerate() {
            // SAFETY: no other thread.
            unsafe { shared.quantize(isa, group, row, 0, data) };
        }
        let panels = int8.panels(group);
        for (tile, values) in data.chunks_exact(32).enumerate() {
            let (codes, scale, offset, sums) = panels.tile(tile / 2, tile % 2);
            let largest = values.iter().fold(0f32, |m, x| m.max(x.abs()));
            for (x, code) in values.iter().zip(codes) {
                assert!((x - scale * f32::from(code)).abs() <= largest / 254.0 * 1.001);
            }
            let halves = codes.chunks_exact(16).map(|half| half.iter().map(|c| i16::from(*c)).sum());
            assert_eq!(sums.as_slice(), halves.collect::<Vec<i16>>());
            assert!((offset - scale * f32::from(sums[0] + sums[1])).abs() <= 1e-6 * largest);
            assert_eq!(scale == 0.0, tile == 1);
        }
    });
}

#[test]
fn gathered_rows_are_those_that_were_picked() {
    each_tier(|isa| {
        let mut random = Random(6);
        let (rows, cols) = (30, 96);
        let data: Vec<f32> = (0..rows * cols).map(|_| random.unit()).collect();
        let mut int8 = Int8Rows::default();
        let group = RowGroup::new(0, rows, cols, isa.panel_rows());
        let shared = int8.share(data.len());
        for (row, data) in data.chunks_exact(cols).enumerate() {
            // SAFETY: no other thread.
            unsafe { shared.quantize(isa, group, row, 0, data) };
        }
        let (all, mut memory) = (int8.panels(group), vec![u32::MAX; 7]);
        for picked in [&[29][..], &[0, 13, 12, 29, 5], &[7, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15]] {
            let gathered = all.gather(picked, isa.panel_rows(), &mut memory);
            assert_eq!(gathered.each().map(|(rows, _)| rows).sum::<usize>(), picked.len());
            for (i, row) in picked.iter().enumerate() {
                for tile in 0..cols / 32 {
                    assert_eq!(gathered.tile(i, tile), all.tile(*row as usize, tile));
                }
            }
        }
    });
}

#[test]
fn activations_that_are_not_finite_do_not_turn_into_numbers() {
    each_tier(|isa| {
        let mut random = Random(4);
        let processor = Processor::new(1, false, isa).unwrap();
        let weight = Weight::new(random.matrix(Format::Q4K, 16, 256)).unwrap();
        for bad in [f32::NAN, f32::INFINITY] {
            let mut inputs = vec![1.0; 2 * 256];
            inputs[256 + 77] = bad;
            let mut int8 = Int8Rows::default();
            let mut out = vec![0.0; 32];
            let rows_of_inputs = processor.inputs(&inputs, 256, &mut int8, [&weight]);
            processor.matmul(&weight, rows_of_inputs, &mut out);
            assert!(out[..16].iter().all(|x| x.is_finite()), "another row is not touched");
            assert!(out[16..].iter().all(|x| !x.is_finite()));
        }
    });
}

/// The values of a table are rounded to steps of a byte: the error of a product is that of the steps.
#[test]
fn products_with_codes_into_a_table_are_as_exact_as_its_steps() {
    each_tier(|isa| {
        let mut random = Random(5);
        let processor = Processor::new(2, false, isa).unwrap();
        for (rows, cols) in [(16, 256), (17, 512), (33, 320), (48, 64)] {
            let matrix = random.matrix(Format::Bnb4, rows, cols);
            let weight = Weight::new(matrix.clone()).unwrap();
            for n in [1, 2, 5, 15] {
                let mut inputs: Vec<f32> = (0..n * cols).map(|_| (random.unit() * 127.4).round()).collect();
                inputs.chunks_exact_mut(32).for_each(|tile| tile[7] = 127.0);
                let mut int8 = Int8Rows::default();
                let mut out = vec![f32::NAN; n * rows];
                processor.matmul(&weight, processor.inputs(&inputs, cols, &mut int8, [&weight]), &mut out);
                let expected = reference(&matrix, &inputs);
                let power = expected.iter().map(|e| e * e).sum::<f64>();
                let error = expected.iter().zip(&out).map(|(e, f)| (e - f64::from(*f)).powi(2)).sum::<f64>();
                let relative = (error / power).sqrt();
                assert!(relative < 0.015, "{} [{rows}, {cols}], {n} inputs: {relative}", isa.name());
            }
        }
    });
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn entries_of_a_table_are_within_half_a_step() {
    let fp4 = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0, -0.0, -0.0625, -8.0, -12.0, -4.0, -6.0, -2.0, -3.0];
    for values in [NF4, fp4.map(|x| x / 12.0), NF4.map(|x| x * 1e-30), [0.0; 16]] {
        for (largest, zero) in [(127, 62.76), (255, 124.25)] {
            let (entries, step) = super::layouts::table_entries(&values, largest);
            for (entry, value) in entries.into_iter().zip(values) {
                assert!(entry <= largest && ((f32::from(entry) - zero) * step - value).abs() <= 0.5001 * step);
            }
        }
    }
}
