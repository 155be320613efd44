//! A device's context, and whose it is: the primary one or the caller's, and what is current on the caller's thread stays
//! what it was.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::sys;

use super::device::{DeviceInfo, handle};
use super::driver::{Driver, check, describe, usable};
use crate::error::{Error, Result};

/// A context that the host program made (`CUcontext`), and goes on to own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostContext(NonNull<c_void>);

// SAFETY: the driver's contexts may be used from any thread.
unsafe impl Send for HostContext {}
// SAFETY: see `Send`.
unsafe impl Sync for HostContext {}

impl HostContext {
    /// The context that `raw`, a `CUcontext`, names; `None` for NULL.
    ///
    /// # Safety
    /// NULL, or a context that lives until everything that was told of it is gone.
    pub unsafe fn from_raw(raw: *mut c_void) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }
}

/// A context of a device: the primary one, which all users of the device in this process share, held as long as this
/// lives; or one that the host program keeps.
pub struct Context {
    raw: sys::CUcontext,
    /// Of the primary context: to be given back.
    held: Option<sys::CUdevice>,
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
    /// As [`Driver::open`]; [`Error::NoDevice`] for a number that no device has, [`Error::OutOfDeviceMemory`] where the
    /// device has no room for a context.
    pub fn hold(ordinal: u32) -> Result<Arc<Self>> {
        Driver::open()?;
        let (device, info) = (handle(ordinal)?, DeviceInfo::read(ordinal)?);
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one handle, which `drop` gives back.
        usable("a CUDA context", unsafe { sys::cuDevicePrimaryCtxRetain(&mut raw, device) })?;
        Ok(Arc::new(Self { raw, held: Some(device), info }))
    }

    /// Uses `host`, a context of device `ordinal`, and does not own it. Nothing becomes current.
    ///
    /// # Errors
    /// As [`Driver::open`]; [`Error::InvalidArgument`] for what is no context, or one of another device.
    pub fn of_host(ordinal: u32, host: HostContext) -> Result<Arc<Self>> {
        Driver::open()?;
        let (device, info) = (handle(ordinal)?, DeviceInfo::read(ordinal)?);
        let context = Self { raw: host.0.as_ptr().cast(), held: None, info };
        let mut own = -1;
        // SAFETY: the caller of `from_raw` promised a context; for one that the driver no longer knows this is an error.
        let mut code = unsafe { sys::cuCtxPushCurrent_v2(context.raw) };
        if code == sys::CUresult::CUDA_SUCCESS {
            let _entered = Entered(PhantomData);
            // SAFETY: writes one handle.
            code = unsafe { sys::cuCtxGetDevice(&mut own) };
        }
        if code != sys::CUresult::CUDA_SUCCESS {
            return Err(Error::InvalidArgument(format!("cuda_context is no context to work in: {}", describe(code))));
        }
        if own != device {
            return Err(Error::InvalidArgument(format!(
                "cuda_context is a context of CUDA device {own}, and device is {ordinal}"
            )));
        }
        Ok(Arc::new(context))
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
        // SAFETY: the context is held, by this or by the host program.
        check("entering a CUDA context", unsafe { sys::cuCtxPushCurrent_v2(self.raw) })?;
        Ok(Entered(PhantomData))
    }

    /// Makes the context current on this thread, which is the library's own, for good.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn enter_for_good(&self) -> Result<()> {
        // SAFETY: the context is held, by this or by the host program.
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
        let Some(device) = self.held else { return };
        // SAFETY: it was held once. After a lost device this fails, and there is nothing left to give back.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(device) };
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
