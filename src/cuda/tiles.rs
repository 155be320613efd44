//! Products of many rows. Where inputs may be quantised they are once, in a launch of their own, and then every block reads
//! them for the tensor cores; all others are products of float32.

use super::args::{MoeArgs, Product, QuantiseArgs, TileFloatsArgs, TileMoeArgs, TileProductsArgs, number};
use super::memory::{DeviceMemory, DeviceSlice};
use super::module::{Kernel, Modules};
use super::plan::WorkParts;
use super::stream::Stream;
use crate::error::Result;

/// Rows of activations that a block takes, at most.
pub const ROWS: usize = 64;
/// Rows of a step from which it pays.
pub const FEWEST: usize = 2;
/// Rows of a weight that a block takes.
const STRIPS: u32 = 128;
/// The same of products in float32.
const FLOAT_ROWS: u32 = 32;
/// Shared memory of a block: activations and weights of 256 columns, twice.
const SHARED: usize = 2 * (ROWS * (256 + 32) + 8 * ROWS * 8 + 8 * 4352);
/// Columns that share a scale.
const TILE: usize = 32;

pub struct Tiles {
    quantise: Kernel,
    products: Kernel,
    floats: Kernel,
    gate_up: Kernel,
    down: Kernel,
    codes: DeviceSlice<u32>,
    factors: DeviceSlice<f32>,
}

impl Tiles {
    /// `None` for a device whose blocks have too little shared memory.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub(super) fn new(modules: &Modules, memory: &DeviceMemory, parts: &WorkParts) -> Result<Option<Self>> {
        let tiles = Self {
            quantise: modules.kernel("quantise")?,
            products: modules.kernel("tile_products")?,
            floats: modules.kernel("tile_floats")?,
            gate_up: modules.kernel("tile_gate_up")?,
            down: modules.kernel("tile_down")?,
            codes: memory.part(parts.codes)?,
            factors: memory.part(parts.factors)?,
        };
        let fits = [&tiles.products, &tiles.gate_up, &tiles.down].iter().all(|kernel| kernel.shared_memory >= SHARED);
        Ok(fits.then_some(tiles))
    }

    /// Quantises the first `values` values of `input`, rows of whole tiles.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for memory that is too small.
    pub fn quantise(&self, stream: &Stream, input: DeviceSlice<f32>, values: usize) -> Result<()> {
        let tiles = values / TILE;
        let args = QuantiseArgs {
            input: input.holding(values, "values to quantise")?,
            codes: self.codes.holding(8 * tiles, "quantised values")?,
            factors: self.factors.holding(2 * tiles, "scales of quantised values")?,
            tiles: number(tiles),
            unused: 0,
        };
        let launch = self.quantise.launch([number(tiles.div_ceil(32)), 1, 1], [256, 1, 1]);
        // SAFETY: the kernel's argument, of sizes that were checked.
        unsafe { launch.arg(args).queue(stream) }
    }

    /// The products of up to four matrices that take int8 with `count` rows of what was quantised last.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn products(&self, stream: &Stream, products: &[Product], cols: usize, count: usize, add: bool) -> Result<()> {
        let mut all = [Product::NONE; 4];
        all.iter_mut().zip(products).for_each(|(to, product)| *to = *product);
        let args = TileProductsArgs {
            products: all,
            codes: self.codes.holding(count * cols / 4, "quantised inputs")?,
            factors: self.factors.start(),
            products_count: number(products.len()),
            cols: number(cols),
            count: number(count),
            add: add.into(),
        };
        let groups = products.iter().map(|product| product.matrix.rows.div_ceil(STRIPS)).sum();
        let launch = self.products.launch([groups, number(count.div_ceil(ROWS)), 1], [256, 1, 1]);
        // SAFETY: the kernel's argument; the caller checked that the outputs have `count` rows.
        unsafe { launch.shared(number(SHARED)).arg(args).queue(stream) }
    }

    /// The products of up to four matrices of any format with `count` rows of `input`, in float32.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for memory that is too small.
    pub fn floats(
        &self,
        stream: &Stream,
        products: &[Product],
        input: DeviceSlice<f32>,
        (cols, count): (usize, usize),
        add: bool,
    ) -> Result<()> {
        let mut all = [Product::NONE; 4];
        all.iter_mut().zip(products).for_each(|(to, product)| *to = *product);
        let args = TileFloatsArgs {
            products: all,
            input: input.holding(count * cols, "inputs of a product")?,
            products_count: number(products.len()),
            cols: number(cols),
            count: number(count),
            add: add.into(),
        };
        let groups = products.iter().map(|product| product.matrix.rows.div_ceil(FLOAT_ROWS)).sum();
        let launch = self.floats.launch([groups, number(count.div_ceil(ROWS)), 1], [256, 1, 1]);
        // SAFETY: the kernel's argument; the caller checked that the outputs have `count` rows.
        unsafe { launch.arg(args).queue(stream) }
    }

    /// The experts of a feed-forward half whose entries are grouped in items of [`ROWS`], behind its router: activations of
    /// `widths.0` rows of a weight, then outputs of `widths.1`. `moe` and what it points to were checked by the caller.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for memory that is too small.
    pub fn experts(
        &self,
        stream: &Stream,
        moe: MoeArgs,
        input: DeviceSlice<f32>,
        activations: DeviceSlice<f32>,
        values: usize,
        widths: (usize, usize),
    ) -> Result<()> {
        self.quantise(stream, input, moe.count as usize * moe.hidden as usize)?;
        let args = TileMoeArgs { moe, codes: self.codes.start(), factors: self.factors.start() };
        let launch = |kernel: &Kernel, width: usize, strips: u32| {
            let grid = [number(width).div_ceil(strips), moe.max_items, 1];
            // SAFETY: the kernel's argument, of sizes that were checked.
            unsafe { kernel.launch(grid, [256, 1, 1]).shared(number(SHARED)).arg(args).queue(stream) }
        };
        // Half of a block's warps have the gate's rows, the others the same rows of the other matrix.
        launch(&self.gate_up, widths.0, STRIPS / 2)?;
        self.quantise(stream, activations, values)?;
        launch(&self.down, widths.1, STRIPS)
    }
}
