//! What lies where in a model's one allocation of device memory.

use super::args::{Expert, Item, SampleResult};
use super::attention::PARTIAL_SUMS;
use super::delta_net::{chunk_bytes, recent_values};
use super::memory::{Planned, Planner};
use super::moe::MoeShape;
use super::sample::SampleParts;
use super::step::{ROW_WORDS, SAMPLE_WORDS, SEQUENCE_WORDS, SIDES};
use super::tiles::float_parts;
use crate::model::{FeedForward, Mixer, ModelSpec, WeightPlan};
use crate::state::{KvFormat, StateLayout};

/// What the sizes follow from, beside the model.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Pages and slots.
    pub layout: StateLayout,
    /// How keys and values are stored.
    pub kv: KvFormat,
    /// Rows of one step at most.
    pub max_rows: usize,
    /// Rows of logits of one step at most.
    pub max_logits: usize,
    /// Multiprocessors of the device.
    pub multiprocessors: usize,
}

/// Bytes of memory beside the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Keys and values of all pages.
    pub kv: u64,
    /// DeltaNet and convolution states of all slots.
    pub states: u64,
    /// Activations and logits of the largest step, tables, and room between all parts.
    pub workspace: u64,
    /// Host memory that the device reads and writes directly.
    pub pinned: u64,
}

/// What a backend takes beside the weights.
pub fn plan(spec: &ModelSpec, weights: &WeightPlan, sizes: &Sizes) -> MemoryPlan {
    Layout::new(spec, weights.bytes(), sizes).memory
}

/// The parts of the allocation.
pub(super) struct Layout {
    pub weights: Planned<u8>,
    /// One a trunk layer, as are the next two.
    pub experts: Vec<Planned<Expert>>,
    pub kv: Vec<Option<KvParts>>,
    pub states: Vec<Option<StateParts>>,
    pub work: WorkParts,
    pub bytes: u64,
    pub memory: MemoryPlan,
}

/// Keys and values of one layer: `[pages, kv_heads, page_tokens, head_dim]`.
pub(super) struct KvParts {
    pub keys: Planned<u8>,
    pub values: Planned<u8>,
    pub key_scales: Planned<u16>,
    pub value_scales: Planned<u16>,
}

/// States of one DeltaNet layer.
pub(super) struct StateParts {
    /// `[slots, taps, channels]`.
    pub conv: Planned<f32>,
    /// `[slots, value_heads, key_dim, value_dim]`.
    pub states: Planned<f32>,
    /// Rows that are not in the states yet.
    pub recent: Planned<f32>,
}

/// Activations of a step, and what else it needs.
pub(super) struct WorkParts {
    /// Rows, sequences, rows with logits and pages, as [`super::step`] lays them out, of two steps.
    pub steps: [Planned<u32>; SIDES],
    pub frequencies: Planned<f32>,
    pub angles: Planned<f32>,
    pub x: Planned<f32>,
    pub normed: Planned<f32>,
    pub projections: [Planned<f32>; 4],
    pub convolved: Planned<f32>,
    pub mixed: Planned<f32>,
    pub partials: Planned<f32>,
    pub counters: Planned<u32>,
    pub router: Planned<f32>,
    pub shared_gate: Planned<f32>,
    /// What the host reads behind each of two steps: what came of each row of logits, and the experts of every layer,
    /// `[layers, rows, top_k]`.
    pub reports: [Planned<u32>; SIDES],
    pub shares: Planned<f32>,
    pub entry_rows: Planned<u32>,
    pub entry_of: Planned<u32>,
    pub items: Planned<Item>,
    pub item_count: Planned<u32>,
    pub activations: Planned<f32>,
    /// Outputs of experts; before them, while a layer mixes rows, the chunks of the delta rule.
    pub outputs: Planned<f32>,
    /// Activations, quantised: whichever are multiplied next. Four a word, and two numbers for 32 of them or, for a single
    /// row, for 16.
    pub codes: Planned<u32>,
    pub factors: Planned<f32>,
    /// See [`super::tiles`].
    pub float_parts: Planned<f32>,
    pub float_counters: Planned<u32>,
    pub logits: Planned<f32>,
    pub sample: SampleParts,
}

