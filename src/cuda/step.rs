//! What the host tells the device about a step: its rows, its sequences, and where their memory lies. One copy a step, through a
//! queue of its own, so that it is there before the step in front ends.

use std::sync::Arc;

use super::args::{Row, SampleRow, Sequence, number};
use super::context::Context;
use super::event::Event;
use super::memory::{DeviceSlice, Pinned};
use super::stream::{Priority, Stream};
use crate::error::{Error, Result};
use crate::model::{Batch, LogitRows};

/// A step on the device.
#[derive(Clone, Copy)]
pub struct Step {
    pub rows: DeviceSlice<Row>,
    pub sequences: DeviceSlice<Sequence>,
    /// The rows that need logits.
    pub picks: DeviceSlice<u32>,
    /// What each of them is for.
    pub samples: DeviceSlice<SampleRow>,
    /// Some choose a token.
    pub chooses: bool,
    /// Pages of all sequences, one after another.
    pub pages: DeviceSlice<u32>,
    /// Positions of the longest sequence, this step's included.
    pub longest: usize,
    /// Rows of the sequence that has most.
    pub most_rows: usize,
    /// Every sequence has one row.
    pub single_rows: bool,
    /// And each of them needs logits.
    pub decode: bool,
}

impl Step {
    /// Number of rows.
    pub fn count(&self) -> usize {
        self.rows.len()
    }
}

/// Steps that may be under way at a time, which take sides in turn.
pub const SIDES: usize = 2;

/// The memory that steps are told in.
pub struct StepBuffer {
    // In the order in which they go: first what may still be under way.
    queue: Stream,
    sides: [Side; SIDES],
}

struct Side {
    host: Pinned<u32>,
    device: DeviceSlice<u32>,
    /// The copy's end.
    told: Event,
}

/// 32-bit words of one of each.
pub const ROW_WORDS: usize = size_of::<Row>() / 4;
pub const SEQUENCE_WORDS: usize = size_of::<Sequence>() / 4;
pub const SAMPLE_WORDS: usize = size_of::<SampleRow>() / 4;

impl StepBuffer {
    /// Tells steps in `devices`.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`], or whatever the driver reports.
    pub fn new(context: &Arc<Context>, priority: Priority, devices: [DeviceSlice<u32>; SIDES]) -> Result<Self> {
        let side = |device: DeviceSlice<u32>| {
            let host = Pinned::zeroed(context, device.len(), "a step's rows")?;
            Ok(Side { host, device, told: Event::new(context)? })
        };
        let [first, second] = devices;
        Ok(Self { queue: Stream::new(context, priority)?, sides: [side(first)?, side(second)?] })
    }

    /// Waits for all copies.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn settle(&self) -> Result<()> {
        self.queue.wait()
    }

    /// Queues the copy that tells the device of `batch`, and lets what is queued in `steps` from here on wait for it. Steps of the
    /// same side, 0 or 1, with as many rows, sequences and logits have everything but the pages in the same places, whatever
    /// they contain. The step that was last told on this side must be done.
    ///
    /// # Errors
    /// [`Error::Internal`] for a larger step than was planned.
    pub fn tell(&mut self, batch: &Batch<'_>, side: usize, steps: &Stream) -> Result<Step> {
        let (rows, sequences, picks) = (batch.tokens.len(), batch.sequences.len(), batch.logit_rows());
        let first_sequence = ROW_WORDS * rows;
        let first_sample = first_sequence + SEQUENCE_WORDS * sequences;
        let first_pick = first_sample + SAMPLE_WORDS * picks.len();
        let first_page = first_pick + picks.len();
        let Side { host, device, told } = &mut self.sides[side % SIDES];
        let mut words = Words { all: &mut *host, used: 0 };
        for (index, sequence) in batch.sequences.iter().enumerate() {
            for (i, row) in sequence.rows.clone().enumerate() {
                let token = batch.tokens.get(row).copied().unwrap_or_default();
                words.put([token, number(sequence.position + i), number(index), number(sequence.memory.slot)])?;
            }
        }
        let mut pages = 0;
        let mut longest = 0;
        for sequence in &batch.sequences {
            let (first, count) = (sequence.rows.start, sequence.rows.len());
            words.put([first, count, sequence.position, sequence.memory.slot, pages, 0, 0, 0].map(number))?;
            pages += sequence.memory.pages.len();
            longest = longest.max(sequence.position + count);
        }
        for sequence in &batch.sequences {
            let row = sequence.choice.as_ref().map(|choice| SampleRow::new(choice, sequence.memory.slot));
            sequence.logit_rows().try_for_each(|_| words.put(row.unwrap_or(SampleRow::NONE).words()))?;
        }
        picks.iter().try_for_each(|pick| words.put([number(*pick)]))?;
        let mut all_pages = batch.sequences.iter().flat_map(|sequence| &sequence.memory.pages);
        all_pages.try_for_each(|page| words.put([*page]))?;
        let used = words.used;
        if used != first_page + pages {
            return Err(Error::Internal("the rows of a step are not those of its sequences".into()));
        }
        self.queue.upload(host, device.part(0, used)?)?;
        self.queue.mark(told)?;
        steps.wait_for(told)?;
        let most_rows = batch.sequences.iter().map(|sequence| sequence.rows.len()).max().unwrap_or(0);
        let single_rows = batch.sequences.iter().all(|sequence| sequence.rows.len() == 1);
        Ok(Step {
            rows: device.part(0, first_sequence)?.cast(),
            sequences: device.part(first_sequence, first_sample - first_sequence)?.cast(),
            samples: device.part(first_sample, first_pick - first_sample)?.cast(),
            chooses: batch.sequences.iter().any(|sequence| sequence.choice.is_some()),
            picks: device.part(first_pick, picks.len())?,
            pages: device.part(first_page, pages)?,
            longest,
            most_rows,
            single_rows,
            decode: single_rows && batch.sequences.iter().all(|sequence| sequence.logits != LogitRows::None),
        })
    }
}

/// Words that are written one after another.
struct Words<'a> {
    all: &'a mut [u32],
    used: usize,
}

impl Words<'_> {
    fn put<const N: usize>(&mut self, words: [u32; N]) -> Result<()> {
        let place = self.all.get_mut(self.used..self.used + N);
        place.ok_or_else(|| Error::Internal("a larger step than was planned".into()))?.copy_from_slice(&words);
        self.used += N;
        Ok(())
    }
}
