//! The program `qm`, run as users run it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use serde_json::Value;

fn qm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qm"));
    command.stdin(Stdio::null());
    command
}

fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    qm().args(arguments).output().unwrap()
}

fn succeed<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn golden_cases() -> Vec<Value> {
    let index: Value = serde_json::from_slice(&fs::read(goldens().join("index.json")).unwrap()).unwrap();
    index["cases"].as_array().unwrap().clone()
}

/// Shape and values of a version 1.0 .npy file of little-endian float32.
fn read_npy(path: &Path) -> (String, Vec<f32>) {
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let header_end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert!(header_end.is_multiple_of(64), "numpy aligns the data to 64 bytes");
    let header = std::str::from_utf8(&bytes[10..header_end]).unwrap();
    assert!(header.contains("'descr': '<f4'") && header.contains("'fortran_order': False"), "{header}");
    let shape = header.split_once("'shape': (").unwrap().1.split_once(')').unwrap().0.to_owned();
    let values = bytes[header_end..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (shape, values)
}

fn ids_of(case: &Value) -> String {
    let ids: Vec<String> = case["ids"].as_array().unwrap().iter().map(Value::to_string).collect();
    ids.join(",")
}

#[test]
fn eval_writes_the_logits_of_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits.npy");
    for case in golden_cases() {
        let name = case["name"].as_str().unwrap();
        let model = goldens().join(case["path"].as_str().unwrap());
        let arguments = [OsStr::new("eval"), "--exact".as_ref(), "--model".as_ref(), model.as_os_str()];
        let ids = ids_of(&case);
        succeed(arguments.into_iter().chain(["--ids".as_ref(), ids.as_ref(), "--logits".as_ref(), out.as_os_str()]));
        let (shape, logits) = read_npy(&out);
        let (expected_shape, expected) = read_npy(&goldens().join(case["logits"].as_str().unwrap()));
        assert_eq!(shape, expected_shape, "{name}");
        let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
        let difference = logits.iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(difference < 1e-3 * largest, "{name}: {difference} of {largest}");
    }
}

#[test]
fn eval_makes_room_for_a_text_longer_than_the_default_context() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits.npy");
    // The golden with a tokenizer, with more positions.
    let golden = goldens().join("qwen3_moe_bf16");
    for entry in fs::read_dir(&golden).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&fs::read(golden.join("config.json")).unwrap()).unwrap();
    config["max_position_embeddings"] = 8192.into();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    // One token a character at the least: the golden's tokenizer has no merges that reach over digits.
    let text = "7".repeat(4100);
    let flags = ["eval", "--text", &text, "--logits"].map(OsStr::new);
    succeed(flags.into_iter().chain([out.as_os_str(), "--model".as_ref(), folder.path().as_os_str()]));
    let (shape, _) = read_npy(&out);
    assert!(shape.starts_with("4100, "), "{shape}");
}

#[test]
fn inspect_tells_family_layers_and_what_is_not_used() {
    for case in golden_cases() {
        let name = case["name"].as_str().unwrap();
        let model = goldens().join(case["path"].as_str().unwrap());
        let json = succeed([OsStr::new("inspect"), model.as_os_str(), "--json".as_ref(), "--tensors".as_ref()]);
        let report: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(report["family"], case["family"], "{name}");
        assert_eq!(report["vocab"], case["vocab"], "{name}");
        assert!(report["memory"]["ram_required"].as_u64().unwrap() > 0, "{name}");
        let tensors = report["tensors"].as_array().unwrap();
        let listed: u64 = tensors.iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
        let stored: u64 = report["storage"].as_array().unwrap().iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
        assert_eq!(listed, stored, "{name}");
        let wrapper = name == "qwen3_5_moe_bf16_wrapper";
        assert_eq!(report["not_used"]["vision"].is_object(), wrapper, "{name}");
        if wrapper {
            assert!(report["not_used"]["mtp"].is_object());
        }
        let text = succeed([OsStr::new("inspect"), model.as_os_str()]);
        assert!(text.contains(case["family"].as_str().unwrap()), "{name}: {text}");
    }
}

