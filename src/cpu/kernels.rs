//! Vector kernels in float32, compiled once for each tier.
//!
//! Each kernel is a plain loop over fixed-width lanes that the compiler vectorises; [`Isa`] picks the copy at run time.

use super::isa::Isa;
use super::vector_math::{exp, fma, map, sigmoid as sigmoid_of, softplus as softplus_of, sum, zip};
use crate::quant::packed::{ROWS, TILE, Tile, block_bytes, blocks, decode_tile, slot_of_row};
use crate::quant::{Matrix, Packed};

/// Values that one accumulator holds.
const LANES: usize = 8;

/// Defines `Isa::$name`, which calls the body compiled for the tier at hand.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident = $body:ident ( $($arg:ident : $type:ty),* ) $(-> $result:ty)?) => {
        impl Isa {
            $(#[$doc])*
            #[inline]
            pub fn $name(self, $($arg: $type),*) $(-> $result)? {
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2($($arg: $type),*) $(-> $result)? {
                    $body::<true>($($arg),*)
                }
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($arg: $type),*) $(-> $result)? {
                    $body::<true>($($arg),*)
                }
                match self {
                    // Every AArch64 processor has vectors and FMA: the code for any of them uses both.
                    Isa::Portable => $body::<{ cfg!(target_arch = "aarch64") }>($($arg),*),
                    // SAFETY: the `Detected` of both variants proves that the processor has AVX2, FMA and F16C.
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2(_) | Isa::AvxVnni(_) => unsafe { avx2($($arg),*) },
                    // SAFETY: the `Detected` of both variants proves the same and AVX-512 F, BW, DQ and VL.
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512(_) | Isa::Amx(_) => unsafe { avx512($($arg),*) },
                    #[cfg(target_arch = "aarch64")]
                    Isa::Neon(_) => $body::<true>($($arg),*),
                }
            }
        }
    };
}

pub(crate) use kernel;

kernel! {
    /// `out[i][slot] = matrix[row of slot in strip] · inputs[i]`; slots of rows beyond the last stay as they are. `decoded`
    /// takes [`ROWS`] rows of weights.
    project_stored = project_stored_body(matrix: &Matrix, strip: usize, inputs: &[&[f32]], decoded: &mut [f32], out: &mut [[f32; ROWS]])
}
kernel! {
    /// `out[i][slot] = packed[row of slot in strip] · inputs[i]`; inputs are in the weight's own column order.
    project_strip = project_strip_body(packed: &Packed, strip: usize, inputs: &[&[f32]], out: &mut [[f32; ROWS]])
}
kernel! {
    /// Quantises a tile: the codes, four a word; the sums of its halves' codes; the scale, `max |x| / 127`. Values that are
    /// not finite make the scale NaN, which keeps the failure visible.
    quantize_tile = quantize_tile_body(values: &[f32; TILE], codes: &mut [u32; TILE / 4], sums: &mut [i16; 2]) -> f32
}
kernel! {
    /// `out = x / sqrt(mean(x²) + eps) * weight`.
    rms_norm = rms_norm_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32])
}

kernel! {
    /// `values[i] = exp(values[i] - minus)`.
    exp_in_place = exp_body(values: &mut [f32], minus: f32)
}
kernel! {
    /// `values[i] = exp(values[i] - minus)`, and the sum of the results: the two halves of a softmax whose maximum is `minus`.
    exp_sum = exp_sum_body(values: &mut [f32], minus: f32) -> f32
}
kernel! {
    /// `values[i] = 1 / (1 + exp(-values[i]))`.
    sigmoid_in_place = sigmoid_body(values: &mut [f32])
}
kernel! {
    /// `values[i] = values[i] / (1 + exp(-values[i]))`.
    silu_in_place = silu_body(values: &mut [f32])
}
kernel! {
    /// `values[i] = ln(1 + exp(values[i]))`, linear above 20 as `torch.nn.functional.softplus`.
    softplus_in_place = softplus_body(values: &mut [f32])
}
kernel! {
    /// `out[i] = silu(gate[i]) * up[i]`, the middle of a SwiGLU; all have one length.
    silu_mul = silu_mul_body(gate: &[f32], up: &[f32], out: &mut [f32])
}
kernel! {
    /// `values[i] *= sigmoid(gates[i])`: gated attention's output; both have one length.
    mul_sigmoid = mul_sigmoid_body(values: &mut [f32], gates: &[f32])
}

