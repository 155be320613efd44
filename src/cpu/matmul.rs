//! The matrix product: weights in their stored type times float32 rows.

use super::kernels::Isa;
use super::pool::{Pool, SharedOutput, at_least};
use crate::quant::Matrix;

/// Rows of activations that a product takes as input.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    data: &'a [f32],
    cols: usize,
    /// Which rows of `data`, in which order; `None`: all.
    picked: Option<&'a [u32]>,
}

impl<'a> Inputs<'a> {
    /// Every row of `data` `[rows, cols]`.
    pub fn all(data: &'a [f32], cols: usize) -> Self {
        Self { data, cols, picked: None }
    }

    /// The rows `picked` of `data` `[rows, cols]`.
    pub fn picked(data: &'a [f32], cols: usize, picked: &'a [u32]) -> Self {
        Self { data, cols, picked: Some(picked) }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.picked.map_or(self.data.len() / self.cols, <[u32]>::len)
    }

    fn row(&self, i: usize) -> &'a [f32] {
        let row = self.picked.map_or(i, |p| p[i] as usize);
        &self.data[row * self.cols..(row + 1) * self.cols]
    }

    /// The rows as slices, for [`Isa::project`].
    pub fn slices(&self) -> Vec<&'a [f32]> {
        (0..self.len()).map(|i| self.row(i)).collect()
    }
}

/// Weight rows of one task: small enough that every worker gets several, a multiple of the four rows that a kernel takes.
pub fn tile_rows(rows: usize, threads: usize) -> usize {
    (rows / (threads * 8)).next_multiple_of(4).clamp(4, 64)
}

/// `out[i, r] = inputs[i] · matrix[r] + bias[r]`, `out` is `[inputs.len(), matrix.rows()]`.
pub fn matmul(pool: &Pool, isa: Isa, matrix: &Matrix, bias: Option<&[f32]>, inputs: Inputs<'_>, out: &mut [f32]) {
    let (n, rows, cols) = (inputs.len(), matrix.rows(), matrix.cols());
    if n == 0 {
        return;
    }
    let slices = inputs.slices();
    let tile = tile_rows(rows, pool.threads());
    let out = SharedOutput::new(&mut out[..n * rows]);
    pool.run(rows.div_ceil(tile), |task, scratch| {
        let first = task * tile;
        let count = tile.min(rows - first);
        let decoded = at_least(&mut scratch.weights, 4 * cols);
        let values = at_least(&mut scratch.values, count * n);
        isa.project(matrix, first, &slices, decoded, values);
        for (r, values) in values.chunks_exact(n).enumerate() {
            let bias = bias.map_or(0.0, |b| b[first + r]);
            for (i, value) in values.iter().enumerate() {
                out.set(i * rows + first + r, value + bias);
            }
        }
    });
}
