//! A device's context, and whose it is: the caller's current context stays what it was.

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::sys;

use super::device::{DeviceInfo, handle};
use super::driver::{Driver, check, usable};
use crate::error::Result;

/// The primary context of a device, which all users of the device in this process share, held as long as this lives.
pub struct Context {
    raw: sys::CUcontext,
    device: sys::CUdevice,
    info: DeviceInfo,
}

// SAFETY: the driver's contexts may be used from any thread.
unsafe impl Send for Context {}
// SAFETY: see `Send`.
unsafe impl Sync for Context {}

impl Context {
    /// Holds the primary context of device `ordinal`. Nothing becomes current.
    ///
    /// # Errors
    /// As [`Driver::open`]; [`crate::Error::NoDevice`] for a number that no device has,
    /// [`crate::Error::OutOfDeviceMemory`] where the device has no room for a context.
    pub fn hold(ordinal: u32) -> Result<Arc<Self>> {
        Driver::open()?;
        let (device, info) = (handle(ordinal)?, DeviceInfo::read(ordinal)?);
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one handle, which `drop` gives back.
        usable("a CUDA context", unsafe { sys::cuDevicePrimaryCtxRetain(&mut raw, device) })?;
        Ok(Arc::new(Self { raw, device, info }))
    }

    /// The device.
    pub fn device(&self) -> &DeviceInfo {
        &self.info
    }

    /// Makes the context current on this thread until what is returned is dropped.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn enter(&self) -> Result<Entered<'_>> {
        // SAFETY: the context is held.
        check("entering a CUDA context", unsafe { sys::cuCtxPushCurrent_v2(self.raw) })?;
        Ok(Entered(PhantomData))
    }

    /// Makes the context current on this thread, which is the library's own, for good.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn enter_for_good(&self) -> Result<()> {
        // SAFETY: the context is held.
        check("entering a CUDA context", unsafe { sys::cuCtxSetCurrent(self.raw) })
    }

    /// Bytes of device memory that are free, and that there are.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let _entered = self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two numbers.
        check("asking for free device memory", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
        Ok((free as u64, total as u64))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it was held once. After a lost device this fails, and there is nothing left to give back.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// A context that is current on this thread; dropping it brings back the one before.
pub struct Entered<'a>(PhantomData<(&'a Context, *const ())>);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut popped = std::ptr::null_mut();
        // SAFETY: `enter` pushed it on this same thread, as the type is not `Send`.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
    }
}
