//! The way of weights to the device: each thread that packs them has two pinned buffers, one being filled while the other is
//! copied.

use std::ops::Range;
use std::sync::Arc;

use super::context::{Context, Entered};
use super::memory::{DeviceSlice, Pinned, Plain};
use super::stream::{Priority, Stream};
use super::weights::KnownTables;
use crate::error::Result;
use crate::model::{Place, Remote, WeightPlan};

/// What the length of a buffer is a multiple of.
const STEP: usize = 64 << 10;

/// Threads that send, at most: so many fill a bus, and pinned memory is scarce on some systems.
const MOST_LANES: usize = 16;

/// Device memory for an image, and what the host is to know of it.
pub struct Upload<'a> {
    pub context: &'a Arc<Context>,
    pub to: DeviceSlice<u8>,
    pub tables: &'a KnownTables,
}

/// Two buffers that take turns. A stream goes before its buffer, and waits for the copies that still read it.
pub struct Lane<'a> {
    sides: [(Stream, Option<Pinned<u8>>); 2],
    turn: usize,
    _entered: Entered<'a>,
}

/// Threads that send weights where the load has `threads`.
pub fn lanes(threads: usize) -> usize {
    threads.min(MOST_LANES)
}

/// Host memory that sending the weights of `plan` takes at most where the load has `threads` threads: each buffer is as
/// large as the largest piece that it has had.
pub fn passing_bytes(plan: &WeightPlan, threads: usize) -> usize {
    let (lanes, sizes) = (lanes(threads), plan.piece_sizes());
    let pinned =
        sizes.iter().take(2 * lanes).fold(0, |sum: usize, size| sum.saturating_add(size.next_multiple_of(STEP)));
    pinned.saturating_add(plan.packing_bytes(lanes))
}

impl<'a> Remote for Upload<'a> {
    type Lane = Lane<'a>;

    fn lane(&self) -> Result<Lane<'a>> {
        let _entered = self.context.enter()?;
        let side = || Ok((Stream::new(self.context, Priority::Low)?, None));
        Ok(Lane { sides: [side()?, side()?], turn: 0, _entered })
    }

    fn put(
        &self,
        lane: &mut Lane<'a>,
        place: &Place,
        range: Range<usize>,
        pack: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let (stream, buffer) = &mut lane.sides[lane.turn];
        stream.wait()?;
        let large_enough = buffer.take().filter(|pinned| pinned.len() >= range.len());
        let pinned = match large_enough {
            Some(pinned) => buffer.insert(pinned),
            None => {
                let len = range.len().next_multiple_of(STEP);
                buffer.insert(Pinned::zeroed(self.context, len, "copies to the device")?)
            }
        };
        let out = &mut pinned[..range.len()];
        out.fill(0);
        pack(out)?;
        if range == place.range {
            self.tables.note(place, out);
        }
        stream.upload(pinned, self.to.part(range.start, range.len())?)?;
        lane.turn = 1 - lane.turn;
        Ok(())
    }

    fn end(&self, lane: Lane<'a>) -> Result<()> {
        lane.sides.iter().try_for_each(|(stream, _)| stream.wait())
    }
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
