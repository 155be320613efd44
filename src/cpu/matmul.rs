//! The matrix product: weights as the model holds them times rows of activations.

use super::int8::{Int8Rows, strips};
use super::kernels::Isa;
use super::pool::{Pool, Scratch, SharedOutput, at_least};
use crate::error::Result;
use crate::quant::packed::{ROWS, row_of_slot};
use crate::quant::{Packed, Weight};

/// The workers and the arithmetic of one model.
pub struct Processor {
    pub pool: Pool,
    pub isa: Isa,
    /// Quantise activations to int8 where a weight's kernel can use them.
    integer: bool,
}

/// Rows of activations that a product takes as input.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    data: &'a [f32],
    cols: usize,
    /// The same values, quantised, and where in them `data` starts.
    int8: Option<(&'a Int8Rows, usize)>,
    /// Which rows of `data`, in which order; `None`: all.
    picked: Option<&'a [u32]>,
}

impl<'a> Inputs<'a> {
    /// Every row of `data` `[rows, cols]`, in float32 only.
    pub fn all(data: &'a [f32], cols: usize) -> Self {
        Self { data, cols, int8: None, picked: None }
    }

    /// `rows` rows of `cols` columns that start at value `at` of these, whose own shape does not matter.
    pub fn part(self, at: usize, rows: usize, cols: usize) -> Self {
        let int8 = self.int8.map(|(int8, start)| (int8, start + at));
        Self { data: &self.data[at..at + rows * cols], cols, int8, picked: None }
    }

    /// Only the rows `picked`.
    pub fn picked(self, picked: &'a [u32]) -> Self {
        Self { picked: Some(picked), ..self }
    }

    /// The same rows, in float32 only: for products whose small errors would change a choice.
    pub fn exact(self) -> Self {
        Self { int8: None, ..self }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.picked.map_or(self.data.len() / self.cols, <[u32]>::len)
    }

    fn index(&self, i: usize) -> usize {
        self.picked.map_or(i, |p| p[i] as usize)
    }

    /// The rows in float32, for [`Processor::project`].
    pub fn slices(&self) -> Vec<&'a [f32]> {
        (0..self.len()).map(|i| self.index(i) * self.cols).map(|at| &self.data[at..at + self.cols]).collect()
    }
}

/// Weight rows of one task: whole strips, few enough that every worker gets several tasks.
pub fn tile_rows(rows: usize, threads: usize) -> usize {
    (rows / (threads * 8)).next_multiple_of(ROWS).clamp(ROWS, 4 * ROWS)
}

impl Processor {
    /// Starts `threads` workers; `exact` keeps activations in float32.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(threads: usize, exact: bool) -> Result<Self> {
        let isa = Isa::detect();
        Ok(Self { pool: Pool::new(threads)?, isa, integer: !exact && isa.has_integer_kernels() })
    }

    /// Every row of `data` `[rows, cols]`; quantised into `int8` where the model computes with integers.
    pub fn inputs<'a>(&self, data: &'a [f32], cols: usize, int8: &'a mut Int8Rows) -> Inputs<'a> {
        if !self.integer || !Int8Rows::takes(cols) {
            return Inputs::all(data, cols);
        }
        int8.quantize(data);
        Inputs { int8: Some((int8, 0)), ..Inputs::all(data, cols) }
    }

    /// `out[i, r] = inputs[i] · weight[r] + bias[r]`, `out` is `[inputs.len(), weight.rows()]`.
    pub fn matmul(&self, weight: &Weight, bias: Option<&[f32]>, inputs: Inputs<'_>, out: &mut [f32]) {
        let (n, rows) = (inputs.len(), weight.rows());
        if n == 0 {
            return;
        }
        let slices = inputs.slices();
        let tile = tile_rows(rows, self.pool.threads());
        let out = SharedOutput::new(&mut out[..n * rows]);
        self.pool.run(rows.div_ceil(tile), |task, scratch| {
            let first = task * tile;
            let values = self.project(weight, first..rows.min(first + tile), &inputs, &slices, scratch);
            for (r, values) in values.chunks_exact(n).enumerate() {
                let bias = bias.map_or(0.0, |b| b[first + r]);
                for (i, value) in values.iter().enumerate() {
                    out.set(i * rows + first + r, value + bias);
                }
            }
        });
    }

    /// Products of the weight rows `rows` (from a strip's start) with all inputs: `[rows, inputs]`, in the scratch.
    /// `slices` are the inputs' rows, which many tasks share.
    pub fn project<'s>(
        &self,
        weight: &Weight,
        rows: std::ops::Range<usize>,
        inputs: &Inputs<'_>,
        slices: &[&[f32]],
        scratch: &'s mut Scratch,
    ) -> &'s [f32] {
        let n = slices.len();
        let values = at_least(&mut scratch.values, rows.len() * n);
        match weight {
            Weight::Stored(matrix) => {
                let decoded = at_least(&mut scratch.weights, 4 * matrix.cols());
                self.isa.project(matrix, rows.start, slices, decoded, values);
            }
            Weight::Packed(packed) => {
                for (strip, values) in (rows.start / ROWS..).zip(values.chunks_mut(ROWS * n)) {
                    self.strip(packed, strip, inputs, slices, &mut scratch.strip, values);
                }
            }
        }
        values
    }

    fn strip(
        &self,
        packed: &Packed,
        strip: usize,
        inputs: &Inputs<'_>,
        slices: &[&[f32]],
        sums: &mut Vec<[f32; ROWS]>,
        values: &mut [f32],
    ) {
        let n = slices.len();
        sums.resize(n, [0.0; ROWS]);
        match inputs.int8.filter(|_| strips::serve(packed.format())) {
            Some((int8, start)) => {
                let row = |i| int8.row(start + inputs.index(i) * inputs.cols, inputs.cols);
                strips::project(self.isa, packed, strip, row, sums);
            }
            None => self.isa.project_strip(packed, strip, slices, sums),
        }
        for (i, sums) in sums.iter().enumerate() {
            for (slot, sum) in sums.iter().enumerate() {
                if let Some(value) = values.get_mut(row_of_slot(slot) * n + i) {
                    *value = *sum;
                }
            }
        }
    }
}
