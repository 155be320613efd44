//! Strings into token ids and back: tokenizer, chat template, incremental decoding, stop strings.
//!
//! A request passes these once from left to right: [`ChatTemplate`] makes one text of a chat's messages, [`Tokenizer`]
//! makes ids of the text; then, for each generated id, [`TextDecoder`] makes whole code points of the token's bytes and
//! [`StopMatcher`] holds back what may become a stop string.

mod byte_level;
mod decoder;
mod gguf;
mod huggingface;
mod python;
mod quoting;
mod sandbox;
mod stop;
mod template;
mod tokenizer;

pub use decoder::TextDecoder;
pub use gguf::GgufVocabulary;
pub use stop::StopMatcher;
pub use template::{ChatTemplate, RenderedChat};
pub use tokenizer::{EncodeOptions, Tokenizer};
