//! Products of a single row, of formats that have short kernels of their own: one for matrices of that format and of
//! floating-point ones beside them.

use super::args::{INT8_FORMATS, Product, ProductsArgs, number};
use super::device::DeviceInfo;
use super::module::{Kernel, Modules};
use super::stream::Stream;
use crate::error::Result;

/// Columns that rows must be a multiple of.
const COLUMNS: u32 = 256;

pub struct OneRow {
    /// One for each of [`INT8_FORMATS`], then that for floating-point matrices alone.
    kernels: Vec<Kernel>,
    multiprocessors: u32,
}

/// Products that one of the kernels takes together.
pub struct Group {
    kernel: usize,
    pub products: Vec<Product>,
}

impl OneRow {
    pub fn new(modules: &Modules, device: &DeviceInfo) -> Result<Self> {
        let names = INT8_FORMATS.iter().map(|(_, name)| *name).chain(["floats"]);
        let kernels = names.map(|name| modules.kernel(&format!("products_1_{name}")));
        Ok(Self { kernels: kernels.collect::<Result<_>>()?, multiprocessors: device.multiprocessors })
    }

    /// Groups of `products`, and those that no kernel here takes. `exact` never quantises.
    pub fn groups(&self, products: &[Product], exact: bool) -> (Vec<Group>, Vec<Product>) {
        let (mut groups, mut floats, mut others) = (Vec::<Group>::new(), Vec::new(), Vec::new());
        for product in products {
            let whole = product.matrix.cols.is_multiple_of(COLUMNS);
            match product.matrix.int8_format().filter(|_| !exact && whole) {
                Some(kernel) => match groups.iter_mut().find(|group| group.kernel == kernel) {
                    Some(group) => group.products.push(*product),
                    None => groups.push(Group { kernel, products: vec![*product] }),
                },
                None if product.matrix.is_float() && whole => floats.push(*product),
                None => others.push(*product),
            }
        }
        match groups.first_mut() {
            Some(group) => group.products.append(&mut floats),
            None if !floats.is_empty() => groups.push(Group { kernel: INT8_FORMATS.len(), products: floats }),
            None => {}
        }
        (groups, others)
    }

    /// Queues the launch of a group, whose products `args` holds.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn run(&self, stream: &Stream, group: &Group, args: ProductsArgs, shared: usize) -> Result<()> {
        let units = group.products.iter().map(|product| match product.matrix.packed {
            0 => product.matrix.rows.div_ceil(4),
            _ => product.matrix.rows.div_ceil(16),
        });
        // A block a multiprocessor, so that those of the next kernel find room beside them.
        let grid = units.sum::<u32>().min(self.multiprocessors);
        let launch = self.kernels[group.kernel].launch([grid, 1, 1], [256, 1, 1]).shared(number(shared));
        // SAFETY: the kernel's argument, of sizes that the caller checked.
        unsafe { launch.arg(args).queue(stream) }
    }
}
