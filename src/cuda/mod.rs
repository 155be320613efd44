//! The backend for CUDA devices.
//!
//! From the outside in: [`driver`] opens the driver at run time and turns its codes into errors, [`device`] tells what
//! there is, [`context`] holds a device without touching the caller's own use of it, [`memory`] is the one allocation and
//! its parts, [`module`] the kernels, [`launch`] and [`stream`] the way to run them.

mod context;
mod device;
mod driver;
mod images;
mod launch;
mod memory;
mod module;
mod stream;
#[cfg(test)]
mod testing;

pub use context::Context;
pub use device::{DeviceInfo, devices};
pub use driver::Driver;

/// The CUDA version that this build's kernels were compiled with, and the architectures; `None` without kernels.
pub fn built_with() -> Option<((u32, u32), &'static [&'static str])> {
    images::VERSION.map(|version| (version, images::ARCHITECTURES))
}
