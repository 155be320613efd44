//! Qwen3 Mixture-of-Experts language models inside your program.
//!
//! The crate is one pipeline; each module is one part of it, and knows only the parts to its right:
//!
//! ```text
//! capi, bin -> engine -> { cpu, cuda, model, text, state, experts }
//! cpu, cuda           -> { model, state, experts, quant }
//! model               -> { checkpoint, quant, state }
//! checkpoint          -> quant
//! everybody           -> error
//! ```
//!
//! * [`checkpoint`] turns files into named tensors, [`quant`] knows the number formats they are stored in.
//! * [`model`] holds the sizes, the weights by role and the network itself, written once over a `Backend`.
//! * `cpu` is the backend for processors, `cuda` the one for NVIDIA's; `state` and `experts` keep their books.
//! * `text` turns strings into token ids and back.
//! * [`engine`] is the thread that owns a loaded model: requests in, tokens out.
//! * [`capi`] is the C interface, and the only place that knows C.
//!
//! Rust programs use [`Model`], [`LoadOptions`], [`GenerateOptions`] and [`Stream`]; C programs `include/qwen3moe.h`.

pub mod capi;
pub mod checkpoint;
pub mod cpu;
pub mod cuda;
pub mod engine;
pub mod error;
pub mod experts;
pub mod model;
pub mod quant;
pub mod state;
pub mod text;

pub use checkpoint::{
    Checkpoint, DeltaTensor, ExpertPart, Kind as CheckpointKind, LayerTensor, Role, TensorInfo, Unused,
};
pub use engine::{
    CudaContext, Device, DevicePriority, Event, FinishReason, Fit, GenerateOptions, KvFormat, LoadOptions, LogLevel,
    MemoryUse, Model, PackReport, Prompt, Stream, StreamStats, doctor, fit, pack, tokenize,
};
pub use error::{Error, Result};
pub use model::{
    BackendInfo, ConfigReport, Cost, Costs, Family, FeedForward, LoadProgress, Mixer, ModelSpec, Operation,
    PhaseProfile, Profile, RopeScaling, Source, read_config,
};
