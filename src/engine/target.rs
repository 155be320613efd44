//! The processor that a load is for.

use std::path::Path;
use std::sync::Arc;

use super::Device;
use crate::cuda::{Context, Modules, check_spec};
use crate::error::Result;
use crate::model::ModelSpec;

/// What a model will run on.
pub(super) enum Target {
    /// The machine's own processor.
    Cpu,
    /// A CUDA device, the kernels on it, and its memory that was free besides.
    Cuda { context: Arc<Context>, modules: Modules, free: u64 },
}

impl Target {
    /// What `device` stands for on this machine, for the model at `path`. [`Device::Automatic`] is the machine's own
    /// processor.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] for a model that a device's kernels do not take,
    /// [`crate::Error::NoDevice`], [`crate::Error::DriverTooOld`], [`crate::Error::OutOfDeviceMemory`] for a device
    /// without room for anything.
    pub(super) fn choose(device: Device, spec: &ModelSpec, path: &Path) -> Result<Self> {
        match device {
            Device::Automatic | Device::Cpu => Ok(Target::Cpu),
            Device::Cuda(ordinal) => {
                check_spec(spec, path)?;
                let context = Context::hold(ordinal)?;
                // Before any weight is read, because not every device has code in a build.
                let modules = Modules::load(&context)?;
                let (free, _) = context.memory()?;
                Ok(Target::Cuda { context, modules, free })
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
