//! A queue of work for a device.

use std::cell::RefCell;
use std::sync::Arc;

use cudarc::driver::sys;

use super::context::Context;
use super::driver::check;
use super::memory::{DeviceSlice, Pinned, Plain};
use super::module::Kernel;
use super::recording::{Graph, Recorder};
use crate::error::{Error, Result};

/// Whose work a device takes first, among the queues of a process that wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// That of a queue of which nothing else is said. On today's devices there is none below it.
    #[default]
    Default,
    /// The lowest of the device.
    Low,
    /// The highest of the device.
    High,
}

impl Priority {
    /// The name as people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Priority::Default => "default",
            Priority::Low => "low",
            Priority::High => "high",
        }
    }

    /// The driver's number for it, in the current context: lower numbers go first.
    fn number(self) -> Result<i32> {
        let (mut lowest, mut highest) = (0, 0);
        // SAFETY: writes two numbers.
        let code = unsafe { sys::cuCtxGetStreamPriorityRange(&mut lowest, &mut highest) };
        check("asking for the priorities of a device", code)?;
        Ok(match self {
            Priority::Default => 0,
            Priority::Low => lowest,
            Priority::High => highest,
        })
    }
}

impl std::fmt::Display for Priority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Priority {
    type Err = String;

    /// The priority with this [name](Self::name).
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let known = [Priority::Default, Priority::Low, Priority::High];
        let found = known.into_iter().find(|priority| priority.name() == text);
        found.ok_or_else(|| format!("{text:?} is no priority, expected default, low or high"))
    }
}

/// A queue of work. The context must be current on the thread that uses it.
///
/// Copies from and to pinned memory go on behind the call: who queues one keeps the memory, and its hands off it, until
/// [`Stream::wait`] returns, or the wait for an event behind it.
pub struct Stream {
    context: Arc<Context>,
    raw: sys::CUstream,
    /// What launches are added to instead of being queued.
    recorder: RefCell<Option<Recorder>>,
}

// SAFETY: the driver's streams may be used from any thread.
unsafe impl Send for Stream {}

