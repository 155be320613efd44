//! What a load takes of the machine's memory, against what `fit` foretold. Each load runs in a process of its own.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use qwen3moe::engine::fit;
use qwen3moe::{GenerateOptions, LoadOptions, LoadProgress, Model, Prompt, Source};

const MODEL: &str = "QM_TEST_MODEL";
const CACHE: &str = "QM_TEST_CACHE";

/// The number of a line "name: number kB" of /proc/self/status, in bytes.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The other half of the tests below: loads, runs a prompt that fills the work space, and tells.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn load_and_tell() {
    let source = Source::from(Path::new(&std::env::var_os(MODEL).unwrap()));
    let cache_dir = std::env::var_os(CACHE).map(Into::into);
    let options = LoadOptions {
        streams: 2,
        context_length: 2048,
        threads: 2,
        prefill_chunk: 512,
        cache_dir,
        ..LoadOptions::default()
    };
    let planned = fit(&source, &options).unwrap().memory.ram;
    let before = status("VmRSS");
    let model = Model::load(&source, &options, &LoadProgress::default()).unwrap();
    let peak = status("VmHWM") - before;
    assert_eq!(model.memory().ram, planned);
    let run = GenerateOptions { max_tokens: 2, ignore_eos: true, ..GenerateOptions::default() };
    let prompt = Prompt::Tokens((0..options.prefill_chunk as u32 + 1).collect());
    model.generate(&prompt, &run).unwrap();
    println!("planned {}", planned.total());
    println!("weights {}", planned.weights());
    println!("peak {peak}");
    println!("taken {}", status("VmRSS") - before);
}

/// The numbers that [`load_and_tell`] prints of `model`.
fn told(model: &Path, cache: Option<&Path>) -> HashMap<String, f64> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["load_and_tell", "--exact", "--ignored", "--nocapture"]).env(MODEL, model);
    if let Some(cache) = cache {
        command.env(CACHE, cache);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?))).collect()
}

fn synthetic(folder: &Path, preset: &str, more: &[&str]) -> std::path::PathBuf {
    let path = folder.join(format!("{preset}.gguf"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_qm"));
    command.args(["synth", "--preset", preset, "--vocab", "8192", "--out"]).arg(&path).args(more);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    path
}

#[test]
fn a_load_takes_what_fit_says_and_never_much_more() {
    let folder = tempfile::tempdir().unwrap();
    for (preset, more) in [
        ("qwen3-next-80b-a3b", ["--layers", "4", "--experts", "32"]),
        ("qwen3-30b-a3b", ["--layers", "3", "--experts", "48"]),
    ] {
        let path = synthetic(folder.path(), preset, &more);
        let numbers = told(&path, None);
        let [planned, weights, peak, taken] = ["planned", "weights", "peak", "taken"].map(|name| numbers[name]);
        assert!(weights > 150e6, "{numbers:?}");
        assert!((taken - planned).abs() < 0.02 * planned, "{preset}: {numbers:?}");
        // 1 GB beside tens of GB of weights; here, the buffers of two threads and no tensor of 30 MB and more.
        assert!(peak < planned + 24e6, "{preset}: {numbers:?}");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_load_from_a_pack_cache_takes_as_much_and_no_second_copy() {
    let folder = tempfile::tempdir().unwrap();
    let path = synthetic(folder.path(), "qwen3-next-80b-a3b", &["--layers", "2", "--experts", "32"]);
    let cache = folder.path().join("cache");
    for _ in 0..2 {
        let numbers = told(&path, Some(&cache));
        let [planned, peak, taken] = ["planned", "peak", "taken"].map(|name| numbers[name]);
        assert!((taken - planned).abs() < 0.03 * planned && peak < planned + 24e6, "{numbers:?}");
    }
}
