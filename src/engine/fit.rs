//! What a load would take, from the headers alone.

use std::path::Path;

use super::machine;
use super::worker::logit_rows;
use super::{Device, Fit, LoadOptions, MemoryStats, MemoryUse, Sampler};
use crate::cpu;
use crate::error::{Error, Result};
use crate::model::{Checkpoint, LayerTensor, ModelSpec, Role, Source, WeightPlan, check_shapes, read_config};
use crate::state::{KvFormat, StateLayout};

/// Positions of a stream where neither the caller nor the model says less.
const DEFAULT_CONTEXT: usize = 4096;

/// What loading `source` with `options` would take, without reading a weight.
///
/// # Errors
/// As [`super::Model::load`] for broken files and options. A model that is too large is no error: [`Fit::fits`] is false.
pub fn fit(source: &Source, options: &LoadOptions) -> Result<Fit> {
    options.check()?;
    let checkpoint = Checkpoint::open(source)?;
    let spec = read_config(&checkpoint)?.spec;
    check_shapes(&checkpoint, &spec)?;
    let plan = Plan::new(&spec, options)?;
    let weights = WeightPlan::new(&checkpoint, &spec)?;
    Ok(plan.fit(&weights, &spec, options, machine::available_memory()))
}

/// Sizes settled from options, model and machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub context_length: usize,
    pub layout: StateLayout,
    pub threads: usize,
}

impl Plan {
    /// Settles the sizes that the options leave open.
    ///
    /// # Errors
    /// [`Error::NoDevice`]; [`Error::InvalidArgument`] for options that contradict the model or each other.
    pub(super) fn new(spec: &ModelSpec, options: &LoadOptions) -> Result<Self> {
        if let Device::Cuda(ordinal) = options.device {
            return Err(Error::NoDevice(format!("CUDA device {ordinal}: this build has no CUDA support")));
        }
        let invalid = |what: String| Err(Error::InvalidArgument(what));
        let context_length = match options.context_length {
            0 => spec.context_length.min(DEFAULT_CONTEXT),
            asked if asked <= spec.context_length => asked,
            asked => {
                return invalid(format!(
                    "context_length is {asked}, expected {} (the model's) at most",
                    spec.context_length
                ));
            }
        };
        let (kv, head_dim) = (options.kv_format(), spec.attention.head_dim);
        if spec.attention_layers() > 0 && !kv.takes(head_dim) {
            return invalid(format!(
                "kv is {}, which needs heads of a multiple of {} channels; the model's have {head_dim}",
                kv.name(),
                KvFormat::BLOCK
            ));
        }
        let streams = options.streams;
        // Each stream's last page may be filled in part only.
        let usable = context_length.next_multiple_of(StateLayout::PAGE_TOKENS).saturating_mul(streams);
        let tokens = match options.kv_tokens {
            0 => usable,
            asked if asked <= usable => asked,
            asked => {
                return invalid(format!(
                    "kv_tokens is {asked}, expected {usable} at most: {streams} streams of {context_length} positions"
                ));
            }
        };
        let layout = StateLayout::new(streams, tokens);
        if u32::try_from(layout.pages).is_err() {
            return invalid(format!("kv_tokens is {tokens}, of which pages have numbers beyond 32 bits"));
        }
        let threads = if options.threads == 0 { machine::default_threads() } else { options.threads };
        Ok(Self { context_length, layout, threads })
    }

    /// Rows of a step at most: each stream's next token, and a chunk of prompts.
    pub(super) fn max_rows(&self, options: &LoadOptions) -> usize {
        self.layout.slots + options.prefill_chunk
    }

    /// Holds the memory that the load takes against the memory it may take.
    pub(super) fn fit(
        &self,
        weights: &WeightPlan,
        spec: &ModelSpec,
        options: &LoadOptions,
        available: Option<u64>,
    ) -> Fit {
        let memory = MemoryStats { ram: self.memory(weights, spec, options), vram: MemoryUse::default() };
        let one = |slots, tokens| cpu::plan(spec, &StateLayout::new(slots, tokens), options.kv_format(), 1);
        let kv_per_1000_tokens = one(1, 1000 * StateLayout::PAGE_TOKENS).kv / StateLayout::PAGE_TOKENS as u64;
        let budget = Some(options.ram_budget).filter(|&budget| budget > 0);
        let ram_limit = budget.into_iter().chain(available).min().unwrap_or(u64::MAX);
        let ram_required = memory.ram.total();
        let mut fit = Fit {
            memory,
            state_per_stream: one(1, 0).states,
            kv_per_1000_tokens,
            ram_required,
            ram_available: available.unwrap_or(0),
            ram_limit,
            vram_required: 0,
            vram_limit: 0,
            context_length: self.context_length,
            streams: self.layout.slots,
            kv_tokens: self.layout.pages * self.layout.page_tokens,
            fits: ram_required <= ram_limit,
            advice: String::new(),
        };
        fit.advice = advice(&fit);
        fit
    }

