//! The thread that owns a loaded model: requests in, tokens out.
//!
//! [`Model`] is the handle: `load` reads it from files (after `fit` said that it has room), and starts the `worker`. A
//! [`Stream`] reads what the worker writes into its `feed`. The worker takes `request`s from a channel and runs steps, of
//! which `schedule` chooses the rows; `steps` turns them into ids, and `language` those into text. Text of prompts becomes ids
//! on a thread of its own: see `prompt`.

mod cache;
pub mod doctor;
mod feed;
mod fit;
mod language;
mod load;
mod log;
mod machine;
mod model;
mod options;
mod pace;
mod panics;
mod prompt;
mod request;
mod sampling;
mod schedule;
mod stats;
mod steps;
mod stream;
mod target;
mod worker;

pub use crate::cpu::Isa;
pub use crate::cuda::{HostContext as CudaContext, Priority as DevicePriority, built_with};
pub use crate::model::{Sampler, Sampling};
pub use crate::state::KvFormat;
pub use cache::{PackReport, pack};
pub use fit::fit;
pub use language::Language;
pub use load::tokenize;
pub use model::{Model, ModelParts};
pub use options::{Device, GenerateOptions, LoadOptions, LogLevel, LogSink};
pub(crate) use panics::catch;
pub use prompt::Prompt;
pub use sampling::SamplingDefaults;
pub use stats::{ExpertStats, Fit, Generation, MemoryStats, MemoryUse, ModelInfo, StreamStats};
pub use stream::{Event, FinishReason, Stream};
