//! Who may know whom. The arrows of the design are a table here; every path in the sources is held against it.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// For each part the parts it may know. `error` is known to everybody. `capi` and `bin` also use what the crate's root
/// re-exports: its public Rust API.
const ARROWS: [(&str, &[&str]); 12] = [
    ("capi", &["engine"]),
    ("bin", &["engine"]),
    ("engine", &["cpu", "cuda", "model", "text", "state", "experts"]),
    ("cpu", &["model", "state", "experts", "quant"]),
    ("cuda", &["model", "state", "experts", "quant"]),
    ("model", &["checkpoint", "quant", "state"]),
    ("checkpoint", &["quant"]),
    ("quant", &[]),
    ("text", &[]),
    ("state", &[]),
    ("experts", &[]),
    ("error", &[]),
];

/// Parts that may use the root's re-exports instead of naming a part.
const USERS_OF_THE_ROOT: [&str; 2] = ["capi", "bin"];

fn src() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The source without comments. A `//` inside a string ends its line early, which can only hide a path in a string.
fn code(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_once("//").map_or(line, |(before, _)| before));
    lines.collect::<Vec<_>>().join("\n")
}

/// First path segments behind every occurrence of `root`, such as `crate::`: `a` of `crate::a::b`, or `a` and `c` of
/// `crate::{a::b, c}`.
fn heads(code: &str, root: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + root.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend([identifier(rest)]),
        }
    }
    found
}

fn identifier(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&group[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items.into_iter().map(identifier).filter(|name| !name.is_empty()).collect()
}

/// What lib.rs declares: its parts, and for each re-exported name the part it comes from.
fn root() -> (BTreeSet<String>, BTreeMap<String, String>) {
    let lib = code(&std::fs::read_to_string(src().join("lib.rs")).unwrap());
    let mut parts = BTreeSet::new();
    let mut names = BTreeMap::new();
    for statement in lib.split(';') {
        let words: Vec<&str> = statement.split_whitespace().collect();
        if let Some(at) = words.iter().position(|w| *w == "mod") {
            parts.insert(identifier(words.get(at + 1).unwrap()));
        }
        if let Some((_, path)) = statement.split_once("pub use ") {
            let part = identifier(path);
            let rest = path.split_once("::").unwrap().1;
            let group = rest.trim_start_matches('{').trim_end_matches('}');
            for item in group.split(',') {
                names.insert(identifier(item.rsplit(" as ").next().unwrap()), part.clone());
            }
        }
    }
    (parts, names)
}

/// The part a file belongs to: `text` of `src/text/gguf.rs`, `error` of `src/error.rs`.
fn part_of(file: &Path) -> String {
    let relative = file.strip_prefix(src()).unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_string()
}

/// Paths that reach the crate's root by `super::` from a file so many modules deep.
fn super_root(file: &Path) -> String {
    let relative = file.strip_prefix(src()).unwrap();
    let depth = relative.components().count() - usize::from(relative.ends_with("mod.rs"));
    "super::".repeat(depth)
}

#[test]
fn no_part_knows_one_that_the_design_forbids() {
    let (parts, names) = root();
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let mut files = Vec::new();
    rust_files(&src(), &mut files);
    assert!(files.len() > 20, "the sources were not found");
    let mut defects = Vec::new();
    for file in files {
        let part = part_of(&file);
        if part == "lib" {
            continue;
        }
        let Some(allowed) = arrows.get(part.as_str()) else {
            defects.push(format!("{}: the part {part} has no arrows", file.display()));
            continue;
        };
        let code = code(&std::fs::read_to_string(&file).unwrap());
        let mut known: BTreeSet<String> = heads(&code, "crate::");
        known.extend(heads(&code, "qwen3moe::"));
        known.extend(heads(&code, &super_root(&file)).into_iter().filter(|name| parts.contains(name)));
        for name in known {
            let by_name = names.get(&name);
            if by_name.is_some() && USERS_OF_THE_ROOT.contains(&part.as_str()) {
                continue;
            }
            let Some(other) = by_name.or(parts.get(&name)) else { continue };
            if *other != part && other != "error" && !allowed.contains(&other.as_str()) {
                defects.push(format!("{}: {part} must not know {other} ({name})", file.display()));
            }
        }
    }
    assert!(defects.is_empty(), "against the arrows:\n{}", defects.join("\n"));
}

#[test]
fn paths_are_found_in_every_form_they_are_written_in() {
    let code = code(
        "use crate::quant::{Format, X};\nuse crate::{model::{A, B}, state, error::Error};\n\
         fn f(x: &crate::cpu::Pool) {} // crate::text\n/// [`crate::engine`]\n$crate::capi!(); mycrate::other::f()",
    );
    let found: Vec<String> = heads(&code, "crate::").into_iter().collect();
    assert_eq!(found, ["capi", "cpu", "error", "model", "quant", "state"]);
}
