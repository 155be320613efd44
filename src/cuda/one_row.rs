//! Products of a single row, of formats that have short kernels of their own.

use super::args::{FLOAT_FORMATS, INT8_FORMATS, Matrix, Product, ProductsArgs, number};
use super::device::DeviceInfo;
use super::module::{Kernel, Modules};
use super::stream::Stream;
use crate::error::Result;

/// Columns that rows must be a multiple of, and that a warp takes together.
pub const COLUMNS: usize = 256;
/// Warps of a block.
pub const WARPS: usize = 16;
/// Rows that a block of the kernel for float32 takes.
const FLOAT_ROWS: u32 = 4;
/// Bytes of a row of such a kernel, a value of padding for eight included.
const FLOAT_TILE_BYTES: usize = 36 * 4;
const INT8_TILE_BYTES: usize = 32 + 8;
const TILE: usize = 32;
/// Blocks of weights that a warp keeps in shared memory, at most.
const MOST_SLOTS: usize = 3;

pub struct OneRow {
    /// One for each of [`INT8_FORMATS`], then of [`FLOAT_FORMATS`].
    kernels: Vec<Kernel>,
    multiprocessors: u32,
}

/// Products that one of the kernels takes together.
pub struct Group {
    pub(super) kernel: usize,
    pub products: Vec<Product>,
}

/// Part of a block's shared memory for blocks of weights: what is left is for those of the kernels before and behind.
pub fn room(kernel: &Kernel) -> usize {
    kernel.shared_memory / 3 * 2
}

/// Blocks of a matrix, `bytes` each, that each of `warps` warps keeps in `room` bytes of shared memory: as many as it has to read, or
/// as there is room for.
pub fn slots(room: usize, bytes: usize, warps: usize, most: usize, wanted: usize) -> usize {
    (room / (bytes * warps).max(1)).min(most).min(wanted)
}

/// What a block of a launch reads of matrices of one format that have the same columns.
pub(super) struct Walk {
    /// Blocks of columns.
    pub blocks: usize,
    /// Bytes of such a block of 16 rows.
    bytes: usize,
    /// Blocks that a warp reads, at most.
    wanted: usize,
}

impl Walk {
    pub fn of<'a>(matrices: impl IntoIterator<Item = &'a Matrix> + Clone, multiprocessors: u32) -> Self {
        let cols = matrices.clone().into_iter().map(|matrix| matrix.cols as usize).next().unwrap_or(0);
        let bytes = matrices.clone().into_iter().map(|matrix| matrix.block_bytes(COLUMNS)).max().unwrap_or(0);
        let blocks = cols.div_ceil(COLUMNS);
        let (across, sets) = shares(blocks, WARPS);
        let strips = strips(matrices).div_ceil(multiprocessors.max(1)) as usize;
        Self { blocks, bytes, wanted: strips.div_ceil(sets) * blocks.div_ceil(across) }
    }

    /// Blocks that each warp keeps in `room` bytes of shared memory.
    pub fn slots(&self, room: usize) -> usize {
        slots(room, self.bytes, WARPS, MOST_SLOTS, self.wanted)
    }

    /// Bytes of so many for every warp.
    pub fn bytes_of(&self, slots: usize) -> usize {
        WARPS * slots * self.bytes
    }
}

/// How a block's warps share strips of `blocks` blocks of columns: those that share a strip, and the strips at a time
/// (`Shares` in `kernels/common/ring.cuh`).
pub fn shares(blocks: usize, warps: usize) -> (usize, usize) {
    let across = [warps, warps / 2].into_iter().find(|across| blocks > across / 2).unwrap_or(warps / 4);
    (across, warps / across)
}

impl Group {
    /// Groups of `products` that `kernel_of` names a kernel for, and those that it names none for.
    pub(super) fn all(products: &[Product], kernel_of: impl Fn(&Matrix) -> Option<usize>) -> (Vec<Self>, Vec<Product>) {
        let (mut groups, mut others) = (Vec::<Self>::new(), Vec::new());
        for product in products {
            match kernel_of(&product.matrix).filter(|_| (product.matrix.cols as usize).is_multiple_of(COLUMNS)) {
                Some(kernel) => match groups.iter_mut().find(|g| g.kernel == kernel && g.takes(&product.matrix)) {
                    Some(group) => group.products.push(*product),
                    None => groups.push(Self { kernel, products: vec![*product] }),
                },
                None => others.push(*product),
            }
        }
        (groups, others)
    }