#[test]
fn fit_fails_with_the_numbers_when_the_budget_is_too_small() {
    let model = goldens().join("qwen3_moe_bf16");
    let text = succeed([OsStr::new("fit"), model.as_os_str()]);
    assert!(text.contains(": fits"), "{text}");
    let output = run([OsStr::new("fit"), model.as_os_str(), "--ram-budget".as_ref(), "1000".as_ref()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(one_line_error(&output).contains("does not fit"));
}

#[test]
fn doctor_tells_the_build_and_the_machine_with_and_without_a_device() {
    assert!(succeed(["doctor"]).contains("\nCUDA "));
    let report: Value = serde_json::from_str(&succeed(["doctor", "--json"])).unwrap();
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert!(report["cpu_isas"].as_array().unwrap().contains(&report["cpu_isa"]), "{report}");
    // One of them, never both.
    assert_eq!(report["driver"].is_null(), !report["driver_error"].is_null(), "{report}");
    assert_eq!(report["cuda"].is_null(), report["cuda_architectures"].as_array().unwrap().is_empty(), "{report}");
}

#[test]
fn a_device_that_is_not_there_is_an_error_and_no_number_is_a_usage_error() {
    let model = goldens().join("qwen3_moe_bf16");
    let output = run([OsStr::new("fit"), model.as_os_str(), "--device".as_ref(), "63".as_ref()]);
    assert_eq!(output.status.code(), Some(1));
    let error = one_line_error(&output);
    assert!(error.contains("no such device") || error.contains("driver too old"), "{error}");
    let wrong = run([OsStr::new("fit"), model.as_os_str(), "--device".as_ref(), "gpu".as_ref()]);
    assert_eq!(wrong.status.code(), Some(2));
}

/// A few megabytes of the shape that `preset` names.
fn synth(out: &Path, preset: &str, kind: &str, seed: &str) -> Output {
    let shape = ["--layers", "4", "--experts", "4", "--vocab", "600"];
    let choice = ["synth", "--preset", preset, "--type", kind, "--seed", seed, "--out"];
    run(choice.iter().map(OsStr::new).chain([out.as_os_str()]).chain(shape.iter().map(OsStr::new)))
}

#[test]
fn a_synthetic_model_of_each_preset_loads_and_computes() {
    let folder = tempfile::tempdir().unwrap();
    let logits = folder.path().join("logits.npy");
    let cases = [
        ("qwen3-next-80b-a3b", "q4_k"),
        ("qwen3-30b-a3b", "q8_0"),
        ("qwen3-30b-a3b", "q5_k"),
        ("qwen3.5-35b-a3b", "q4_0"),
    ];
    for (preset, kind) in cases {
        let file = folder.path().join(format!("{preset}.gguf"));
        let output = synth(&file, preset, kind, "1");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let eval = ["eval", "--text", "Hello <|im_end|>", "--logits"].map(OsStr::new);
        succeed(eval.into_iter().chain([logits.as_os_str(), "--model".as_ref(), file.as_os_str()]));
        let (shape, values) = read_npy(&logits);
        assert!(shape.ends_with(", 600"), "{shape}");
        // Weights of deviation 1 / sqrt(inputs) keep the final norm's deviation of about 1 through the head.
        let square = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / values.len() as f64;
        assert!((0.5..2.0).contains(&square.sqrt()), "{preset}: deviation of the logits {}", square.sqrt());
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn the_same_seed_writes_the_same_synthetic_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (name, seed) in [("a", "7"), ("b", "7"), ("c", "8")] {
        assert!(synth(&path(name), "qwen3-30b-a3b", "q6_k", seed).status.success());
    }
    let read = |name: &str| fs::read(path(name)).unwrap();
    assert!(read("a") == read("b"));
    assert!(read("a") != read("c"));
}

#[test]
fn synth_neither_replaces_a_file_unasked_nor_leaves_half_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("precious.gguf");
    fs::write(&file, "precious").unwrap();
    let output = synth(&file, "qwen3-30b-a3b", "q4_k", "1");
    assert_eq!(output.status.code(), Some(1));
    assert!(one_line_error(&output).contains("--force"));
    assert_eq!(fs::read(&file).unwrap(), b"precious");

    // A thousand layers in f32 are four terabytes: no room is the usual answer, and Ctrl-C the other.
    let huge = folder.path().join("huge.gguf");
    let mut child = qm()
        .args(["synth", "--preset", "qwen3-next-80b-a3b", "--layers", "1000", "--type", "f32", "--out"])
        .arg(&huge)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    interrupt(&child);
    let status = child.wait().unwrap();
    assert!(matches!(status.code(), Some(1 | 130)), "{status}");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["precious.gguf"]);
}

fn interrupt(child: &std::process::Child) {
    // SAFETY: sends a signal to a child that was not waited for yet, so that its number is still its own.
    assert_eq!(unsafe { libc::kill(child.id().try_into().unwrap(), libc::SIGINT) }, 0);
}

#[test]
fn the_bundled_model_answers_and_repeats_itself_for_a_seed() {
    let answer = || succeed(["generate", "Hello! Who are you?", "--seed", "5", "--max-tokens", "60"]);
    let first = answer();
    assert!(first.trim().len() > 3, "{first:?}");
    assert!(first.ends_with('\n'));
    assert_eq!(first, answer());
}

#[test]
fn generate_reads_its_prompt_from_a_pipe_and_tells_counts_on_the_standard_error() {
    let mut child = qm()
        .args(["generate", "--stats", "--seed", "1", "--max-tokens", "20"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all("Good evening!".as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(!output.stdout.is_empty());
    let counts = String::from_utf8(output.stderr).unwrap();
    assert!(counts.contains("prompt ") && counts.contains("tok/s"), "{counts}");
}

#[test]
fn chat_remembers_resets_and_tells_its_speed_when_driven_by_a_pipe() {
    let mut child = qm()
        .args(["chat", "--seed", "1", "--temperature", "0", "--max-tokens", "40"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let script = "Hello!\n\n/reset\nHello!\n/nonsense\n/quit\nnever read\n";
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let answers = String::from_utf8(output.stdout).unwrap();
    let half = answers.len() / 2;
    assert_eq!(answers[..half], answers[half..], "after /reset the same greeting gets the same answer");
    assert!(!answers.trim().is_empty());
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(told.matches("tok/s").count(), 2, "{told}");
    assert!(told.contains("unknown command /nonsense"), "{told}");
}

#[test]
fn chat_forgets_the_oldest_turns_when_the_context_is_full() {
    let mut child = qm()
        .args(["chat", "--seed", "1", "--max-tokens", "8", "--context", "96"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let script = "Hello! Who are you, and what is there to eat tonight?\n".repeat(6);
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("the oldest message and its answer are forgotten"), "{told}");
    let cut = "context full: 96 positions, of which";
    assert_eq!(told.matches("tok/s").count() + told.matches(cut).count(), 6, "every message is answered: {told}");
}

#[test]
fn ctrl_c_ends_an_answer_at_once() {
    let mut child = qm()
        .args(["generate", "Tell me a story", "--ignore-eos", "--max-tokens", "1900"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0u8; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let pressed = Instant::now();
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(pressed.elapsed() < Duration::from_secs(5), "{:?}", pressed.elapsed());
}

/// The user's end of a terminal, and what was shown there and not asked for yet.
struct User {
    terminal: fs::File,
    shown: String,
}

/// A new terminal: the user's end and the program's.
fn terminal() -> (User, OwnedFd) {
    let (mut user, mut program) = (0, 0);
    // SAFETY: the two numbers are written to; the other arguments may be null.
    let status = unsafe { libc::openpty(&mut user, &mut program, null_mut(), null(), null()) };
    assert_eq!(status, 0);
    // SAFETY: both descriptors are new and nobody else's.
    let (terminal, program) = unsafe { (fs::File::from_raw_fd(user), OwnedFd::from_raw_fd(program)) };
    (User { terminal, shown: String::new() }, program)
}

impl User {
    /// Waits until `wanted` is shown.
    fn sees(&mut self, wanted: &str) {
        let mut buffer = [0u8; 4096];
        loop {
            if let Some(at) = self.shown.find(wanted) {
                self.shown.drain(..at + wanted.len());
                return;
            }
            let n = self.terminal.read(&mut buffer).unwrap();
            assert!(n > 0, "ended before {wanted:?}: {}", self.shown);
            self.shown += &String::from_utf8_lossy(&buffer[..n]);
        }
    }

    fn types(&mut self, line: &str) {
        self.terminal.write_all(format!("{line}\r").as_bytes()).unwrap();
    }
}

#[test]
fn ctrl_c_in_a_chat_stops_the_answer_and_not_the_program() {
    let (mut user, program) = terminal();
    let end = || Stdio::from(program.try_clone().unwrap());
    let mut child = qm()
        .args(["chat", "--seed", "1", "--ignore-eos", "--max-tokens", "1900"])
        .env("TERM", "xterm")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    drop(program);
    user.sees("> ");
    user.types("Tell me a story.");
    user.sees("the ");
    interrupt(&child);
    user.sees(", stopped]");
    user.sees("> ");
    user.types("/quit");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let mut child = qm()
        .args(["generate", "Tell me a story", "--ignore-eos", "--max-tokens", "1900"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn bench_reports_medians_and_peak_memory() {
    let flags =
        "bench --prompt-tokens 20,5 --generate-tokens 4 --depth 20,40 --repetitions 2 --bandwidth-buffer 8MB --json";
    let report: Value = serde_json::from_str(&succeed(flags.split(' '))).unwrap();
    let ordered = |spread: &Value| {
        let [least, median, most] = ["min", "median", "max"].map(|f| spread[f].as_f64().unwrap());
        assert!(0.0 < least && least <= median && median <= most, "{spread}");
    };
    let list = |field: &str, size: &str| -> Vec<u64> {
        let measured = report[field].as_array().unwrap();
        measured.iter().for_each(|one| ordered(&one["tokens_per_second"]));
        measured.iter().map(|one| one[size].as_u64().unwrap()).collect()
    };
    assert_eq!((list("prefill", "tokens"), list("decode", "depth")), (vec![5, 20], vec![20, 40]));
    for time in ["before", "after"] {
        ordered(&report["bandwidth"][time]["all_threads"]);
        ordered(&report["bandwidth"][time]["one_thread"]);
    }
    // The same bytes move behind a context of random values, without reading it.
    let flags =
        "bench --prompt-tokens 5 --generate-tokens 4 --depth 40 --synthetic-context --bandwidth-buffer 0 --json";
    let synthetic: Value = serde_json::from_str(&succeed(flags.split(' '))).unwrap();
    let bytes = |report: &Value, i: usize| report["decode"][i]["bytes_per_token"].as_f64().unwrap();
    assert!((bytes(&synthetic, 0) / bytes(&report, 1) - 1.0).abs() < 1e-9);
    assert!(synthetic["bandwidth"].is_null() && synthetic["decode"][0]["synthetic_context"] == true);
    for decode in report["decode"].as_array().unwrap() {
        let number = |value: &Value| value.as_f64().unwrap();
        let operations = decode["operations"].as_object().unwrap();
        for name in ["embed", "attention", "delta_net", "router", "experts", "head"] {
            assert!(number(&operations[name]["seconds_per_token"]) > 0.0, "{name}");
            assert!(number(&operations[name]["bytes_per_token"]) > 0.0, "{name}");
        }
        let sum = |field: &str| operations.values().map(|o| number(&o[field])).sum::<f64>();
        assert!((sum("share_of_time") - 1.0).abs() < 1e-9);
        assert!((sum("bytes_per_token") / number(&decode["bytes_per_token"]) - 1.0).abs() < 1e-9);
        let rate = number(&decode["bytes_per_token"]) * number(&decode["tokens_per_second"]["median"]);
        let share = rate / number(&report["bandwidth"]["bytes_per_second"]);
        assert!((number(&decode["bandwidth_share"]) / share - 1.0).abs() < 1e-9);
    }
    let peak = report["peak_memory_bytes"].as_u64().unwrap();
    assert!(peak > report["model_bytes"].as_u64().unwrap(), "{report}");
}

fn one_line_error(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(text.starts_with("error: ") && text.ends_with('\n') && text.lines().count() == 1, "{text:?}");
    text
}

#[test]
fn what_goes_wrong_is_told_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.gguf");
    fs::write(&broken, "GGUF, or is it?").unwrap();
    let missing = folder.path().join("missing");
    for command in ["generate", "bench", "chat"] {
        for path in [&broken, &missing] {
            let mut arguments = vec![OsStr::new(command), "--model".as_ref(), path.as_os_str()];
            arguments.extend((command == "generate").then_some(OsStr::new("hello")));
            let output = run(arguments);
            assert_eq!(output.status.code(), Some(1), "{command}");
            assert!(one_line_error(&output).contains(path.to_str().unwrap()), "{command}");
            assert!(output.stdout.is_empty(), "{command}");
        }
    }
    let model = goldens().join("qwen3_moe_bf16");
    let unwritable = folder.path().join("no/such/folder.npy");
    let eval = |ids: &str, out: &Path| {
        let flags = ["eval", "--ids", ids, "--logits"].map(OsStr::new);
        run(flags.into_iter().chain([out.as_os_str(), "--model".as_ref(), model.as_os_str()]))
    };
    assert!(one_line_error(&eval("1,2", &unwritable)).contains("folder.npy"));
    assert!(one_line_error(&eval("1,999999", &folder.path().join("x.npy"))).contains("999999"));
    assert_eq!(run(["generate", "--no-such-flag"]).status.code(), Some(2));
    assert_eq!(run(["eval", "--ids", "1,two", "--logits", "x"]).status.code(), Some(2));
}
