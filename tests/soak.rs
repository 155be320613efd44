//! Long runs, in short: `qm soak` holds memory, files and threads constant.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::process::{Command, Output};

fn soak(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qm")).arg("soak").args(arguments).output().unwrap()
}

fn succeeds(arguments: &[&str]) {
    let output = soak(arguments);
    let (told, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}{errors}");
    assert!(told.lines().count() > 5 && told.lines().all(|line| line.contains("B")), "{told}");
    assert!(told.trim_end().lines().last().unwrap().starts_with("nothing grew: "), "{told}");
}

#[test]
fn thousands_of_tokens_leave_memory_files_and_threads_as_they_were() {
    succeeds(&["--tokens", "3000"]);
}

#[test]
fn loads_and_frees_leave_memory_files_and_threads_as_they_were() {
    succeeds(&["--loads", "20"]);
}

#[test]
fn either_tokens_or_loads_are_asked_for() {
    assert_eq!(soak(&[]).status.code(), Some(2));
    assert_eq!(soak(&["--tokens", "1", "--loads", "1"]).status.code(), Some(2));
    assert_eq!(soak(&["--loads", "1", "--model", "/nowhere"]).status.code(), Some(1));
}
