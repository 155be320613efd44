//! Device memory: one allocation, cut into typed parts, and pinned host memory to fill it from.

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::sys;

use super::context::Context;
use super::driver::{check, check_for_memory};
use crate::error::{Error, Result};

/// What every part of an allocation begins at a multiple of.
const ALIGNMENT: u64 = 256;

/// Values that are the same bytes on host and device.
///
/// # Safety
/// Every bit pattern is a value, there are no padding bytes, and no pointer to host memory is in it.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: plain numbers.
unsafe impl Plain for u8 {}
// SAFETY: plain numbers.
unsafe impl Plain for i8 {}
// SAFETY: plain numbers.
unsafe impl Plain for u16 {}
// SAFETY: plain numbers.
unsafe impl Plain for i32 {}
// SAFETY: plain numbers.
unsafe impl Plain for u32 {}
// SAFETY: plain numbers.
unsafe impl Plain for u64 {}
// SAFETY: plain numbers.
unsafe impl Plain for f32 {}

/// An address in device memory, or none.
#[repr(transparent)]
pub struct DevicePtr<T> {
    address: u64,
    _type: PhantomData<*const T>,
}

impl<T> Clone for DevicePtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DevicePtr<T> {}

impl<T> std::fmt::Debug for DevicePtr<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.address)
    }
}

// SAFETY: a number, as far as the host is concerned.
unsafe impl<T> Send for DevicePtr<T> {}
// SAFETY: see `Send`.
unsafe impl<T> Sync for DevicePtr<T> {}
// SAFETY: a number; what it points to is device memory.
unsafe impl<T: 'static> Plain for DevicePtr<T> {}

impl<T> DevicePtr<T> {
    /// No address: what a kernel takes for a part that is not there.
    pub const NULL: Self = Self::at(0);

    const fn at(address: u64) -> Self {
        Self { address, _type: PhantomData }
    }

    /// Whether there is nothing.
    pub const fn is_null(self) -> bool {
        self.address == 0
    }

    pub(super) const fn address(self) -> u64 {
        self.address
    }
}

/// `len` values in device memory. A name for memory, not its owner: who makes one keeps the allocation alive.
pub struct DeviceSlice<T> {
    start: DevicePtr<T>,
    len: usize,
}

impl<T> Clone for DeviceSlice<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DeviceSlice<T> {}

impl<T> std::fmt::Debug for DeviceSlice<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} values at {:?}", self.len, self.start)
    }
}

impl<T: Plain> DeviceSlice<T> {
    /// `len` values at an address that no memory has: what a defect of a kernel would touch.
    #[cfg(test)]
    pub(super) fn nowhere(len: usize) -> Self {
        Self { start: DevicePtr::at(0x100), len }
    }

    /// Where it begins.
    pub fn start(self) -> DevicePtr<T> {
        self.start
    }

    /// Number of values.
    pub fn len(self) -> usize {
        self.len
    }

    /// The address of value `index`.
    ///
    /// # Errors
    /// [`Error::Internal`] beyond the end.
    pub fn at(self, index: usize) -> Result<DevicePtr<T>> {
        self.part(index, 0).map(|part| part.start)
    }

    /// `len` values from `first`.
    ///
    /// # Errors
    /// [`Error::Internal`] beyond the end.
    pub fn part(self, first: usize, len: usize) -> Result<Self> {
        if first.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Error::Internal(format!("device values {first} to {first} + {len} of {}", self.len)));
        }
        Ok(Self { start: DevicePtr::at(self.start.address + (first * size_of::<T>()) as u64), len })
    }

    /// The same bytes as values of another type, those of a last value that is not whole left out.
    pub fn cast<U: Plain>(self) -> DeviceSlice<U> {
        DeviceSlice { start: DevicePtr::at(self.start.address), len: self.len * size_of::<T>() / size_of::<U>() }
    }

    /// The start of at least `len` values, for a launcher that checks its shapes.
    ///
    /// # Errors
    /// [`Error::Internal`] naming `what` where there are fewer.
    pub fn holding(self, len: usize, what: &str) -> Result<DevicePtr<T>> {
        if len > self.len {
            return Err(Error::Internal(format!("{what}: {len} values in device memory for {}", self.len)));
        }
        Ok(self.start)
    }
}

/// Adds up the parts of an allocation before it is made.
#[derive(Debug, Default)]
pub struct Planner {
    end: u64,
}

/// A part of an allocation that is yet to be made.
#[derive(Debug, Clone, Copy)]
pub struct Planned<T> {
    start: u64,
    len: usize,
    _type: PhantomData<T>,
}

