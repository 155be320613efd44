//! The compiled kernels on a device, by name.

use std::ffi::CString;
use std::sync::Arc;

use cudarc::driver::sys;

use super::args::INT8_FORMATS;
use super::context::Context;
use super::driver::{check, check_for_memory};
use super::images;
use crate::error::{Error, Result};

/// Of a multiprocessor's memory, what is shared memory where kernels run beside each other; the rest is its first-level cache.
const SHARED_PERCENT: i32 = 85;

/// All fat binaries of this build, loaded into one context.
pub struct Modules {
    list: Vec<Arc<Module>>,
}

struct Module {
    context: Arc<Context>,
    raw: sys::CUmodule,
}

// SAFETY: the driver's modules may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: see `Send`.
unsafe impl Sync for Module {}

/// A kernel, loaded and ready to be launched.
pub struct Kernel {
    pub(super) raw: sys::CUfunction,
    pub(super) name: String,
    /// Bytes of dynamic shared memory that a launch may ask for.
    pub shared_memory: usize,
    /// The device can start it before the kernel in front has ended: see [`super::launch`]. Clusters of blocks came with
    /// the same generation.
    pub(super) overlaps: bool,
    /// Keeps the code where it is.
    module: Arc<Module>,
}

// SAFETY: the driver's functions may be used from any thread.
unsafe impl Send for Kernel {}
// SAFETY: see `Send`.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// Of the device it was loaded for.
    pub(super) fn multiprocessors(&self) -> u32 {
        self.module.context.device().multiprocessors
    }
}

impl Modules {
    /// Loads every fat binary of this build.
    ///
    /// # Errors
    /// [`Error::NoDevice`] where none has code for the device.
    pub fn load(context: &Arc<Context>) -> Result<Self> {
        let list = images::IMAGES.iter().map(|(name, image)| Module::load(context, name, image));
        Ok(Self { list: list.collect::<Result<_>>()? })
    }

    /// Kernel `name`, which one of the fat binaries has.
    ///
    /// # Errors
    /// [`Error::Internal`] where there is no such kernel.
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        for module in &self.list {
            if let Some(kernel) = module.kernel(name)? {
                return Ok(kernel);
            }
        }
        Err(Error::Internal(format!("no kernel {name} in this build")))
    }

    /// Kernels `name_<format>` of each of [`INT8_FORMATS`], as `load` loads one.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn int8_kernels(&self, name: &str, load: impl Fn(&Self, &str) -> Result<Kernel>) -> Result<Vec<Kernel>> {
        INT8_FORMATS.iter().map(|(_, format)| load(self, &format!("{name}_{format}"))).collect()
    }

    /// Kernel `name`, which is to run beside the one in front of it and the one behind. A multiprocessor divides its memory
    /// anew only when it is idle, so that all of these want the same division.
    ///
    /// # Errors
    /// As [`Modules::kernel`].
    pub fn kernel_beside_others(&self, name: &str) -> Result<Kernel> {
        let kernel = self.kernel(name)?;
        let context = kernel.module.context.clone();
        let _entered = context.enter()?;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        // SAFETY: sets one number of a loaded function.
        check(name, unsafe { sys::cuFuncSetAttribute(kernel.raw, attribute, SHARED_PERCENT) })?;
        Ok(kernel)
    }
}

impl Module {
    fn load(context: &Arc<Context>, name: &str, image: &images::Image) -> Result<Arc<Self>> {
        let _entered = context.enter()?;
        let mut raw = std::ptr::null_mut();
        let bytes = image.0.len() as u64;
        // SAFETY: a whole fat binary, from where such may begin.
        match unsafe { sys::cuModuleLoadData(&mut raw, image.0.as_ptr().cast()) } {
            sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => {
                let device = context.device();
                let (major, minor) = device.capability;
                return Err(Error::NoDevice(format!(
                    "CUDA device {} ({}) has compute capability {major}.{minor}; this library has code for {}",
                    device.ordinal,
                    device.name,
                    images::ARCHITECTURES.join(", ")
                )));
            }
            code => check_for_memory(&format!("the CUDA kernels {name}"), bytes, code)?,
        }
        Ok(Arc::new(Self { context: context.clone(), raw }))
    }

    fn kernel(self: &Arc<Self>, name: &str) -> Result<Option<Kernel>> {
        let symbol = CString::new(name).map_err(|_| Error::Internal(format!("{name:?} is no name of a kernel")))?;
        let _entered = self.context.enter()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one handle, of a module that the kernel keeps.
        match unsafe { sys::cuModuleGetFunction(&mut raw, self.raw, symbol.as_ptr()) } {
            sys::CUresult::CUDA_ERROR_NOT_FOUND => return Ok(None),
            code => check(name, code)?,
        }
        // Code that is loaded when it is first needed would take device memory in the middle of a step.
        // SAFETY: the function was just found.
        check("loading the CUDA kernels", unsafe { sys::cuFuncLoad(raw) })?;
        let device = self.context.device();
        let mut fixed = 0;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        // SAFETY: writes one number.
        check(name, unsafe { sys::cuFuncGetAttribute(&mut fixed, attribute, raw) })?;
        let shared_memory = device.shared_memory.saturating_sub(fixed.max(0) as u32);
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: sets one number of a loaded function.
        check(name, unsafe { sys::cuFuncSetAttribute(raw, attribute, shared_memory as i32) })?;
        // What code was compiled for decides, and not only the device: portable code of an older architecture neither waits
        // for the kernel before it nor forms clusters.
        let mut compiled_for = 0;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION;
        // SAFETY: writes one number.
        check(name, unsafe { sys::cuFuncGetAttribute(&mut compiled_for, attribute, raw) })?;
        let overlaps = device.capability >= (9, 0) && compiled_for >= 90;
        Ok(Some(Kernel {
            raw,
            name: name.into(),
            shared_memory: shared_memory as usize,
            overlaps,
            module: self.clone(),
        }))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let Ok(_entered) = self.context.enter() else { return };
        // SAFETY: `load` loaded it, and the kernels that keep it are gone.
        let _ = unsafe { sys::cuModuleUnload(self.raw) };
    }
}
