//! The model: its sizes, its weights by role, and the network over an abstract processor.

mod backend;
mod config;
mod config_fields;
mod config_gguf;
mod config_json;
mod config_limits;
mod config_refused;
mod config_rope;
mod forward;
pub mod likelihood;
mod pack_cache;
pub mod philox;
mod profile;
mod progress;
mod rope;
mod sampler;
mod sampling;
mod shapes;
mod spec;
mod weights;

pub use backend::{Backend, BackendInfo, Batch, BatchSequence, Choice, LogitRows, Logits};
pub use config::{ConfigReport, read_config, read_spec};
pub use forward::{forward, queue};
pub use pack_cache::{Found, PackCache};
pub use profile::{Cost, Costs, Operation, Phase, PhaseProfile, Profile, ProfileCounters, Timed};
pub use progress::LoadProgress;
pub use sampler::{IN_PROMPT, Sampler, none_left, not_finite};
pub use sampling::Sampling;
pub use shapes::check_shapes;

pub use crate::checkpoint::{
    Checkpoint, DeltaTensor, ExpertPart, GgufSampling, GgufTokenizer, LayerTensor, Role, Source, TextFiles, Unused,
};
/// The memory or the mapped file that holds all weights.
pub use crate::quant::Bytes as WeightBytes;
pub use spec::{
    AttentionSpec, DeltaSpec, Family, FeedForward, HeadOrder, LayerSpec, Mixer, ModelSpec, MoeSpec, RopeScaling,
    RopeSpec,
};
pub use weights::{
    AttentionWeights, Content, DeltaGates, DeltaInputs, DeltaWeights, FeedForwardWeights, LayerWeights, Linear,
    MatrixPlan, MixerWeights, MoeWeights, Origin, Place, Remote, Store, SwiGlu, Tables, WeightPlan, Weights, pack,
    send,
};
