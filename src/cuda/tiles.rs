//! Products of several rows. Where inputs may be quantised they are once, by the kernel that computes them or in a launch of their
//! own, and then every block reads them for the tensor cores; all others are products of float32.

use super::args::{
    INT8_FORMATS, Int8Formats, Matrix, MoeArgs, NormArgs, Product, QuantiseArgs, QuantisedRow, TileFloatsArgs,
    TileFloatsFewArgs, TileMoeArgs, TileProductsArgs, number,
};
use super::device::DeviceInfo;
use super::memory::{DeviceMemory, DevicePtr, DeviceSlice};
use super::module::{Kernel, Modules};
use super::plan::WorkParts;
use super::split::{Room, Shape, Split};
use super::stream::Stream;
use crate::error::{Error, Result};

/// Rows of a weight that a block takes.
const STRIPS: u32 = 128;
/// Rows of a weight and of the input that a block of products in float32 takes, the columns that it takes together, and the
/// least times that it does: what it costs to add up parts is worth no fewer.
const FLOAT_TILE: usize = 64;
const FLOAT_COLUMNS: usize = 64;
const FLOAT_STEPS: usize = 4;
/// What a part costs beside its steps, in steps.
const PART_COST: usize = 2;
/// What a block of products of few rows in float32 takes: rows of a weight, and of the input, one of so many parts of the
/// columns, which are a multiple of what a warp takes. And the most rows of the input for which it is used.
const FEW_STRIP: u32 = 16;
const FEW_ROWS: usize = 32;
const FEW_PARTS: u32 = 4;
const FEW_COLUMNS: usize = 64;
const FEW_MOST: usize = 64;
/// Columns that a block of the others takes together.
const COLUMNS: usize = 256;
/// Rows of the input that a block may take, the most that it has room for first.
const ROWS: [usize; 2] = [64, 32];
/// Shared memory that leaves a multiprocessor room for two blocks.
const HALF: usize = 112 << 10;
/// Blocks that a multiprocessor works on at a time.
const BLOCKS: usize = 2;
/// Columns that share a scale.
const TILE: usize = 32;

pub struct Tiles {
    quantise: Kernel,
    /// By format, as those of experts.
    products: Vec<Kernel>,
    products_few: Vec<Kernel>,
    floats: Kernel,
    /// For few rows, where blocks form clusters.
    floats_few: Option<Kernel>,
    gate_up: Vec<Kernel>,
    down: Vec<Kernel>,
    multiprocessors: usize,
    /// Rows of the input that a block takes, and its shared memory.
    pub rows: usize,
    shared: usize,
    codes: DeviceSlice<u32>,
    factors: DeviceSlice<f32>,
    /// Sums of parts of the columns, and how many parts of a tile are done.
    float_parts: DeviceSlice<f32>,
    float_counters: DeviceSlice<u32>,
}

impl Tiles {
    /// # Errors
    /// [`Error::NoDevice`] for a device whose blocks have too little shared memory.
    pub(super) fn new(
        modules: &Modules,
        device: &DeviceInfo,
        memory: &DeviceMemory,
        parts: &WorkParts,
    ) -> Result<Self> {
        let by_format = |name| modules.int8_kernels(name, Modules::kernel);
        let kernels = [by_format("tile_products")?, by_format("tile_gate_up")?, by_format("tile_down")?];
        let room = kernels.iter().flatten().map(|kernel| kernel.shared_memory).min().unwrap_or(0).min(HALF);
        let rows = ROWS.into_iter().find(|rows| least_shared(*rows) <= room).ok_or_else(|| {
            let (ordinal, name, least) = (device.ordinal, &device.name, least_shared(ROWS[ROWS.len() - 1]));
            Error::NoDevice(format!(
                "CUDA device {ordinal} ({name}) has {room} bytes of shared memory a block, fewer than the {least} that products \
                 take"
            ))
        })?;
        let [products, gate_up, down] = kernels;
        Ok(Self {
            quantise: modules.kernel("quantise")?,
            products,
            products_few: by_format("tile_products_few")?,
            floats: modules.kernel("tile_floats")?,
            floats_few: Some(modules.kernel("tile_floats_few")?).filter(|kernel| kernel.overlaps),
            gate_up,
            down,
            multiprocessors: device.multiprocessors as usize,
            rows,
            shared: room / 16 * 16,
            codes: memory.part(parts.codes)?,
            factors: memory.part(parts.factors)?,
            float_parts: memory.part(parts.float_parts)?,
            float_counters: memory.part(parts.float_counters)?,
        })
    }

