//! From files to a running model.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fit::Plan;
use super::log::Log;
use super::panics::silence;
use super::target::Target;
use super::{Device, Language, LoadOptions, LogLevel, Model, ModelParts, SamplingDefaults, cache};
use crate::cpu::{CpuBackend, CpuOptions, Isa};
use crate::cuda::{CudaBackend, CudaOptions};
use crate::error::Result;
use crate::experts::ExpertCounters;
use crate::model::{
    Backend, Checkpoint, FeedForward, LoadProgress, ModelSpec, Origin, Source, WeightPlan, Weights, check_shapes, pack,
    read_config,
};

impl Model {
    /// Loads a model; `progress` can be watched and cancelled from another thread.
    ///
    /// # Errors
    /// Broken or unsupported files, options out of range, [`crate::Error::OverBudget`] with the numbers before any weight is
    /// read, [`crate::Error::Cancelled`].
    pub fn load(source: &Source, options: &LoadOptions, progress: &LoadProgress) -> Result<Model> {
        silence();
        options.check()?;
        let isa = Isa::choose()?;
        let log = Log::new(options.log.clone());
        let checkpoint = Checkpoint::open(source)?;
        let config = read_config(&checkpoint)?;
        let spec = Arc::new(config.spec);
        check_shapes(&checkpoint, &spec)?;
        let plan = Plan::new(&spec, options)?;
        report(&checkpoint, &spec, &config.unrecognised, &plan, &log);

        let weight_plan = WeightPlan::new(&checkpoint, &spec)?;
        let target = Target::choose(options, &spec, checkpoint.path())?;
        let (plan, fit) = plan.settle(&weight_plan, &spec, options, &target);
        report_target(&target, isa, options, &log);
        log.line(LogLevel::Info, &format!("prompts are read in steps of up to {} tokens", plan.prefill_chunk));
        fit.check(checkpoint.path())?;
        log.line(LogLevel::Info, &fit.advice);
        // Every stage may take long, and a wish to stop waits for one of them at most.
        let stop_if_cancelled = || progress.advance(0);

        stop_if_cancelled()?;
        let files = checkpoint.text_files()?;
        let sampling = match &files.generation_config {
            Some(contents) => {
                let path = checkpoint.path().join("generation_config.json");
                SamplingDefaults::from_generation_config(&path, contents)?
            }
            None => SamplingDefaults::from_gguf(checkpoint.path(), &files.gguf_sampling)?,
        };
        let language = Language::read(checkpoint.path(), files, &log)?;
        stop_if_cancelled()?;
        // Weights of the processor are those that were found to fit; a cache for a device takes them besides.
        let room = match target {
            Target::Cpu => u64::MAX,
            Target::Cuda { .. } => fit.ram_limit.saturating_sub(fit.ram_required),
        };
        let model = (&checkpoint, &*spec, &weight_plan);
        let cached = cache::image(model, options, plan.threads, room, progress, &log)?;
        stop_if_cancelled()?;

        let is_moe = spec.layers.iter().map(|layer| layer.feed_forward == FeedForward::Moe);
        let counters = Arc::new(ExpertCounters::new(spec.moe.as_ref().map_or(0, |moe| moe.experts), is_moe));
        let backend: Box<dyn Backend> = match &target {
            Target::Cpu => {
                let cpu = CpuOptions {
                    threads: plan.threads,
                    exact: options.exact,
                    kv: options.kv_format(),
                    max_rows: plan.max_rows(),
                    isa,
                };
                let image = match cached {
                    Some(image) => image,
                    None => pack(&checkpoint, &weight_plan, progress, plan.threads)?,
                };
                let weights = Weights::view(image, &weight_plan, &spec)?;
                stop_if_cancelled()?;
                Box::new(CpuBackend::new(spec.clone(), weights, plan.layout, counters.clone(), &cpu, progress)?)
            }
            Target::Cuda { context, modules, .. } => {
                let origin = match cached {
                    Some(image) => {
                        // A check of what the image says of itself.
                        Weights::view(image.clone(), &weight_plan, &spec)?;
                        Origin::Image(image)
                    }
                    None => Origin::Files(&checkpoint),
                };
                let sizes = plan.cuda_sizes(options, context.device());
                let cuda = CudaOptions {
                    sizes,
                    exact: options.exact,
                    priority: options.device_priority,
                    eos_ids: language.eos_ids.clone(),
                    threads: plan.threads,
                };
                let (spec, counters) = (spec.clone(), counters.clone());
                Box::new(CudaBackend::new((context, modules), spec, &origin, &weight_plan, counters, &cuda, progress)?)
            }
        };
        stop_if_cancelled()?;
        let model = Model::start(ModelParts {
            spec,
            backend,
            layout: plan.layout,
            context_length: plan.context_length,
            prefill_chunk: plan.prefill_chunk,
            max_step: options.max_step,
            threads: plan.threads,
            language,
            sampling,
            counters,
            memory: fit.memory,
            parameters: checkpoint.tensors().iter().fold(0, |sum, t| sum.saturating_add(t.elements())),
            log: options.log.clone(),
        })?;
        stop_if_cancelled()?;
        Ok(model)
    }
}

/// The ids of `text` by the tokenizer of the model at `source`, without loading the model: as [`Model::tokenize`].
///
/// # Errors
/// Broken or unsupported files; [`crate::Error::Unsupported`] where the model has no tokenizer.
pub fn tokenize(source: &Source, text: &str, special: bool) -> Result<Vec<u32>> {
    let checkpoint = Checkpoint::open(source)?;
    let language = Language::read(checkpoint.path(), checkpoint.text_files()?, &Log::new(None))?;
    language.tokenize(text, special)
}

/// Tells the log what will compute.
fn report_target(target: &Target, isa: Isa, options: &LoadOptions, log: &Log) {
    match target {
        Target::Cpu => {
            log.line(LogLevel::Info, &format!("processor: {} kernels", isa.name()));
            if options.device == Device::Automatic {
                log.line(LogLevel::Info, "device: the processor; a CUDA device is used where its number is given");
            }
            if options.vram_budget > 0 {
                log.line(LogLevel::Warning, "vram_budget has no effect: no CUDA device was asked for");
            }
        }
        Target::Cuda { context, free, .. } => {
            let device = context.device();
            let (major, minor) = device.capability;
            log.line(
                LogLevel::Info,
                &format!(
                    "device: CUDA device {}, {}, compute capability {major}.{minor}, {free} of {} bytes free",
                    device.ordinal, device.name, device.memory
                ),
            );
        }
    }
}

/// Tells the log what is loaded.
fn report(checkpoint: &Checkpoint, spec: &ModelSpec, unrecognised: &[String], plan: &Plan, log: &Log) {
    log.line(
        LogLevel::Info,
        &format!(
            "{}: {} with {} layers ({} attention, {} DeltaNet, {} with experts), {} threads, {} streams of {} positions",
            checkpoint.path().display(),
            spec.family.name(),
            spec.layers.len(),
            spec.attention_layers(),
            spec.delta_layers(),
            spec.moe_layers(),
            plan.threads,
            plan.layout.slots,
            plan.context_length
        ),
    );
    for field in unrecognised {
        log.line(LogLevel::Warning, &format!("the config's field {field} is not known and has no effect"));
    }
    let mut unused = BTreeMap::new();
    for tensor in checkpoint.unused() {
        *unused.entry(format!("{:?}", tensor.reason)).or_insert(0) += 1;
    }
    for (reason, tensors) in unused {
        log.line(LogLevel::Info, &format!("not used: {tensors} tensors ({reason})"));
    }
}
