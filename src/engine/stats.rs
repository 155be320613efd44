//! What a model and its streams tell about themselves.

use std::time::Duration;

use super::FinishReason;
use crate::model::{BackendInfo, ModelSpec};

/// Facts about a loaded model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Sizes and layers.
    pub spec: ModelSpec,
    /// Positions one stream can hold.
    pub context_length: usize,
    /// Streams that can run at the same time.
    pub streams: usize,
    /// KV positions that all streams share.
    pub kv_tokens: usize,
    /// Worker threads of the backend.
    pub threads: usize,
    /// What computes.
    pub backend: BackendInfo,
    /// Parameters of the trunk.
    pub parameters: u64,
    /// A chat template is present.
    pub has_chat_template: bool,
    /// A tokenizer is present.
    pub has_tokenizer: bool,
    /// Ids that end a generation.
    pub eos_ids: Vec<u32>,
}

/// Counts and times of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StreamStats {
    /// Tokens of the prompt; 0 until it is tokenised.
    pub prompt_tokens: u64,
    /// Prompt tokens processed so far.
    pub prefilled_tokens: u64,
    /// Tokens generated so far; an end-of-sequence token counts.
    pub generated_tokens: u64,
    /// Time before the first step: for the prompt to become tokens, and in line.
    pub queued: Duration,
    /// Time from the first step to the first token.
    pub prefill: Duration,
    /// Time from the first token to the last so far.
    pub decode: Duration,
    /// Why it ended, once it has ended without an error.
    pub finish: Option<FinishReason>,
}

/// Use of the routed experts since load.
///
/// Every expert is resident for good, in host memory or in that of the device that the model runs on, and the fields say so:
/// each activation is a hit, nothing is missed, admitted or moved, every expert is resident, and the hit rate is 1 as soon as
/// there was an activation.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ExpertStats {
    /// Times a token visited an expert, over all layers.
    pub activations: u64,
    /// Activations that found their expert where it is computed fastest.
    pub hits: u64,
    /// Activations that did not.
    pub misses: u64,
    /// Experts copied into the fast memory.
    pub admissions: u64,
    /// Bytes of those copies.
    pub bytes_moved: u64,
    /// Experts in the fast memory now.
    pub resident_experts: u64,
    /// Routed experts of all layers.
    pub experts: u64,
    /// `hits / activations`; 0 before the first activation.
    pub hit_rate: f64,
}

/// Bytes of one kind of memory, by what they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    /// Token embedding and head.
    pub embeddings: u64,
    /// Weights of the attention layers.
    pub attention: u64,
    /// Weights of the DeltaNet layers.
    pub delta_net: u64,
    /// Routed experts.
    pub experts: u64,
    /// Routers, shared experts, dense feed-forward layers and norms.
    pub other: u64,
    /// KV pages.
    pub kv: u64,
    /// Recurrent and convolution states.
    pub states: u64,
    /// Activations of one step.
    pub workspace: u64,
}

impl MemoryUse {
    /// Bytes of all weights.
    pub fn weights(&self) -> u64 {
        [self.embeddings, self.attention, self.delta_net, self.experts, self.other].iter().fold(0, add)
    }

    /// Bytes of everything.
    pub fn total(&self) -> u64 {
        [self.weights(), self.kv, self.states, self.workspace].iter().fold(0, add)
    }
}

/// Sums of untrusted sizes saturate: a total of 2^64 - 1 bytes fits nowhere, which is the answer wanted.
fn add(sum: u64, bytes: &u64) -> u64 {
    sum.saturating_add(*bytes)
}

/// Memory of a model, by component and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryStats {
    /// Host memory.
    pub ram: MemoryUse,
    /// Device memory; all 0 without a GPU.
    pub vram: MemoryUse,
}

/// What a load would take, found from the headers alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// Memory by component and kind.
    pub memory: MemoryStats,
    /// Bytes that one more stream takes for its states.
    pub state_per_stream: u64,
    /// Bytes that 1000 more KV positions take.
    pub kv_per_1000_tokens: u64,
    /// Host memory that the load takes at most: weights for a device pass through it in pieces.
    pub ram_required: u64,
    /// Host memory that the machine has available now, within the limits of its control group; 0: unknown.
    pub ram_available: u64,
    /// Host memory that the load may take: the smaller of the budget and what is available.
    pub ram_limit: u64,
    /// Device memory that the load takes.
    pub vram_required: u64,
    /// Device memory that the load may take.
    pub vram_limit: u64,
    /// Positions one stream can hold.
    pub context_length: usize,
    /// Streams that can run at the same time.
    pub streams: usize,
    /// KV positions that all streams share.
    pub kv_tokens: usize,
    /// The model would fit.
    pub fits: bool,
    /// What would make it fit, or a remark; one or more sentences.
    pub advice: String,
}

/// A whole generation, as [`super::Model::generate`] returns it.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The text.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// Counts and times.
    pub stats: StreamStats,
}
