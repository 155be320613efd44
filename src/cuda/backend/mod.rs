//! The backend: all weights, states and activations in one allocation of device memory.
//!
//! Operations queue work and do not wait for it; [`Backend::head`] and [`Backend::collect`] do. A step in which every sequence
//! writes its next token is recorded the first time that so many rows come, on each of two sides, and from then on queued as one,
//! from the tokens to those chosen next: whatever differs from step to step is in the device's memory when the recording runs.

mod layers;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::args::{QuantisedRow, SampleResult};
use super::attention::{Attention, AttentionWork, KvLayer};
use super::context::Context;
use super::delta_net::{DeltaNet, DeltaStates, DeltaWork};
use super::embed::{Angles, Embed};
use super::memory::{DeviceMemory, DeviceSlice, Pinned, Planned};
use super::module::Modules;
use super::moe::{Moe, MoeLayer, MoeWork};
use super::norm::{Norm, Normed};
use super::plan::{Layout, Sizes, moe_shape, results};
use super::products::Products;
use super::queued::{Queued, QueuedSequence, Visits};
use super::recording::Graph;
use super::report::Reports;
use super::sample::{Sample, ends, seen};
use super::step::{SIDES, Step, StepBuffer};
use super::stream::{Priority, Stream};
use super::tiles::Tiles;
use super::upload::{Upload, lanes, upload_values};
use super::weights::{ExpertBytes, KnownTables, OnDevice, Weights};
use crate::error::{Error, Result};
use crate::experts::ExpertCounters;
use crate::model::{
    Backend, BackendInfo, Batch, Costs, FeedForward, LoadProgress, Logits, ModelSpec, Operation, Origin, Sampling,
    WeightPlan, send,
};
use crate::state::Sequence;

/// Rows of a step that is recorded, at most, and recorded steps that are kept.
const MOST_RECORDED_ROWS: usize = 64;
const MOST_RECORDINGS: usize = 256;

/// How the backend runs.
#[derive(Debug, Clone)]
pub struct CudaOptions {
    /// What the memory is sized for.
    pub sizes: Sizes,
    /// Keep activations in float32 rather than int8.
    pub exact: bool,
    /// Whose work goes first.
    pub priority: Priority,
    /// Tokens that end a text.
    pub eos_ids: Vec<u32>,
    /// Threads that pack the weights.
    pub threads: usize,
}

/// Runs the network on a CUDA device.
pub struct CudaBackend {
    // In the order in which they go: first what may still be under way.
    stream: Stream,
    recordings: HashMap<Recorded, Graph>,
    kernels: Kernels,
    step_buffer: StepBuffer,
    /// What came of each of two steps.
    reports: Reports,
    /// Steps that are queued.
    queued: VecDeque<Queued>,
    /// Which of the two sides the next step takes.
    side: usize,
    /// What a stream that begins has seen.
    seen: Pinned<u32>,
    sample: Sample,
    model: Model,
    work: Work,
    step: Option<Step>,
    /// The layer for whose mixer the rows are normed already, and what they are quantised to.
    normed_for: Option<(usize, QuantisedRow)>,
    mode: Mode,
    spec: Arc<ModelSpec>,
    counters: Arc<ExpertCounters>,
    sizes: Sizes,
    costs: Costs,
    /// Why the device is of no use any more.
    lost: Option<Error>,
    _memory: DeviceMemory,
    context: Arc<Context>,
}

struct Kernels {
    embed: Embed,
    norm: Norm,
    products: Products,
    attention: Option<Attention>,
    delta_net: Option<DeltaNet>,
    moe: Moe,
}

/// Weights, and the memory of all sequences: one of each a trunk layer.
struct Model {
    weights: Weights,
    feed_forward: Vec<MoeLayer>,
    expert_bytes: Vec<ExpertBytes>,
    kv: Vec<Option<KvLayer>>,
    states: Vec<Option<DeltaStates>>,
    /// Number of each layer among those with experts.
    moe_index: Vec<usize>,
}

