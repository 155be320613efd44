//! Launching a kernel with arguments.
//!
//! Where the device can, a kernel starts while the one in front of it still runs (programmatic dependent launch), reads
//! what no kernel writes, and waits for the other's end by itself (`griddepcontrol.wait`) before it touches anything else.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::memory::Plain;
use super::module::Kernel;
use super::stream::Stream;
use crate::error::{Error, Result};

/// Arguments of a launch at most, and their bytes.
const MOST_ARGUMENTS: usize = 40;
const MOST_WORDS: usize = 128;
/// Beyond half of what a block may have, what two blocks do not find on a multiprocessor.
const HALF_SPARE: u32 = 2048;

/// A launch that is being put together.
pub struct Launch<'a> {
    kernel: &'a Kernel,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    cluster: u32,
    /// The arguments, each from a whole word on.
    words: [u64; MOST_WORDS],
    starts: [usize; MOST_ARGUMENTS],
    arguments: usize,
    used: usize,
}

impl Kernel {
    /// A launch of `grid` blocks of `block` threads.
    pub fn launch(&self, grid: [u32; 3], block: [u32; 3]) -> Launch<'_> {
        Launch {
            kernel: self,
            grid,
            block,
            shared: 0,
            cluster: 1,
            words: [0; MOST_WORDS],
            starts: [0; MOST_ARGUMENTS],
            arguments: 0,
            used: 0,
        }
    }
}

impl Launch<'_> {
    /// Bytes of dynamic shared memory of each block.
    pub fn shared(mut self, bytes: u32) -> Self {
        self.shared = bytes;
        self
    }

    /// Clusters of so many blocks, neighbours along the grid's first dimension, which is a multiple. Only kernels that
    /// [overlap](Kernel) have such.
    pub fn cluster(mut self, blocks: u32) -> Self {
        self.cluster = blocks;
        self
    }

    /// A block a multiprocessor, where there are no more of them. Blocks that begin early otherwise all begin on the few
    /// multiprocessors that the kernel in front leaves room on, and share what such a one reads; so each asks for more than half of
    /// a multiprocessor's shared memory.
    pub fn spread(mut self) -> Self {
        let blocks = self.grid.iter().fold(1, |all: u32, own| all.saturating_mul(*own));
        if blocks <= self.kernel.multiprocessors() {
            self.shared = self.shared.max(self.kernel.shared_memory as u32 / 2 + HALF_SPARE);
        }
        self
    }

    /// The next argument: exactly the type that the kernel declares.
    pub fn arg<T: Plain>(mut self, value: T) -> Self {
        let words = size_of::<T>().div_ceil(8);
        const { assert!(align_of::<T>() <= align_of::<u64>()) };
        if self.arguments < MOST_ARGUMENTS && self.used + words <= MOST_WORDS {
            // SAFETY: there is room for so many bytes, and words are aligned well enough.
            unsafe { self.words.as_mut_ptr().add(self.used).cast::<T>().write(value) };
            self.starts[self.arguments] = self.used;
        }
        self.arguments += 1;
        self.used += words;
        self
    }

    /// Queues the launch, or adds it to what `stream` records.
    ///
    /// # Errors
    /// [`Error::Internal`] for a launch that the device cannot do; errors of the kernel itself come later.
    ///
    /// # Safety
    /// The arguments are those that the kernel declares, in number and type; what they point to is as large as the kernel
    /// takes it to be for this grid and its clusters, and lives until the stream is waited for or, in a recording, as long as
    /// the graph.
    pub unsafe fn queue(mut self, stream: &Stream) -> Result<()> {
        if self.arguments > MOST_ARGUMENTS || self.used > MOST_WORDS {
            return Err(Error::Internal(format!("{}: too many arguments", self.kernel.name)));
        }
        if self.cluster > 1 && !self.kernel.overlaps {
            return Err(Error::Internal(format!("{}: clusters, which the device has none of", self.kernel.name)));
        }
        if self.grid.contains(&0) {
            return Ok(());
        }
        let mut pointers = [std::ptr::null_mut::<c_void>(); MOST_ARGUMENTS];
        let words = self.words.as_mut_ptr();
        for (pointer, start) in pointers.iter_mut().zip(&self.starts[..self.arguments]) {
            // SAFETY: `arg` put the argument there.
            *pointer = unsafe { words.add(*start) }.cast();
        }
        let launch = sys::CUDA_KERNEL_NODE_PARAMS {
            func: self.kernel.raw,
            gridDimX: self.grid[0],
            gridDimY: self.grid[1],
            gridDimZ: self.grid[2],
            blockDimX: self.block[0],
            blockDimY: self.block[1],
            blockDimZ: self.block[2],
            sharedMemBytes: self.shared,
            kernelParams: pointers.as_mut_ptr(),
            extra: std::ptr::null_mut(),
            kern: std::ptr::null_mut(),
            ctx: std::ptr::null_mut(),
        };
        // SAFETY: the caller vouches for the arguments.
        unsafe { stream.launch(self.kernel, &launch, self.cluster) }
    }
}
