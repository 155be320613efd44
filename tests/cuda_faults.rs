//! Failing driver calls and kernels, which the emulated device of `tests/emulator` brings about at will. On other devices,
//! and where there is none, each test says that it is skipped and passes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod support;

use std::ffi::{CString, c_char, c_long};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys;
use qwen3moe::cuda::Context;
use qwen3moe::{Device, Error, Event, GenerateOptions, LoadOptions, LoadProgress, Model, Prompt, Result};
use support::cuda::no_device;
use support::goldens::{Case, cases};

const OUT_OF_MEMORY: i32 = 2;
const ILLEGAL_ADDRESS: i32 = 700;
const LAUNCH_FAILED: i32 = 719;

/// Everything that a load calls.
const LOAD: [&str; 22] = [
    "cuDriverGetVersion",
    "cuInit",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceTotalMem_v2",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuCtxPushCurrent_v2",
    "cuMemGetInfo_v2",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuFuncLoad",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuMemAlloc_v2",
    "cuMemHostAlloc",
    "cuCtxGetStreamPriorityRange",
    "cuStreamCreateWithPriority",
    "cuEventCreate",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuStreamSynchronize",
];

/// Everything that steps call.
const STEP: [&str; 12] = [
    "cuMemcpyHtoDAsync_v2",
    "cuLaunchKernelEx",
    "cuGraphCreate",
    "cuGraphAddKernelNode_v2",
    "cuGraphAddDependencies_v2",
    "cuGraphInstantiateWithFlags",
    "cuGraphUpload",
    "cuGraphLaunch",
    "cuMemcpyDtoHAsync_v2",
    "cuEventRecord",
    "cuStreamWaitEvent",
    "cuEventSynchronize",
];

