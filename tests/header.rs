//! The committed C header is what cbindgen makes of `src/capi`.

#![allow(clippy::expect_used)]

use std::path::Path;

/// The files of the C interface in the order in which a newcomer reads about them.
const SOURCES: [&str; 8] = ["version", "status", "options", "load", "model", "stream", "text", "stats"];

const UPDATE: &str = "QM_UPDATE_HEADER=1 cargo test --test header";

fn generate(root: &Path) -> String {
    let (major, minor, patch) =
        (env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"), env!("CARGO_PKG_VERSION_PATCH"));
    let mut config = cbindgen::Config::from_root_or_default(root);
    config.after_includes = Some(format!(
        "\n/** The version of this header; qm_version() is that of the library that runs. */\n\
         #define QM_VERSION_MAJOR {major}\n#define QM_VERSION_MINOR {minor}\n#define QM_VERSION_PATCH {patch}\n\
         /** For comparisons: major * 1000000 + minor * 1000 + patch. */\n\
         #define QM_VERSION_NUMBER (QM_VERSION_MAJOR * 1000000 + QM_VERSION_MINOR * 1000 + QM_VERSION_PATCH)"
    ));
    let builder = cbindgen::Builder::new().with_config(config);
    let sources = SOURCES.iter().map(|name| root.join("src/capi").join(name).with_extension("rs"));
    let bindings = sources.fold(builder, cbindgen::Builder::with_src).generate().expect("cbindgen");
    let mut header = Vec::new();
    bindings.write(&mut header);
    polish(&String::from_utf8(header).expect("UTF-8"))
}

/// What cbindgen cannot be told: negative numbers in parentheses, comments of one line on one line, and Rust's section on
/// what makes a call sound, which for a C programmer is what the caller promises.
fn polish(header: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in header.lines() {
        let line = match line.rsplit_once(' ') {
            Some((define, number)) if define.starts_with("#define QM_") && number.starts_with('-') => {
                format!("{define} ({number})")
            }
            _ => line.replace(" * # Safety", " * The caller promises:"),
        };
        match lines.as_mut_slice() {
            [.., open, text] if open.trim() == "/**" && line.trim() == "*/" => {
                *open = format!("{} {} */", open, text.trim_start().trim_start_matches("* "));
                lines.pop();
            }
            _ => lines.push(line),
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn the_committed_header_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("include/qwen3moe.h");
    let expected = generate(root);
    if std::env::var_os("QM_UPDATE_HEADER").is_some() {
        std::fs::create_dir_all(root.join("include")).expect("include");
        std::fs::write(&path, &expected).expect("include/qwen3moe.h");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == expected, "include/qwen3moe.h is stale; refresh it with: {UPDATE}");
}