impl Layout {
    /// Lays everything out, for `weights` bytes of weights.
    pub fn new(spec: &ModelSpec, weights: usize, sizes: &Sizes) -> Self {
        let mut planner = Planner::default();
        let image = planner.take(weights);
        let before_kv = planner.bytes();
        let kv = spec.layers.iter().map(|l| (l.mixer == Mixer::Attention).then(|| kv(&mut planner, spec, sizes)));
        let kv = kv.collect();
        let before_states = planner.bytes();
        let states = spec.layers.iter().map(|l| {
            let delta = spec.delta.as_ref().filter(|_| l.mixer == Mixer::DeltaNet)?;
            let slots = sizes.layout.slots;
            Some(StateParts {
                conv: planner.take(product(&[slots, delta.conv_kernel, delta.conv_channels()])),
                states: planner.take(product(&[slots, delta.value_heads, delta.key_dim, delta.value_dim])),
                recent: planner.take(recent_values(delta, slots)),
            })
        });
        let states = states.collect();
        let before_work = planner.bytes();
        let experts = spec.layers.iter().map(|l| planner.take(moe_shape(spec, l.feed_forward).swiglus()));
        let experts = experts.collect();
        let work = work(&mut planner, spec, sizes);
        let bytes = planner.bytes();
        let memory = MemoryPlan {
            kv: before_states - before_kv,
            states: before_work - before_states,
            workspace: bytes - before_work + (before_kv - weights as u64),
            pinned: pinned(spec, sizes),
        };
        Self { weights: image, experts, kv, states, work, bytes, memory }
    }
}

fn kv(planner: &mut Planner, spec: &ModelSpec, sizes: &Sizes) -> KvParts {
    let (attention, layout) = (&spec.attention, &sizes.layout);
    let heads = product(&[layout.pages, attention.kv_heads, layout.page_tokens]);
    let (bytes, scales) = match sizes.kv {
        KvFormat::F32 => (4 * attention.head_dim, 0),
        KvFormat::F16 => (2 * attention.head_dim, 0),
        KvFormat::Q8_0 => (attention.head_dim, attention.head_dim / KvFormat::BLOCK),
    };
    KvParts {
        keys: planner.take(product(&[heads, bytes])),
        values: planner.take(product(&[heads, bytes])),
        key_scales: planner.take(product(&[heads, scales])),
        value_scales: planner.take(product(&[heads, scales])),
    }
}

fn work(planner: &mut Planner, spec: &ModelSpec, sizes: &Sizes) -> WorkParts {
    let (attention, rows) = (&spec.attention, sizes.max_rows);
    let heads = attention.heads * attention.head_dim;
    let kv = attention.kv_heads * attention.head_dim;
    let mut widths = [heads * if attention.gated { 2 } else { 1 }, kv, kv, 0];
    let (mut mixed, mut channels, mut chunks) = (heads, 0, 0);
    if let Some(delta) = &spec.delta {
        let values = delta.values();
        channels = delta.conv_channels();
        let own = [channels + values, values, 2 * delta.value_heads, delta.value_heads];
        widths.iter_mut().zip(own).for_each(|(width, own)| *width = own.max(*width));
        mixed = mixed.max(values);
        chunks = chunk_bytes(delta, rows, sequences(sizes));
    }
    let moe = spec.moe.as_ref();
    let (experts, top_k) = moe.map_or((0, 0), |moe| (moe.experts, moe.top_k));
    let routed = moe.map_or(0, |moe| moe.top_k * moe.width);
    let shared = moe.map_or(0, |moe| moe.shared_width).max(spec.dense_width);
    let mut float = |width: usize| planner.take::<f32>(product(&[rows, width]));
    let widest = spec.hidden.max(mixed).max(routed + shared);
    let quantised = product(&[rows, widest]);
    let (x, normed) = (float(spec.hidden), float(spec.hidden));
    let projections = widths.map(&mut float);
    let (convolved, mixed) = (float(channels), float(mixed));
    let angles = float(2 * (attention.rope.dim / 2));
    let (router, shared_gate) = (float(experts), float(1));
    let activations = float(routed + shared);
    let shares = float(top_k);
    let (float_sums, float_counters) = float_parts(sizes.multiprocessors);
    WorkParts {
        steps: [(); SIDES].map(|()| planner.take(step_words(sizes))),
        frequencies: planner.take(attention.rope.dim / 2),
        angles,
        x,
        normed,
        projections,
        convolved,
        mixed,
        partials: planner.take(partials(spec, sizes)),
        counters: planner.take(product(&[rows, attention.kv_heads, head_blocks(spec)])),
        router,
        shared_gate,
        reports: [(); SIDES].map(|()| planner.take(results(sizes).saturating_add(choices(spec, sizes)))),
        shares,
        entry_rows: planner.take(product(&[rows, top_k + 1])),
        entry_of: planner.take(product(&[rows, top_k])),
        items: planner.take(items(spec, rows)),
        item_count: planner.take(1),
        activations,
        outputs: planner.take(product(&[rows, top_k + 1, spec.hidden]).max(chunks.div_ceil(4))),
        codes: planner.take(quantised.div_ceil(4)),
        factors: planner.take(2 * quantised.div_ceil(32).max(widest.div_ceil(16))),
        float_parts: planner.take(float_sums),
        float_counters: planner.take(float_counters),
        logits: planner.take(product(&[sizes.max_logits, spec.vocab])),
        sample: SampleParts::plan(planner, sizes.layout.slots, spec.vocab),
    }
}

