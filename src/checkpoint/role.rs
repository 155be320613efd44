//! What a tensor is for, independent of how a file names it.

use super::Unused;

/// What a tensor's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// It has a role.
    Role(Role),
    /// It is known and not used.
    Unused(Unused),
}

/// The logical role of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Token embedding `[vocab, hidden]`.
    Embedding,
    /// Norm before the head `[hidden]`.
    FinalNorm,
    /// Output head `[vocab, hidden]`; absent where it is tied to the embedding.
    Head,
    /// A tensor of trunk layer `.0`.
    Layer(u32, LayerTensor),
}

/// A tensor of one layer. H hidden, hd head dim, E experts, F expert width, Fs shared width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerTensor {
    /// Norm before the mixer `[H]`.
    InputNorm,
    /// Norm before the feed-forward half `[H]`.
    PostAttentionNorm,
    /// Queries `[heads * hd, H]`; `[heads * 2 * hd, H]` with a gate behind each head's query in hybrid families.
    Query,
    /// Keys `[kv_heads * hd, H]`.
    Key,
    /// Values `[kv_heads * hd, H]`.
    Value,
    /// Attention output `[H, heads * hd]`.
    Output,
    /// Bias of the queries.
    QueryBias,
    /// Bias of the keys.
    KeyBias,
    /// Bias of the values.
    ValueBias,
    /// Bias of the attention output.
    OutputBias,
    /// Per-head norm of queries `[hd]`.
    QueryNorm,
    /// Per-head norm of keys `[hd]`.
    KeyNorm,
    /// A tensor of the DeltaNet mixer.
    Delta(DeltaTensor),
    /// Router `[E, H]`.
    Router,
    /// Part of routed expert `.0`, `[F, H]` or, for down, `[H, F]`.
    Expert(u32, ExpertPart),
    /// Part of all routed experts in one tensor: `[E, F, H]`, down `[E, H, F]`.
    Experts(ExpertPart),
    /// Gate and up of all routed experts in one tensor, gate rows first: `[E, 2F, H]`.
    ExpertsGateUp,
    /// Part of the shared expert, `[Fs, H]` or `[H, Fs]`.
    SharedExpert(ExpertPart),
    /// Gate of the shared expert's output, `[1, H]` or `[H]`.
    SharedExpertGate,
    /// Part of a dense SwiGLU.
    Dense(ExpertPart),
}

/// The three matrices of a SwiGLU: `down(silu(gate(x)) * up(x))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExpertPart {
    /// `[F, H]`, passed through SiLU.
    Gate,
    /// `[F, H]`.
    Up,
    /// `[H, F]`.
    Down,
}

/// A tensor of a Gated DeltaNet mixer. Kd and Vd: channels of all key and value heads; Hk, Hv: heads; r = Hv / Hk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeltaTensor {
    /// Interleaved by key head `[q d, k d, v r*d, z r*d]`: `[2Kd + 2Vd, H]`.
    QkvzInterleaved,
    /// Flat queries, keys, values `[2Kd + Vd, H]`.
    Qkv,
    /// Output gate `[Vd, H]`.
    Z,
    /// Interleaved by key head `[b r, a r]`: `[2Hv, H]`.
    BaInterleaved,
    /// Write strength `[Hv, H]`.
    B,
    /// Decay input `[Hv, H]`.
    A,
    /// Depthwise causal convolution `[2Kd + Vd, kernel]` (a middle axis of 1 is dropped).
    Conv,
    /// `A_log` `[Hv]`, as Hugging Face stores it.
    ALog,
    /// `-exp(A_log)` `[Hv]`, as GGUF stores it.
    NegExpA,
    /// `dt_bias` `[Hv]`.
    DtBias,
    /// Norm of each value head's output `[d]`.
    Norm,
    /// Mixer output `[H, Vd]`.
    Out,
}