/// Dot products of `R` weight rows with `I` inputs, all of the same length.
#[expect(clippy::needless_range_loop, reason = "indices over fixed sizes keep every accumulator in a register")]
#[inline(always)]
fn dots<const FMA: bool, const R: usize, const I: usize>(weights: [&[f32]; R], inputs: [&[f32]; I]) -> [[f32; I]; R] {
    let weights = weights.map(|w| w.as_chunks::<LANES>());
    let inputs = inputs.map(|x| x.as_chunks::<LANES>());
    let chunks = inputs.iter().map(|x| x.0.len()).chain(weights.iter().map(|w| w.0.len())).min().unwrap_or(0);
    let mut lanes = [[[0f32; LANES]; I]; R];
    for c in 0..chunks {
        for r in 0..R {
            for i in 0..I {
                for l in 0..LANES {
                    lanes[r][i][l] = fma::<FMA>(weights[r].0[c][l], inputs[i].0[c][l], lanes[r][i][l]);
                }
            }
        }
    }
    let mut sums = [[0f32; I]; R];
    for r in 0..R {
        for i in 0..I {
            let tail = weights[r].1.iter().zip(inputs[i].1).map(|(w, x)| w * x).sum::<f32>();
            sums[r][i] = lanes[r][i].iter().sum::<f32>() + tail;
        }
    }
    sums
}

/// Inputs that a decoded tile is multiplied with at a time: their sums stay in registers.
const TOGETHER: usize = 4;

/// `sums[i] += weights · x[i]`, over the columns of a tile.
#[inline(always)]
fn add_tile<const FMA: bool, const I: usize>(weights: &Tile, x: [[f32; TILE]; I], sums: [&mut [f32; ROWS]; I]) {
    let mut lanes = [[0f32; ROWS]; I];
    for column in 0..TILE {
        for i in 0..I {
            for slot in 0..ROWS {
                lanes[i][slot] = fma::<FMA>(weights[column][slot], x[i][column], lanes[i][slot]);
            }
        }
    }
    for i in 0..I {
        for slot in 0..ROWS {
            sums[i][slot] += lanes[i][slot];
        }
    }
}

/// [`add_tile`] for any number of inputs, whose columns of the tile `columns` tells.
#[inline(always)]
fn add_tiles<const FMA: bool>(
    weights: &Tile,
    inputs: &[&[f32]],
    columns: impl Fn(&[f32]) -> [f32; TILE],
    sums: &mut [[f32; ROWS]],
) {
    let (inputs, last_inputs) = inputs.as_chunks::<TOGETHER>();
    let (sums, last_sums) = sums.as_chunks_mut::<TOGETHER>();
    for (x, sums) in inputs.iter().zip(sums) {
        add_tile::<FMA, TOGETHER>(weights, x.map(&columns), sums.each_mut());
    }
    for (x, sums) in last_inputs.iter().zip(last_sums) {
        add_tile::<FMA, 1>(weights, [columns(x)], [sums]);
    }
}

#[inline(always)]
fn project_stored_body<const FMA: bool>(
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
    if inputs.len() < TOGETHER {
        for (input, out) in inputs.iter().zip(out) {
            let (fours, last) = decoded.split_at(rows / 4 * 4 * cols);
            for (four, weights) in fours.chunks_exact(4 * cols).enumerate() {
                let sums = dots::<FMA, 4, 1>([0, 1, 2, 3].map(|r| &weights[r * cols..(r + 1) * cols]), [input]);
                for (r, [sum]) in sums.into_iter().enumerate() {
                    out[slot_of_row(4 * four + r)] = sum;
                }
            }
            for (r, weights) in last.chunks_exact(cols).enumerate() {
                [[out[slot_of_row(rows / 4 * 4 + r)]]] = dots::<FMA, 1, 1>([weights], [input]);
            }
        }
        return;
    }
    out.fill([0.0; ROWS]);
    for first in (0..cols).step_by(TILE) {
        let width = TILE.min(cols - first);
        let mut weights: Tile = [[0.0; ROWS]; TILE];
        for (row, decoded) in decoded.chunks_exact(cols).enumerate() {
            for (weights, value) in weights.iter_mut().zip(&decoded[first..first + width]) {
                weights[slot_of_row(row)] = *value;
            }
        }
        let columns = |input: &[f32]| {
            let mut x = [0.0; TILE];
            x[..width].copy_from_slice(&input[first..first + width]);
            x
        };
        add_tiles::<FMA>(&weights, inputs, columns, out);
    }
}

#[inline(always)]
fn project_strip_body<const FMA: bool>(packed: &Packed, strip: usize, inputs: &[&[f32]], out: &mut [[f32; ROWS]]) {
    let (format, mut rest) = (packed.format(), packed.strip(strip));
    let mut weights: Tile = [[0.0; ROWS]; TILE];
    out.fill([0.0; ROWS]);
    for (first, tiles) in blocks(packed.cols()) {
        let (block, later) = rest.split_at(block_bytes(format, tiles).unwrap_or(0));
        rest = later;
        for tile in 0..tiles {
            decode_tile(format, packed.codebook(), block, tiles, tile, &mut weights);
            let first = first + tile * TILE;
            let columns = |input: &[f32]| tile_of_input(packed.column_order(), input, first);
            add_tiles::<FMA>(&weights, inputs, columns, out);
        }
    }
}

