//! The presets: shapes of published models, and the tensors that a model of such a shape has in GGUF.

use crate::gguf::Kind;

/// A published model's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// 48 layers, 512 experts, 10 a token and one shared, DeltaNet and attention 3 : 1
    #[value(name = "qwen3-next-80b-a3b")]
    Next80b,
    /// 48 layers, 128 experts, 8 a token, attention only
    #[value(name = "qwen3-30b-a3b")]
    Qwen30b,
    /// 40 layers, 256 experts, 8 a token and one shared, DeltaNet and attention 3 : 1
    #[value(name = "qwen3.5-35b-a3b")]
    Qwen35b,
}

/// Sizes of a synthetic model, as the GGUF metadata carries them.
#[derive(Debug, Clone)]
pub struct Shape {
    pub name: &'static str,
    pub arch: &'static str,
    pub tokenizer_pre: &'static str,
    pub layers: u32,
    pub hidden: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub rope_dim: u32,
    pub rope_theta: f32,
    pub experts: u32,
    pub top_k: u32,
    pub expert_width: u32,
    pub shared_width: u32,
    pub dense_width: u32,
    pub vocab: u32,
    /// Id of `<|endoftext|>`; `<|im_start|>` and `<|im_end|>` follow.
    pub specials_at: u32,
    pub context: u32,
    pub delta: Option<DeltaShape>,
}

/// Sizes of the DeltaNet layers.
#[derive(Debug, Clone, Copy)]
pub struct DeltaShape {
    pub key_heads: u32,
    pub value_heads: u32,
    pub dim: u32,
    pub conv_kernel: u32,
    /// Every layer whose number plus one is a multiple of this is attention.
    pub interval: u32,
}

impl DeltaShape {
    pub fn keys(&self) -> u32 {
        self.key_heads * self.dim
    }

    pub fn values(&self) -> u32 {
        self.value_heads * self.dim
    }
}

impl Preset {
    pub fn shape(self) -> Shape {
        let hybrid = DeltaShape { key_heads: 16, value_heads: 32, dim: 128, conv_kernel: 4, interval: 4 };
        let next = Shape {
            name: "Qwen3-Next-80B-A3B",
            arch: "qwen3next",
            tokenizer_pre: "qwen2",
            layers: 48,
            hidden: 2048,
            heads: 16,
            kv_heads: 2,
            head_dim: 256,
            rope_dim: 64,
            rope_theta: 1e7,
            experts: 512,
            top_k: 10,
            expert_width: 512,
            shared_width: 512,
            dense_width: 5120,
            vocab: 151_936,
            specials_at: 151_643,
            context: 262_144,
            delta: Some(hybrid),
        };
        match self {
            Preset::Next80b => next,
            Preset::Qwen30b => Shape {
                name: "Qwen3-30B-A3B",
                arch: "qwen3moe",
                heads: 32,
                kv_heads: 4,
                head_dim: 128,
                rope_dim: 128,
                rope_theta: 1e6,
                experts: 128,
                top_k: 8,
                expert_width: 768,
                shared_width: 0,
                dense_width: 6144,
                context: 40_960,
                delta: None,
                ..next
            },
            Preset::Qwen35b => Shape {
                name: "Qwen3.5-35B-A3B",
                arch: "qwen35moe",
                tokenizer_pre: "qwen35",
                layers: 40,
                experts: 256,
                top_k: 8,
                vocab: 248_320,
                specials_at: 248_044,
                ..next
            },
        }
    }
}

/// One tensor of the file.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: String,
    /// Axes, fastest first, as GGUF counts them.
    pub dims: Vec<u64>,
    pub kind: Kind,
    pub fill: Fill,
}

/// How a tensor's values are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// Mean 0, standard deviation `1 / sqrt(inputs)`, so that activations keep their size from layer to layer.
    Weight,
    /// Evenly between two bounds: norms, decays and biases. Always F32.
    Between(f32, f32),
}

impl Tensor {
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    pub fn bytes(&self) -> u64 {
        self.kind.bytes(self.elements())
    }
}

const NORM: Fill = Fill::Between(0.8, 1.2);

