//! RMS norms of many rows. Single rows are normed by the products that read them.

use super::args::{NormArgs, QuantisedRow, number};
use super::memory::{DevicePtr, DeviceSlice};
use super::module::{Kernel, Modules};
use super::stream::Stream;
use crate::error::Result;

pub struct Norm {
    kernel: Kernel,
}

/// Where normed rows go: as float32, quantised, or both.
#[derive(Clone, Copy)]
pub struct Normed {
    pub floats: Option<DeviceSlice<f32>>,
    /// Only for rows of whole tiles; the memory for `count` of them is the caller's to check.
    pub quantised: QuantisedRow,
    /// The kernel behind starts before this one waits: see `kernels/common/device.cuh`.
    pub early: bool,
}

impl Norm {
    pub fn new(modules: &Modules) -> Result<Self> {
        Ok(Self { kernel: modules.kernel("rms_norm")? })
    }

    /// `out[i] = x[i] / sqrt(mean(x[i]²) + eps) * weight` for `count` rows as wide as `weight`; of the rows `pick` of `x`,
    /// where there are such.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for memory that is too small.
    pub fn run(
        &self,
        stream: &Stream,
        (x, pick, count): (DeviceSlice<f32>, Option<DeviceSlice<u32>>, usize),
        (weight, eps): (DeviceSlice<f32>, f32),
        out: Normed,
    ) -> Result<()> {
        let args = Self::args((x, pick, count), (weight, eps), out)?;
        // Two loads of four columns a thread, as far as a block has threads.
        let threads = weight.len().div_ceil(8).next_multiple_of(32).min(1024);
        // SAFETY: the kernel's argument; all memory holds `count` rows, and a step picks rows of its own.
        unsafe { self.kernel.launch([number(count), 1, 1], [number(threads), 1, 1]).arg(args).queue(stream) }
    }

    /// The same as the kernels are told, whichever does it.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for memory that is too small.
    pub fn args(
        (x, pick, count): (DeviceSlice<f32>, Option<DeviceSlice<u32>>, usize),
        (weight, eps): (DeviceSlice<f32>, f32),
        out: Normed,
    ) -> Result<NormArgs> {
        let width = weight.len();
        Ok(NormArgs {
            x: x.holding(if pick.is_some() { 0 } else { count * width }, "rows to norm")?,
            weight: weight.start(),
            out: match out.floats {
                Some(floats) => floats.holding(count * width, "normed rows")?,
                None => DevicePtr::NULL,
            },
            pick: match pick {
                Some(pick) => pick.holding(count, "picked rows")?,
                None => DevicePtr::NULL,
            },
            row: out.quantised,
            eps,
            width: number(width),
            count: number(count),
            early: out.early.into(),
        })
    }
}
