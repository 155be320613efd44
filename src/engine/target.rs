//! The processor that a load is for.

use std::sync::Arc;

use super::Device;
use crate::cuda::Context;
use crate::error::Result;

/// What a model will run on.
pub(super) enum Target {
    /// The machine's own processor.
    Cpu,
    /// A CUDA device, and its memory that was free when it was chosen.
    Cuda { context: Arc<Context>, free: u64 },
}

impl Target {
    /// What `device` stands for on this machine. [`Device::Automatic`] is the machine's own processor.
    ///
    /// # Errors
    /// [`crate::Error::NoDevice`], [`crate::Error::DriverTooOld`], [`crate::Error::OutOfDeviceMemory`] for a device
    /// without room for anything.
    pub(super) fn choose(device: Device) -> Result<Self> {
        match device {
            Device::Automatic | Device::Cpu => Ok(Target::Cpu),
            Device::Cuda(ordinal) => {
                let context = Context::hold(ordinal)?;
                let (free, _) = context.memory()?;
                Ok(Target::Cuda { context, free })
            }
        }
    }

    /// Bytes of device memory that were free; `None` where no device is used.
    pub(super) fn free(&self) -> Option<u64> {
        match self {
            Target::Cpu => None,
            Target::Cuda { free, .. } => Some(*free),
        }
    }
}
