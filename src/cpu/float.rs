//! Strips of weights times rows of activations in float32: matrices that are kept as stored, and packed ones where
//! activations are not quantised.
//!
//! A few rows stream stored weights as they lie. For more, and for packed weights, a block of columns is decoded into a
//! buffer in the first-level cache, 16 weights of a column side by side, and groups of rows pass over it whose sums stay in
//! registers.

use super::isa::Isa;
use super::kernels::{MOST_COUNTED, PREFETCH, for_count, kernel, prefetch};
use super::vector_math::fma;
use crate::quant::packed::{BLOCK, ROWS, TILE, Tile, block_bytes, blocks, decode_tile, slot_of_row};
use crate::quant::{Matrix, Packed};

/// Sums of a dot product that run side by side.
const LANES: usize = 64;
/// Rows of activations below which stored weights are multiplied as they lie.
const FEW: usize = 4;

/// Inputs whose columns are looked up together.
const PARTS: usize = 24;

/// Weights of the columns of a block: `[column][slot]`.
type Columns = [[f32; ROWS]; BLOCK];

impl Isa {
    /// `out[i][slot] = matrix[row of slot in strip] · inputs[i]`; slots of rows beyond the last are unspecified. `decoded`
    /// takes [`ROWS`] rows of weights.
    pub fn project_stored(
        self,
        matrix: &Matrix,
        strip: usize,
        inputs: &[&[f32]],
        decoded: &mut [f32],
        out: &mut [[f32; ROWS]],
    ) {
        let cols = matrix.cols();
        let rows = ROWS.min(matrix.rows() - strip * ROWS);
        let decoded = match matrix.as_floats() {
            Some(values) => &values[strip * ROWS * cols..][..rows * cols],
            None => {
                let decoded = &mut decoded[..rows * cols];
                for (row, decoded) in decoded.chunks_exact_mut(cols).enumerate() {
                    matrix.decode_row(strip * ROWS + row, decoded);
                }
                decoded
            }
        };
        if inputs.len() < FEW {
            return self.few_inputs(decoded, cols, inputs, out);
        }
        out.fill([0.0; ROWS]);
        let mut weights: Columns = [[0.0; ROWS]; BLOCK];
        for first in (0..cols).step_by(BLOCK) {
            let width = BLOCK.min(cols - first);
            for (row, decoded) in decoded.chunks_exact(cols).enumerate() {
                for (weights, value) in weights.iter_mut().zip(&decoded[first..first + width]) {
                    weights[slot_of_row(row)] = *value;
                }
            }
            self.add_columns(&weights[..width], inputs, |input, _| &input[first..first + width], out);
        }
    }

    /// `out[i][slot] = packed[row of slot in strip] · inputs[i]`; inputs are in the weight's own column order.
    pub fn project_strip(self, packed: &Packed, strip: usize, inputs: &[&[f32]], out: &mut [[f32; ROWS]]) {
        let mut rest = packed.strip(strip);
        let mut weights: Columns = [[0.0; ROWS]; BLOCK];
        out.fill([0.0; ROWS]);
        for (first, tiles) in blocks(packed.cols()) {
            let (block, later) = rest.split_at(block_bytes(packed.format(), tiles).unwrap_or(0));
            rest = later;
            self.decode_block(packed, block, tiles, &mut weights);
            let weights = &weights[..tiles * TILE];
            match packed.column_order().map(|order| &order[first..first + weights.len()]) {
                None => self.add_columns(weights, inputs, |input, _| &input[first..first + weights.len()], out),
                Some(order) => {
                    let mut ordered = [[0.0; BLOCK]; PARTS];
                    for (inputs, out) in inputs.chunks(PARTS).zip(out.chunks_mut(PARTS)) {
                        for (ordered, input) in ordered.iter_mut().zip(inputs) {
                            ordered.iter_mut().zip(order).for_each(|(x, column)| *x = input[*column as usize]);
                        }
                        self.add_columns(weights, inputs, |_, i| &ordered[i][..weights.len()], out);
                    }
                }
            }
        }
    }

