//! The processor that a load is for.

use std::path::Path;
use std::sync::Arc;

use super::{Device, LoadOptions};
use crate::cuda::{Context, Modules, check_spec};
use crate::error::{Error, Result};
use crate::model::ModelSpec;

/// What a model will run on.
pub(super) enum Target {
    /// The machine's own processor.
    Cpu,
    /// A CUDA device, the kernels on it, and its memory that was free besides.
    Cuda { context: Arc<Context>, modules: Modules, free: u64 },
}

impl Target {
    /// What the device of `options` stands for on this machine, for the model at `path`. [`Device::Automatic`] is the
    /// machine's own processor.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model that a device's kernels do not take, [`Error::InvalidArgument`] for a context that
    /// is not one of the device, [`Error::NoDevice`], [`Error::DriverTooOld`], [`Error::OutOfDeviceMemory`] for a device
    /// without room for anything.
    pub(super) fn choose(options: &LoadOptions, spec: &ModelSpec, path: &Path) -> Result<Self> {
        match options.device {
            Device::Automatic | Device::Cpu => match options.cuda_context {
                None => Ok(Target::Cpu),
                Some(_) => Err(Error::InvalidArgument(
                    "cuda_context is given, and device does not name the CUDA device that it belongs to".into(),
                )),
            },
            Device::Cuda(ordinal) => {
                check_spec(spec, path)?;
                let context = match options.cuda_context {
                    None => Context::hold(ordinal)?,
                    Some(host) => Context::of_host(ordinal, host)?,
                };
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
