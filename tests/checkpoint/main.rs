//! Checkpoints: the goldens open and say what they should; broken and hostile files are refused with the right words.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod build;
mod config_json;
mod four_bit;
mod gguf;
mod goldens;
mod gptq;
mod safetensors;
