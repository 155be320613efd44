//! The choice of tokens on the device: for each row of logits the one that [`crate::model::Sampler`] would choose.

use super::args::{SampleArgs, SampleProgress, SampleResult, SampleRow, number};
use super::device::DeviceInfo;
use super::memory::{DeviceMemory, DeviceSlice, Planned, Planner};
use super::module::{Kernel, Modules};
use super::stream::Stream;
use crate::error::{Error, Result};
use crate::model::likelihood::{least_weight, share};
use crate::model::{Choice, IN_PROMPT, Sampling, none_left, not_finite};

/// Tokens that a warp takes together, and warps of a block (`kernels/sample/row.cuh`).
const GROUP: usize = 128;
const WARPS: usize = 32;
/// Bins of a histogram of first bits.
const BINS: usize = 4096;

/// Flags of a row, as `kernels/common/args.cuh` has them.
const CHOOSE: u32 = 1;
const GREEDY: u32 = 2;
const PENALTIES: u32 = 4;
const NO_END: u32 = 8;

/// What can come of a row.
const CHOSEN: u32 = 1;
const NOT_FINITE: u32 = 2;
const NONE_LEFT: u32 = 3;

pub struct Sample {
    rank: Kernel,
    weigh: Kernel,
    multiprocessors: usize,
    vocab: usize,
    memory: SampleMemory,
}

/// What the choice keeps on the device, one of each a slot.
pub struct SampleParts {
    history: Planned<u32>,
    ends: Planned<u32>,
    chosen: Planned<u32>,
    progress: Planned<SampleProgress>,
    largest: Planned<u32>,
    sums: Planned<u64>,
    counts: Planned<u32>,
    weights: Planned<u64>,
}

struct SampleMemory {
    history: DeviceSlice<u32>,
    ends: DeviceSlice<u32>,
    chosen: DeviceSlice<u32>,
    progress: DeviceSlice<SampleProgress>,
    largest: DeviceSlice<u32>,
    sums: DeviceSlice<u64>,
    counts: DeviceSlice<u32>,
    weights: DeviceSlice<u64>,
}

impl SampleParts {
    /// Room for `slots` streams and logits of `vocab` tokens.
    pub fn plan(planner: &mut Planner, slots: usize, vocab: usize) -> Self {
        let groups = vocab.div_ceil(GROUP);
        Self {
            history: planner.take(slots.saturating_mul(vocab)),
            ends: planner.take(vocab.div_ceil(32)),
            chosen: planner.take(slots),
            progress: planner.take(slots),
            largest: planner.take(slots.saturating_mul(groups)),
            sums: planner.take(slots.saturating_mul(groups)),
            counts: planner.take(slots.saturating_mul(BINS)),
            weights: planner.take(slots.saturating_mul(BINS)),
        }
    }
}

impl Sample {
    /// Prepares the memory of `parts`, but for what [`Sample::ends`] is to hold.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn new(
        modules: &Modules,
        device: &DeviceInfo,
        (memory, parts): (&DeviceMemory, &SampleParts),
        vocab: usize,
        stream: &Stream,
    ) -> Result<Self> {
        let memory = SampleMemory {
            history: memory.part(parts.history)?,
            ends: memory.part(parts.ends)?,
            chosen: memory.part(parts.chosen)?,
            progress: memory.part(parts.progress)?,
            largest: memory.part(parts.largest)?,
            sums: memory.part(parts.sums)?,
            counts: memory.part(parts.counts)?,
            weights: memory.part(parts.weights)?,
        };
        stream.clear(memory.chosen)?;
        let sample = Self {
            rank: modules.kernel("sample_rank")?,
            weigh: modules.kernel("sample_weigh")?,
            multiprocessors: device.multiprocessors as usize,
            vocab,
            memory,
        };
        sample.reset(stream)?;
        Ok(sample)
    }

    /// Queues that what is zero between steps is so again, behind a step of which only a part was done.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn reset(&self, stream: &Stream) -> Result<()> {
        stream.clear(self.memory.progress)?;
        stream.clear(self.memory.counts)?;
        stream.clear(self.memory.weights)
    }

    /// The token that was chosen last for each slot.
    pub fn chosen(&self) -> DeviceSlice<u32> {
        self.memory.chosen
    }

    /// A bit for each token that ends a text, as [`ends`] makes them.
    pub fn ends(&self) -> DeviceSlice<u32> {
        self.memory.ends
    }

    /// What slot `slot` has seen of each token, as [`seen`] makes it.
    ///
    /// # Errors
    /// [`Error::Internal`] for a slot that was not planned.
    pub fn history(&self, slot: usize) -> Result<DeviceSlice<u32>> {
        self.memory.history.part(slot.saturating_mul(self.vocab), self.vocab)
    }

    /// Chooses a token by each row of `logits`, `[rows, vocab]`, which penalties change; those that choose nothing are left
    /// alone.
    ///
    /// # Errors
    /// [`Error::Internal`] for memory that is too small.
    pub fn run(
        &self,
        stream: &Stream,
        rows: DeviceSlice<SampleRow>,
        logits: DeviceSlice<f32>,
        results: DeviceSlice<SampleResult>,
    ) -> Result<()> {
        let (count, groups, memory) = (rows.len(), self.vocab.div_ceil(GROUP), &self.memory);
        let args = SampleArgs {
            logits: logits.holding(count.saturating_mul(self.vocab), "logits")?,
            rows: rows.start(),
            history: memory.history.start(),
            ends: memory.ends.start(),
            chosen: memory.chosen.start(),
            results: results.holding(count, "chosen tokens")?,
            progress: memory.progress.start(),
            largest: memory.largest.start(),
            sums: memory.sums.start(),
            counts: memory.counts.start(),
            weights: memory.weights.start(),
            vocab: number(self.vocab),
            groups: number(groups),
        };
        let most = groups.div_ceil(WARPS).max(1);
        let blocks = (2 * self.multiprocessors / count.max(1)).clamp(1, most);
        for kernel in [&self.rank, &self.weigh] {
            let launch = kernel.launch([number(blocks), number(count), 1], [(32 * WARPS) as u32, 1, 1]);
            // SAFETY: the kernel's argument; the memory holds `count` rows of logits, and all slots, of which the rows' are
            // checked when they are told.
            unsafe { launch.arg(args).queue(stream)? };
        }
        Ok(())
    }
}