impl Stream {
    /// A queue that does not wait for those of others, and whose work the device takes by `priority`.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn new(context: &Arc<Context>, priority: Priority) -> Result<Self> {
        let _entered = context.enter()?;
        let mut raw = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: writes one handle, which `drop` destroys.
        check("a CUDA stream", unsafe { sys::cuStreamCreateWithPriority(&mut raw, flags, priority.number()?) })?;
        Ok(Self { context: context.clone(), raw, recorder: RefCell::new(None) })
    }

    /// Waits until everything queued so far is done.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] where some of it failed.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: a stream of the current context.
        check("waiting for the device", unsafe { sys::cuStreamSynchronize(self.raw) })
    }

    /// The driver's queue, for work that cannot be recorded.
    pub(super) fn queue(&self) -> Result<sys::CUstream> {
        match *self.recorder.borrow() {
            None => Ok(self.raw),
            Some(_) => Err(Error::Internal("only launches can be recorded".into())),
        }
    }

    /// Queues a launch of `kernel` in clusters of `cluster` blocks, or adds it to what is recorded.
    ///
    /// # Errors
    /// [`Error::Internal`] for a launch that the device cannot do; errors of the kernel itself come later.
    ///
    /// # Safety
    /// `launch` has the arguments that the kernel declares, for clusters of so many blocks, more than one only where it overlaps;
    /// what they point to lives until the stream is waited for or, in a recording, as long as the graph.
    pub unsafe fn launch(&self, kernel: &Kernel, launch: &sys::CUDA_KERNEL_NODE_PARAMS, cluster: u32) -> Result<()> {
        if let Some(recorder) = &mut *self.recorder.borrow_mut() {
            // SAFETY: as the caller promises.
            return unsafe { recorder.add(kernel, launch, cluster) };
        }
        let early = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let clusters = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: clusters_of(cluster),
        };
        let mut attributes = [early, clusters];
        let used = u32::from(kernel.overlaps) + u32::from(cluster > 1);
        let config = sys::CUlaunchConfig {
            gridDimX: launch.gridDimX,
            gridDimY: launch.gridDimY,
            gridDimZ: launch.gridDimZ,
            blockDimX: launch.blockDimX,
            blockDimY: launch.blockDimY,
            blockDimZ: launch.blockDimZ,
            sharedMemBytes: launch.sharedMemBytes,
            hStream: self.raw,
            attrs: attributes.as_mut_ptr(),
            numAttrs: used,
        };
        // SAFETY: the caller vouches for the arguments.
        let code = unsafe { sys::cuLaunchKernelEx(&config, launch.func, launch.kernelParams, launch.extra) };
        check(&kernel.name, code)
    }

    /// Queues a copy of the first `to.len()` values of `from`.
    ///
    /// # Errors
    /// [`Error::Internal`] where `from` has fewer.
    pub fn upload<T: Plain>(&self, from: &Pinned<T>, to: DeviceSlice<T>) -> Result<()> {
        let part = from.get(..to.len()).ok_or_else(|| too_short(from.len(), to.len()))?;
        let (target, bytes, queue) = (to.start().address(), size_of_val(part), self.queue()?);
        // SAFETY: so many bytes on both sides; the type says who keeps them.
        check("copying to the device", unsafe { sys::cuMemcpyHtoDAsync_v2(target, part.as_ptr().cast(), bytes, queue) })
    }

    /// Waits until everything queued so far is done, and brings `from` into the beginning of `to`. Pinned memory is the
    /// fastest place.
    ///
    /// # Errors
    /// [`Error::Internal`] where `to` is shorter, [`Error::DeviceLost`] where some of what was queued failed.
    pub fn fetch<T: Plain>(&self, from: DeviceSlice<T>, to: &mut [T]) -> Result<()> {
        let len = to.len();
        let part = to.get_mut(..from.len()).ok_or_else(|| too_short(from.len(), len))?;
        let (source, bytes, queue) = (from.start().address(), size_of_val(part), self.queue()?);
        // SAFETY: so many bytes on both sides, and nobody else touches them before the copy's end is waited for below.
        let copied = unsafe { sys::cuMemcpyDtoHAsync_v2(part.as_mut_ptr().cast(), source, bytes, queue) };
        self.wait()?;
        check("copying from the device", copied)
    }

    /// Queues zeros for every byte of `to`.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn clear<T: Plain>(&self, to: DeviceSlice<T>) -> Result<()> {
        self.fill(to, 0)
    }

    /// Queues `byte` for every byte of `to`.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn fill<T: Plain>(&self, to: DeviceSlice<T>, byte: u8) -> Result<()> {
        let (bytes, queue) = (to.len() * size_of::<T>(), self.queue()?);
        // SAFETY: writes so many bytes of device memory, which every type takes.
        check("clearing device memory", unsafe { sys::cuMemsetD8Async(to.start().address(), byte, bytes, queue) })
    }

    /// From here on launches are recorded instead of queued.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn begin_recording(&self) -> Result<()> {
        let recorder = Recorder::new(&self.context)?;
        *self.recorder.borrow_mut() = Some(recorder);
        Ok(())
    }

    /// What was recorded since [`Stream::begin_recording`]; from here on launches are queued.
    ///
    /// # Errors
    /// [`Error::OutOfDeviceMemory`].
    pub fn end_recording(&self) -> Result<Graph> {
        let recorder = self.recorder.take();
        recorder.ok_or_else(|| Error::Internal("nothing was recorded".into()))?.finish(self.raw)
    }

    /// Forgets what was recorded, if anything was; from here on launches are queued.
    pub fn drop_recording(&self) {
        *self.recorder.borrow_mut() = None;
    }

    /// Queues everything that `graph` recorded.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn replay(&self, graph: &Graph) -> Result<()> {
        let queue = self.queue()?;
        // SAFETY: a graph and a stream of the current context. What it works on is kept by who recorded it.
        check("starting a step", unsafe { sys::cuGraphLaunch(graph.raw, queue) })
    }
}

/// The value of a launch's attribute for clusters of `blocks` blocks along the grid's first dimension.
pub(super) fn clusters_of(blocks: u32) -> sys::CUlaunchAttributeValue {
    sys::CUlaunchAttributeValue {
        clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: blocks, y: 1, z: 1 },
    }
}

fn too_short(has: usize, needs: usize) -> Error {
    Error::Internal(format!("a copy of {needs} values between {has}"))
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Ok(_entered) = self.context.enter() else { return };
        // SAFETY: nothing is queued by others. What is under way ends before the memory that it uses is freed.
        let _ = unsafe { sys::cuStreamSynchronize(self.raw) };
        // SAFETY: `new` made it.
        let _ = unsafe { sys::cuStreamDestroy_v2(self.raw) };
    }
}
