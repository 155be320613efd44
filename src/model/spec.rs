//! What a model is: its sizes and the kind of each layer, the same for every file format.

/// Which family of the Qwen3 Mixture-of-Experts line a model belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `qwen3_moe`: attention in every layer, no shared expert.
    Qwen3Moe,
    /// `qwen3_next`: three Gated DeltaNet layers to one gated attention layer, a shared expert.
    Qwen3Next,
    /// `qwen3_5_moe`: as `qwen3_next`, with flat DeltaNet projections.
    Qwen35Moe,
}

impl Family {
    /// The name as `config.json` spells it in `model_type`.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Qwen3Moe => "qwen3_moe",
            Family::Qwen3Next => "qwen3_next",
            Family::Qwen35Moe => "qwen3_5_moe",
        }
    }
}

/// Sizes of a model. Every value was checked to be positive, mutually consistent and in line with the tensors' shapes.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// Family the model belongs to.
    pub family: Family,
    /// Width H of the residual stream.
    pub hidden: usize,
    /// Rows of the embedding and of the head.
    pub vocab: usize,
    /// Trunk layers, in order.
    pub layers: Vec<LayerSpec>,
    /// Shape of the attention layers.
    pub attention: AttentionSpec,
    /// Shape of the DeltaNet layers; `None` for models without any.
    pub delta: Option<DeltaSpec>,
    /// Shape of the Mixture-of-Experts layers; `None` where every layer is dense.
    pub moe: Option<MoeSpec>,
    /// Width of the dense feed-forward layers; 0 where there are none.
    pub dense_width: usize,
    /// Epsilon of every RMS norm.
    pub norm_eps: f32,
    /// The head shares the embedding's matrix.
    pub tied_head: bool,
    /// Positions the model can be used for: `max_position_embeddings` (`context_length` of a GGUF), or the positions that
    /// YaRN extends the training's to where those are more. Linear scaling does not change it: published configs that
    /// have it state the extended length.
    pub context_length: usize,
    /// Layers of the multi-token-prediction head in the file: reported, not used.
    pub mtp_layers: usize,
}

/// What one trunk layer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSpec {
    /// First half: mixes positions.
    pub mixer: Mixer,
    /// Second half: mixes channels.
    pub feed_forward: FeedForward,
}

/// How a layer mixes positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixer {
    /// Softmax attention over all earlier positions (gated in the hybrid families).
    Attention,
    /// Gated DeltaNet: a linear recurrence with a matrix state.
    DeltaNet,
}

/// How a layer mixes channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForward {
    /// Routed experts, with a shared expert where [`MoeSpec::shared_width`] is not 0.
    Moe,
    /// One dense SwiGLU.
    Dense,
}

/// Shape of an attention layer.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// `q_proj` carries a sigmoid gate behind each head's query (hybrid families).
    pub gated: bool,
    /// Queries, keys, values and output have a bias each.
    pub bias: bool,
    /// Rotary position embedding.
    pub rope: RopeSpec,
}

/// Rotary position embedding, NeoX pairing: channel `i` turns with channel `i + dim / 2`.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// Channels of a head that rotate (even, at most `head_dim`).
    pub dim: usize,
    /// Base of the frequencies.
    pub theta: f64,
    /// Change of the frequencies for long contexts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are changed for contexts longer than the training's.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are.
    None,
    /// Every frequency divided by the factor.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// YaRN (arXiv 2309.00071), as `_compute_yarn_parameters` in transformers' modeling_rope_utils.py.
    Yarn {
        /// Context extension factor.
        factor: f64,
        /// Context of the training.
        original_context: usize,
        /// Rotations above which a frequency stays (32 by default).
        beta_fast: f64,
        /// Rotations below which a frequency is interpolated fully (1 by default).
        beta_slow: f64,
        /// Multiplier of cos and sin; the config's value or `0.1 ln(factor) + 1`.
        attention_factor: f64,
        /// Round the ramp's ends to whole dimensions (transformers' `truncate`, default true).
        truncate: bool,
    },
}

/// Shape of a Gated DeltaNet layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaSpec {
    /// Query and key heads Hk.
    pub key_heads: usize,
    /// Value heads Hv; a multiple of Hk.
    pub value_heads: usize,
    /// Channels of a query or key head.
    pub key_dim: usize,
    /// Channels of a value head.
    pub value_dim: usize,
    /// Taps of the causal convolution.
    pub conv_kernel: usize,
    /// Which key head serves a value head.
    pub head_order: HeadOrder,
}

/// Which key head serves value head `h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadOrder {
    /// `h / (Hv / Hk)`: Hugging Face, and GGUF `qwen3next`.
    Grouped,
    /// `h mod Hk`: GGUF `qwen35moe`, whose converter reorders the value heads.
    Tiled,
}

impl DeltaSpec {
    /// Channels of all query (or key) heads, Kd.
    pub fn keys(&self) -> usize {
        self.key_heads * self.key_dim
    }

    /// Channels of all value heads, Vd.
    pub fn values(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Channels that pass the convolution: queries, keys and values.
    pub fn conv_channels(&self) -> usize {
        2 * self.keys() + self.values()
    }

    /// The key head that serves value head `head`.
    pub fn key_head_of(&self, head: usize) -> usize {
        match self.head_order {
            HeadOrder::Grouped => head / (self.value_heads / self.key_heads),
            HeadOrder::Tiled => head % self.key_heads,
        }
    }
}

/// Shape of a Mixture-of-Experts layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoeSpec {
    /// Routed experts E.
    pub experts: usize,
    /// Experts a token visits.
    pub top_k: usize,
    /// Width F of a routed expert.
    pub width: usize,
    /// Width of the shared expert; 0 where there is none.
    pub shared_width: usize,
    /// The chosen experts' weights are divided by their sum.
    pub normalise_top_k: bool,
}

impl ModelSpec {
    /// Number of attention layers.
    pub fn attention_layers(&self) -> usize {
        self.layers.iter().filter(|l| l.mixer == Mixer::Attention).count()
    }

    /// Number of DeltaNet layers.
    pub fn delta_layers(&self) -> usize {
        self.layers.iter().filter(|l| l.mixer == Mixer::DeltaNet).count()
    }

    /// Number of Mixture-of-Experts layers.
    pub fn moe_layers(&self) -> usize {
        self.layers.iter().filter(|l| l.feed_forward == FeedForward::Moe).count()
    }
}