impl Planner {
    /// Room for `len` values. Sizes beyond all memory saturate, and the allocation then fails.
    pub fn take<T: Plain>(&mut self, len: usize) -> Planned<T> {
        let start = self.end.checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX);
        self.end = start.saturating_add((len as u64).saturating_mul(size_of::<T>() as u64));
        Planned { start, len, _type: PhantomData }
    }

    /// Bytes of everything so far, up to where a next part would begin.
    pub fn bytes(&self) -> u64 {
        self.end.checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX)
    }
}

/// One allocation of device memory.
pub struct DeviceMemory {
    context: Arc<Context>,
    start: u64,
    bytes: u64,
}

impl DeviceMemory {
    /// Takes `bytes`, for `what`. What they hold is unspecified.
    ///
    /// # Errors
    /// [`Error::OutOfDeviceMemory`].
    pub fn take(context: &Arc<Context>, bytes: u64, what: &str) -> Result<Self> {
        let refused = || Error::OutOfDeviceMemory { what: what.into(), bytes };
        let size = usize::try_from(bytes).map_err(|_| refused())?;
        let _entered = context.enter()?;
        let mut start = 0;
        // SAFETY: writes one address, which `drop` frees.
        check_for_memory(what, bytes, unsafe { sys::cuMemAlloc_v2(&mut start, size.max(1)) })?;
        Ok(Self { context: context.clone(), start, bytes })
    }

    /// The part `planned`, of the plan that this was sized by.
    ///
    /// # Errors
    /// [`Error::Internal`] for another plan's part.
    pub fn part<T: Plain>(&self, planned: Planned<T>) -> Result<DeviceSlice<T>> {
        let bytes = (planned.len as u64).checked_mul(size_of::<T>() as u64);
        if bytes.and_then(|bytes| planned.start.checked_add(bytes)).is_none_or(|end| end > self.bytes) {
            return Err(Error::Internal(format!("a part behind the {} bytes of its allocation", self.bytes)));
        }
        Ok(DeviceSlice { start: DevicePtr::at(self.start + planned.start), len: planned.len })
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // After a lost device neither call works, and the memory is gone with its context.
        let Ok(_entered) = self.context.enter() else { return };
        // SAFETY: `take` allocated it, and whoever made slices of it is gone.
        let _ = unsafe { sys::cuMemFree_v2(self.start) };
    }
}

/// Host memory that the device reads and writes directly.
pub struct Pinned<T: Plain> {
    context: Arc<Context>,
    start: *mut T,
    len: usize,
}

// SAFETY: the memory belongs to this value alone.
unsafe impl<T: Plain + Send> Send for Pinned<T> {}

impl<T: Plain> Pinned<T> {
    /// `len` zero values, for `what`.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`].
    pub fn zeroed(context: &Arc<Context>, len: usize, what: &str) -> Result<Self> {
        let bytes = len.saturating_mul(size_of::<T>()).max(1);
        let _entered = context.enter()?;
        let mut start = std::ptr::null_mut();
        // SAFETY: writes one address, which `drop` frees.
        match unsafe { sys::cuMemHostAlloc(&mut start, bytes, 0) } {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                return Err(Error::OutOfHostMemory { what: format!("{what} (pinned)"), bytes: bytes as u64 });
            }
            code => check("taking pinned memory", code)?,
        }
        // SAFETY: the driver gave so many bytes.
        unsafe { std::ptr::write_bytes(start.cast::<u8>(), 0, bytes) };
        Ok(Self { context: context.clone(), start: start.cast(), len })
    }
}

impl<T: Plain> std::ops::Deref for Pinned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: so many initialised values, aligned to a page.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T: Plain> std::ops::DerefMut for Pinned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: so many initialised values, aligned to a page.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl<T: Plain> Drop for Pinned<T> {
    fn drop(&mut self) {
        let Ok(_entered) = self.context.enter() else { return };
        // SAFETY: `zeroed` allocated it. Copies from and to it have ended: see [`super::stream::Stream`].
        let _ = unsafe { sys::cuMemFreeHost(self.start.cast()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planned_parts_are_aligned_and_do_not_overlap() {
        let mut planner = Planner::default();
        let a = planner.take::<f32>(3);
        let b = planner.take::<u8>(257);
        let c = planner.take::<u64>(1);
        assert_eq!([a.start, b.start, c.start], [0, 256, 768]);
        assert_eq!(planner.bytes(), 1024);
        planner.take::<u64>(usize::MAX);
        assert_eq!(planner.bytes(), u64::MAX);
    }
}