/// Activations of the step in progress.
struct Work {
    rope: Angles,
    x: DeviceSlice<f32>,
    normed: DeviceSlice<f32>,
    attention: AttentionWork,
    delta_net: DeltaWork,
    /// The gates whether or not a layer has them.
    moe: MoeWork,
    /// Counters of the products in float32: zero between launches.
    float_counters: DeviceSlice<u32>,
    logits: DeviceSlice<f32>,
}

/// What the operations of the step in progress do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Queue their work.
    Run,
    /// Add it to a recording that the end of the step will keep and queue.
    Record(Recorded),
    /// Nothing: the end of the step queues a recording.
    Replay(Recorded),
}

/// What a recording is of: so many rows, with the contexts of attention in so many parts, told and reporting on one of two sides.
type Recorded = (usize, usize, usize);

impl CudaBackend {
    /// Takes all device memory that any later step will need, and brings the weights of `origin` there.
    ///
    /// # Errors
    /// [`Error::OutOfDeviceMemory`], [`Error::OutOfHostMemory`], [`Error::NoDevice`] for a device that the kernels do not
    /// run on, a failing read, [`Error::Cancelled`] when `progress` asks for that.
    pub fn new(
        (context, modules): (&Arc<Context>, &Modules),
        spec: Arc<ModelSpec>,
        origin: &Origin,
        plan: &WeightPlan,
        counters: Arc<ExpertCounters>,
        options: &CudaOptions,
        progress: &LoadProgress,
    ) -> Result<Self> {
        let _entered = context.enter()?;
        let (device, sizes) = (context.device(), &options.sizes);
        let layout = Layout::new(&spec, plan.bytes(), sizes);
        let memory =
            DeviceMemory::take(context, layout.bytes, &format!("the model on CUDA device {}", device.ordinal))?;
        let tiles = Tiles::new(modules, device, &memory, &layout.work)?;
        let kernels = Kernels::new(modules, context, &spec, Arc::new(tiles), options)?;
        let stream = Stream::new(context, options.priority)?;

        let weights = memory.part(layout.weights)?;
        let tables = KnownTables::default();
        send(origin, plan, &Upload { context, to: weights, tables: &tables }, progress, lanes(options.threads))?;
        let weights = Weights::of(&OnDevice::new(weights, tables), plan, &spec)?;
        let (mut feed_forward, mut expert_bytes) = (Vec::new(), Vec::new());
        for ((layer, kind), planned) in weights.layers.iter().zip(&spec.layers).zip(&layout.experts) {
            let (experts, table) = (layer.feed_forward.experts(), memory.part(*planned)?);
            upload_values(context, &stream, &experts.all, table)?;
            feed_forward.push(kernels.moe.layer(moe_shape(&spec, kind.feed_forward), &experts.all, table)?);
            expert_bytes.push(experts.bytes);
        }
        let kv = layout.kv.iter().map(|kv| kv.as_ref().map(|kv| KvLayer::in_memory(&memory, kv)).transpose());
        let states = layout.states.iter().map(|s| s.as_ref().map(|s| DeltaStates::in_memory(&memory, s)).transpose());
        let is_moe = |layer: &crate::model::LayerSpec| usize::from(layer.feed_forward == FeedForward::Moe);
        let moe_index = spec.layers.iter().scan(0, |count, layer| {
            let index = *count;
            *count += is_moe(layer);
            Some(index)
        });
        let model = Model {
            weights,
            feed_forward,
            expert_bytes,
            kv: kv.collect::<Result<_>>()?,
            states: states.collect::<Result<_>>()?,
            moe_index: moe_index.collect(),
        };
        let parts = &layout.work;
        let work = Work::new(&memory, &layout, &spec)?;
        let sample = Sample::new(modules, device, (&memory, &parts.sample), spec.vocab, &stream)?;
        upload_values(context, &stream, &ends(&options.eos_ids, spec.vocab), sample.ends())?;
        let of_sides =
            |[first, second]: [Planned<u32>; SIDES]| Ok::<_, Error>([memory.part(first)?, memory.part(second)?]);
        let backend = Self {
            step_buffer: StepBuffer::new(context, options.priority, of_sides(parts.steps)?)?,
            reports: Reports::new(context, options.priority, of_sides(parts.reports)?)?,
            queued: VecDeque::new(),
            side: 0,
            seen: Pinned::zeroed(context, spec.vocab, "the tokens of a prompt")?,
            sample,
            work,
            stream,
            recordings: HashMap::new(),
            kernels,
            model,
            step: None,
            normed_for: None,
            mode: Mode::Run,
            spec,
            counters,
            sizes: *sizes,
            costs: Costs::default(),
            lost: None,
            _memory: memory,
            context: context.clone(),
        };
        backend.prepare()?;
        Ok(backend)
    }

