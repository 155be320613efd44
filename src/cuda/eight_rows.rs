//! Products of two to eight quantised rows, of formats that have short kernels of their own: see `kernels/products/eight_rows.cuh`.

use super::args::{Product, ProductsArgs, QuantisedRow, number};
use super::device::DeviceInfo;
use super::module::{Kernel, Modules};
use super::one_row::{COLUMNS, Group, WARPS, Walk, room, strips};
use super::stream::Stream;
use crate::error::Result;

/// Rows at most.
const MOST_ROWS: usize = 8;
/// Bytes of 256 columns of so many rows: codes, which padding keeps apart, and two factors a tile.
const BLOCK_BYTES: usize = MOST_ROWS * (COLUMNS + 32 + 8 * COLUMNS / 32);

pub struct EightRows {
    /// By format.
    kernels: Vec<Kernel>,
    multiprocessors: u32,
}

impl EightRows {
    pub fn new(modules: &Modules, device: &DeviceInfo) -> Result<Self> {
        let kernels = modules.int8_kernels("products_8", Modules::kernel_beside_others)?;
        Ok(Self { kernels, multiprocessors: device.multiprocessors })
    }

    /// Groups of `products`, and those that no kernel here takes, of `count` rows.
    pub fn groups(&self, products: &[Product], count: usize) -> (Vec<Group>, Vec<Product>) {
        Group::all(products, |matrix| {
            let kernel = matrix.int8_format().filter(|_| count <= MOST_ROWS)?;
            let walk = Walk::of([matrix], self.multiprocessors);
            (walk.slots(self.room(kernel, &walk)) > 0).then_some(kernel)
        })
    }

    /// Shared memory for blocks of weights beside the rows.
    fn room(&self, kernel: usize, walk: &Walk) -> usize {
        room(&self.kernels[kernel]).saturating_sub(walk.blocks * BLOCK_BYTES)
    }

    /// Queues the launch of a group with `count` rows of `cols` columns.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn run(
        &self,
        stream: &Stream,
        group: &Group,
        rows: QuantisedRow,
        (cols, count): (usize, usize),
        add: bool,
    ) -> Result<()> {
        let kernel = &self.kernels[group.kernel];
        let matrices = group.products.iter().map(|product| &product.matrix);
        let walk = Walk::of(matrices.clone(), self.multiprocessors);
        let slots = walk.slots(self.room(group.kernel, &walk));
        let args = ProductsArgs {
            cols: number(cols),
            add: add.into(),
            slots: number(slots),
            row: rows,
            count: number(count),
            ..ProductsArgs::of(&group.products)
        };
        let shared = walk.blocks * BLOCK_BYTES + walk.bytes_of(slots);
        let grid = strips(matrices).min(self.multiprocessors);
        let launch = kernel.launch([grid, 1, 1], [number(32 * WARPS), 1, 1]).shared(number(shared));
        // SAFETY: the kernel's argument; the caller checked that the rows and the outputs are there.
        unsafe { launch.arg(args).queue(stream) }
    }
}
