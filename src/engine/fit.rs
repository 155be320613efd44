//! What a load would take, from the headers alone.

use std::path::Path;

use super::machine;
use super::target::Target;
use super::worker::logit_rows;
use super::{Fit, LoadOptions, MemoryStats, MemoryUse, Sampler};
use crate::cpu;
use crate::cuda::{self, DeviceInfo};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, LayerTensor, ModelSpec, Role, Source, WeightPlan, check_shapes, read_config};
use crate::state::{KvFormat, StateLayout};

/// Rows of a prefill step where the caller says nothing: of a processor, and of a CUDA device in the order of preference. On
/// a device the weights of experts cost as much for few rows as for many, so that most of a prompt's time depends on it.
const DEFAULT_CHUNK: usize = 512;
const CUDA_CHUNKS: [usize; 2] = [2048, 1024];

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
    let target = Target::choose(options, &spec, checkpoint.path())?;
    Ok(plan.settle(&weights, &spec, options, &target).1)
}

/// Sizes settled from options, model and machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub context_length: usize,
    pub layout: StateLayout,
    pub threads: usize,
    /// Rows of a prefill step at most.
    pub prefill_chunk: usize,
}

impl Plan {
    /// Settles the sizes that the options leave open, but for what [`Plan::settle`] does.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for options that contradict the model or each other.
    pub(super) fn new(spec: &ModelSpec, options: &LoadOptions) -> Result<Self> {
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
        let prefill_chunk = if options.prefill_chunk == 0 { DEFAULT_CHUNK } else { options.prefill_chunk };
        Ok(Self { context_length, layout, threads, prefill_chunk })
    }

    /// Settles the size of a prefill step where the options leave it open: the largest that fits the device's memory. With
    /// what the load then takes.
    pub(super) fn settle(
        self,
        weights: &WeightPlan,
        spec: &ModelSpec,
        options: &LoadOptions,
        target: &Target,
    ) -> (Self, Fit) {
        if let (0, Target::Cuda { .. }) = (options.prefill_chunk, target) {
            for chunk in CUDA_CHUNKS {
                // Prompts of more rows than all streams hold do not come.
                let prefill_chunk = chunk.min(self.layout.pages * self.layout.page_tokens).max(DEFAULT_CHUNK);
                let plan = Self { prefill_chunk, ..self.clone() };
                let fit = plan.fit(weights, spec, options, target);
                if fit.fits {
                    return (plan, fit);
                }
            }
        }
        let fit = self.fit(weights, spec, options, target);
        (self, fit)
    }

    /// Rows of a step at most: each stream's next token, and a chunk of prompts.
    pub(super) fn max_rows(&self) -> usize {
        self.layout.slots + self.prefill_chunk
    }

    /// What a CUDA device's memory is sized for.
    pub(super) fn cuda_sizes(&self, options: &LoadOptions, device: &DeviceInfo) -> cuda::Sizes {
        cuda::Sizes {
            layout: self.layout,
            kv: options.kv_format(),
            max_rows: self.max_rows(),
            max_logits: logit_rows(self.layout.slots, self.prefill_chunk),
            multiprocessors: device.multiprocessors as usize,
        }
    }

    /// Holds the memory that the load takes against the memory it may take.
    fn fit(&self, weights: &WeightPlan, spec: &ModelSpec, options: &LoadOptions, target: &Target) -> Fit {
        let memory = self.memory(weights, spec, options, target);
        // What one stream takes, of any number of positions.
        let one = |tokens| {
            let plan = Plan { layout: StateLayout::new(1, tokens), ..self.clone() };
            let memory = plan.memory(weights, spec, options, target);
            (memory.ram.kv + memory.vram.kv, memory.ram.states + memory.vram.states)
        };
        let budget = |budget: u64| Some(budget).filter(|&budget| budget > 0);
        let limit = |own: u64, free: Option<u64>| budget(own).into_iter().chain(free).min().unwrap_or(u64::MAX);
        let (ram_free, vram_free) = (machine::available_memory(), target.free());
        let passing = if vram_free.is_some() { cuda::passing_bytes(weights, self.threads) as u64 } else { 0 };
        let ram_required = memory.ram.total().saturating_add(passing);
        let vram_required = memory.vram.total();
        let mut fit = Fit {
            memory,
            state_per_stream: one(0).1,
            kv_per_1000_tokens: one(1000 * StateLayout::PAGE_TOKENS).0 / StateLayout::PAGE_TOKENS as u64,
            ram_required,
            ram_available: ram_free.unwrap_or(0),
            ram_limit: limit(options.ram_budget, ram_free),
            vram_required,
            vram_limit: vram_free.map_or(0, |free| limit(options.vram_budget, Some(free))),
            context_length: self.context_length,
            streams: self.layout.slots,
            kv_tokens: self.layout.pages * self.layout.page_tokens,
            fits: false,
            advice: String::new(),
        };
        fit.fits = fit.needs().iter().all(Need::fits);
        fit.advice =
            fit.needs().iter().find(|need| !need.fits()).map_or_else(|| fit.fitting(), |need| need.advice(&fit));
        fit
    }

