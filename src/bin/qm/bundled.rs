//! The model that comes with the program, compiled into it.

use qwen3moe::Source;

macro_rules! file {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../../examples/tavern/model/", $name)).as_slice())
    };
}

/// The tavern keeper: see examples/tavern.
const FILES: &[(&str, &[u8])] = &[
    file!("config.json"),
    file!("generation_config.json"),
    file!("model.safetensors"),
    file!("tokenizer.json"),
    file!("tokenizer_config.json"),
    file!("chat_template.jinja"),
];

/// Where the bundled model is loaded from.
pub fn source() -> Source {
    Source::Embedded(FILES)
}
