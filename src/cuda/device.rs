//! The machine's CUDA devices.

use std::ffi::CStr;

use cudarc::driver::sys::{self, CUdevice_attribute};

use super::driver::{Driver, check};
use crate::error::{Error, Result};

/// A device, as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number.
    pub ordinal: u32,
    /// Its maker's name for it.
    pub name: String,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Bytes of memory.
    pub memory: u64,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory that one block may have.
    pub shared_memory: u32,
}

/// All devices, and the driver's version.
///
/// # Errors
/// As [`Driver::open`].
pub fn devices() -> Result<(Driver, Vec<DeviceInfo>)> {
    let driver = Driver::open()?;
    let devices = (0..driver.device_count()?).map(DeviceInfo::read).collect::<Result<_>>()?;
    Ok((driver, devices))
}

impl DeviceInfo {
    /// Asks an open driver for device `ordinal`.
    ///
    /// # Errors
    /// [`Error::NoDevice`] where there are not so many.
    pub fn read(ordinal: u32) -> Result<Self> {
        let device = handle(ordinal)?;
        let mut name = [0u8; 256];
        let mut memory = 0;
        // SAFETY: the driver writes at most so many bytes, the last of them 0.
        let named = unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as i32, device) };
        check("asking for a device's name", named)?;
        // SAFETY: writes one number.
        check("asking for a device's memory", unsafe { sys::cuDeviceTotalMem_v2(&mut memory, device) })?;
        use CUdevice_attribute as A;
        Ok(Self {
            ordinal,
            name: CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned(),
            capability: (
                attribute(device, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(device, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            memory: memory as u64,
            multiprocessors: attribute(device, A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_memory: attribute(device, A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        })
    }
}

fn attribute(device: sys::CUdevice, which: CUdevice_attribute) -> Result<u32> {
    let mut value = 0;
    // SAFETY: writes one number.
    check("asking for a device's properties", unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) })?;
    Ok(value.max(0) as u32)
}

/// The driver's handle of device `ordinal`.
///
/// # Errors
/// [`Error::NoDevice`] where there are not so many.
pub(super) fn handle(ordinal: u32) -> Result<sys::CUdevice> {
    let mut device = 0;
    let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
    // SAFETY: writes one handle.
    match unsafe { sys::cuDeviceGet(&mut device, number) } {
        sys::CUresult::CUDA_ERROR_INVALID_DEVICE => Err(Error::NoDevice(format!("CUDA device {ordinal} is not there"))),
        code => check("looking for a CUDA device", code).map(|()| device),
    }
}
