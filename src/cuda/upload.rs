//! The way of large memory to the device: through two pinned buffers, one being filled while the other is copied.

use std::sync::Arc;

use super::context::Context;
use super::memory::{DeviceSlice, Pinned, Plain};
use super::stream::{Priority, Stream};
use crate::error::Result;
use crate::model::LoadProgress;

/// Bytes of each buffer.
const BUFFER: usize = 16 << 20;

/// Copies `from` to `to`, which is as long, and waits for the end of it.
///
/// # Errors
/// [`crate::Error::OutOfHostMemory`], [`crate::Error::Cancelled`] when `progress` asks for that.
pub fn upload(context: &Arc<Context>, from: &[u8], to: DeviceSlice<u8>, progress: &LoadProgress) -> Result<()> {
    let len = BUFFER.min(from.len());
    // The stream goes first, and waits for the copies that still read the buffer.
    let buffer =
        || Ok((Stream::new(context, Priority::Low)?, Pinned::<u8>::zeroed(context, len, "copies to the device")?));
    let mut lanes = [buffer()?, buffer()?];
    for (index, piece) in from.chunks(len.max(1)).enumerate() {
        progress.advance(0)?;
        let (stream, pinned) = &mut lanes[index % 2];
        stream.wait()?;
        pinned[..piece.len()].copy_from_slice(piece);
        stream.upload(pinned, to.part(index * len, piece.len())?)?;
    }
    lanes.iter().try_for_each(|(stream, _)| stream.wait())
}

/// Copies `from` to `to`, which is as long, and waits for the end of it.
///
/// # Errors
/// [`crate::Error::OutOfHostMemory`].
pub fn upload_values<T: Plain>(context: &Arc<Context>, stream: &Stream, from: &[T], to: DeviceSlice<T>) -> Result<()> {
    let mut pinned = Pinned::zeroed(context, from.len(), "copies to the device")?;
    pinned.copy_from_slice(from);
    stream.upload(&pinned, to)?;
    stream.wait()
}