    /// Whether `matrix`, of the kernel's format, has the codebook of the others.
    fn takes(&self, matrix: &Matrix) -> bool {
        self.products.iter().all(|product| product.matrix.codebook.address() == matrix.codebook.address())
    }
}

impl OneRow {
    pub fn new(modules: &Modules, device: &DeviceInfo) -> Result<Self> {
        let names = INT8_FORMATS.iter().chain(&FLOAT_FORMATS).map(|(_, name)| *name);
        let kernels = names.map(|name| modules.kernel_beside_others(&format!("products_1_{name}")));
        Ok(Self { kernels: kernels.collect::<Result<_>>()?, multiprocessors: device.multiprocessors })
    }

    /// Whether products with `matrix` take a row that is quantised already.
    pub fn takes_quantised(&self, matrix: &Matrix) -> bool {
        matrix.int8_format().is_some_and(|kernel| self.has_room(kernel, matrix))
    }

    /// Groups of `products`, and those that no kernel here takes. `exact` never quantises.
    pub fn groups(&self, products: &[Product], exact: bool) -> (Vec<Group>, Vec<Product>) {
        Group::all(products, |matrix| {
            let int8 = matrix.int8_format().filter(|kernel| !exact && self.has_room(*kernel, matrix));
            int8.or_else(|| matrix.float_format().map(|kernel| INT8_FORMATS.len() + kernel))
        })
    }

    /// Whether the blocks of a kernel of a format keep any of `matrix` in shared memory.
    fn has_room(&self, kernel: usize, matrix: &Matrix) -> bool {
        Walk::of([matrix], self.multiprocessors).slots(room(&self.kernels[kernel])) > 0
    }

    /// Queues the launch of a group, whose products `args` holds.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn run(&self, stream: &Stream, group: &Group, args: ProductsArgs) -> Result<()> {
        let kernel = &self.kernels[group.kernel];
        let (matrices, tiles) = (group.products.iter().map(|product| &product.matrix), args.cols as usize / TILE);
        let float = group.kernel.checked_sub(INT8_FORMATS.len()).map(|float| FLOAT_FORMATS[float].1);
        let (units, slots, shared) = match float {
            None => {
                let walk = Walk::of(matrices.clone(), self.multiprocessors);
                let slots = walk.slots(room(kernel));
                (strips(matrices), slots, (tiles * INT8_TILE_BYTES).next_multiple_of(16) + walk.bytes_of(slots))
            }
            Some("f32") => {
                (matrices.map(|matrix| matrix.rows).sum::<u32>().div_ceil(FLOAT_ROWS), 0, 4 * args.cols as usize)
            }
            Some(_) => (strips(matrices), 0, tiles * FLOAT_TILE_BYTES),
        };
        let grid = match float {
            // Each block has its rows.
            Some("f32") => units,
            _ => blocks(units, self.multiprocessors),
        };
        let launch = kernel.launch([grid, 1, 1], [number(32 * WARPS), 1, 1]).shared(number(shared));
        // The router, whose blocks are small and begin beside those of an output projection.
        let launch = if args.early != 0 { launch.spread() } else { launch };
        // SAFETY: the kernel's argument, of sizes that the caller checked.
        unsafe { launch.arg(ProductsArgs { slots: number(slots), ..args }).queue(stream) }
    }
}

/// Blocks for `strips` strips, one a multiprocessor at most, so that those of the next kernel find room beside them: as few as take
/// no longer than more of them would, so that some multiprocessors have room for the largest.
fn blocks(strips: u32, multiprocessors: u32) -> u32 {
    strips.div_ceil(strips.div_ceil(multiprocessors.max(1)).max(1))
}

/// Strips of all of `matrices`.
pub(super) fn strips<'a>(matrices: impl IntoIterator<Item = &'a Matrix>) -> u32 {
    matrices.into_iter().map(|matrix| matrix.rows.div_ceil(16)).sum()
}
