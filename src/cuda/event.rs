//! Places in a queue that the host and other queues can wait for, and copies that are over when such a place is reached.

use std::sync::Arc;

use cudarc::driver::sys;

use super::context::Context;
use super::driver::check;
use super::memory::{DeviceSlice, Pinned, Plain};
use super::stream::Stream;
use crate::error::{Error, Result};

/// A place in a queue. The context must be current on the thread that uses it.
pub struct Event {
    context: Arc<Context>,
    raw: sys::CUevent,
}

// SAFETY: the driver's events may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    /// A place that is reached until it is marked. A thread that waits for it sleeps: its core belongs to the host program, and
    /// the step behind the one that is waited for is queued already, so that the device does not wait for it to wake up.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        let _entered = context.enter()?;
        let mut raw = std::ptr::null_mut();
        let flags =
            sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32 | sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32;
        // SAFETY: writes one handle, which `drop` destroys.
        check("a CUDA event", unsafe { sys::cuEventCreate(&mut raw, flags) })?;
        Ok(Self { context: context.clone(), raw })
    }

    /// Waits until everything in front of the place is done.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] where some of it failed.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: an event of the current context.
        check("waiting for the device", unsafe { sys::cuEventSynchronize(self.raw) })
    }
}

impl Stream {
    /// Moves `event` behind everything queued so far.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn mark(&self, event: &Event) -> Result<()> {
        // SAFETY: an event and a stream of the current context.
        check("marking a place in a queue", unsafe { sys::cuEventRecord(event.raw, self.queue()?) })
    }

    /// Lets what is queued from here on wait for everything in front of `event`, which another queue has.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn wait_for(&self, event: &Event) -> Result<()> {
        // SAFETY: an event and a stream of the current context.
        check("waiting for another queue", unsafe { sys::cuStreamWaitEvent(self.queue()?, event.raw, 0) })
    }

    /// Queues a copy of `from` into the beginning of `to`, which is not to be read before a place behind it is reached.
    ///
    /// # Errors
    /// [`Error::Internal`] where `to` is shorter.
    pub fn download<T: Plain>(&self, from: DeviceSlice<T>, to: &mut Pinned<T>) -> Result<()> {
        let len = to.len();
        let too_short = || Error::Internal(format!("a copy of {} values into {len}", from.len()));
        let part = to.get_mut(..from.len()).ok_or_else(too_short)?;
        let (source, bytes) = (from.start().address(), size_of_val(part));
        // SAFETY: so many bytes on both sides; the type of the stream says who keeps them.
        check("copying from the device", unsafe {
            sys::cuMemcpyDtoHAsync_v2(part.as_mut_ptr().cast(), source, bytes, self.queue()?)
        })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let Ok(_entered) = self.context.enter() else { return };
        // SAFETY: `new` made it; the driver waits by itself for what is queued.
        let _ = unsafe { sys::cuEventDestroy_v2(self.raw) };
    }
}