/// The switch of the emulated device. Held by one test at a time: there is one device.
struct Emulator {
    fail: unsafe extern "C" fn(*const c_char) -> c_long,
    held: unsafe extern "C" fn() -> c_long,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Emulator {
    fn open() -> Option<Self> {
        if no_device() {
            return None;
        }
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the functions of tests/emulator/src, with their types.
        let (fail, held) = unsafe { (sys::culib().get(b"emulator_fail\0"), sys::culib().get(b"emulator_held\0")) };
        let (Ok(fail), Ok(held)) = (fail, held) else {
            println!("skipped: the device is no emulated one");
            return None;
        };
        Some(Self { fail: *fail, held: *held, _alone })
    }

    /// Makes the call of `function` that follows `after` others fail with `code`.
    fn fail(&self, function: &str, after: usize, code: i32) {
        let rule = CString::new(format!("{function}:{after}:{code}")).unwrap();
        // SAFETY: a string.
        unsafe { (self.fail)(rule.as_ptr()) };
    }

    /// From here on nothing fails; whether anything did.
    fn stop(&self) -> bool {
        // SAFETY: a string.
        unsafe { (self.fail)(c"".as_ptr()) > 0 }
    }

    /// How much is taken and not given back: contexts, memory, modules, streams, graphs.
    fn held(&self) -> c_long {
        // SAFETY: takes nothing.
        unsafe { (self.held)() }
    }
}

/// The numbers of the calls that fail in turn: each of the first ones, and fewer and fewer of those that are repeated.
fn turns() -> impl Iterator<Item = usize> {
    std::iter::successors(Some(0), |after| Some(after + 1 + after / 6))
}

fn case() -> Case {
    cases().into_iter().find(|case| case.name == "qwen3_next_bf16").unwrap()
}

fn load(case: &Case) -> Result<Model> {
    load_on(0, case)
}

fn load_on(device: u32, case: &Case) -> Result<Model> {
    let options = LoadOptions {
        device: Device::Cuda(device),
        threads: 1,
        streams: 1,
        context_length: 64,
        prefill_chunk: 8,
        ..LoadOptions::default()
    };
    Model::load(&case.source(), &options, &LoadProgress::default())
}

/// Reads a prompt of three rows, and writes tokens by two steps that are recorded, and two that replay them.
fn generate(model: &Model) -> Result<Vec<u32>> {
    let options = GenerateOptions { max_tokens: 5, temperature: Some(0.0), ignore_eos: true, ..Default::default() };
    let stream = model.stream(&Prompt::Tokens(vec![5, 6, 7]), &options)?;
    while !matches!(stream.next(None)?, Event::Done(_)) {}
    Ok(stream.tokens())
}

fn is_out_of_memory(error: &Error) -> bool {
    matches!(error, Error::OutOfDeviceMemory { .. } | Error::OutOfHostMemory { .. })
}

#[test]
fn a_driver_call_that_fails_in_a_load_is_an_error_and_leaves_nothing_behind() {
    let Some(emulator) = Emulator::open() else { return };
    let case = case();
    let _context = Context::hold(0).unwrap();
    let expected = generate(&load(&case).unwrap()).unwrap();
    for function in LOAD {
        for code in [OUT_OF_MEMORY, LAUNCH_FAILED] {
            let mut failures = 0;
            for after in turns() {
                let (what, held) = (format!("{function}, call {after}, error {code}"), emulator.held());
                emulator.fail(function, after, code);
                let loaded = load(&case);
                if !emulator.stop() {
                    assert_eq!(loaded.err(), None, "{what}");
                    break;
                }
                // What fails while something is freed is nobody's error.
                let Err(error) = loaded else { continue };
                let expected = match code {
                    OUT_OF_MEMORY => is_out_of_memory(&error),
                    _ => matches!(error, Error::DeviceLost(_) | Error::NoDevice(_)),
                };
                assert!(expected, "{what}: {error}");
                if (function, code) == ("cuMemAlloc_v2", OUT_OF_MEMORY) {
                    assert!(matches!(error, Error::OutOfDeviceMemory { bytes: 100_000.., .. }), "{error}");
                }
                assert_eq!(emulator.held(), held, "{what}: {error}");
                failures += 1;
            }
            assert!(failures > 0, "{function} is not called by a load");
        }
    }
    assert_eq!(generate(&load(&case).unwrap()), Ok(expected));
}

#[test]
fn a_driver_call_that_fails_in_a_step_ends_its_stream_and_a_lost_device_every_later_one() {
    let Some(emulator) = Emulator::open() else { return };
    let case = case();
    let other = load(&case).unwrap();
    let expected = generate(&other).unwrap();
    for function in STEP {
        for code in [OUT_OF_MEMORY, LAUNCH_FAILED] {
            let mut failures = 0;
            for after in turns() {
                let (what, held) = (format!("{function}, call {after}, error {code}"), emulator.held());
                let model = load(&case).unwrap();
                emulator.fail(function, after, code);
                let outcome = generate(&model);
                if !emulator.stop() {
                    assert_eq!(outcome.as_ref(), Ok(&expected), "{what}");
                    break;
                }
                let error = outcome.expect_err(&what);
                if code == OUT_OF_MEMORY {
                    assert!(is_out_of_memory(&error), "{what}: {error}");
                    assert_eq!(generate(&model).as_ref(), Ok(&expected), "{what}");
                } else {
                    assert!(matches!(error, Error::DeviceLost(_)), "{what}: {error}");
                    for _ in 0..2 {
                        assert!(matches!(generate(&model), Err(Error::DeviceLost(_))), "{what}");
                        assert!(matches!(model.eval(&[1, 2]), Err(Error::DeviceLost(_))), "{what}");
                    }
                }
                drop(model);
                assert_eq!(emulator.held(), held, "{what}: {error}");
                failures += 1;
            }
            assert!(failures > 0, "{function} is not called by a step");
        }
    }
    assert_eq!(generate(&other), Ok(expected));
}

#[test]
fn a_kernel_that_fails_loses_the_device_for_its_models_and_no_other_until_they_are_freed() {
    let Some(emulator) = Emulator::open() else { return };
    let case = case();
    let elsewhere = load_on(1, &case).unwrap();
    let expected = generate(&elsewhere).unwrap();
    let held = emulator.held();
    let mut failures = 0;
    for after in turns() {
        let (model, idle) = (load(&case).unwrap(), load(&case).unwrap());
        emulator.fail("launch", after, ILLEGAL_ADDRESS);
        let outcome = generate(&model);
        if !emulator.stop() {
            assert_eq!(outcome.as_ref(), Ok(&expected));
            break;
        }
        assert!(matches!(outcome, Err(Error::DeviceLost(_))), "kernel {after}: {outcome:?}");
        for model in [&model, &idle, &model] {
            assert!(matches!(generate(model), Err(Error::DeviceLost(_))), "kernel {after}");
        }
        let refused = load(&case).err();
        assert!(matches!(refused, Some(Error::DeviceLost(_))), "kernel {after}: {refused:?}");
        assert_eq!(generate(&elsewhere).as_ref(), Ok(&expected), "kernel {after}");
        drop((model, idle));
        // The context goes with the last of its models, and a new one works.
        assert_eq!(emulator.held(), held, "kernel {after}");
        failures += 1;
    }
    assert!(failures > 5, "{failures} kernels");
}