    /// Fills what every step reads and none writes.
    fn prepare(&self) -> Result<()> {
        self.stream.clear(self.work.attention.counters)?;
        self.stream.clear(self.work.float_counters)?;
        if self.kernels.attention.is_some() {
            let (frequencies, _) = self.spec.attention.rope.frequencies();
            upload_values(&self.context, &self.stream, &frequencies, self.work.rope.frequencies)?;
        }
        self.stream.wait()
    }

    /// Ends a step that failed, and remembers an error after which nothing works.
    fn note<T>(&mut self, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome {
            if let Error::DeviceLost(_) = error {
                self.lost = Some(error.clone());
            }
            self.stream.drop_recording();
            (self.mode, self.step) = (Mode::Run, None);
            self.queued.clear();
            // What was queued may still read what the next step tells.
            let settled = self.stream.wait().and(self.step_buffer.settle()).and(self.reports.settle());
            // A choice may have been made in part.
            let _ = settled.and_then(|()| self.sample.reset(&self.stream));
        }
        outcome
    }

    fn step(&self) -> Result<Step> {
        self.step.ok_or_else(|| Error::Internal("an operation outside of a step".into()))
    }

    fn begin(&mut self, batch: &Batch<'_>) -> Result<()> {
        if let Some(error) = &self.lost {
            return Err(error.clone());
        }
        batch.check(self.spec.vocab, self.sizes.max_rows, &self.sizes.layout, true)?;
        // Logits of a step are in the way of the next one's.
        let brings = |step: &Queued| step.sequences.iter().any(|s| !s.chooses && !s.logits.is_empty());
        if self.queued.len() >= SIDES || self.queued.iter().any(brings) {
            return Err(Error::Internal(format!("a step behind {} that were not collected", self.queued.len())));
        }
        let logits: usize = batch.sequences.iter().map(|sequence| sequence.logit_rows().len()).sum();
        if logits > self.sizes.max_logits {
            return Err(Error::Internal(format!("{logits} rows of logits in a step")));
        }
        let step = self.step_buffer.tell(batch, self.side, &self.stream)?;
        self.step = Some(step);
        self.normed_for = None;
        self.mode = Mode::Run;
        if step.decode && step.count() <= MOST_RECORDED_ROWS {
            let splits = self.kernels.attention.as_ref().map_or(1, |attention| attention.splits(&step));
            let key = (step.count(), splits, self.side);
            if self.recordings.contains_key(&key) {
                self.mode = Mode::Replay(key);
                return Ok(());
            }
            self.stream.begin_recording()?;
            self.mode = Mode::Record(key);
        }
        let (work, embedding) = (&self.work, &self.model.weights.embedding);
        self.kernels.embed.run(&self.stream, (&step, self.sample.chosen()), embedding, work.x, &work.rope)
    }

