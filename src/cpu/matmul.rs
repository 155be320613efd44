//! The matrix product: weights as the model holds them times rows of activations.
//!
//! Work is cut into strips of 16 weight rows, the unit of the packed form; several products share one round of tasks.

use super::int8::{Int8Row, Int8Rows, strips};
use super::isa::Isa;
use super::pool::{Pool, Scratch, SharedOutput, at_least};
use crate::error::Result;
use crate::model::Linear;
use crate::quant::Weight;
use crate::quant::packed::{ROWS, row_of_slot};

/// Rows of activations that pass over a strip together: their codes fit the second-level cache.
const INPUT_BLOCK: usize = 64;

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
    rows: usize,
    /// The same values, quantised, and where in them `data` starts.
    int8: Option<(&'a Int8Rows, usize)>,
    /// Which rows of `data`, in which order; `None`: all.
    picked: Option<&'a [u32]>,
}

/// One product of a round: `out[i, r] = inputs[i] · weight[r] + bias[r]`, `out` is `[inputs.len(), weight.rows()]`.
pub struct Product<'a> {
    pub weight: &'a Weight,
    pub bias: Option<&'a [f32]>,
    pub inputs: Inputs<'a>,
    pub out: &'a mut [f32],
    /// Add to what `out` holds.
    pub add: bool,
}

impl Linear {
    /// The product of this matrix and its bias with `inputs`.
    pub(super) fn product<'a>(&'a self, inputs: Inputs<'a>, out: &'a mut [f32]) -> Product<'a> {
        Product { bias: self.bias.as_deref(), ..Product::new(&self.matrix, inputs, out) }
    }
}

impl<'a> Product<'a> {
    /// `out[i, r] = inputs[i] · weight[r]`.
    pub fn new(weight: &'a Weight, inputs: Inputs<'a>, out: &'a mut [f32]) -> Self {
        Self { weight, bias: None, inputs, out, add: false }
    }

    /// The same product, added to what `out` holds.
    pub fn added(self) -> Self {
        Self { add: true, ..self }
    }
}

impl<'a> Inputs<'a> {
    /// Every row of `data` `[rows, cols]`, in float32 only.
    pub fn all(data: &'a [f32], cols: usize) -> Self {
        Self { data, cols, rows: data.len() / cols.max(1), int8: None, picked: None }
    }

    /// `rows` rows of `cols` columns that start at value `at` of a buffer that was filled in float32, as int8, or as both.
    pub fn part(data: &'a [f32], int8: Option<&'a Int8Rows>, at: usize, rows: usize, cols: usize) -> Self {
        let data = data.get(at..at + rows * cols).unwrap_or_default();
        Self { data, cols, rows, int8: int8.map(|int8| (int8, at)), picked: None }
    }

    /// Only the rows `picked`.
    pub fn picked(self, picked: &'a [u32]) -> Self {
        Self { picked: Some(picked), rows: picked.len(), ..self }
    }

    /// The same rows, in float32 only: for products whose small errors would change a choice.
    pub fn exact(self) -> Self {
        Self { int8: None, ..self }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows
    }

    fn start(&self, i: usize) -> usize {
        self.picked.map_or(i, |p| p[i] as usize) * self.cols
    }

    fn row(&self, i: usize) -> &'a [f32] {
        &self.data[self.start(i)..][..self.cols]
    }
}

/// Strips of one task: few enough that every worker gets several tasks, and a multiple of `unit`. One or two of `inputs`
/// read long runs of memory; more of them pass over the strips again and again, which then have to fit a cache.
pub fn strips_per_task(strips: usize, inputs: usize, threads: usize, unit: usize) -> usize {
    let most = if inputs <= 2 { 32 } else { 4 };
    (strips / (threads * 16)).clamp(1, most).next_multiple_of(unit)
}

