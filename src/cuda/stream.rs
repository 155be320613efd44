//! A queue of work for a device, and work that was recorded to be queued as one.

use std::sync::Arc;

use cudarc::driver::sys;

use super::context::Context;
use super::driver::{check, check_for_memory};
use super::memory::{DeviceSlice, Pinned, Plain};
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
/// [`Stream::wait`] returns.
pub struct Stream {
    context: Arc<Context>,
    pub(super) raw: sys::CUstream,
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
        Ok(Self { context: context.clone(), raw })
    }

    /// Waits until everything queued so far is done.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] where some of it failed.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: a stream of the current context.
        check("waiting for the device", unsafe { sys::cuStreamSynchronize(self.raw) })
    }

    /// Queues a copy of the first `to.len()` values of `from`.
    ///
    /// # Errors
    /// [`Error::Internal`] where `from` has fewer.
    pub fn upload<T: Plain>(&self, from: &Pinned<T>, to: DeviceSlice<T>) -> Result<()> {
        let part = from.get(..to.len()).ok_or_else(|| too_short(from.len(), to.len()))?;
        let (target, bytes) = (to.start().address(), size_of_val(part));
        // SAFETY: so many bytes on both sides; the type says who keeps them.
        check("copying to the device", unsafe {
            sys::cuMemcpyHtoDAsync_v2(target, part.as_ptr().cast(), bytes, self.raw)
        })
    }

    /// Waits until everything queued so far is done, and brings `from` into the beginning of `to`. Pinned memory is the
    /// fastest place.
    ///
    /// # Errors
    /// [`Error::Internal`] where `to` is shorter, [`Error::DeviceLost`] where some of what was queued failed.
    pub fn fetch<T: Plain>(&self, from: DeviceSlice<T>, to: &mut [T]) -> Result<()> {
        let len = to.len();
        let part = to.get_mut(..from.len()).ok_or_else(|| too_short(from.len(), len))?;
        let (source, bytes) = (from.start().address(), size_of_val(part));
        // SAFETY: so many bytes on both sides, and nobody else touches them before the copy's end is waited for below.
        let copied = unsafe { sys::cuMemcpyDtoHAsync_v2(part.as_mut_ptr().cast(), source, bytes, self.raw) };
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
        let bytes = to.len() * size_of::<T>();
        // SAFETY: writes so many bytes of device memory, which every type takes.
        check("clearing device memory", unsafe { sys::cuMemsetD8Async(to.start().address(), byte, bytes, self.raw) })
    }

    /// From here on work is recorded instead of done.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn begin_recording(&self) -> Result<()> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: a stream of the current context.
        check("recording a step", unsafe { sys::cuStreamBeginCapture_v2(self.raw, mode) })
    }

    /// What was recorded since [`Stream::begin_recording`].
    ///
    /// # Errors
    /// [`Error::Internal`] for work that cannot be recorded.
    pub fn end_recording(&self) -> Result<Graph> {
        let mut graph = std::ptr::null_mut();
        // SAFETY: writes one handle, which is destroyed below.
        check("recording a step", unsafe { sys::cuStreamEndCapture(self.raw, &mut graph) })?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: a whole graph; writes one handle, which `drop` destroys.
        let made = unsafe { sys::cuGraphInstantiateWithFlags(&mut raw, graph, 0) };
        // SAFETY: the executable graph does not need it.
        let _ = unsafe { sys::cuGraphDestroy(graph) };
        check_for_memory("the recorded step", 0, made)?;
        let graph = Graph { context: self.context.clone(), raw };
        // The device's side of it is set up now and not in the first step.
        // SAFETY: a graph and a stream of the current context.
        check("the recorded step", unsafe { sys::cuGraphUpload(graph.raw, self.raw) })?;
        Ok(graph)
    }

    /// Queues everything that `graph` recorded.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn launch(&self, graph: &Graph) -> Result<()> {
        // SAFETY: a graph and a stream of the current context. What it works on is kept by who recorded it.
        check("starting a step", unsafe { sys::cuGraphLaunch(graph.raw, self.raw) })
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

/// Recorded work.
pub struct Graph {
    context: Arc<Context>,
    raw: sys::CUgraphExec,
}

// SAFETY: the driver's graphs may be used from any thread, one at a time.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        let Ok(_entered) = self.context.enter() else { return };
        // SAFETY: `end_recording` made it; work under way keeps what it needs of it.
        let _ = unsafe { sys::cuGraphExecDestroy(self.raw) };
    }
}