    /// Quantises the first `values` values of `input`, rows of whole tiles. `early`: the kernel behind starts before this one waits,
    /// see `kernels/common/device.cuh`.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for memory that is too small.
    pub fn quantise(&self, stream: &Stream, input: DeviceSlice<f32>, values: usize, early: bool) -> Result<()> {
        let tiles = values / TILE;
        let args = QuantiseArgs {
            input: input.holding(values, "values to quantise")?,
            codes: self.codes.holding(8 * tiles, "quantised values")?,
            factors: self.factors.holding(2 * tiles, "scales of quantised values")?,
            tiles: number(tiles),
            early: early.into(),
        };
        let launch = self.quantise.launch([number(tiles.div_ceil(32)), 1, 1], [256, 1, 1]);
        // SAFETY: the kernel's argument, of sizes that were checked.
        unsafe { launch.arg(args).queue(stream) }
    }

    /// What was quantised last, so many values.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for memory that is too small.
    pub fn quantised(&self, values: usize) -> Result<QuantisedRow> {
        Ok(QuantisedRow {
            codes: self.codes.holding(values / 4, "quantised inputs")?,
            factors: self.factors.holding(2 * (values / TILE), "scales of quantised inputs")?,
        })
    }

    /// The products of up to four matrices that take int8 with `count` rows of what was quantised last.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for memory that is too small.
    pub fn products(&self, stream: &Stream, products: &[Product], cols: usize, count: usize, add: bool) -> Result<()> {
        if products.iter().any(|product| product.matrix.int8_format().is_none()) {
            return Err(Error::Internal("a quantised product with a matrix that takes none".into()));
        }
        for format in 0..INT8_FORMATS.len() {
            let own = products.iter().filter(|product| product.matrix.int8_format() == Some(format));
            let own: Vec<Product> = own.copied().collect();
            if !own.is_empty() {
                self.products_of(stream, format, &own, (cols, count), add)?;
            }
        }
        Ok(())
    }

    /// The same for matrices of one format.
    fn products_of(
        &self,
        stream: &Stream,
        format: usize,
        products: &[Product],
        (cols, count): (usize, usize),
        add: bool,
    ) -> Result<()> {
        let groups = products.iter().map(|product| product.matrix.rows.div_ceil(STRIPS)).sum::<u32>();
        // Blocks of fewer rows decode weights more often, but one block leaves a multiprocessor idle half of the time.
        let few = groups as usize * count.div_ceil(self.rows) <= self.multiprocessors;
        let rows = if few { ROWS[ROWS.len() - 1] } else { self.rows };
        let split = self.split(format, products, (cols, count), rows);
        let QuantisedRow { codes, factors } = self.quantised(count * cols)?;
        let args = TileProductsArgs {
            products: Product::four(products),
            codes,
            factors,
            products_count: number(products.len()),
            cols: number(cols),
            count: number(count),
            add: add.into(),
            rows: number(rows),
            room: number(split.room),
            split: number(split.parts),
            unused: 0,
        };
        let kernel = &if split.parts == 1 { &self.products } else { &self.products_few }[format];
        let launch = kernel.launch([number(split.blocks), number(count.div_ceil(rows)), 1], [256, 1, 1]);
        let launch = launch.shared(number(split.shared)).cluster(number(split.cluster));
        // SAFETY: the kernel's argument; the caller checked that the outputs have `count` rows.
        unsafe { launch.arg(args).queue(stream) }
    }