impl Processor {
    /// Starts workers for `threads` threads, the calling one being one of them, that use the instructions of `isa`; `exact`
    /// keeps activations in float32.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(threads: usize, exact: bool, isa: Isa) -> Result<Self> {
        Ok(Self { pool: Pool::new(threads)?, isa, integer: !exact })
    }

    /// Whether products with `weight` take quantised activations. Columns in an order of their own do not: each 32 of an
    /// input share a scale only in the input's order.
    pub fn takes_int8(&self, weight: &Weight) -> bool {
        let Weight::Packed(packed) = weight else { return false };
        let in_order = packed.column_order().is_none();
        self.integer && in_order && self.isa.has_integer_kernel(packed.format()) && Int8Rows::takes(packed.cols())
    }

    /// Every row of `data` `[rows, cols]`; quantised into `int8` where a product with one of `weights` wants that.
    pub fn inputs<'a, 'w>(
        &self,
        data: &'a [f32],
        cols: usize,
        int8: &'a mut Int8Rows,
        weights: impl IntoIterator<Item = &'w Weight>,
    ) -> Inputs<'a> {
        if !weights.into_iter().any(|weight| self.takes_int8(weight)) {
            return Inputs::all(data, cols);
        }
        let shared = int8.share(data.len());
        self.pool.run(data.len() / cols, |row, _| {
            shared.quantize(self.isa, row * cols, &data[row * cols..(row + 1) * cols])
        });
        Inputs { int8: Some((int8, 0)), ..Inputs::all(data, cols) }
    }

    /// All `products` in one round.
    pub fn multiply<'a>(&self, products: impl IntoIterator<Item = Product<'a>>) {
        let products: Vec<_> = products
            .into_iter()
            .map(|p| {
                (p.weight, p.bias, p.inputs, SharedOutput::new(&mut p.out[..p.inputs.len() * p.weight.rows()]), p.add)
            })
            .collect();
        let strips = |weight: &Weight| weight.rows().div_ceil(ROWS);
        let (threads, inputs) = (self.pool.threads(), products.iter().map(|p| p.2.len()).max().unwrap_or(0));
        let per_task = strips_per_task(products.iter().map(|p| strips(p.0)).sum(), inputs, threads, 1);
        let mut tasks = Vec::new();
        for (product, (weight, ..)) in products.iter().enumerate() {
            let strips = strips(weight);
            tasks.extend((0..strips).step_by(per_task).map(|first| (product, first..strips.min(first + per_task))));
        }
        self.pool.run(tasks.len(), |task, scratch| {
            let (product, strips) = &tasks[task];
            let (weight, bias, inputs, out, add) = &products[*product];
            let rows = weight.rows();
            let mut sums = std::mem::take(&mut scratch.strip);
            for_blocks(inputs.len(), |block| {
                for strip in strips.clone() {
                    self.strip(weight, strip, inputs, block.clone(), scratch, &mut sums);
                    let (first, end) = (strip * ROWS, rows.min((strip + 1) * ROWS));
                    for (i, sums) in block.clone().zip(&sums) {
                        let mut values = in_row_order(sums);
                        if let Some(bias) = bias {
                            values.iter_mut().zip(&bias[first..end]).for_each(|(value, bias)| *value += bias);
                        }
                        let (at, values) = (i * rows + first, &values[..end - first]);
                        if *add { out.add_all(at, values) } else { out.set_all(at, values) }
                    }
                }
            });
            scratch.strip = sums;
        });
    }

    /// `out = inputs · weight`, a round by itself.
    pub fn matmul(&self, weight: &Weight, inputs: Inputs<'_>, out: &mut [f32]) {
        self.multiply([Product::new(weight, inputs, out)]);
    }

    /// `sums[i][slot] = weight[row of slot in strip] · inputs[block.start + i]` for a block of [`for_blocks`]; rows beyond the
    /// last are unspecified.
    pub fn strip(
        &self,
        weight: &Weight,
        strip: usize,
        inputs: &Inputs<'_>,
        block: std::ops::Range<usize>,
        scratch: &mut Scratch,
        sums: &mut Vec<[f32; ROWS]>,
    ) {
        let n = block.len();
        sums.clear();
        sums.resize(n, [0.0; ROWS]);
        match (weight, inputs.int8) {
            (Weight::Packed(packed), Some((int8, start))) if self.takes_int8(weight) => {
                let row = |i| int8.row(start + inputs.start(block.start + i), inputs.cols);
                if n <= 2 {
                    return strips::project(self.isa, packed, strip, row, sums);
                }
                // Kernels ask for a row once a block of columns.
                let mut rows = [Int8Row::default(); INPUT_BLOCK];
                rows[..n].iter_mut().enumerate().for_each(|(i, to)| *to = row(i));
                strips::project(self.isa, packed, strip, |i| rows[i], sums);
            }
            _ => {
                let mut rows: [&[f32]; INPUT_BLOCK] = [&[]; INPUT_BLOCK];
                rows.iter_mut().zip(block).for_each(|(row, i)| *row = inputs.row(i));
                self.strip_of_floats(weight, strip, &rows[..n], scratch, sums);
            }
        }
    }

    fn strip_of_floats(
        &self,
        weight: &Weight,
        strip: usize,
        inputs: &[&[f32]],
        scratch: &mut Scratch,
        sums: &mut [[f32; ROWS]],
    ) {
        match weight {
            Weight::Packed(packed) => self.isa.project_strip(packed, strip, inputs, sums),
            Weight::Stored(matrix) => {
                let decoded = at_least(&mut scratch.weights, ROWS * matrix.cols());
                self.isa.project_stored(matrix, strip, inputs, decoded, sums);
            }
        }
    }
}

/// Calls `work` for blocks of up to [`INPUT_BLOCK`] of `n` inputs.
pub fn for_blocks(n: usize, mut work: impl FnMut(std::ops::Range<usize>)) {
    for first in (0..n).step_by(INPUT_BLOCK) {
        work(first..n.min(first + INPUT_BLOCK));
    }
}

/// Puts the sums of one strip for one input into row order.
pub fn in_row_order(sums: &[f32; ROWS]) -> [f32; ROWS] {
    let mut rows = [0.0; ROWS];
    for (slot, sum) in sums.iter().enumerate() {
        rows[row_of_slot(slot)] = *sum;
    }
    rows
}
