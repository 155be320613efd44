//! A device that fails: the model on it says so from then on, and everything can still be freed.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::{Context, CudaBackend, CudaOptions, Modules, Priority, Sizes, probe};
use crate::error::Error;
use crate::experts::ExpertCounters;
use crate::model::{Batch, Checkpoint, LoadProgress, LogitRows, Origin, Source, WeightPlan, forward, read_spec};
use crate::state::{KvFormat, Pools, StateLayout};

/// An error of the device stays with the process's context, so what causes one has a process of its own.
#[test]
fn a_lost_device_is_an_error_of_every_later_step_and_no_more() {
    if super::testing::present(probe(0)).is_none() {
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--ignored", "--exact", "cuda::lost_device::break_a_device_and_go_on"]);
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn break_a_device_and_go_on() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/qwen3_next_bf16");
    let checkpoint = Checkpoint::open(&Source::from(folder.as_path())).unwrap();
    let spec = Arc::new(read_spec(&checkpoint).unwrap());
    let plan = WeightPlan::new(&checkpoint, &spec).unwrap();
    let progress = LoadProgress::default();
    let context = Context::hold(0).unwrap();
    let modules = Modules::load(&context).unwrap();
    let layout = StateLayout::new(1, 64);
    let multiprocessors = context.device().multiprocessors as usize;
    let sizes = Sizes { layout, kv: KvFormat::F32, max_rows: 8, max_logits: 8, multiprocessors };
    let counters = Arc::new(ExpertCounters::new(0, []));
    let origin = Origin::Files(&checkpoint);
    let options = CudaOptions { sizes, exact: true, priority: Priority::High, eos_ids: Vec::new(), threads: 1 };
    let backend = CudaBackend::new((&context, &modules), spec.clone(), &origin, &plan, counters, &options, &progress);
    let mut backend = backend.unwrap();
    let entered = context.enter().unwrap();

    let mut pools = Pools::new(layout).unwrap();
    let mut memory = pools.open().unwrap();
    assert!(pools.reserve(&mut memory, 4));
    let mut logits = vec![0.0; spec.vocab];
    let mut step = |backend: &mut CudaBackend| {
        let mut batch = Batch::default();
        batch.push(&memory, 0, &[1, 2, 3], LogitRows::Last);
        forward(&spec, backend, &batch, &mut logits)
    };
    step(&mut backend).unwrap();
    backend.break_device().unwrap();
    for _ in 0..3 {
        let error = step(&mut backend).unwrap_err();
        assert!(matches!(error, Error::DeviceLost(_)), "{error}");
    }
    drop(backend);
    drop(entered);
    drop(context);
}