    /// Memory of the loaded model.
    fn memory(&self, weights: &WeightPlan, spec: &ModelSpec, options: &LoadOptions, target: &Target) -> MemoryStats {
        let mut held = MemoryUse::default();
        for place in weights.places() {
            let component = component(&mut held, place.role);
            *component = component.saturating_add(place.taken as u64);
        }
        let logits = 4 * logit_rows(self.layout.slots, self.prefill_chunk) as u64;
        let logits = logits.saturating_mul(spec.vocab as u64);
        match target {
            Target::Cpu => {
                let plan = cpu::plan(spec, &self.layout, options.kv_format(), self.max_rows());
                let samplers = (Sampler::BYTES_PER_TOKEN * self.layout.slots as u64).saturating_mul(spec.vocab as u64);
                let workspace = plan.workspace.saturating_add(logits).saturating_add(samplers);
                let ram = MemoryUse { kv: plan.kv, states: plan.states, workspace, ..held };
                MemoryStats { ram, vram: MemoryUse::default() }
            }
            Target::Cuda { context, .. } => {
                let plan = cuda::plan(spec, weights, &self.cuda_sizes(options, context.device()));
                let ram = MemoryUse { workspace: plan.pinned.saturating_add(logits), ..MemoryUse::default() };
                let vram = MemoryUse { kv: plan.kv, states: plan.states, workspace: plan.workspace, ..held };
                MemoryStats { ram, vram }
            }
        }
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

/// What a load needs of one kind of memory, and what it may take.
struct Need {
    /// What the memory is called.
    kind: &'static str,
    /// The option that limits it.
    option: &'static str,
    memory: MemoryUse,
    required: u64,
    limit: u64,
    available: u64,
}

impl Need {
    fn fits(&self) -> bool {
        self.required <= self.limit
    }

    /// What is needed until the load is over: weights pass through here on their way to a device.
    fn passing(&self) -> u64 {
        self.required.saturating_sub(self.memory.total())
    }

    /// What would make it fit.
    fn advice(&self, fit: &Fit) -> String {
        let (required, limit) = (self.required, self.limit);
        let weights = self.memory.weights();
        // What does not get smaller with the KV.
        let fixed = required - self.memory.kv;
        if self.passing() > 0 && required - self.passing() <= limit {
            return format!(
                "{} are needed, of {}: {} of them for weights on their way to the device, which every thread adds to.",
                bytes(required),
                self.limit_text(),
                bytes(self.passing())
            );
        }
        if weights >= limit {
            return format!(
                "The weights alone take {}, of {}: a file with fewer bits per weight, a larger {} or more memory is needed.",
                bytes(weights),
                self.limit_text(),
                self.option
            );
        }
        if fixed >= limit {
            return format!(
                "Without KV the model takes {}, of {}: fewer streams ({} a stream) or a smaller prefill_chunk would help.",
                bytes(fixed),
                self.limit_text(),
                bytes(fit.state_per_stream)
            );
        }
        let tokens = (limit - fixed).saturating_mul(1000).checked_div(fit.kv_per_1000_tokens).unwrap_or(0);
        format!(
            "{} are needed, of {}: kv_tokens (or streams * context_length) of {} or less would fit.",
            bytes(required),
            self.limit_text(),
            tokens / StateLayout::PAGE_TOKENS as u64 * StateLayout::PAGE_TOKENS as u64
        )
    }

    fn limit_text(&self) -> String {
        match self.limit {
            u64::MAX => "an unknown amount of memory".into(),
            limit if limit == self.available => format!("{} that are available", bytes(limit)),
            limit => format!("the {} of {}", self.option, bytes(limit)),
        }
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
        let Some(need) = self.needs().into_iter().find(|need| !need.fits()) else { return Ok(()) };
        let memory = &need.memory;
        let passing = match need.passing() {
            0 => String::new(),
            passing => format!(", on their way to the device {passing}"),
        };
        Err(Error::OverBudget(format!(
            "{}: {} bytes of {} needed (weights {}, KV {}, states {}, workspace {}{passing}), {} allowed. {}",
            path.display(),
            need.required,
            need.kind,
            memory.weights(),
            memory.kv,
            memory.states,
            memory.workspace,
            need.limit,
            self.advice
        )))
    }

    /// The kinds of memory that the load takes.
    fn needs(&self) -> Vec<Need> {
        let ram = Need {
            kind: "host memory",
            option: "ram_budget",
            memory: self.memory.ram,
            required: self.ram_required,
            limit: self.ram_limit,
            available: self.ram_available,
        };
        let vram = Need {
            kind: "device memory",
            option: "vram_budget",
            memory: self.memory.vram,
            required: self.vram_required,
            limit: self.vram_limit,
            available: self.vram_limit,
        };
        if self.vram_required > 0 { vec![vram, ram] } else { vec![ram] }
    }

    fn fitting(&self) -> String {
        let parts = self.needs().into_iter().map(|need| match need.kind {
            "host memory" => format!("{} of {}", bytes(need.required), need.limit_text()),
            kind => format!("{} of {kind} of {}", bytes(need.required), need.limit_text()),
        });
        format!("Fits: {}.", parts.collect::<Vec<_>>().join(", "))
    }
}