/// Every tensor in the order of the file. Matrices are stored as `kind`; norms, decays, convolutions and routers as F32,
/// as llama.cpp's converter keeps them; the head of a Q4_K model as Q6_K, as llama-quantize does.
pub fn tensors(shape: &Shape, kind: Kind) -> Vec<Tensor> {
    let mut list = Vec::new();
    let mut add = |name: String, dims: &[u32], kind: Kind, fill: Fill| {
        list.push(Tensor { name, dims: dims.iter().map(|&d| u64::from(d)).collect(), kind, fill });
    };
    let (hidden, head_dim) = (shape.hidden, shape.head_dim);
    let head_kind = if kind == Kind::Q4K { Kind::Q6K } else { kind };
    add("token_embd.weight".into(), &[hidden, shape.vocab], kind, Fill::Weight);
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let mut matrix = |part: &str, dims: &[u32]| add(name(&format!("{part}.weight")), dims, kind, Fill::Weight);
        match shape.delta.filter(|d| !(layer + 1).is_multiple_of(d.interval)) {
            Some(delta) => {
                matrix("attn_qkv", &[hidden, 2 * delta.keys() + delta.values()]);
                matrix("attn_gate", &[hidden, delta.values()]);
                if shape.arch == "qwen3next" {
                    matrix("ssm_ba", &[hidden, 2 * delta.value_heads]);
                } else {
                    matrix("ssm_beta", &[hidden, delta.value_heads]);
                    matrix("ssm_alpha", &[hidden, delta.value_heads]);
                }
                matrix("ssm_out", &[delta.values(), hidden]);
                let channels = 2 * delta.keys() + delta.values();
                add(name("ssm_conv1d.weight"), &[delta.conv_kernel, channels], Kind::F32, Fill::Weight);
                add(name("ssm_a"), &[delta.value_heads], Kind::F32, Fill::Between(-4.0, -0.1));
                add(name("ssm_dt.bias"), &[delta.value_heads], Kind::F32, Fill::Between(-1.0, 1.0));
                add(name("ssm_norm.weight"), &[delta.dim], Kind::F32, NORM);
            }
            None => {
                let gate = if shape.delta.is_some() { 2 } else { 1 };
                matrix("attn_q", &[hidden, gate * shape.heads * head_dim]);
                matrix("attn_k", &[hidden, shape.kv_heads * head_dim]);
                matrix("attn_v", &[hidden, shape.kv_heads * head_dim]);
                matrix("attn_output", &[shape.heads * head_dim, hidden]);
                add(name("attn_q_norm.weight"), &[head_dim], Kind::F32, NORM);
                add(name("attn_k_norm.weight"), &[head_dim], Kind::F32, NORM);
            }
        }
        let mut matrix = |part: &str, dims: &[u32]| add(name(&format!("{part}.weight")), dims, kind, Fill::Weight);
        matrix("ffn_gate_exps", &[hidden, shape.expert_width, shape.experts]);
        matrix("ffn_up_exps", &[hidden, shape.expert_width, shape.experts]);
        matrix("ffn_down_exps", &[shape.expert_width, hidden, shape.experts]);
        if shape.shared_width > 0 {
            matrix("ffn_gate_shexp", &[hidden, shape.shared_width]);
            matrix("ffn_up_shexp", &[hidden, shape.shared_width]);
            matrix("ffn_down_shexp", &[shape.shared_width, hidden]);
            add(name("ffn_gate_inp_shexp.weight"), &[hidden], Kind::F32, Fill::Weight);
        }
        add(name("ffn_gate_inp.weight"), &[hidden, shape.experts], Kind::F32, Fill::Weight);
        add(name("attn_norm.weight"), &[hidden], Kind::F32, NORM);
        let second_norm = if shape.delta.is_some() { "post_attention_norm.weight" } else { "ffn_norm.weight" };
        add(name(second_norm), &[hidden], Kind::F32, NORM);
    }
    add("output_norm.weight".into(), &[hidden], Kind::F32, NORM);
    add("output.weight".into(), &[hidden, shape.vocab], head_kind, Fill::Weight);
    list
}
