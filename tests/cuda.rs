//! The CUDA backend against the references of the golden checkpoints, and as a guest on the device. Where there is no
//! device, or the library was built without CUDA, each test says that it is skipped and passes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod support;

use std::path::Path;
use std::sync::Arc;

use qwen3moe::cuda::{Context, CudaBackend, CudaOptions, Modules, Priority, Sizes};
use qwen3moe::engine::fit;
use qwen3moe::model::{Checkpoint, ModelSpec, Origin, WeightPlan, read_spec};
use qwen3moe::state::{KvFormat, StateLayout};
use qwen3moe::{
    CudaContext, Device, DevicePriority, Error, Event, GenerateOptions, LoadOptions, LoadProgress, Model, Operation,
    Prompt, Source,
};
use support::batches::{counters, interleaved};
use support::cuda::no_device;
use support::goldens::{Case, cases, difference};
use support::perplexity::perplexity;

/// Against the reference, and against the same sequence computed in another way.
const LIMIT: f32 = 1e-3;

fn options(prefill_chunk: usize) -> LoadOptions {
    LoadOptions {
        device: Device::Cuda(0),
        exact: true,
        threads: 2,
        prefill_chunk,
        streams: 4,
        ..LoadOptions::default()
    }
}

fn load(case: &Case, options: &LoadOptions) -> Model {
    Model::load(&case.source(), options, &LoadProgress::default()).unwrap_or_else(|e| panic!("{}: {e}", case.name))
}

