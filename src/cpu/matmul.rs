//! The matrix product: weights as the model holds them times rows of activations.
//!
//! Work is cut into strips of 16 weight rows, the unit of the packed form; several products share one round of tasks.

use std::ops::Range;

use super::int8::{Ahead, Int8Rows, Panels, RowGroup, SharedInt8, panel_rows, strips};
use super::isa::Isa;
use super::pool::{Pool, Scratch, SharedOutput, at_least};
use crate::error::Result;
use crate::model::Linear;
use crate::quant::Weight;
use crate::quant::packed::{ROWS, row_of_slot};

/// Rows of activations that pass over a strip together, whole panels of every tier: their codes fit the second-level cache.
const INPUT_BLOCK: usize = 192;

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
    /// The same rows, quantised.
    int8: Option<Panels<'a>>,
    /// Which of them, in which order; `None`: all.
    picked: Option<&'a [u32]>,
}

/// A block of inputs as the kernels take them, made once for many strips.
pub struct Operand<'a> {
    len: usize,
    int8: Option<Panels<'a>>,
    /// Nothing where no weight takes them.
    floats: &'a [&'a [f32]],
}

/// Rows of activations that several tasks write, and the same quantised where the product that takes them wants that.
#[derive(Clone, Copy)]
pub struct Outputs<'a> {
    data: SharedOutput<'a>,
    int8: Option<SharedInt8<'a>>,
    group: RowGroup,
    isa: Isa,
}

impl Outputs<'_> {
    /// Writes `values` to row `row` from column `column` on; whole tiles where rows are quantised.
    ///
    /// # Safety
    /// Nothing else touches these values in the same round.
    ///
    /// # Panics
    /// When the row does not have them, which is a defect.
    pub unsafe fn put(&self, row: usize, column: usize, values: &[f32]) {
        assert!(row < self.group.rows && column + values.len() <= self.group.cols, "row {row} has no such values");
        // SAFETY: the caller's.
        unsafe { self.data.part(row * self.group.cols + column, values.len()) }.copy_from_slice(values);
        if let Some(int8) = self.int8 {
            // SAFETY: the caller's.
            unsafe { int8.quantize(self.isa, self.group, row, column, values) };
        }
    }
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

    /// The rows `group` of a buffer that was filled in float32, as int8, or as both.
    pub fn part(data: &'a [f32], int8: Option<&'a Int8Rows>, group: RowGroup) -> Self {
        let data = data.get(group.at..group.at + group.rows * group.cols).unwrap_or_default();
        Self { data, cols: group.cols, rows: group.rows, int8: int8.map(|rows| rows.panels(group)), picked: None }
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

    fn row(&self, i: usize) -> &'a [f32] {
        let row = self.picked.map_or(i, |p| p[i] as usize);
        &self.data[row * self.cols..][..self.cols]
    }
}

/// Strips of one task, a multiple of `unit`. One or two `inputs` read long runs of memory, and every worker gets several
/// tasks. Each task of more inputs passes all of them from a cache that cores share, which larger tasks do less often; but
/// the strips have to fit the core's own, as they are passed over again and again.
pub fn strips_per_task(strips: usize, inputs: usize, threads: usize, unit: usize) -> usize {
    let (tasks, most) = if inputs <= 2 { (threads * 16, 32) } else { (threads * 2, 8) };
    (strips / tasks).clamp(1, most).next_multiple_of(unit)
}

