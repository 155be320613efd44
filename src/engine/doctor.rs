//! What the library was built with, and what the machine offers.

pub use crate::cpu::Isa;
pub use crate::cuda::DeviceInfo;

use super::machine;
use crate::cuda;
use crate::error::Result;

/// What a machine offers to this build.
#[derive(Debug)]
pub struct Report {
    /// What the library was built for.
    pub target: &'static str,
    /// How it was built.
    pub profile: &'static str,
    /// Tiers of the kernels that the processor can run, the best one last.
    pub isas: Vec<Isa>,
    /// The tier that a load takes.
    pub isa: Result<Isa>,
    /// Worker threads that a load starts where nothing else is asked for.
    pub threads: usize,
    /// Bytes of host memory that can still be taken, where that is known.
    pub memory: Option<u64>,
    /// The CUDA version that the kernels were compiled with, and for which architectures.
    pub cuda: Option<((u32, u32), &'static [&'static str])>,
    /// The CUDA version that the driver supports, major and minor, and the devices.
    pub devices: Result<((u32, u32), Vec<Device>)>,
}

/// A CUDA device.
#[derive(Debug)]
pub struct Device {
    /// What it is.
    pub info: DeviceInfo,
    /// Bytes of its memory that are free now, or why it cannot be used.
    pub free: Result<u64>,
}

/// Looks.
pub fn report() -> Report {
    let device = |info: DeviceInfo| Device { free: cuda::probe(info.ordinal), info };
    let devices = cuda::devices().map(|(driver, all)| (driver.version(), all.into_iter().map(device).collect()));
    Report {
        target: env!("QM_TARGET"),
        profile: env!("QM_PROFILE"),
        isas: Isa::available(),
        isa: Isa::choose(),
        threads: machine::default_threads(),
        memory: machine::available_memory(),
        cuda: cuda::built_with(),
        devices,
    }
}