    fn fill(&self, memory: &Sequence, positions: usize) -> Result<()> {
        let layout = &self.sizes.layout;
        let pages = positions.div_ceil(layout.page_tokens).min(memory.pages.len());
        for kv in self.model.kv.iter().flatten() {
            for page in &memory.pages[..pages] {
                kv.invent(&self.stream, *page as usize, layout.pages)?;
            }
        }
        for states in self.model.states.iter().flatten() {
            states.clear(&self.stream, memory.slot, layout.slots)?;
        }
        self.stream.wait()
    }

    /// Ends the telling of a step: queues what is left of it, and the copy of what it reports.
    fn finish(&mut self, batch: &Batch<'_>) -> Result<()> {
        let step = self.step()?;
        if step.picks.len() > 0 {
            self.costs[Operation::Head].bytes += self.model.weights.head.bytes;
        }
        let row = self.model.weights.embedding.bytes / self.spec.vocab.max(1) as u64;
        self.costs[Operation::Embed].bytes += batch.tokens.len() as u64 * row;
        match self.mode {
            Mode::Run => self.queue_end(&step, step.chooses)?,
            Mode::Record(key) => {
                self.queue_end(&step, true)?;
                let graph = self.stream.end_recording()?;
                if self.recordings.len() >= MOST_RECORDINGS {
                    self.recordings.clear();
                }
                self.recordings.insert(key, graph);
                self.replay(key)?;
            }
            Mode::Replay(key) => self.replay(key)?,
        }
        self.step = None;
        self.mode = Mode::Run;
        let per_layer = step.count() * self.spec.moe.as_ref().map_or(0, |moe| moe.top_k);
        let words = results(&self.sizes) + self.spec.moe_layers() * per_layer;
        self.reports.send(self.side, words, &self.stream)?;
        let mut first = 0;
        let sequences = batch.sequences.iter().map(|sequence| {
            let logits = first..first + sequence.logit_rows().len();
            first = logits.end;
            QueuedSequence { rows: sequence.rows.clone(), logits, chooses: sequence.choice.is_some() }
        });
        self.queued.push_back(Queued { side: self.side, per_layer, sequences: sequences.collect() });
        self.side = (self.side + 1) % SIDES;
        Ok(())
    }

    /// Head, and the choice of tokens.
    fn queue_end(&self, step: &Step, chooses: bool) -> Result<()> {
        self.queue_head(step)?;
        if !chooses || step.picks.len() == 0 {
            return Ok(());
        }
        let results = self.reports.on_device(self.side).part(0, results(&self.sizes))?.cast();
        self.sample.run(&self.stream, step.samples, self.work.logits, results)
    }

    fn replay(&self, key: Recorded) -> Result<()> {
        let graph = self.recordings.get(&key).ok_or_else(|| Error::Internal("a recorded step is gone".into()))?;
        self.stream.replay(graph)
    }

    /// Waits for the oldest step. Its tokens, and its logits into the beginning of `logits`.
    fn bring(&mut self, wanted: Option<&[bool]>, logits: &mut [f32]) -> Result<Vec<Result<u32>>> {
        let step = self.queued.pop_front().ok_or_else(|| Error::Internal("no step is queued".into()))?;
        self.reports.wait(step.side)?;
        let results = self.reports.on_host(step.side).as_chunks::<4>().0;
        let chooses = step.sequences.iter().filter(|sequence| sequence.chooses);
        let result = |sequence: &QueuedSequence| {
            let result = sequence.logits.clone().next().and_then(|row| results.get(row));
            let missing = || Err(Error::Internal("a choice without logits".into()));
            result.map_or_else(missing, |words| SampleResult::of_words(*words).token())
        };
        let tokens = chooses.map(result).collect();
        let (vocab, mut unread) = (self.spec.vocab, logits);
        for sequence in step.sequences.iter().filter(|s| !s.chooses && !s.logits.is_empty()) {
            let len = sequence.logits.len() * vocab;
            let short = || Error::Internal(format!("room for fewer logits than the {len} of a sequence"));
            let (own, rest) = unread.split_at_mut_checked(len).ok_or_else(short)?;
            self.stream.fetch(self.work.logits.part(sequence.logits.start * vocab, len)?, own)?;
            unread = rest;
        }
        self.count_choices(&step, wanted);
        Ok(tokens)
    }