/// Runs `check` for every case, and fails with what it said of each; so that one run tells all that is wrong.
fn for_all_cases(check: impl Fn(&Case) -> Vec<String>) {
    if no_device() {
        return;
    }
    let wrong: Vec<String> = cases().iter().flat_map(check).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A line where a row of `logits` is not near that of `expected`.
fn compare(case: &Case, what: &str, logits: &[f32], expected: &[f32]) -> Option<String> {
    assert_eq!(logits.len(), expected.len(), "{}, {what}", case.name);
    if let Some(at) = logits.iter().position(|logit| !logit.is_finite()) {
        return Some(format!("{}, {what}: logit {at} is {}", case.name, logits[at]));
    }
    let rows = logits.chunks(case.vocab).zip(expected.chunks(case.vocab)).map(|(a, b)| difference(a, b));
    let (row, worst) = rows.enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    (worst >= LIMIT).then(|| format!("{}, {what}: position {row} differs by {worst:e}", case.name))
}

#[test]
fn every_format_and_family_has_the_logits_of_its_reference() {
    for_all_cases(|case| {
        let logits = load(case, &options(256)).eval(&case.ids).unwrap();
        compare(case, "whole", &logits, &case.logits).into_iter().collect()
    });
}

#[test]
fn a_prompt_read_in_any_chunks_has_the_same_logits() {
    for_all_cases(|case| {
        let chunked = |chunk: usize| {
            let logits = load(case, &options(chunk)).eval(&case.ids).unwrap();
            compare(case, &format!("chunks of {chunk}"), &logits, &case.logits)
        };
        [1, 7, 64].into_iter().filter_map(chunked).collect()
    });
}

#[test]
fn weights_of_a_pack_cache_are_those_of_the_files() {
    // Of each way in which matrices have tables: none, codebooks, columns in an order of their own.
    let names = ["qwen3_next_bf16", "qwen3_next_nf4", "qwen3_moe_gptq_act_order"];
    assert_eq!(cases().iter().filter(|case| names.contains(&case.name.as_str())).count(), names.len());
    for_all_cases(|case| {
        if !names.contains(&case.name.as_str()) {
            return Vec::new();
        }
        let folder = tempfile::tempdir().unwrap();
        let files = load(case, &options(64)).eval(&case.ids).unwrap();
        let cached = LoadOptions { cache_dir: Some(folder.path().into()), ..options(64) };
        // The first load makes the cache, the second one maps it.
        let wrong = |load_number| {
            let logits = load(case, &cached).eval(&case.ids).unwrap();
            (logits != files).then(|| format!("{}, load {load_number}: other logits", case.name))
        };
        let wrong = (1..=2).filter_map(wrong).collect();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{}", case.name);
        wrong
    });
}

#[test]
fn rows_of_several_sequences_in_one_batch_do_not_mix() {
    sequences_in_batches_of([1, 1, 1], 20);
    sequences_in_batches_of([5, 1, 3], 40);
}

#[test]
fn rows_of_sequences_in_one_batch_with_a_prompt_do_not_mix() {
    sequences_in_batches_of([1, 7, 64], 80);
}

/// Computes three sequences of up to `most` positions in batches of so many rows of each, and compares with each one by itself.
fn sequences_in_batches_of(rows: [usize; 3], most: usize) {
    for_all_cases(|case| {
        let ids = &case.ids[..case.ids.len().min(most)];
        let backwards: Vec<u32> = ids.iter().rev().copied().collect();
        let sequences = [ids, &backwards, &ids[..ids.len() / 2]];
        let model = load(case, &options(256));
        let alone = sequences.map(|ids| model.eval(ids).unwrap());
        let checkpoint = Checkpoint::open(&case.source()).unwrap();
        let spec = Arc::new(read_spec(&checkpoint).unwrap());
        let plan = WeightPlan::new(&checkpoint, &spec).unwrap();
        let (progress, context) = (LoadProgress::default(), Context::hold(0).unwrap());
        let modules = Modules::load(&context).unwrap();
        let _entered = context.enter().unwrap();
        let layout = StateLayout::new(3, 3 * 256);
        let max_rows = rows.iter().sum();
        let multiprocessors = context.device().multiprocessors as usize;
        let sizes = Sizes { layout, kv: KvFormat::F32, max_rows, max_logits: max_rows, multiprocessors };
        let options = CudaOptions { sizes, exact: true, priority: Priority::Default, eos_ids: Vec::new(), threads: 2 };
        let (counters, origin) = (counters(&spec), Origin::Files(&checkpoint));
        let backend =
            CudaBackend::new((&context, &modules), spec.clone(), &origin, &plan, counters, &options, &progress);
        let found = interleaved(&spec, &mut backend.unwrap(), layout, sequences, rows);
        let named = |i: usize| format!("sequence {i} of {rows:?}");
        found.iter().enumerate().filter_map(|(i, logits)| compare(case, &named(i), logits, &alone[i])).collect()
    });
}

#[test]
fn tokens_generated_one_by_one_are_those_of_the_logits_of_the_whole() {
    for_all_cases(|case| {
        let model = load(case, &options(256));
        let options =
            GenerateOptions { max_tokens: 12, temperature: Some(0.0), ignore_eos: true, ..Default::default() };
        let half = case.ids[..case.ids.len() / 2].to_vec();
        let streams = [(); 2].map(|()| model.stream(&Prompt::Tokens(half.clone()), &options).unwrap());
        let tokens = streams.map(|stream| {
            while !matches!(stream.next(None).unwrap(), Event::Done(_)) {}
            stream.tokens()
        });
        let whole = [half.as_slice(), &tokens[0]].concat();
        let logits = model.eval(&whole).unwrap();
        let unlikely = |(i, &token): (usize, &u32)| {
            let row = &logits[(half.len() + i - 1) * case.vocab..][..case.vocab];
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            let scale = row.iter().fold(0.0f32, |m, l| m.max(l.abs()));
            let likely = largest - row[token as usize] <= LIMIT * scale;
            (!likely).then(|| format!("{}: token {i} is not the most likely", case.name))
        };
        let mut wrong: Vec<String> = tokens[0].iter().enumerate().filter_map(unlikely).collect();
        if tokens[0] != tokens[1] {
            wrong.push(format!("{}: two streams of one prompt differ", case.name));
        }
        wrong
    });
}

#[test]
fn fast_arithmetic_is_as_near_to_the_exact_one_as_the_processors() {
    for_all_cases(|case| {
        let fast = |device| LoadOptions { device, exact: false, ..options(256) };
        let processor = load(case, &fast(Device::Cpu)).eval(&case.ids).unwrap();
        let allowed = 2.0 * difference(&processor, &case.logits) + LIMIT;
        let found = |kv, chunk| {
            let options = LoadOptions { kv, prefill_chunk: chunk, ..fast(Device::Cuda(0)) };
            let logits = load(case, &options).eval(&case.ids).unwrap();
            let found = difference(&logits, &case.logits);
            (found > allowed).then(|| {
                format!("{}, KV {kv}, chunks of {chunk}: differs by {found:e}, expected {allowed:e}", case.name)
            })
        };
        [(KvFormat::F16, 256), (KvFormat::F16, 1), (KvFormat::F32, 9)]
            .into_iter()
            .filter_map(|(kv, chunk)| found(kv, chunk))
            .collect()
    });
}

/// Bytes that a processor moves of the states of `steps` decoded tokens behind 20, and a device does not: it leaves what a row changes,
/// a key and an update, beside the state of a head with 128 channels, and takes in those of eight rows at once; when, depends on
/// the sequence's slot. As many rows are counted there as could be.
fn saved(spec: &ModelSpec, slot: u64, steps: u64) -> u64 {
    let usual = spec.delta.as_ref().filter(|delta| (delta.key_dim, delta.value_dim) == (128, 128));
    let heads = usual.map_or(0, |delta| (delta.value_heads * spec.delta_layers()) as u64);
    let (state, row) = (4 * 128 * 128 * heads, 2 * 4 * 128 * heads);
    let (read_and_written, beside) = (2 * state * steps, |position: u64| (position + slot) % 8);
    let moved = (20..20 + steps).map(|position| match beside(position) {
        7 => 2 * state + 7 * row,
        rows => state + (rows + 1) * row,
    });
    read_and_written.saturating_sub(moved.sum())
}

#[test]
fn the_time_of_a_step_is_the_devices_and_its_bytes_are_the_operations() {
    for_all_cases(|case| {
        let profile = |device| {
            let model = load(case, &LoadOptions { device, ..options(64) });
            let options = GenerateOptions { max_tokens: 4, ignore_eos: true, ..Default::default() };
            model.generate(&Prompt::Tokens(case.ids[..20].to_vec()), &options).unwrap();
            (model.profile(), model.info().spec.clone())
        };
        let ((here, spec), (there, _)) = (profile(Device::Cpu), profile(Device::Cuda(0)));
        for (decodes, here, there) in [(false, here.prefill, there.prefill), (true, here.decode, there.decode)] {
            assert_eq!((here.steps, here.tokens), (there.steps, there.tokens));
            let steps = here.steps;
            for operation in Operation::ALL {
                let (here, there) = (here.costs[operation], there.costs[operation]);
                let timed = [Operation::Device, Operation::Sampling, Operation::Other].contains(&operation);
                assert_eq!(!there.time.is_zero(), timed, "{}: {operation:?}", case.name);
                // A processor keeps the convolution's inputs in order, and writes all of them for every row.
                let conv = |spec: &ModelSpec| {
                    let of_layer = spec.delta.as_ref().map_or(0, |d| 4 * d.conv_channels() * d.conv_kernel);
                    of_layer * spec.delta_layers()
                };
                let is_delta = operation == Operation::DeltaNet;
                let allowed = if is_delta { steps * conv(&spec) as u64 } else { 0 };
                let (a, b) = (here.bytes, there.bytes);
                let mut saved = (0..8).map(|slot| if is_delta && decodes { saved(&spec, slot, steps) } else { 0 });
                let fits = saved.any(|saved| (a - saved).abs_diff(b) <= allowed);
                assert!(fits, "{}: {operation:?}, {a} bytes and {b}", case.name);
            }
        }
        Vec::new()
    });
}

#[test]
fn every_activation_of_an_expert_is_counted() {
    for_all_cases(|case| {
        let model = load(case, &options(7));
        model.eval(&case.ids).unwrap();
        let spec = &model.info().spec;
        let expected = (case.ids.len() * spec.moe.as_ref().unwrap().top_k * spec.moe_layers()) as u64;
        let stats = model.expert_stats();
        let counted = (stats.activations, stats.hits, stats.misses);
        (counted != (expected, expected, 0))
            .then(|| format!("{}: {counted:?} of {expected}", case.name))
            .into_iter()
            .collect()
    });
}

#[test]
fn what_fit_foretells_is_what_a_load_takes_and_less_is_refused_with_the_numbers() {
    for_all_cases(|case| {
        let fit = fit(&case.source(), &options(64)).unwrap();
        assert!(fit.fits && fit.vram_required > 0, "{}: {}", case.name, fit.advice);
        assert_eq!(load(case, &options(64)).memory(), fit.memory, "{}", case.name);
        let budget = LoadOptions { vram_budget: fit.vram_required - 1, ..options(64) };
        let progress = LoadProgress::default();
        let error = Model::load(&case.source(), &budget, &progress).err();
        let what = error.map(|e| (e.status(), e.to_string())).unwrap_or_default();
        assert_eq!(what.0, -10, "{}: {what:?}", case.name);
        assert!(what.1.contains(&format!("{} bytes of device memory", fit.vram_required)), "{}", what.1);
        assert_eq!(progress.done_bytes(), 0, "no weight was read");
        let ram_budget = LoadOptions { ram_budget: fit.ram_required - 1, ..options(64) };
        let error = Model::load(&case.source(), &ram_budget, &progress).err();
        let what = error.map(|e| (e.status(), e.to_string())).unwrap_or_default();
        assert_eq!(what.0, -10, "{}: {what:?}", case.name);
        assert!(what.1.contains(&format!("{} bytes of host memory", fit.ram_required)), "{}", what.1);
        let passing = fit.ram_required - fit.memory.ram.total();
        assert!(what.1.contains(&format!("on their way to the device {passing}")), "{}", what.1);
        let (vram_budget, ram_budget) = (fit.vram_required, fit.ram_required);
        let enough = LoadOptions { vram_budget, ram_budget, ..options(64) };
        assert!(Model::load(&case.source(), &enough, &progress).is_ok());
        Vec::new()
    });
}

#[test]
fn steps_of_prompts_are_as_large_as_the_memory_allows_where_nobody_says_how_large() {
    for_all_cases(|case| {
        let options =
            |chunk, vram_budget| LoadOptions { streams: 64, context_length: 64, vram_budget, ..options(chunk) };
        let found = |chunk, budget| fit(&case.source(), &options(chunk, budget)).unwrap();
        let sizes = [2048, 1024, 512].map(|chunk| found(chunk, 0).vram_required);
        assert!(sizes.is_sorted_by(|a, b| a > b), "{}: {sizes:?}", case.name);
        let budgets = [(0, sizes[0], true), (sizes[0] - 1, sizes[1], true), (sizes[1] - 1, sizes[2], true)];
        for (budget, required, fits) in budgets.into_iter().chain([(sizes[2] - 1, sizes[2], false)]) {
            let fit = found(0, budget);
            assert_eq!((fit.vram_required, fit.fits), (required, fits), "{}, budget {budget}", case.name);
        }
        // Few positions need no large steps.
        let few = LoadOptions { streams: 1, context_length: 64, ..options(0, 0) };
        let same = LoadOptions { prefill_chunk: 512, ..few.clone() };
        let required = [few, same].map(|options| fit(&case.source(), &options).unwrap().vram_required);
        assert_eq!(required[0], required[1], "{}", case.name);
        load(case, &options(0, sizes[1] - 1)).eval(&case.ids[..20]).unwrap();
        Vec::new()
    });
}

#[test]
fn a_load_beyond_the_devices_memory_is_an_error_and_the_next_one_works() {
    for_all_cases(|case| {
        let large = LoadOptions { streams: 1024, context_length: 0, ..options(8192) };
        let fit = fit(&case.source(), &large).unwrap();
        match Model::load(&case.source(), &large, &LoadProgress::default()) {
            Ok(model) => {
                assert!(fit.fits, "{}: {}", case.name, fit.advice);
                model.eval(&case.ids).unwrap();
            }
            Err(error) => assert!(!fit.fits && error.status() == -10, "{}: {error}", case.name),
        }
        load(case, &options(64)).eval(&case.ids).unwrap();
        Vec::new()
    });
}

#[test]
fn two_models_run_beside_each_other() {
    if no_device() {
        return;
    }
    let cases = cases();
    std::thread::scope(|scope| {
        for case in &cases[..4] {
            scope.spawn(move || {
                let model = load(case, &options(16));
                for _ in 0..3 {
                    let logits = model.eval(&case.ids).unwrap();
                    assert_eq!(compare(case, "beside others", &logits, &case.logits), None);
                }
            });
        }
    });
}

#[test]
fn the_callers_context_stays_what_it_was() {
    if no_device() {
        return;
    }
    use cudarc::driver::sys;
    let current = || {
        let mut context = std::ptr::null_mut();
        // SAFETY: writes one handle.
        assert_eq!(unsafe { sys::cuCtxGetCurrent(&mut context) }, sys::CUresult::CUDA_SUCCESS);
        context
    };
    let case = &cases()[0];
    assert!(current().is_null());
    drop(load(case, &options(16)));
    assert!(current().is_null(), "a thread without a context has one");

    let own = Context::hold(0).unwrap();
    let _entered = own.enter().unwrap();
    let before = current();
    let model = load(case, &options(16));
    model.eval(&case.ids).unwrap();
    assert_eq!(current(), before);
    drop(model);
    assert_eq!(current(), before);
}

#[test]
fn a_model_works_in_the_context_that_the_caller_made_and_leaves_it_to_the_caller() {
    if no_device() {
        return;
    }
    use cudarc::driver::sys;
    let case = &cases()[0];
    let expected = load(case, &options(16)).eval(&case.ids).unwrap();
    let mut raw = std::ptr::null_mut();
    let mut popped = std::ptr::null_mut();
    // SAFETY: writes one handle each; the context is destroyed below, and not current until then.
    unsafe {
        assert_eq!(sys::cuCtxCreate_v4(&mut raw, std::ptr::null_mut(), 0, 0), sys::CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuCtxPopCurrent_v2(&mut popped), sys::CUresult::CUDA_SUCCESS);
    }
    // SAFETY: it is destroyed after the models are gone.
    let cuda_context = unsafe { CudaContext::from_raw(raw.cast()) };
    for device_priority in [DevicePriority::Default, DevicePriority::Low, DevicePriority::High] {
        let model = load(case, &LoadOptions { cuda_context, device_priority, ..options(16) });
        assert_eq!(model.eval(&case.ids).unwrap(), expected);
    }
    let wrong_device = LoadOptions { cuda_context, device: Device::Cuda(1), ..options(16) };
    let refused = Model::load(&case.source(), &wrong_device, &LoadProgress::default()).err().unwrap();
    assert!(matches!(refused, Error::InvalidArgument(_) | Error::NoDevice(_)), "{refused}");
    // SAFETY: nobody uses it any more; that it is still there is what is tested.
    assert_eq!(unsafe { sys::cuCtxDestroy_v2(raw) }, sys::CUresult::CUDA_SUCCESS);
}

#[test]
fn the_bundled_model_is_as_good_as_on_the_processor() {
    if no_device() {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tavern");
    let held_out: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("heldout.json")).unwrap()).unwrap();
    let recorded = held_out["perplexity_bf16_weights_f32_math"].as_f64().unwrap();
    let sequences: Vec<Vec<u32>> = serde_json::from_value(held_out["token_ids"].clone()).unwrap();
    for exact in [true, false] {
        let options = LoadOptions { exact, ..options(512) };
        let model = Model::load(&Source::Path(folder.join("model")), &options, &LoadProgress::default()).unwrap();
        let found = perplexity(&model, &sequences);
        assert!((found / recorded - 1.0).abs() < 0.005, "exact {exact}: {found}, recorded {recorded}");
    }
}