    /// Host memory of the loaded model.
    pub(super) fn memory(&self, weights: &WeightPlan, spec: &ModelSpec, options: &LoadOptions) -> MemoryUse {
        let mut memory = MemoryUse::default();
        for place in weights.places() {
            let component = component(&mut memory, place.role);
            *component = component.saturating_add(place.taken as u64);
        }
        let plan = cpu::plan(spec, &self.layout, options.kv_format(), self.max_rows(options));
        memory.kv = plan.kv;
        memory.states = plan.states;
        let logits = 4 * logit_rows(self.layout.slots, options.prefill_chunk) as u64;
        let samplers = Sampler::BYTES_PER_TOKEN * self.layout.slots as u64;
        memory.workspace = plan.workspace.saturating_add((logits + samplers).saturating_mul(spec.vocab as u64));
        memory
    }
}

/// What part of the model a tensor counts to.
fn component(memory: &mut MemoryUse, role: Role) -> &mut u64 {
    use LayerTensor as T;
    match role {
        Role::Embedding | Role::Head => &mut memory.embeddings,
        Role::Layer(_, tensor) => match tensor {
            T::Query | T::Key | T::Value | T::Output | T::QueryNorm | T::KeyNorm => &mut memory.attention,
            T::QueryBias | T::KeyBias | T::ValueBias | T::OutputBias => &mut memory.attention,
            T::Delta(_) => &mut memory.delta_net,
            T::Expert(..) => &mut memory.experts,
            _ => &mut memory.other,
        },
        Role::FinalNorm => &mut memory.other,
    }
}

fn advice(fit: &Fit) -> String {
    let ram = &fit.memory.ram;
    if fit.fits {
        return format!("Fits: {} of {}.", bytes(fit.ram_required), limit_text(fit));
    }
    let fixed = ram.weights().saturating_add(ram.states).saturating_add(ram.workspace);
    if ram.weights() >= fit.ram_limit {
        return format!(
            "The weights alone take {}, of {}: a file with fewer bits per weight, a larger ram_budget or more memory is \
             needed.",
            bytes(ram.weights()),
            limit_text(fit)
        );
    }
    if fixed >= fit.ram_limit {
        return format!(
            "Without KV the model takes {}, of {}: fewer streams ({} a stream) or a smaller prefill_chunk would help.",
            bytes(fixed),
            limit_text(fit),
            bytes(fit.state_per_stream)
        );
    }
    let tokens = (fit.ram_limit - fixed).saturating_mul(1000).checked_div(fit.kv_per_1000_tokens).unwrap_or(0);
    format!(
        "{} are needed, of {}: kv_tokens (or streams * context_length) of {} or less would fit.",
        bytes(fit.ram_required),
        limit_text(fit),
        tokens / StateLayout::PAGE_TOKENS as u64 * StateLayout::PAGE_TOKENS as u64
    )
}

fn limit_text(fit: &Fit) -> String {
    match fit.ram_limit {
        u64::MAX => "an unknown amount of memory".into(),
        limit if limit == fit.ram_available => format!("{} that are available", bytes(limit)),
        limit => format!("the ram_budget of {}", bytes(limit)),
    }
}

/// A size as people write it, with the exact number where it is small.
fn bytes(count: u64) -> String {
    match count {
        0..1_000_000 => format!("{count} bytes"),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.2} GB", count as f64 / 1e9),
    }
}

impl Fit {
    /// Refuses a load that does not fit.
    ///
    /// # Errors
    /// [`Error::OverBudget`] with the numbers.
    pub(super) fn check(&self, path: &Path) -> Result<()> {
        if self.fits {
            return Ok(());
        }
        let ram = &self.memory.ram;
        Err(Error::OverBudget(format!(
            "{}: {} bytes of host memory needed (weights {}, KV {}, states {}, workspace {}), {} allowed. {}",
            path.display(),
            self.ram_required,
            ram.weights(),
            ram.kv,
            ram.states,
            ram.workspace,
            self.ram_limit,
            self.advice
        )))
    }
}