/// `strips` in pieces, multiples of `unit`, whose sums for `inputs` inputs stay in the first-level cache: what is done with
/// the sums of a piece is done once, and memory is read all the while.
pub fn few_strips(strips: Range<usize>, inputs: usize, unit: usize) -> impl Iterator<Item = Range<usize>> {
    let len = (64 / inputs.max(1) / unit * unit).max(unit);
    strips.clone().step_by(len).map(move |first| first..strips.end.min(first + len))
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
        let group = RowGroup::new(0, data.len() / cols, cols, self.isa.panel_rows());
        let shared = int8.share(data.len());
        self.pool.run(group.rows, |row, _| {
            let values = &data[row * cols..(row + 1) * cols];
            // SAFETY: each row is one task.
            unsafe { shared.quantize(self.isa, group, row, 0, values) }
        });
        Inputs::part(data, Some(int8), group)
    }

    /// `data` `[rows, cols]`, to be written by the tasks of a round, and `int8`, to be filled with the same, where given.
    pub fn outputs<'a>(&self, data: &'a mut [f32], cols: usize, int8: Option<&'a mut Int8Rows>) -> Outputs<'a> {
        let group = RowGroup::new(0, data.len() / cols, cols, self.isa.panel_rows());
        let int8 = int8.map(|int8| int8.share(data.len()));
        Outputs { data: SharedOutput::new(data), int8, group, isa: self.isa }
    }

    /// `data` `[rows, cols]`, which [`Processor::outputs`] wrote into `int8`, too.
    pub fn quantised<'a>(&self, data: &'a [f32], cols: usize, int8: &'a Int8Rows) -> Inputs<'a> {
        Inputs::part(data, Some(int8), RowGroup::new(0, data.len() / cols, cols, self.isa.panel_rows()))
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
        let all = products.iter().map(|p| strips(p.0)).sum();
        let per_task = strips_per_task(all, inputs, threads, 1);
        let mut tasks = Vec::with_capacity(all.div_ceil(per_task) + products.len());
        for (product, (weight, ..)) in products.iter().enumerate() {
            let strips = strips(weight);
            tasks.extend((0..strips).step_by(per_task).map(|first| (product, first..strips.min(first + per_task))));
        }
        self.pool.run(tasks.len(), |task, scratch| {
            let (product, strips) = &tasks[task];
            let (weight, bias, inputs, out, add) = &products[*product];
            let next = products.get(product + 1).map_or(&[][..], |product| product.0.strips_from(0));
            let rows = weight.rows();
            let (mut sums, mut gathered) = (std::mem::take(&mut scratch.strip), std::mem::take(&mut scratch.panels));
            self.for_blocks([*weight], inputs, &mut gathered, |block, operand| {
                for strips in few_strips(strips.clone(), block.len(), 1) {
                    let ahead = Ahead { run: weight.strips_from(strips.start).len(), next };
                    self.strips(weight, strips.clone(), operand, ahead, scratch, &mut sums);
                    for (strip, sums) in strips.zip(sums.chunks_exact(block.len())) {
                        let (first, end) = (strip * ROWS, rows.min((strip + 1) * ROWS));
                        for (i, sums) in block.clone().zip(sums) {
                            let mut values = in_row_order(sums);
                            if let Some(bias) = bias {
                                values.iter_mut().zip(&bias[first..end]).for_each(|(value, bias)| *value += bias);
                            }
                            // SAFETY: each strip of a product is in one task.
                            let out = unsafe { out.part(i * rows + first, end - first) };
                            match add {
                                true => out.iter_mut().zip(values).for_each(|(out, value)| *out += value),
                                false => out.copy_from_slice(&values[..end - first]),
                            }
                        }
                    }
                }
            });
            (scratch.strip, scratch.panels) = (sums, gathered);
        });
    }

    /// `out = inputs · weight`, a round by itself.
    pub fn matmul(&self, weight: &Weight, inputs: Inputs<'_>, out: &mut [f32]) {
        self.multiply([Product::new(weight, inputs, out)]);
    }

    /// Calls `work` for blocks of whole panels of inputs of `weights`, up to [`INPUT_BLOCK`] each.
    pub fn for_blocks<'w>(
        &self,
        weights: impl IntoIterator<Item = &'w Weight>,
        inputs: &Inputs<'_>,
        gathered: &mut Vec<u32>,
        mut work: impl FnMut(Range<usize>, &Operand<'_>),
    ) {
        let (n, most) = (inputs.len(), self.isa.panel_rows());
        let floats_too = inputs.int8.is_none() || weights.into_iter().any(|weight| !self.takes_int8(weight));
        let panel = panel_rows(n, most);
        let len = INPUT_BLOCK / panel * panel;
        for first in (0..n).step_by(len) {
            let block = first..n.min(first + len);
            let int8 = inputs.int8.map(|panels| match inputs.picked {
                Some(picked) => panels.gather(&picked[block.clone()], most, gathered),
                None => panels.range(block.clone()),
            });
            let len = block.len();
            if floats_too {
                let mut floats: [&[f32]; INPUT_BLOCK] = [&[]; INPUT_BLOCK];
                floats.iter_mut().zip(block.clone()).for_each(|(floats, i)| *floats = inputs.row(i));
                work(block, &Operand { len, int8, floats: &floats[..len] });
            } else {
                work(block, &Operand { len, int8, floats: &[] });
            }
        }
    }

    /// `sums[s][i][slot] = weight[row of slot in strip s] · inputs[i]` for each of `strips`; rows beyond the last are
    /// unspecified.
    pub fn strips(
        &self,
        weight: &Weight,
        strips: Range<usize>,
        inputs: &Operand<'_>,
        ahead: Ahead<'_>,
        scratch: &mut Scratch,
        sums: &mut Vec<[f32; ROWS]>,
    ) {
        sums.resize(strips.len() * inputs.len, [0.0; ROWS]);
        match (weight, inputs.int8) {
            (Weight::Packed(packed), Some(panels)) if self.takes_int8(weight) => {
                strips::project(self.isa, packed, strips, panels, ahead, sums);
            }
            _ => {
                for (strip, sums) in strips.zip(sums.chunks_exact_mut(inputs.len)) {
                    self.strip_of_floats(weight, strip, inputs.floats, scratch, sums);
                }
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

/// Puts the sums of one strip for one input into row order.
pub fn in_row_order(sums: &[f32; ROWS]) -> [f32; ROWS] {
    let mut rows = [0.0; ROWS];
    for (slot, sum) in sums.iter().enumerate() {
        rows[row_of_slot(slot)] = *sum;
    }
    rows
}