impl SampleRow {
    /// Logits that choose nothing.
    pub const NONE: Self = Self {
        seed: 0,
        index: 0,
        top_p: 0,
        least_weight: 0,
        temperature: 0.0,
        repetition_penalty: 0.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        top_k: 0,
        flags: 0,
        slot: 0,
        unused: 0,
    };

    /// What the kernels take for `choice`, of the stream in slot `slot`.
    pub fn new(choice: &Choice, slot: usize) -> Self {
        let Sampling { temperature, top_k, top_p, min_p, seed, .. } = choice.sampling;
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, .. } = choice.sampling;
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        Self {
            seed,
            index: choice.index,
            top_p: share(top_p),
            least_weight: least_weight(min_p),
            temperature,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            top_k,
            flags: CHOOSE
                | flag(choice.sampling.is_greedy(), GREEDY)
                | flag(choice.sampling.has_penalties(), PENALTIES)
                | flag(choice.keeps_end_away(), NO_END),
            slot: number(slot),
            unused: 0,
        }
    }
}

impl SampleRow {
    /// As the words that the device reads.
    pub fn words(self) -> [u32; size_of::<SampleRow>() / 4] {
        let [seed, index, top_p, weight] =
            [self.seed, self.index, self.top_p, self.least_weight].map(|long| [long as u32, (long >> 32) as u32]);
        let floats = [self.temperature, self.repetition_penalty, self.presence_penalty, self.frequency_penalty];
        let [temperature, repetition, presence, frequency] = floats.map(f32::to_bits);
        let ([s0, s1], [i0, i1], [p0, p1], [w0, w1]) = (seed, index, top_p, weight);
        let (k, flags, slot) = (self.top_k, self.flags, self.slot);
        [s0, s1, i0, i1, p0, p1, w0, w1, temperature, repetition, presence, frequency, k, flags, slot, 0]
    }
}

impl SampleResult {
    /// What a report has in four words.
    pub fn of_words(words: [u32; 4]) -> Self {
        let [token, status, logit, unused] = words;
        Self { token, status, logit, unused }
    }

    /// The token.
    ///
    /// # Errors
    /// Those of [`crate::model::Sampler::sample`].
    pub fn token(&self) -> Result<u32> {
        match self.status {
            CHOSEN => Ok(self.token),
            NOT_FINITE => Err(not_finite(self.token, f32::from_bits(self.logit))),
            NONE_LEFT => Err(none_left()),
            other => Err(Error::Internal(format!("a choice that ended as {other}"))),
        }
    }
}

/// A bit for each of the tokens `ids` of a vocabulary of `vocab`.
pub fn ends(ids: &[u32], vocab: usize) -> Vec<u32> {
    let mut bits = vec![0; vocab.div_ceil(32)];
    for id in ids.iter().filter(|id| (**id as usize) < vocab) {
        bits.get_mut(*id as usize / 32).into_iter().for_each(|word| *word |= 1 << (id % 32));
    }
    bits
}

/// What a stream behind `prompt` has seen of each token, into `counts`, `[vocab]`.
pub fn seen(prompt: &[u32], counts: &mut [u32]) {
    counts.fill(0);
    for token in prompt {
        counts.get_mut(*token as usize).into_iter().for_each(|count| *count |= IN_PROMPT);
    }
}
