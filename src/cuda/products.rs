//! Products of weights with rows of activations: up to four matrices with the same input in one launch.

use std::sync::Arc;

use super::args::{Forms, Matrix, NormArgs, Product, ProductsArgs, QuantisedRow, number};
use super::device::DeviceInfo;
use super::eight_rows::EightRows;
use super::memory::{DevicePtr, DeviceSlice};
use super::module::{Kernel, Modules};
use super::one_row::{self, OneRow};
use super::stream::Stream;
use super::tiles::Tiles;
use super::weights::Weight;
use crate::error::{Error, Result};

pub struct Products {
    /// For one row, of every format.
    any: Kernel,
    /// For one row, by format.
    one_row: OneRow,
    /// For up to eight, likewise.
    eight_rows: EightRows,
    /// For all others of several rows.
    tiles: Arc<Tiles>,
    multiprocessors: usize,
    exact: bool,
}

/// Rows of activations.
#[derive(Clone, Copy)]
pub struct Inputs {
    /// `[count, cols]`.
    pub data: DeviceSlice<f32>,
    pub count: usize,
    /// Which row of `data` a single one is; `None`: the first.
    pub pick: Option<DeviceSlice<u32>>,
    /// Weights and epsilon of the norm that a single row is to pass first.
    pub norm: Option<(DeviceSlice<f32>, f32)>,
    /// Takes the place of the rows of `data` for matrices that [`Products::takes_quantised`].
    pub quantised: QuantisedRow,
    /// A norm that several rows of `data` are to pass first, and where it leaves them: see [`Products::norms`].
    pub rows_norm: Option<NormArgs>,
    /// The kernel behind starts before this one waits: see `kernels/common/device.cuh`.
    pub early: bool,
}

impl Inputs {
    /// The first `count` rows of `data`, as they are.
    pub fn rows(data: DeviceSlice<f32>, count: usize) -> Self {
        Self { data, count, pick: None, norm: None, quantised: QuantisedRow::NONE, rows_norm: None, early: false }
    }
}

/// What becomes of the result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Set,
    /// Added to what is there.
    Add,
}

impl Products {
    /// `exact` never quantises inputs.
    pub fn new(modules: &Modules, device: &DeviceInfo, tiles: Arc<Tiles>, exact: bool) -> Result<Self> {
        Ok(Self {
            any: modules.kernel("products_1")?,
            one_row: OneRow::new(modules, device)?,
            eight_rows: EightRows::new(modules, device)?,
            tiles,
            multiprocessors: device.multiprocessors as usize,
            exact,
        })
    }

    /// Whether products of `count` rows with `matrix` take rows that are quantised already: several of them where
    /// [`Tiles::quantise`] puts them.
    pub fn takes_quantised(&self, matrix: &Matrix, count: usize) -> bool {
        let one = || (matrix.cols as usize).is_multiple_of(one_row::COLUMNS) && self.one_row.takes_quantised(matrix);
        !self.exact && if count == 1 { one() } else { matrix.takes_int8() }
    }

    /// Whether [`Products::run_exact`] with `products` norms `count` rows that it reads.
    pub fn norms(&self, products: &[(&Weight, DeviceSlice<f32>)], count: usize) -> bool {
        let matrices = products.iter().map(|(weight, _)| &weight.matrix);
        products.first().is_some_and(|(weight, _)| self.tiles.norms(matrices, weight.matrix.cols as usize, count))
    }

    /// `out[i, r] = inputs[i] · weight[r] + bias[r]`, `[count, rows of the weight]`, for each of up to four products.
    ///
    /// # Errors
    /// [`Error::Internal`] for memory that is too small or matrices that do not fit the input.
    pub fn run(
        &self,
        stream: &Stream,
        inputs: Inputs,
        products: &[(&Weight, DeviceSlice<f32>)],
        output: Output,
    ) -> Result<()> {
        self.launch(stream, inputs, products, output, self.exact)
    }

    /// As [`Products::run`], with inputs in float32 whatever the load asked for: for products whose small errors would
    /// change a choice.
    ///
    /// # Errors
    /// As [`Products::run`].
    pub fn run_exact(&self, stream: &Stream, inputs: Inputs, products: &[(&Weight, DeviceSlice<f32>)]) -> Result<()> {
        self.launch(stream, inputs, products, Output::Set, true)
    }

