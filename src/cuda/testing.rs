//! What tests of kernels share: a device where there is one, and memory that is filled, read back and poisoned.

use std::sync::Arc;

use super::context::Context;
use super::memory::{DeviceMemory, DeviceSlice, Pinned, Plain, Planner};
use super::module::Modules;
use super::stream::{Priority, Stream};
use crate::error::{Error, Result};

/// The first device, with its context current on this thread, all kernels loaded, and a stream.
pub struct Gpu {
    pub modules: Modules,
    pub stream: Stream,
    pub context: Arc<Context>,
}

/// Device memory of a test.
pub struct Buffer<T: Plain> {
    pub slice: DeviceSlice<T>,
    _memory: DeviceMemory,
}

/// What `outcome` holds; nothing, and it says so, where there is no device, or no kernels were built.
///
/// # Panics
/// For every other error: a device that does not work is no reason to skip its tests.
pub fn present<T>(outcome: Result<T>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(error @ (Error::NoDevice(_) | Error::DriverTooOld(_))) => {
            println!("skipped: no CUDA device: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

impl Gpu {
    /// `None` where there is no device, or no kernels were built; says so.
    pub fn open() -> Option<Self> {
        let context = present(Context::hold(0))?;
        context.enter_for_good().unwrap();
        let stream = Stream::new(&context, Priority::Default).unwrap();
        Some(Self { modules: Modules::load(&context).unwrap(), stream, context })
    }

    /// `len` values, every byte of which is 0xff: not-a-number in every floating-point type.
    pub fn poisoned<T: Plain>(&self, len: usize) -> Buffer<T> {
        let mut planner = Planner::default();
        let planned = planner.take::<T>(len);
        let memory = DeviceMemory::take(&self.context, planner.bytes(), "a test").unwrap();
        let slice = memory.part(planned).unwrap();
        self.stream.fill(slice, 0xff).unwrap();
        self.stream.wait().unwrap();
        Buffer { slice, _memory: memory }
    }

    /// `values`, in device memory.
    pub fn upload<T: Plain>(&self, values: &[T]) -> Buffer<T> {
        let buffer = self.poisoned(values.len());
        self.put(values, buffer.slice);
        buffer
    }

    /// Puts `values` into `slice`.
    pub fn put<T: Plain>(&self, values: &[T], slice: DeviceSlice<T>) {
        let mut pinned = Pinned::zeroed(&self.context, values.len(), "a test").unwrap();
        pinned.copy_from_slice(values);
        self.stream.upload(&pinned, slice).unwrap();
        self.stream.wait().unwrap();
    }

    /// What `slice` holds once everything queued is done.
    pub fn download<T: Plain>(&self, slice: DeviceSlice<T>) -> Vec<T> {
        let mut pinned = Pinned::zeroed(&self.context, slice.len(), "a test").unwrap();
        self.stream.fetch(slice, &mut pinned).unwrap();
        pinned.to_vec()
    }
}