    /// Counts the experts that the rows of a step's wanted sequences chose, and the bytes of those that any row chose.
    fn count_choices(&mut self, step: &Queued, wanted: Option<&[bool]>) {
        let Some(moe) = &self.spec.moe else { return };
        let choices = self.reports.on_host(step.side).get(results(&self.sizes)..).unwrap_or_default();
        let mut visits = Visits::new(moe);
        let is_moe = |layer: usize| self.spec.layers[layer].feed_forward == FeedForward::Moe;
        for (layer, index) in self.model.moe_index.iter().enumerate().filter(|(layer, _)| is_moe(*layer)) {
            visits.of_layer(step, choices.get(index * step.per_layer..).unwrap_or_default(), wanted);
            self.costs[Operation::Experts].bytes += self.model.expert_bytes[layer].routed * visits.experts();
            visits.counted().for_each(|(expert, count)| self.counters.add(layer, expert, count));
        }
    }

    fn begin_stream_in(&mut self, slot: usize, sampling: &Sampling, prompt: &[u32]) -> Result<()> {
        if !sampling.has_penalties() {
            return Ok(());
        }
        seen(prompt, &mut self.seen);
        self.stream.upload(&self.seen, self.sample.history(slot)?)?;
        // The next stream's takes the same place.
        self.stream.wait()
    }
}

#[cfg(test)]
impl CudaBackend {
    /// Does what a defect of a kernel would do: reads where no memory is.
    pub(super) fn break_device(&self) -> Result<()> {
        let (rows, norm) = ((DeviceSlice::nowhere(64), None, 1), (DeviceSlice::nowhere(64), 0.0));
        let out = Normed { floats: Some(DeviceSlice::nowhere(64)), quantised: QuantisedRow::NONE, early: false };
        self.kernels.norm.run(&self.stream, rows, norm, out)
    }
}

impl Kernels {
    fn new(
        modules: &Modules,
        context: &Context,
        spec: &ModelSpec,
        tiles: Arc<Tiles>,
        options: &CudaOptions,
    ) -> Result<Self> {
        let (device, sizes) = (context.device(), &options.sizes);
        let attention = || Attention::new(modules, device, spec, &sizes.layout, sizes.kv);
        let delta = spec.delta.as_ref().map(|delta| DeltaNet::new(modules, delta, spec.norm_eps));
        Ok(Self {
            embed: Embed::new(modules)?,
            norm: Norm::new(modules)?,
            products: Products::new(modules, device, tiles.clone(), options.exact)?,
            attention: (spec.attention_layers() > 0).then(attention).transpose()?,
            delta_net: delta.transpose()?,
            moe: Moe::new(modules, device, tiles, options.exact)?,
        })
    }
}

impl Work {
    /// Where rows are normed to, as floats and quantised as they are wanted.
    fn normed_as(&self, (floats, quantised): (bool, bool)) -> Normed {
        let row = if quantised { self.moe.row } else { QuantisedRow::NONE };
        Normed { floats: floats.then_some(self.normed), quantised: row, early: false }
    }