    /// How the columns of products are divided, whose blocks take `rows` rows of the input.
    fn split(&self, format: usize, products: &[Product], (cols, count): (usize, usize), rows: usize) -> Split {
        let weights: Vec<usize> = products.iter().map(|product| product.matrix.rows as usize).collect();
        let shape = Shape {
            weights: &weights,
            weight_bytes: products.iter().map(|product| product.matrix.block_bytes(COLUMNS)).max().unwrap_or(0),
            chunks: cols.div_ceil(COLUMNS),
            rows: rows.min(count),
            inputs: count.div_ceil(rows),
        };
        let kernel = &self.products_few[format];
        let whole = kernel.shared_memory;
        let half = self.shared.min(whole);
        Split::of(&shape, &Room { multiprocessors: self.multiprocessors, whole, half, clusters: kernel.overlaps })
    }

    /// Whether [`Tiles::floats`] of `matrices` with `cols` columns has the kernel for few rows, which can norm `count` rows that it reads.
    pub fn norms<'a>(&self, matrices: impl IntoIterator<Item = &'a Matrix>, cols: usize, count: usize) -> bool {
        let plain = cols.is_multiple_of(FEW_COLUMNS) && matrices.into_iter().all(Matrix::is_plain_f32);
        plain && (2..=FEW_MOST).contains(&count) && self.floats_few.is_some()
    }

    /// The products of up to four matrices of any format with `count` rows of `input`, in float32. With a `norm` of these rows, which
    /// [`Tiles::norms`] must allow, the products are those of normed rows, and these are left where it says.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for memory that is too small.
    pub fn floats(
        &self,
        stream: &Stream,
        products: &[Product],
        input: DeviceSlice<f32>,
        (cols, count): (usize, usize),
        norm: Option<NormArgs>,
        add: bool,
    ) -> Result<()> {
        let groups = |rows: u32| products.iter().map(|product| product.matrix.rows.div_ceil(rows)).sum::<u32>();
        let input = input.holding(count * cols, "inputs of a product")?;
        let args = TileFloatsArgs {
            products: Product::four(products),
            input,
            parts: DevicePtr::NULL,
            counters: DevicePtr::NULL,
            products_count: number(products.len()),
            cols: number(cols),
            count: number(count),
            add: add.into(),
            columns: 0,
            unused: 0,
        };
        let few = self.floats_few.as_ref().filter(|_| self.norms(products.iter().map(|own| &own.matrix), cols, count));
        let alike = |norm: &NormArgs| (norm.width as usize, norm.count as usize) == (cols, count);
        if norm.is_some_and(|norm| few.is_none() || !alike(&norm)) {
            return Err(Error::Internal(format!("products in float32 that are to norm {count} rows of {cols} values")));
        }
        if let Some(kernel) = few {
            let groups = groups(FEW_STRIP);
            let of_norm = norm.map_or(0, |_| number(count).div_ceil(FEW_PARTS));
            let grid = [FEW_PARTS, groups + of_norm, number(count.div_ceil(FEW_ROWS))];
            let args = TileFloatsFewArgs { products: args, norm: norm.unwrap_or(NormArgs::NONE), groups, unused: 0 };
            // SAFETY: the kernel's argument; the caller checked that the outputs have `count` rows.
            return unsafe { kernel.launch(grid, [256, 1, 1]).arg(args).queue(stream) };
        }
        let groups = groups(number(FLOAT_TILE));
        let inputs = count.div_ceil(FLOAT_TILE);
        let tiles = groups as usize * inputs;
        let steps = cols.div_ceil(FLOAT_COLUMNS);
        let steps_of_part = steps_of_part(tiles, steps, self.multiprocessors);
        let parts = steps.div_ceil(steps_of_part).max(1);
        let room = if parts > 1 { tiles } else { 0 };
        let args = TileFloatsArgs {
            parts: self.float_parts.holding(room * parts * FLOAT_TILE * FLOAT_TILE, "sums of parts of columns")?,
            counters: self.float_counters.holding(room, "counters of parts of columns")?,
            columns: number(steps_of_part * FLOAT_COLUMNS),
            ..args
        };
        let launch = self.floats.launch([groups, number(inputs), number(parts)], [256, 1, 1]);
        // SAFETY: as above.
        unsafe { launch.arg(args).queue(stream) }
    }

    /// The experts of a feed-forward half whose entries are grouped in items of `rows`, behind its router, with the rows that were
    /// quantised last: activations of `widths.0` rows of a weight, then outputs of `widths.1`. `formats` are those that experts
    /// have in each half. `moe` and what it points to were checked by the caller.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for memory that is too small.
    pub fn experts(
        &self,
        stream: &Stream,
        moe: MoeArgs,
        formats: [Int8Formats; 2],
        activations: DeviceSlice<f32>,
        values: usize,
        widths: (usize, usize),
    ) -> Result<()> {
        let args = TileMoeArgs {
            moe,
            codes: self.codes.start(),
            factors: self.factors.start(),
            room: number(self.shared),
            unused: 0,
        };
        // Of each format, the blocks of whose experts do something.
        let launch = |kernels: &[Kernel], formats: Int8Formats, blocks: u32| {
            kernels.iter().zip(formats).filter(|(_, there)| *there).try_for_each(|(kernel, _)| {
                let grid = [blocks, moe.max_items, 1];
                // SAFETY: the kernel's argument, of sizes that were checked.
                unsafe { kernel.launch(grid, [256, 1, 1]).shared(number(self.shared)).arg(args).queue(stream) }
            })
        };
        // Half of a block's warps have the gate's rows, the others the same rows of the other matrix.
        launch(&self.gate_up, formats[0], number(widths.0).div_ceil(STRIPS / 2))?;
        self.quantise(stream, activations, values, false)?;
        // As many columns a block as of the gate, while that leaves every multiprocessor two rounds of blocks.
        let blocks = number(widths.1).div_ceil(STRIPS);
        let rounds = blocks as usize * moe.max_items as usize / (2 * BLOCKS * self.multiprocessors).max(1);
        let turns = (moe.hidden as usize / widths.0.max(1)).min(rounds).max(1);
        launch(&self.down, formats[1], blocks.div_ceil(number(turns)))
    }
}

