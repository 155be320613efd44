//! The model that comes with the program, compiled into it.

use qwen3moe::Source;

/// Names and contents of its files.
const FILES: &[(&str, &[u8])] = &[];

/// Where the bundled model is loaded from.
pub fn source() -> Source {
    Source::Embedded(FILES)
}
