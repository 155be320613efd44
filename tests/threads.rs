//! A model ends its threads. Alone in its process, so that nobody else's threads are counted.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod support;

use std::time::Duration;

use qwen3moe::model::LoadProgress;
use qwen3moe::{GenerateOptions, LoadOptions, Model, Prompt};
use support::goldens::cases;

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn no_thread_is_left_behind_after_the_last_free() {
    let before = threads();
    let cases = cases();
    for case in cases.iter().take(3) {
        for round in 0..5 {
            let options = LoadOptions { threads: 4, ..LoadOptions::default() };
            let model = Model::load(&case.source(), &options, &LoadProgress::default()).unwrap();
            assert!(threads() > before);
            let options = GenerateOptions { max_tokens: 4, ..GenerateOptions::default() };
            let stream = model.stream(&Prompt::Tokens(case.ids[..3].to_vec()), &options).unwrap();
            if round % 2 == 0 {
                while matches!(stream.next(None), Ok(qwen3moe::Event::Text(_))) {}
                drop(stream);
                drop(model);
            } else {
                drop(model);
                drop(stream);
            }
            // A joined thread stays in /proc until the kernel has cleaned up after it.
            let ended = (0..1000).any(|_| {
                std::thread::sleep(Duration::from_millis(1));
                threads() == before
            });
            assert!(ended, "{}: {} threads, {before} before", case.name, threads());
        }
    }
}
