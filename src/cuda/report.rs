//! What steps tell the host: two of them in turn, each of which has a place on the device and one on the host. The copy between them
//! goes through a queue of its own, so that the next step does not begin behind it: that is 10 us of each step.

use std::sync::Arc;

use super::context::Context;
use super::event::Event;
use super::memory::{DeviceSlice, Pinned};
use super::step::SIDES;
use super::stream::{Priority, Stream};
use crate::error::Result;

/// What two steps tell.
pub struct Reports {
    // In the order in which they go: first what may still be under way.
    queue: Stream,
    sides: [Side; SIDES],
}

struct Side {
    device: DeviceSlice<u32>,
    host: Pinned<u32>,
    /// The step's last kernel.
    done: Event,
    /// The copy's end.
    there: Event,
}

impl Reports {
    /// In `devices` on the device.
    ///
    /// # Errors
    /// [`crate::Error::OutOfHostMemory`], or whatever the driver reports.
    pub fn new(context: &Arc<Context>, priority: Priority, devices: [DeviceSlice<u32>; SIDES]) -> Result<Self> {
        let side = |device: DeviceSlice<u32>| {
            let host = Pinned::zeroed(context, device.len(), "what a step reports")?;
            Ok(Side { device, host, done: Event::new(context)?, there: Event::new(context)? })
        };
        let [first, second] = devices;
        Ok(Self { queue: Stream::new(context, priority)?, sides: [side(first)?, side(second)?] })
    }

    /// Where the step of side `side`, 0 or 1, leaves them on the device.
    pub fn on_device(&self, side: usize) -> DeviceSlice<u32> {
        self.sides[side % SIDES].device
    }

    /// Queues the copy of the first `words` of side `side`, behind everything in `steps`.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] where there are fewer, or whatever the driver reports.
    pub fn send(&mut self, side: usize, words: usize, steps: &Stream) -> Result<()> {
        let Side { device, host, done, there } = &mut self.sides[side % SIDES];
        steps.mark(done)?;
        self.queue.wait_for(done)?;
        self.queue.download(device.part(0, words)?, host)?;
        self.queue.mark(there)
    }

    /// Waits until what the step of side `side` tells is there.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] where some of the step failed.
    pub fn wait(&self, side: usize) -> Result<()> {
        self.sides[side % SIDES].there.wait()
    }

    /// What it has told, behind that wait.
    pub fn on_host(&self, side: usize) -> &[u32] {
        &self.sides[side % SIDES].host
    }

    /// Waits for all copies.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`].
    pub fn settle(&self) -> Result<()> {
        self.queue.wait()
    }
}