/// Experts that all rows of the largest step choose, in all layers.
pub(super) fn choices(spec: &ModelSpec, sizes: &Sizes) -> usize {
    product(&[spec.moe_layers(), sizes.max_rows, spec.moe.as_ref().map_or(0, |moe| moe.top_k)])
}

/// Words of what comes of all rows of logits.
pub(super) fn results(sizes: &Sizes) -> usize {
    sizes.max_logits.saturating_mul(size_of::<SampleResult>() / 4)
}

/// Bytes of what two steps are told and report, and of what a stream has seen.
fn pinned(spec: &ModelSpec, sizes: &Sizes) -> u64 {
    let step = step_words(sizes).saturating_add(results(sizes)).saturating_add(choices(spec, sizes));
    (step.saturating_mul(2).saturating_add(spec.vocab) as u64).saturating_mul(4)
}

/// 32-bit words of everything that the host tells the device about a step.
pub(super) fn step_words(sizes: &Sizes) -> usize {
    let words = [(sizes.max_rows, ROW_WORDS), (sequences(sizes), SEQUENCE_WORDS), (sizes.max_logits, SAMPLE_WORDS + 1)];
    words.iter().map(|(count, words)| count * words).sum::<usize>() + sizes.layout.pages
}

/// Sequences of a step at most.
fn sequences(sizes: &Sizes) -> usize {
    sizes.layout.slots.min(sizes.max_rows)
}

/// Blocks that share the query heads of a key head: eight heads each.
pub(super) fn head_blocks(spec: &ModelSpec) -> usize {
    (spec.attention.heads / spec.attention.kv_heads).div_ceil(8)
}

/// Values of the sums that the parts of a context leave: see [`super::attention`].
fn partials(spec: &ModelSpec, sizes: &Sizes) -> usize {
    product(&[8, sizes.multiprocessors, spec.attention.head_dim + PARTIAL_SUMS])
}

/// The sizes of a feed-forward half of this kind.
pub(super) fn moe_shape(spec: &ModelSpec, feed_forward: FeedForward) -> MoeShape {
    let hidden = spec.hidden;
    match (feed_forward, &spec.moe) {
        (FeedForward::Moe, Some(moe)) => MoeShape {
            hidden,
            experts: moe.experts,
            top_k: moe.top_k,
            width: moe.width,
            shared_width: moe.shared_width,
            normalise: moe.normalise_top_k,
        },
        _ => MoeShape { hidden, experts: 0, top_k: 0, width: 0, shared_width: spec.dense_width, normalise: false },
    }
}

/// Groups of rows of one expert that a step of up to `rows` rows can have, at most, where two rows make a group.
fn items(spec: &ModelSpec, rows: usize) -> usize {
    let shapes = spec.layers.iter().map(|layer| moe_shape(spec, layer.feed_forward));
    shapes.map(|shape| shape.items(1, 2).max(shape.items(rows, 2))).max().unwrap_or(0)
}

/// Sizes beyond all memory saturate: what they add up to fits nowhere.
fn product(factors: &[usize]) -> usize {
    factors.iter().fold(1usize, |all, factor| all.saturating_mul(*factor))
}
