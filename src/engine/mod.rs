//! The thread that owns a loaded model: requests in, tokens out.

mod fit;
mod model;
mod options;
mod philox;
mod sampler;
mod sampling;
mod stats;
mod stream;

pub use fit::fit;
pub use model::{Model, Prompt};
pub use options::{Device, GenerateOptions, LoadOptions, LogLevel, LogSink};
pub use sampler::Sampler;
pub use sampling::{Sampling, SamplingDefaults};
pub use stats::{ExpertStats, Fit, Generation, MemoryStats, MemoryUse, ModelInfo, StreamStats};
pub use stream::{Event, FinishReason, Stream};