/// The values of `input` that meet packed columns `first..`.
#[inline(always)]
fn tile_of_input(order: Option<&[u32]>, input: &[f32], first: usize) -> [f32; TILE] {
    let mut x = [0.0; TILE];
    match order {
        None => x.copy_from_slice(&input[first..first + TILE]),
        Some(order) => {
            for (x, column) in x.iter_mut().zip(&order[first..first + TILE]) {
                *x = input[*column as usize];
            }
        }
    }
    x
}

#[inline(always)]
fn quantize_tile_body<const FMA: bool>(values: &[f32; TILE], codes: &mut [u32; TILE / 4], sums: &mut [i16; 2]) -> f32 {
    /// 1.5 * 2^23: in a sum with this, the lowest bits are the rounded value, ties to even.
    const ROUND: f32 = 12_582_912.0;
    let mut largest = [0f32; LANES];
    let mut total = [0f32; LANES];
    for eight in values.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            largest[lane] = largest[lane].max(eight[lane].abs());
            // `max` passes NaN over, a sum does not.
            total[lane] += eight[lane].abs();
        }
    }
    let largest = largest.iter().fold(0f32, |m, x| m.max(*x));
    let scale = if total.iter().sum::<f32>().is_finite() { largest / 127.0 } else { f32::NAN };
    let inverse = if scale > 0.0 { 127.0 / largest } else { 0.0 };
    let mut rounded = [0u8; TILE];
    for (rounded, x) in rounded.iter_mut().zip(values) {
        *rounded = (x * inverse + ROUND).to_bits() as u8;
    }
    for (word, four) in codes.iter_mut().zip(rounded.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*four);
    }
    for (sum, half) in sums.iter_mut().zip(rounded.as_chunks::<16>().0) {
        *sum = half.iter().map(|code| i16::from(code.cast_signed())).sum();
    }
    scale
}

#[inline(always)]
fn rms_norm_body<const FMA: bool>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let [[sum]] = dots::<FMA, 1, 1>([x], [x]);
    let scale = 1.0 / (sum / x.len() as f32 + eps).sqrt();
    for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
        *o = x * scale * w;
    }
}

#[inline(always)]
fn exp_body<const FMA: bool>(values: &mut [f32], minus: f32) {
    map(values, |x| exp::<FMA>(x - minus));
}

#[inline(always)]
fn exp_sum_body<const FMA: bool>(values: &mut [f32], minus: f32) -> f32 {
    map(values, |x| exp::<FMA>(x - minus));
    sum(values)
}

#[inline(always)]
fn sigmoid_body<const FMA: bool>(values: &mut [f32]) {
    map(values, sigmoid_of::<FMA>);
}

#[inline(always)]
fn silu_body<const FMA: bool>(values: &mut [f32]) {
    map(values, |x| x * sigmoid_of::<FMA>(x));
}

#[inline(always)]
fn softplus_body<const FMA: bool>(values: &mut [f32]) {
    map(values, softplus_of::<FMA>);
}

#[inline(always)]
fn silu_mul_body<const FMA: bool>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    zip(gate, up, out, |gate, up| gate * sigmoid_of::<FMA>(gate) * up);
}

#[inline(always)]
fn mul_sigmoid_body<const FMA: bool>(values: &mut [f32], gates: &[f32]) {
    for (values, gates) in values.chunks_mut(16).zip(gates.chunks(16)) {
        let mut factors = [0.0; 16];
        let factors = &mut factors[..gates.len()];
        factors.copy_from_slice(gates);
        map(factors, sigmoid_of::<FMA>);
        values.iter_mut().zip(factors).for_each(|(x, factor)| *x *= *factor);
    }
}

/// `1 / (1 + exp(-x))`.
#[inline]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + exp(x))`, linear above 20 as `torch.nn.functional.softplus`.
#[inline]
pub fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
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
        for (rows, cols, n) in [(1, 1, 1), (4, 8, 2), (5, 33, 3), (19, 100, 1), (33, 64, 5), (18, 71, 8), (3, 7, 4)] {
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

    #[test]
    fn rms_norm_matches_float64_at_odd_sizes() {
        for len in [1, 7, 8, 31, 64, 100] {
            let (x, weight) = (values(2, len), values(3, len));
            for isa in tiers() {
                let mut out = vec![f32::NAN; len];
                isa.rms_norm(&x, &weight, 1e-6, &mut out);
                let scale = 1.0 / (dot(&x, &x) / len as f64 + 1e-6).sqrt();
                let expected: Vec<f64> = x.iter().zip(&weight).map(|(x, w)| f64::from(x * w) * scale).collect();
                assert_close(&out, &expected, "rms_norm");
            }
        }
    }
}
