//! The model: its sizes, its weights by role, and the network over an abstract processor.

mod backend;
mod forward;
mod progress;
mod spec;

pub use backend::{Backend, Batch, BatchSequence, LogitRows};
pub use forward::forward;
pub use progress::LoadProgress;

pub use crate::checkpoint::Source;
pub use spec::{
    AttentionSpec, DeltaSpec, Family, FeedForward, HeadOrder, LayerSpec, Mixer, ModelSpec, MoeSpec, RopeScaling,
    RopeSpec,
};
