//! Products of small float32 matrices that lie in the caches: what attention and the chunked delta rule are made of.
//!
//! A tile of the result stays in registers while the inner dimension passes: per step one or two vectors of B are loaded,
//! and each value of A is broadcast against them. Nothing is packed; callers lay B out so that its rows are contiguous.

use super::isa::Isa;
use super::kernels::kernel;
use super::vector_math::fma;

/// `c = scale * c + a b`, with `c` `[rows, cols]`, `a` `[rows, inner]`, `b` `[inner, cols]`; a `scale` of 0 does not read `c`.
#[derive(Debug, Clone, Copy)]
pub struct Gemm<'a> {
    pub rows: usize,
    pub inner: usize,
    pub cols: usize,
    pub a: &'a [f32],
    /// Distance between rows, and between columns, of `a`.
    pub a_strides: [usize; 2],
    pub b: &'a [f32],
    /// Distance between rows of `b`.
    pub b_stride: usize,
    /// Distance between rows of `c`.
    pub c_stride: usize,
    pub scale: f32,
}

kernel! {
    /// Computes `gemm` into `c`.
    gemm = gemm_body[16, 32](gemm: &Gemm<'_>, c: &mut [f32])
}

/// Columns of a narrow tile; the wide ones of a tier with few registers have twice as many.
const NARROW: usize = 8;

#[inline(always)]
fn gemm_body<const FMA: bool, const WIDE: usize>(gemm: &Gemm<'_>, c: &mut [f32]) {
    let &Gemm { rows, inner, cols, a, a_strides, b, b_stride, c_stride, .. } = gemm;
    if rows == 0 || cols == 0 {
        return;
    }
    assert!(c.len() > (rows - 1) * c_stride + cols - 1, "the result does not fit");
    if inner > 0 {
        assert!(a.len() > (rows - 1) * a_strides[0] + (inner - 1) * a_strides[1], "a is too short");
        assert!(b.len() > (inner - 1) * b_stride + cols - 1, "b is too short");
    }
    let mut col = 0;
    while col < cols {
        match cols - col {
            left if left >= WIDE => {
                strip::<FMA, 6, WIDE>(gemm, col, c);
                col += WIDE;
            }
            left if left >= 2 * NARROW => {
                strip::<FMA, 6, { 2 * NARROW }>(gemm, col, c);
                col += 2 * NARROW;
            }
            NARROW.. => {
                strip::<FMA, 8, NARROW>(gemm, col, c);
                col += NARROW;
            }
            _ => {
                strip::<FMA, 4, 1>(gemm, col, c);
                col += 1;
            }
        }
    }
}

/// `COLS` columns from `col`, `ROWS` rows at a time. What is left is cut so that as many sums as possible run side by side.
#[inline(always)]
fn strip<const FMA: bool, const ROWS: usize, const COLS: usize>(gemm: &Gemm<'_>, col: usize, c: &mut [f32]) {
    let mut row = 0;
    while row < gemm.rows {
        row += match gemm.rows - row {
            8 if ROWS != 8 => tile::<FMA, 4, COLS>(gemm, row, col, c),
            left if left >= ROWS => tile::<FMA, ROWS, COLS>(gemm, row, col, c),
            4.. => tile::<FMA, 4, COLS>(gemm, row, col, c),
            2.. => tile::<FMA, 2, COLS>(gemm, row, col, c),
            _ => tile::<FMA, 1, COLS>(gemm, row, col, c),
        };
    }
}

/// `ROWS` rows from `row` and `COLS` columns from `col` of the result; returns `ROWS`.
#[expect(clippy::needless_range_loop, reason = "indices over fixed sizes keep every accumulator in a register")]
#[inline(always)]
fn tile<const FMA: bool, const ROWS: usize, const COLS: usize>(
    gemm: &Gemm<'_>,
    row: usize,
    col: usize,
    c: &mut [f32],
) -> usize {
    let &Gemm { inner, a, a_strides: [a_row, a_col], b, b_stride, c_stride, scale, .. } = gemm;
    let mut sums = [[0f32; COLS]; ROWS];
    for i in 0..inner {
        // SAFETY: `gemm_body` checked the last value of each matrix; these come before it or are it.
        let b = unsafe { b.as_ptr().add(i * b_stride + col).cast::<[f32; COLS]>().read() };
        for r in 0..ROWS {
            // SAFETY: as above.
            let a = unsafe { *a.get_unchecked((row + r) * a_row + i * a_col) };
            for l in 0..COLS {
                sums[r][l] = fma::<FMA>(a, b[l], sums[r][l]);
            }
        }
    }
    for r in 0..ROWS {
        let out = &mut c[(row + r) * c_stride + col..][..COLS];
        if scale == 0.0 {
            out.copy_from_slice(&sums[r]);
        } else {
            for l in 0..COLS {
                out[l] = fma::<FMA>(out[l], scale, sums[r][l]);
            }
        }
    }
    ROWS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{assert_close, tiers, values};

    #[test]
    fn products_match_float64_at_odd_sizes_and_strides_and_touch_nothing_else() {
        for (rows, inner, cols) in
            [(1, 1, 1), (6, 5, 16), (7, 33, 24), (9, 64, 31), (64, 128, 128), (3, 0, 9), (8, 3, 8)]
        {
            for (transposed, scale) in [(false, 0.0), (true, 0.0), (false, 1.0), (true, 0.375)] {
                let (b_stride, c_stride) = (cols + 3, cols + 2);
                let a_strides = if transposed { [1, rows + 1] } else { [inner + 1, 1] };
                let a = values(1, (rows + 1) * (inner + 1));
                let b = values(2, (inner + 1) * b_stride);
                let start: Vec<f32> =
                    if scale == 0.0 { vec![f32::NAN; rows * c_stride] } else { values(3, rows * c_stride) };
                let gemm = Gemm { rows, inner, cols, a: &a, a_strides, b: &b, b_stride, c_stride, scale };
                for isa in tiers() {
                    let mut c = start.clone();
                    isa.gemm(&gemm, &mut c);
                    let mut expected = Vec::new();
                    let mut found = Vec::new();
                    for i in 0..rows {
                        for j in 0..cols {
                            let term = |p: usize| {
                                f64::from(a[i * a_strides[0] + p * a_strides[1]]) * f64::from(b[p * b_stride + j])
                            };
                            let old =
                                if scale == 0.0 { 0.0 } else { f64::from(scale) * f64::from(start[i * c_stride + j]) };
                            expected.push((0..inner).map(term).sum::<f64>() + old);
                            found.push(c[i * c_stride + j]);
                        }
                        let gap = i * c_stride + cols..(i + 1) * c_stride;
                        assert!(c[gap.clone()].iter().zip(&start[gap]).all(|(a, b)| a.to_bits() == b.to_bits()));
                    }
                    assert_close(
                        &found,
                        &expected,
                        &format!("{isa:?} {rows} x {inner} x {cols}, {a_strides:?}, {scale}"),
                    );
                }
            }
        }
    }
}
