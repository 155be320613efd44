//! The driver: opened at run time, so that the same library runs on machines without one, and its errors.

use std::ffi::{CStr, c_char};

use cudarc::driver::sys::{self, CUresult};

use super::images;
use crate::error::{Error, Result};

/// A driver that this build's kernels run with.
#[derive(Debug, Clone, Copy)]
pub struct Driver {
    /// 1000 times the major number and 10 times the minor one.
    version: u32,
}

impl Driver {
    /// Opens the machine's driver.
    ///
    /// # Errors
    /// [`Error::NoDevice`] where this build has no kernels, or the machine no driver or no device;
    /// [`Error::DriverTooOld`].
    pub fn open() -> Result<Self> {
        let Some((major, minor)) = images::VERSION else {
            return Err(Error::NoDevice("this build has no CUDA support".into()));
        };
        let absent = || Error::NoDevice("no CUDA driver (libcuda.so.1) can be opened on this machine".into());
        // The bindings panic where a library or one of its functions is missing, so both are looked for first.
        // SAFETY: the driver's library may be opened and closed at any time.
        if !unsafe { sys::is_culib_present() } {
            return Err(absent());
        }
        // SAFETY: the symbol is only looked up; the type is that of no call.
        if unsafe { sys::culib().get::<*const ()>(b"cuInit\0") }.is_err() {
            return Err(absent());
        }
        let mut version = 0;
        // SAFETY: writes one number.
        usable("asking for the driver's version", unsafe { sys::cuDriverGetVersion(&mut version) })?;
        let driver = Self { version: version.max(0) as u32 };
        let (has, needed) = (driver.version(), (major, 0).max(OLDEST));
        if has < needed {
            return Err(Error::DriverTooOld(format!(
                "it supports CUDA {}.{}; this library was built with {major}.{minor}, and needs {}.{}",
                has.0, has.1, needed.0, needed.1
            )));
        }
        // SAFETY: may be called any number of times.
        usable("starting the CUDA driver", unsafe { sys::cuInit(0) }).map(|()| driver)
    }

    /// The CUDA version that it supports, major and minor.
    pub fn version(self) -> (u32, u32) {
        (self.version / 1000, self.version % 1000 / 10)
    }

    /// Number of devices.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn device_count(self) -> Result<u32> {
        let mut count = 0;
        // SAFETY: writes one number.
        check("counting the CUDA devices", unsafe { sys::cuDeviceGetCount(&mut count) })?;
        Ok(count.max(0) as u32)
    }
}

/// The first CUDA version whose drivers have every function that is used here. Beyond that, code of a compiler runs with
/// every driver of the same major version and of later ones.
const OLDEST: (u32, u32) = (12, 4);

/// As [`check`], for what comes before any work: whatever fails there means that the device cannot be used, and nothing is
/// lost yet.
///
/// # Errors
/// [`Error::OutOfDeviceMemory`]; else [`Error::NoDevice`] with the driver's words.
pub fn usable(what: &str, code: CUresult) -> Result<()> {
    match code {
        CUresult::CUDA_ERROR_NO_DEVICE => Err(Error::NoDevice("the CUDA driver finds no device".into())),
        CUresult::CUDA_SUCCESS | CUresult::CUDA_ERROR_OUT_OF_MEMORY => check(what, code),
        _ => Err(Error::NoDevice(format!("{what}: {}", describe(code)))),
    }
}

/// The error that `code`, the answer to a call that did `what`, stands for.
///
/// # Errors
/// [`Error::OutOfDeviceMemory`]; [`Error::DeviceLost`] for errors that stay with the context; [`Error::Internal`].
pub fn check(what: &str, code: CUresult) -> Result<()> {
    check_for_memory(what, 0, code)
}

/// As [`check`], for a call that takes `bytes` of device memory.
///
/// # Errors
/// As [`check`].
pub fn check_for_memory(what: &str, bytes: u64, code: CUresult) -> Result<()> {
    use CUresult as C;
    match code {
        C::CUDA_SUCCESS => Ok(()),
        C::CUDA_ERROR_OUT_OF_MEMORY => Err(Error::OutOfDeviceMemory { what: what.into(), bytes }),
        C::CUDA_ERROR_ILLEGAL_ADDRESS
        | C::CUDA_ERROR_LAUNCH_FAILED
        | C::CUDA_ERROR_LAUNCH_TIMEOUT
        | C::CUDA_ERROR_HARDWARE_STACK_ERROR
        | C::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | C::CUDA_ERROR_MISALIGNED_ADDRESS
        | C::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | C::CUDA_ERROR_INVALID_PC
        | C::CUDA_ERROR_ASSERT
        | C::CUDA_ERROR_ECC_UNCORRECTABLE
        | C::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | C::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | C::CUDA_ERROR_DEVICE_UNAVAILABLE
        | C::CUDA_ERROR_DEINITIALIZED
        | C::CUDA_ERROR_EXTERNAL_DEVICE
        | C::CUDA_ERROR_UNKNOWN => Err(Error::DeviceLost(format!("{what}: {}", describe(code)))),
        _ => Err(Error::Internal(format!("{what}: {}", describe(code)))),
    }
}

/// The driver's name and words for `code`.
pub(super) fn describe(code: CUresult) -> String {
    let text = |read: unsafe fn(CUresult, *mut *const c_char) -> CUresult| {
        let mut text = std::ptr::null();
        // SAFETY: writes one pointer.
        let known = unsafe { read(code, &mut text) } == CUresult::CUDA_SUCCESS && !text.is_null();
        // SAFETY: the driver's texts are static and end in 0.
        known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    };
    let (name, words) = (text(sys::cuGetErrorName), text(sys::cuGetErrorString));
    format!("{} ({})", name.unwrap_or_else(|| format!("CUDA error {}", code as u32)), words.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On most machines that build this there is no driver; on the others it is new enough or says that it is not.
    #[test]
    fn a_machine_without_a_driver_is_an_error_and_no_panic() {
        match Driver::open() {
            Ok(driver) => assert!(driver.device_count().unwrap() > 0),
            Err(error) => assert!(matches!(error, Error::NoDevice(_) | Error::DriverTooOld(_)), "{error}"),
        }
    }
}
