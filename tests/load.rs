//! What a load accepts, refuses and says.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};

use qwen3moe::engine::{Device, LogLevel, fit};
use qwen3moe::model::{LoadProgress, Source};
use qwen3moe::{CudaContext, Error, LoadOptions, Model, Prompt};
use support::goldens::{Case, cases};

fn case(name: &str) -> Case {
    cases().into_iter().find(|case| case.name == name).unwrap()
}

/// The files of a case, to be changed.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(case(name).path).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

fn refusal(options: &LoadOptions) -> Error {
    let source = case("qwen3_moe_bf16").source();
    let load = Model::load(&source, options, &LoadProgress::default()).err().expect("a refusal");
    assert_eq!(fit(&source, options).err(), Some(load.clone()), "fit and load agree");
    load
}

#[test]
fn options_out_of_range_are_named_with_their_range() {
    let d = LoadOptions::default;
    let cases: [(&str, LoadOptions); 7] = [
        ("streams is 0, expected 1 to 1024", LoadOptions { streams: 0, ..d() }),
        ("streams is 1025, expected 1 to 1024", LoadOptions { streams: 1025, ..d() }),
        ("threads is 1025, expected 0 to 1024", LoadOptions { threads: 1025, ..d() }),
        ("prefill_chunk is 8193, expected 0 to 8192", LoadOptions { prefill_chunk: 8193, ..d() }),
        ("context_length is 1048577, expected", LoadOptions { context_length: 1 << 20 | 1, ..d() }),
        (
            "kv_tokens is 999, expected 128 at most",
            LoadOptions { context_length: 60, streams: 2, kv_tokens: 999, ..d() },
        ),
        ("kv_tokens is 18446744073709551615", LoadOptions { kv_tokens: usize::MAX, ..d() }),
    ];
    for (expected, options) in cases {
        match refusal(&options) {
            Error::InvalidArgument(what) => assert!(what.starts_with(expected), "{what}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    let error = refusal(&LoadOptions { device: Device::Cuda(63), ..LoadOptions::default() });
    assert!(matches!(error, Error::NoDevice(_) | Error::DriverTooOld(_)), "{error:?}");
}

#[test]
fn a_context_needs_the_number_of_its_device() {
    let mut anything = 0u8;
    // SAFETY: it is refused before anybody looks at it.
    let cuda_context = unsafe { CudaContext::from_raw((&raw mut anything).cast()) };
    for device in [Device::Automatic, Device::Cpu] {
        let error = refusal(&LoadOptions { device, cuda_context, ..LoadOptions::default() });
        assert!(matches!(&error, Error::InvalidArgument(what) if what.contains("cuda_context")), "{error:?}");
    }
}

#[test]
fn a_cancelled_load_ends_as_cancelled() {
    let progress = LoadProgress::default();
    progress.cancel();
    let load = Model::load(&case("qwen3_next_bf16").source(), &LoadOptions::default(), &progress);
    assert_eq!(load.err(), Some(Error::Cancelled));
}

#[test]
fn a_load_that_is_cancelled_between_two_stages_does_not_begin_the_next() {
    let folder = copy("qwen3_moe_bf16");
    std::fs::write(folder.path().join("tokenizer.json"), "no tokenizer").unwrap();
    let (source, progress) = (Source::from(folder.path()), Arc::new(LoadProgress::default()));
    let load = |log| Model::load(&source, &LoadOptions { log, ..LoadOptions::default() }, &progress).err();
    assert!(matches!(load(None), Some(Error::BadFile { .. })));
    let watched = progress.clone();
    let cancel = load(Some(Arc::new(move |_, line: &str| {
        if line.starts_with("Fits: ") {
            watched.cancel();
        }
    })));
    assert_eq!(cancel, Some(Error::Cancelled));
}

#[test]
fn a_load_reports_what_it_read() {
    let progress = LoadProgress::default();
    Model::load(&case("qwen3_next_bf16").source(), &LoadOptions::default(), &progress).unwrap();
    assert!(progress.total_bytes() > 0);
    assert_eq!(progress.done_bytes(), progress.total_bytes());
}

#[test]
fn wrong_paths_are_errors_that_name_them() {
    for path in ["/no/such/folder", "src", "Cargo.toml"] {
        let error = Model::load(&Source::from(Path::new(path)), &LoadOptions::default(), &LoadProgress::default());
        let text = error.err().expect("a refusal").to_string();
        assert!(text.contains(path), "{text}");
    }
}

#[test]
fn the_log_tells_the_device_and_which_wishes_have_no_effect() {
    let lines: Arc<Mutex<Vec<(LogLevel, String)>>> = Arc::default();
    let sink = lines.clone();
    let options = LoadOptions {
        vram_budget: 1,
        log: Some(Arc::new(move |level, line: &str| sink.lock().unwrap().push((level, line.to_owned())))),
        ..LoadOptions::default()
    };
    Model::load(&case("qwen3_next_bf16").source(), &options, &LoadProgress::default()).unwrap();
    let lines = lines.lock().unwrap();
    let said = |level: LogLevel, text: &str| lines.iter().any(|(l, line)| *l == level && line.contains(text));
    assert!(said(LogLevel::Info, "device: the processor"), "{lines:?}");
    assert!(said(LogLevel::Warning, "vram_budget has no effect"), "{lines:?}");
    assert!(said(LogLevel::Info, "qwen3_next"), "{lines:?}");
    assert!(said(LogLevel::Info, "(Mtp)"), "{lines:?}");
}

#[test]
fn a_model_without_tokenizer_takes_ids_and_refuses_text_by_name() {
    let case = case("qwen3_next_f32_layer_types");
    let model = Model::load(&case.source(), &LoadOptions::default(), &LoadProgress::default()).unwrap();
    assert!(!model.info().has_tokenizer && !model.info().has_chat_template);
    let options = qwen3moe::GenerateOptions { max_tokens: 3, ignore_eos: true, ..Default::default() };
    let text = model.stream(&Prompt::Text("Hi".into()), &options).err();
    assert!(matches!(&text, Some(Error::Unsupported { what, .. }) if what.contains("tokenizer")), "{text:?}");
    let stop = qwen3moe::GenerateOptions { stop: vec!["x".into()], ..options.clone() };
    assert!(model.stream(&Prompt::Tokens(vec![1]), &stop).is_err());
    let generation = model.generate(&Prompt::Tokens(vec![1, 2]), &options).unwrap();
    assert_eq!((generation.text.as_str(), generation.stats.generated_tokens), ("", 3));
}

#[test]
fn a_generation_config_that_is_wrong_is_named_with_its_field() {
    let folder = copy("qwen3_moe_bf16");
    std::fs::write(folder.path().join("generation_config.json"), r#"{"top_k": "many"}"#).unwrap();
    let error = Model::load(&Source::from(folder.path()), &LoadOptions::default(), &LoadProgress::default()).err();
    let text = error.expect("a refusal").to_string();
    assert!(text.contains("generation_config.json: top_k is \"many\""), "{text}");
}

#[test]
fn a_broken_template_costs_the_chats_and_not_the_model() {
    let folder = copy("qwen3_moe_bf16");
    std::fs::write(folder.path().join("chat_template.jinja"), "{% if %}").unwrap();
    let model = Model::load(&Source::from(folder.path()), &LoadOptions::default(), &LoadProgress::default()).unwrap();
    assert!(model.info().has_tokenizer && !model.info().has_chat_template);
    let chat = model.stream(&Prompt::Chat(r#"[{"role": "user", "content": "Hi"}]"#.into()), &Default::default());
    assert!(matches!(chat.err(), Some(Error::BadFile { what, .. }) if what.contains("chat template")));
    assert!(model.stream(&Prompt::Text("Hi".into()), &Default::default()).is_ok());
}