    fn new(memory: &DeviceMemory, layout: &Layout, spec: &ModelSpec) -> Result<Self> {
        let parts = &layout.work;
        let [first, second, third, fourth] = parts.projections;
        let projections = [memory.part(first)?, memory.part(second)?, memory.part(third)?, memory.part(fourth)?];
        let (x, normed, mixed) = (memory.part(parts.x)?, memory.part(parts.normed)?, memory.part(parts.mixed)?);
        let angles = memory.part(parts.angles)?;
        let frequencies = memory.part(parts.frequencies)?;
        let no_attention = spec.attention_layers() == 0;
        let (codes, factors) = (memory.part(parts.codes)?, memory.part(parts.factors)?);
        let row = QuantisedRow { codes: codes.start(), factors: factors.start() };
        Ok(Self {
            rope: Angles {
                frequencies: if no_attention { frequencies.part(0, 0)? } else { frequencies },
                scale: spec.attention.rope.frequencies().1,
                angles,
            },
            x,
            normed,
            attention: AttentionWork {
                queries: projections[0],
                keys: projections[1],
                values: projections[2],
                angles,
                out: mixed,
                partials: memory.part(parts.partials)?,
                counters: memory.part(parts.counters)?,
            },
            delta_net: DeltaWork {
                projections,
                convolved: memory.part(parts.convolved)?,
                chunks: memory.part(parts.outputs)?.cast(),
                out: mixed,
                row: QuantisedRow::NONE,
            },
            moe: MoeWork {
                x,
                normed,
                logits: memory.part(parts.router)?,
                shared_gate: Some(memory.part(parts.shared_gate)?),
                shares: memory.part(parts.shares)?,
                entry_rows: memory.part(parts.entry_rows)?,
                entry_of: memory.part(parts.entry_of)?,
                items: memory.part(parts.items)?,
                item_count: memory.part(parts.item_count)?,
                activations: memory.part(parts.activations)?,
                outputs: memory.part(parts.outputs)?,
                row,
            },
            float_counters: memory.part(parts.float_counters)?,
            logits: memory.part(parts.logits)?,
        })
    }
}

impl Backend for CudaBackend {
    fn attach(&mut self) {
        let entered = self.context.enter_for_good();
        if let Err(error) = entered {
            self.lost = Some(error);
        }
    }

    fn embed(&mut self, batch: &Batch<'_>) -> Result<()> {
        let outcome = self.begin(batch);
        self.note(outcome)
    }

    fn attention(&mut self, layer: usize, batch: &Batch<'_>) -> Result<()> {
        let outcome = self.run_attention(layer, batch);
        self.note(outcome)
    }

    fn delta_net(&mut self, layer: usize, batch: &Batch<'_>) -> Result<()> {
        let outcome = self.run_delta_net(layer, batch);
        self.note(outcome)
    }

    fn moe(&mut self, layer: usize) -> Result<()> {
        let outcome = self.run_feed_forward(layer);
        self.note(outcome)
    }

    fn dense(&mut self, layer: usize) -> Result<()> {
        let outcome = self.run_feed_forward(layer);
        self.note(outcome)
    }

    fn head(&mut self, batch: &Batch<'_>, logits: &mut [f32]) -> Result<()> {
        let outcome = self.finish(batch).and_then(|()| self.bring(None, logits).map(|_| ()));
        self.note(outcome)
    }

    fn steps_ahead(&self) -> usize {
        SIDES
    }

    fn begin_stream(&mut self, slot: usize, sampling: &Sampling, prompt: &[u32]) -> Result<()> {
        let outcome = self.begin_stream_in(slot, sampling, prompt);
        self.note(outcome)
    }

    fn choose(&mut self, batch: &Batch<'_>) -> Result<()> {
        let outcome = self.finish(batch);
        self.note(outcome)
    }

    fn collect(&mut self, wanted: &[bool], logits: &mut [f32]) -> Result<Vec<Result<u32>>> {
        let outcome = self.bring(Some(wanted), logits);
        self.note(outcome)
    }

    fn logits(&mut self, len: usize) -> Result<Logits> {
        Ok(Box::new(Pinned::zeroed(&self.context, len, "logits")?))
    }

    fn invent(&mut self, memory: &Sequence, positions: usize) -> Result<()> {
        let outcome = self.fill(memory, positions);
        self.note(outcome)
    }

    fn take_costs(&mut self) -> Costs {
        std::mem::take(&mut self.costs)
    }

    fn info(&self) -> BackendInfo {
        BackendInfo { kernels: "cuda", kv_type: self.sizes.kv.name() }
    }
}
