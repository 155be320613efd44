//! The backend for CUDA devices.
//!
//! From the outside in: [`driver`] opens the driver at run time and turns its codes into errors, [`device`] tells what
//! there is, [`context`] holds a device without touching the caller's own use of it, [`memory`] is the one allocation and
//! its parts, [`module`] the kernels, [`launch`], [`stream`] and [`recording`] the ways to run them, and [`event`] how the
//! host hears of a step's end while the next one runs. [`plan`] lays that allocation out, [`weights`] says what of the image
//! lies where, [`step`] tells the device of a step's rows, [`report`] the host of what came of them, [`queued`] what they
//! chose, and [`backend`] strings the operations together, which have a file each: [`embed`], [`norm`], [`products`],
//! [`attention`], [`delta_net`], [`moe`], [`sample`]; [`one_row`], [`eight_rows`] and [`tiles`] are the products of one row, of up to eight, and of many.

mod args;
mod attention;
mod backend;
mod context;
mod delta_net;
mod device;
mod driver;
mod eight_rows;
mod embed;
mod event;
mod few_rows;
mod images;
mod launch;
mod limits;
#[cfg(test)]
mod lost_device;
mod memory;
mod module;
mod moe;
mod norm;
mod one_row;
mod plan;
mod products;
mod queued;
mod recording;
mod report;
mod sample;
mod split;
mod step;
mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tiles;
mod upload;
mod weights;

pub use backend::{CudaBackend, CudaOptions};
pub use context::{Context, HostContext};
pub use device::{DeviceInfo, devices};
pub use driver::Driver;
pub use limits::check as check_spec;
pub use module::Modules;
pub use plan::{MemoryPlan, Sizes, plan};
pub use stream::Priority;
pub use upload::passing_bytes;

/// Loads the kernels of this build on device `ordinal`, and says how many bytes of its memory are free.
///
/// # Errors
/// As [`Context::hold`]; [`crate::Error::NoDevice`] for a device that the kernels do not run on.
pub fn probe(ordinal: u32) -> crate::Result<u64> {
    let context = Context::hold(ordinal)?;
    let _modules = Modules::load(&context)?;
    context.memory().map(|(free, _)| free)
}

/// The CUDA version that this build's kernels were compiled with, and the architectures; `None` without kernels.
pub fn built_with() -> Option<((u32, u32), &'static [&'static str])> {
    images::VERSION.map(|version| (version, images::ARCHITECTURES))
}
