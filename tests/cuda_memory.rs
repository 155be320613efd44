//! Device memory comes back. By itself, because it looks at what is free: other tests in the same process take some.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use qwen3moe::cuda::Context;
use qwen3moe::{Device, GenerateOptions, LoadOptions, LoadProgress, Model, Prompt};
use support::cuda::no_device;
use support::goldens::cases;

/// What other programs on the device may take meanwhile.
const SLACK: u64 = 4 << 20;

#[test]
fn loads_give_everything_back() {
    if no_device() {
        return;
    }
    let case = cases().into_iter().find(|case| case.name.contains("next")).unwrap();
    // A context that lives on, so that its own memory does not come and go.
    let context = Context::hold(0).unwrap();
    let free = || context.memory().unwrap().0;
    let run = || {
        let options = LoadOptions { device: Device::Cuda(0), prefill_chunk: 16, ..LoadOptions::default() };
        let model = Model::load(&case.source(), &options, &LoadProgress::default()).unwrap();
        let options = GenerateOptions { max_tokens: 5, ignore_eos: true, ..Default::default() };
        model.generate(&Prompt::Tokens(case.ids.clone()), &options).unwrap();
    };
    // What the driver keeps for itself it takes in the first runs.
    (0..3).for_each(|_| run());
    let before = free();
    (0..10).for_each(|_| run());
    assert!(free() + SLACK >= before, "{before} bytes were free, {} are", free());
}
