//! Embeddings of a step's rows, and their rotary angles.

use super::args::{EmbedArgs, number};
use super::memory::{DevicePtr, DeviceSlice};
use super::module::{Kernel, Modules};
use super::step::Step;
use super::stream::Stream;
use super::weights::Weight;
use crate::error::Result;

pub struct Embed {
    kernel: Kernel,
}

/// Rotary angles of a step's rows.
pub struct Angles {
    /// `[pairs]`; empty where the model has no attention.
    pub frequencies: DeviceSlice<f32>,
    /// What cosines and sines are multiplied with.
    pub scale: f32,
    /// `[rows, 2, pairs]`.
    pub angles: DeviceSlice<f32>,
}

impl Embed {
    pub fn new(modules: &Modules) -> Result<Self> {
        Ok(Self { kernel: modules.kernel("embed")? })
    }

    /// `x[row] = embedding[token of row]`, `[rows, hidden]`, and the angles of every row's position. `chosen`, one for each
    /// slot, are the tokens of rows that go on with what the step before chose.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for memory that is too small.
    pub fn run(
        &self,
        stream: &Stream,
        (step, chosen): (&Step, DeviceSlice<u32>),
        embedding: &Weight,
        x: DeviceSlice<f32>,
        rope: &Angles,
    ) -> Result<()> {
        let count = step.count();
        let (hidden, pairs) = (embedding.matrix.cols as usize, rope.frequencies.len());
        let args = EmbedArgs {
            embedding: embedding.matrix,
            rows: step.rows.start(),
            x: x.holding(count * hidden, "embeddings")?,
            frequencies: if pairs == 0 { DevicePtr::NULL } else { rope.frequencies.start() },
            angles: rope.angles.holding(2 * count * pairs, "rotary angles")?,
            chosen: chosen.start(),
            angle_scale: rope.scale,
            pairs: number(pairs),
            count: number(count),
            unused: 0,
        };
        // SAFETY: the kernel's argument; the memory holds `count` rows, and a step's tokens are
        // below the vocabulary's size, those that were chosen included.
        unsafe { self.kernel.launch([number(count), 1, 1], [1024, 1, 1]).arg(args).queue(stream) }
    }
}
