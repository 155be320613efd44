//! The thread that owns a loaded model: requests in, tokens out.

mod model;
mod options;

pub use model::{Event, FinishReason, Model, ModelInfo, Prompt, Stream, StreamStats};
pub use options::{Device, GenerateOptions, LoadOptions, LogLevel, LogSink};
