//! Products of weights with rows of activations: up to four matrices with the same input in one launch.

use std::sync::Arc;

use super::args::{Forms, Matrix, Product, ProductsArgs, QuantisedRow, number};
use super::device::DeviceInfo;
use super::memory::{DevicePtr, DeviceSlice};
use super::module::{Kernel, Modules};
use super::one_row::{self, OneRow};
use super::stream::Stream;
use super::tiles::{self, Tiles};
use super::weights::Weight;
use crate::error::{Error, Result};

/// Rows of the input that a block takes together at most, and what their number is a multiple of where there are several.
const MOST_ROWS: usize = 8;
const PAIR: usize = 2;

pub struct Products {
    /// For one row, and for several; of every format.
    one: Kernel,
    many: Kernel,
    /// For one row, by format.
    one_row: OneRow,
    /// For many rows.
    tiles: Option<Arc<Tiles>>,
    multiprocessors: usize,
    exact: bool,
}

/// Rows of activations.
#[derive(Clone, Copy)]
pub struct Inputs {
    /// `[count, cols]`.
    pub data: DeviceSlice<f32>,
    pub count: usize,
    /// Which rows of `data`; `None`: the first ones.
    pub pick: Option<DeviceSlice<u32>>,
    /// Weights and epsilon of the norm that every row is to pass first.
    pub norm: Option<(DeviceSlice<f32>, f32)>,
    /// Takes the place of the rows of `data` for matrices that [`Products::takes_quantised`].
    pub quantised: QuantisedRow,
    /// The kernel behind reads nothing but weights before it waits for this one.
    pub early: bool,
}

impl Inputs {
    /// The first `count` rows of `data`, as they are.
    pub fn rows(data: DeviceSlice<f32>, count: usize) -> Self {
        Self { data, count, pick: None, norm: None, quantised: QuantisedRow::NONE, early: false }
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
    pub fn new(modules: &Modules, device: &DeviceInfo, tiles: Option<Arc<Tiles>>, exact: bool) -> Result<Self> {
        Ok(Self {
            one: modules.kernel("products_1")?,
            many: modules.kernel("products_many")?,
            one_row: OneRow::new(modules, device)?,
            tiles,
            multiprocessors: device.multiprocessors as usize,
            exact,
        })
    }

    /// Whether products of `count` rows with `matrix` take rows that are quantised already: several of them where
    /// [`Tiles::row`] is.
    pub fn takes_quantised(&self, matrix: &Matrix, count: usize) -> bool {
        let one = || (matrix.cols as usize).is_multiple_of(one_row::COLUMNS) && self.one_row.takes_quantised(matrix);
        let several = || self.tiles.is_some() && count >= tiles::FEWEST && matrix.takes_int8();
        !self.exact && if count == 1 { one() } else { several() }
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
        let many = count >= tiles::FEWEST && inputs.norm.is_none() && inputs.pick.is_none();
        let Some(tiles) = self.tiles.as_ref().filter(|_| many) else {
            return self.few(stream, inputs, &all, add, exact);
        };
        let (int8, float): (Vec<Product>, Vec<Product>) =
            all.into_iter().partition(|p| p.matrix.takes_int8() && !exact);
        if !int8.is_empty() {
            if inputs.quantised.is_none() {
                tiles.quantise(stream, inputs.data, count * cols)?;
            }
            tiles.products(stream, &int8, cols, count, add)?;
        }
        if !float.is_empty() {
            tiles.floats(stream, &float, inputs.data, (cols, count), add)?;
        }
        Ok(())
    }

    /// Launches in which each block keeps its rows of the input by itself.
    fn few(&self, stream: &Stream, inputs: Inputs, products: &[Product], add: bool, exact: bool) -> Result<()> {
        if inputs.count > 1 {
            return self.general(stream, inputs, products, add, exact);
        }
        let (groups, others) = self.one_row.groups(products, exact);
        for group in groups {
            self.one_row.run(stream, &group, args(inputs, &group.products, add, forms(&group.products, exact), 1)?)?;
        }
        self.general(stream, inputs, &others, add, exact)
    }

    /// The launch that takes every format.
    fn general(&self, stream: &Stream, inputs: Inputs, products: &[Product], add: bool, exact: bool) -> Result<()> {
        if products.is_empty() {
            return Ok(());
        }
        let (count, cols, forms) = (inputs.count, products[0].matrix.cols as usize, forms(products, exact));
        let kernel = if count == 1 { &self.one } else { &self.many };
        let rows = rows_together(count, cols, forms, kernel.shared_memory)?;
        let args = args(inputs, products, add, forms, rows)?;
        let strips: u32 = products.iter().map(|product| product.matrix.rows.div_ceil(16)).sum();
        let grid = [strips.min(2 * number(self.multiprocessors)), number(count.div_ceil(rows)), 1];
        let launch = kernel.launch(grid, [256, 1, 1]).shared(number(forms.bytes(rows, cols)));
        // SAFETY: the kernel's argument; the input has `count` rows of `cols` values or is picked from a step's rows, each
        // output as many rows, and each matrix is as its plan says.
        unsafe { launch.arg(args).queue(stream) }
    }
}

/// As many of `count` rows as a block takes together in `shared_memory` bytes.
fn rows_together(count: usize, cols: usize, forms: Forms, shared_memory: usize) -> Result<usize> {
    let most = if count == 1 { 1 } else { count.min(MOST_ROWS).next_multiple_of(PAIR) };
    let mut all = (1..=most).rev().filter(|rows| *rows == most || rows.is_multiple_of(PAIR));
    all.find(|rows| forms.bytes(*rows, cols) <= shared_memory).ok_or_else(|| {
        Error::Internal(format!("rows of {cols} values do not fit {shared_memory} bytes of shared memory"))
    })
}

/// The forms in which `products` take their inputs.
fn forms(products: &[Product], exact: bool) -> Forms {
    Forms::of(products.iter().map(|product| &product.matrix), exact)
}

/// The argument of the kernels that keep `together` rows of the input in shared memory, in `forms`.
fn args(inputs: Inputs, products: &[Product], add: bool, forms: Forms, together: usize) -> Result<ProductsArgs> {
    let (count, cols) = (inputs.count, products.first().map_or(0, |product| product.matrix.cols as usize));
    let mut all = [Product::NONE; 4];
    all.iter_mut().zip(products).for_each(|(to, product)| *to = *product);
    let (norm, eps) = match inputs.norm {
        Some((norm, eps)) => (norm.holding(cols, "the weights of a norm")?, eps),
        None => (DevicePtr::NULL, 0.0),
    };
    Ok(ProductsArgs {
        products: all,
        input: inputs.data.holding(if inputs.pick.is_some() { 0 } else { count * cols }, "inputs of a product")?,
        norm,
        pick: match inputs.pick {
            Some(pick) => pick.holding(count, "picked rows")?,
            None => DevicePtr::NULL,
        },
        eps,
        products_count: number(products.len()),
        input_stride: number(cols),
        cols: number(cols),
        count: number(count),
        add: add.into(),
        forms: forms.bits(),
        together: number(together),
        slots: 0,
        early: inputs.early.into(),
        row: inputs.quantised,
    })
}