    /// `sums[i][slot] += Σ weights[c][slot] * part(inputs[i], i)[c]`.
    fn add_columns<'a>(
        self,
        weights: &[[f32; ROWS]],
        inputs: &[&'a [f32]],
        part: impl Fn(&'a [f32], usize) -> &'a [f32],
        sums: &mut [[f32; ROWS]],
    ) {
        let mut parts: [&[f32]; PARTS] = [&[]; PARTS];
        for (chunk, (inputs, sums)) in inputs.chunks(PARTS).zip(sums.chunks_mut(PARTS)).enumerate() {
            for (i, (to, input)) in parts.iter_mut().zip(inputs).enumerate() {
                *to = part(input, chunk * PARTS + i);
            }
            self.add_parts(weights, &parts[..inputs.len()], sums);
        }
    }
}

kernel! {
    /// Up to three inputs over weights `[rows, cols]` as they are stored.
    few_inputs = few_body(weights: &[f32], cols: usize, inputs: &[&[f32]], out: &mut [[f32; ROWS]])
}
kernel! {
    /// `sums[i][slot] += Σ weights[c][slot] * inputs[i][c]`; inputs have the length of `weights`.
    add_parts = add_body[6, 12](weights: &[[f32; ROWS]], inputs: &[&[f32]], sums: &mut [[f32; ROWS]])
}
kernel! {
    /// Decodes the `tiles` tiles of `block`.
    decode_block = decode_body(packed: &Packed, block: &[u8], tiles: usize, weights: &mut Columns)
}

/// The dot product of a weight row with an input of the same length; the weights that lie [`PREFETCH`] bytes behind are
/// asked for.
#[inline(always)]
fn dot<const FMA: bool>(weights: &[f32], input: &[f32]) -> f32 {
    let ((weights, last_weights), (input, last_input)) = (weights.as_chunks::<LANES>(), input.as_chunks::<LANES>());
    let mut sums = [0f32; LANES];
    for (weights, input) in weights.iter().zip(input) {
        for line in weights.as_chunks::<16>().0 {
            prefetch(line.as_ptr().cast(), PREFETCH);
        }
        for lane in 0..LANES {
            sums[lane] = fma::<FMA>(weights[lane], input[lane], sums[lane]);
        }
    }
    sums.iter().sum::<f32>() + last_weights.iter().zip(last_input).map(|(w, x)| w * x).sum::<f32>()
}

#[inline(always)]
fn few_body<const FMA: bool>(weights: &[f32], cols: usize, inputs: &[&[f32]], out: &mut [[f32; ROWS]]) {
    for (row, weights) in weights.chunks_exact(cols).enumerate() {
        for (input, out) in inputs.iter().zip(&mut *out) {
            out[slot_of_row(row)] = dot::<FMA>(weights, input);
        }
    }
}

/// `sums[i][slot] += Σ weights[c][slot] * inputs[i][c]` for `I` inputs.
#[inline(always)]
fn add_block<const FMA: bool, const I: usize>(weights: &[[f32; ROWS]], inputs: &[&[f32]], sums: &mut [[f32; ROWS]]) {
    let (Some(inputs), Some(sums)) = (inputs.first_chunk::<I>(), sums.first_chunk_mut::<I>()) else { return };
    let inputs = inputs.map(|input| &input[..weights.len()]);
    let mut lanes = [[0f32; ROWS]; I];
    for (c, weights) in weights.iter().enumerate() {
        for i in 0..I {
            // SAFETY: every input was cut to the length of `weights`.
            let x = unsafe { *inputs[i].get_unchecked(c) };
            for slot in 0..ROWS {
                lanes[i][slot] = fma::<FMA>(weights[slot], x, lanes[i][slot]);
            }
        }
    }
    for i in 0..I {
        for slot in 0..ROWS {
            sums[i][slot] += lanes[i][slot];
        }
    }
}

#[inline(always)]
fn add_body<const FMA: bool, const MOST: usize>(weights: &[[f32; ROWS]], inputs: &[&[f32]], sums: &mut [[f32; ROWS]]) {
    const { assert!(MOST <= MOST_COUNTED, "more inputs together than kernels are made for") };
    let together = inputs.len().div_ceil(inputs.len().div_ceil(MOST).max(1)).max(1);
    for (inputs, sums) in inputs.chunks(together).zip(sums.chunks_mut(together)) {
        for_count!(inputs.len(), MOST, I => add_block::<FMA, I>(weights, inputs, sums));
    }
}

#[inline(always)]
fn decode_body<const FMA: bool>(packed: &Packed, block: &[u8], tiles: usize, weights: &mut Columns) {
    for (tile, weights) in weights.as_chunks_mut::<TILE>().0.iter_mut().enumerate().take(tiles) {
        let weights: &mut Tile = weights;
        decode_tile(packed.format(), packed.codebook(), block, tiles, tile, weights);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{assert_close, tiers, values};
    use crate::quant::packed::row_of_slot;
    use crate::quant::{AlignedBuffer, Format, Group};

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    #[test]
    fn project_stored_matches_float64_at_odd_sizes_and_writes_every_value() {
        for (rows, cols, n) in [
            (1, 1, 1),
            (4, 8, 2),
            (5, 33, 3),
            (19, 100, 1),
            (33, 64, 5),
            (18, 71, 8),
            (3, 7, 4),
            (17, 600, 13),
            (16, 513, 30),
        ] {
            let weights = values(1, rows * cols);
            let mut buffer = AlignedBuffer::zeroed(4 * weights.len(), "test").unwrap();
            for (b, w) in buffer.chunks_exact_mut(4).zip(&weights) {
                b.copy_from_slice(&w.to_le_bytes());
            }
            let matrix = Matrix::new(Format::F32, rows, cols, buffer.into()).unwrap();
            let inputs: Vec<Vec<f32>> = (0..n).map(|i| values(7 + i as u32, cols)).collect();
            let slices: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
            for isa in Isa::available() {
                for strip in 0..rows.div_ceil(ROWS) {
                    let mut out = vec![[f32::NAN; ROWS]; n];
                    isa.project_stored(&matrix, strip, &slices, &mut vec![f32::NAN; ROWS * cols], &mut out);
                    let range = strip * ROWS..rows.min((strip + 1) * ROWS);
                    let found: Vec<f32> =
                        range.clone().flat_map(|r| out.iter().map(move |out| out[slot_of_row(r % ROWS)])).collect();
                    let expected: Vec<f64> = range
                        .flat_map(|r| inputs.iter().map(move |x| (r, x)))
                        .map(|(r, x)| dot(&weights[r * cols..(r + 1) * cols], x))
                        .collect();
                    assert_close(&found, &expected, &format!("{isa:?} [{rows}, {cols}] strip {strip}, {n} inputs"));
                }
            }
        }
    }

    #[test]
    fn a_strip_whose_columns_have_an_order_takes_inputs_in_the_weights_own() {
        let (format, rows, cols) = (Format::Int4(Group::Of32), 16, 352);
        let mut buffer =
            AlignedBuffer::zeroed(format.bytes_for((rows * cols) as u64).unwrap() as usize, "test").unwrap();
        let random = values(11, buffer.len());
        for (byte, value) in buffer.iter_mut().zip(random) {
            *byte = (value * 127.0) as i8 as u8;
        }
        buffer.chunks_exact_mut(format.block_bytes()).for_each(|block| block[1] &= 0x3f);
        let order: Vec<u32> = (0..cols as u32).map(|i| (i * 31 + 5) % cols as u32).collect();
        let matrix = Matrix::new(format, rows, cols, buffer.into()).unwrap().with_column_order(order.into()).unwrap();
        let packed = Packed::pack(&matrix).unwrap().unwrap();
        let inputs: Vec<Vec<f32>> = (0..3).map(|i| values(7 + i, cols)).collect();
        let slices: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        for isa in tiers() {
            let mut out = vec![[f32::NAN; ROWS]; 3];
            isa.project_strip(&packed, 0, &slices, &mut out);
            for (input, out) in inputs.iter().zip(&out) {
                let mut weights = vec![f32::NAN; cols];
                let expected = (0..ROWS).map(|slot| {
                    matrix.decode_row(row_of_slot(slot), &mut weights);
                    dot(&weights, input)
                });
                assert_close(out, &expected.collect::<Vec<_>>(), &format!("{isa:?}"));
            }
        }
    }
}