    fn launch(
        &self,
        stream: &Stream,
        inputs: Inputs,
        products: &[(&Weight, DeviceSlice<f32>)],
        output: Output,
        exact: bool,
    ) -> Result<()> {
        let (count, cols) = (inputs.count, products.first().map_or(0, |(weight, _)| weight.matrix.cols as usize));
        if products.len() > 4 || products.iter().any(|(weight, _)| weight.matrix.cols as usize != cols) {
            return Err(Error::Internal("products of one launch that do not share their input".into()));
        }
        let product = |(weight, out): &(&Weight, DeviceSlice<f32>)| {
            let rows = weight.matrix.rows;
            let out = out.holding(count * rows as usize, "a product")?;
            Ok(Product { matrix: weight.matrix, bias: weight.bias, out, out_stride: rows, unused: 0 })
        };
        let all = products.iter().map(product).collect::<Result<Vec<_>>>()?;
        let add = output == Output::Add;
        if inputs.rows_norm.is_some() && (count == 1 || all.iter().any(|p| p.matrix.takes_int8() && !exact)) {
            return Err(Error::Internal(format!("{count} rows that products which cannot are to norm")));
        }
        if count == 1 {
            return self.single(stream, inputs, &all, add, exact);
        }
        if inputs.norm.is_some() || inputs.pick.is_some() {
            return Err(Error::Internal(format!("{count} rows that a product is to pick or to norm")));
        }
        let (int8, float): (Vec<Product>, Vec<Product>) =
            all.into_iter().partition(|p| p.matrix.takes_int8() && !exact);
        if !int8.is_empty() {
            if inputs.quantised.is_none() {
                self.tiles.quantise(stream, inputs.data, count * cols, true)?;
            }
            let (groups, others) = self.eight_rows.groups(&int8, count);
            for group in groups {
                self.eight_rows.run(stream, &group, self.tiles.quantised(count * cols)?, (cols, count), add)?;
            }
            if !others.is_empty() {
                self.tiles.products(stream, &others, cols, count, add)?;
            }
        }
        if !float.is_empty() {
            self.tiles.floats(stream, &float, inputs.data, (cols, count), inputs.rows_norm, add)?;
        }
        Ok(())
    }

    /// Launches in which each block keeps the row in its shared memory.
    fn single(&self, stream: &Stream, inputs: Inputs, products: &[Product], add: bool, exact: bool) -> Result<()> {
        let (groups, others) = self.one_row.groups(products, exact);
        for group in groups {
            let args = args(inputs, &group.products, add, forms(&group.products, exact))?;
            self.one_row.run(stream, &group, args)?;
        }
        let Some(first) = others.first() else { return Ok(()) };
        let (cols, forms) = (first.matrix.cols as usize, forms(&others, exact));
        let (bytes, most) = (forms.bytes(1, cols), self.any.shared_memory);
        if bytes > most {
            return Err(Error::Internal(format!("a row of {cols} values does not fit {most} bytes of shared memory")));
        }
        let args = args(inputs, &others, add, forms)?;
        let strips: u32 = others.iter().map(|product| product.matrix.rows.div_ceil(16)).sum();
        let grid = [strips.min(2 * number(self.multiprocessors)), 1, 1];
        let launch = self.any.launch(grid, [256, 1, 1]).shared(number(bytes));
        // SAFETY: the kernel's argument; the input is a row of `cols` values or picked from a step's rows, and each matrix is
        // as its plan says.
        unsafe { launch.arg(args).queue(stream) }
    }
}

/// The forms in which `products` take their inputs.
fn forms(products: &[Product], exact: bool) -> Forms {
    Forms::of(products.iter().map(|product| &product.matrix), exact)
}

/// The argument of the kernels that keep a single row in shared memory, in `forms`.
fn args(inputs: Inputs, products: &[Product], add: bool, forms: Forms) -> Result<ProductsArgs> {
    let cols = products.first().map_or(0, |product| product.matrix.cols as usize);
    let (norm, eps) = match inputs.norm {
        Some((norm, eps)) => (norm.holding(cols, "the weights of a norm")?, eps),
        None => (DevicePtr::NULL, 0.0),
    };
    Ok(ProductsArgs {
        input: inputs.data.holding(if inputs.pick.is_some() { 0 } else { cols }, "inputs of a product")?,
        norm,
        pick: match inputs.pick {
            Some(pick) => pick.holding(1, "the picked row")?,
            None => DevicePtr::NULL,
        },
        eps,
        input_stride: number(cols),
        cols: number(cols),
        add: add.into(),
        forms: forms.bits(),
        early: inputs.early.into(),
        row: inputs.quantised,
        ..ProductsArgs::of(products)
    })
}