/// Shared memory that blocks of `rows` rows of the input need: activations, their scales and weights of [`COLUMNS`] columns,
/// the largest there are, twice.
fn least_shared(rows: usize) -> usize {
    2 * (rows * (COLUMNS + 32 + COLUMNS / TILE * 8) + 8 * 4352)
}

/// Blocks of a launch of products in float32 that have parts of their tiles, at most.
fn most_parts(multiprocessors: usize) -> usize {
    3 * BLOCKS * multiprocessors
}

/// How many of the `steps` that a product in float32 has for each of its `tiles` are one block's: the number with which the
/// rounds of blocks are soonest done.
fn steps_of_part(tiles: usize, steps: usize, multiprocessors: usize) -> usize {
    let time =
        |parts: &usize| (tiles * parts).div_ceil(BLOCKS * multiprocessors) * (steps.div_ceil(*parts) + PART_COST);
    let has_room = |parts: &usize| *parts == 1 || tiles * parts <= most_parts(multiprocessors);
    let parts = (1..=steps.div_ceil(FLOAT_STEPS).max(1)).filter(has_room).min_by_key(time).unwrap_or(1);
    steps.div_ceil(parts).max(1)
}

/// Values of the sums of parts, and tiles that have parts, of one launch of products in float32.
pub(super) fn float_parts(multiprocessors: usize) -> (usize, usize) {
    let parts = most_parts(multiprocessors);
    (parts * FLOAT_TILE * FLOAT_TILE, parts / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_columns_fill_the_device_and_stay_inside_their_room() {
        // A router of 513 rows and 2,048 columns, for 1, 64, 512 and 2,048 rows of inputs.
        let found = [9, 9, 72, 288].map(|tiles| steps_of_part(tiles, 32, 132));
        assert_eq!(found, [4, 4, 11, 16]);
        for (tiles, steps) in [(1usize, 1usize), (1, 1000), (500, 9), (3000, 64), (0, 0)] {
            let parts = steps.div_ceil(steps_of_part(tiles, steps, 4)).max(1);
            assert!(parts == 1 || (tiles * parts <= most_parts(4) && tiles <= most_parts(4) / 2), "{tiles} {steps}");
        }
    }
}
