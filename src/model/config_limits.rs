//! Bounds of every size, and the checks that sizes agree with each other, the same for every source.
//!
//! The bounds are far above any published model and low enough that no product of the sizes of one tensor, times eight
//! bytes a value, overflows 64 bits.

use std::ops::RangeInclusive;
use std::path::Path;

use super::{Mixer, ModelSpec, RopeScaling};
use crate::error::{Error, Result};

pub(super) const HIDDEN: RangeInclusive<usize> = 1..=1 << 17;
pub(super) const VOCAB: RangeInclusive<usize> = 1..=1 << 24;
pub(super) const LAYERS: RangeInclusive<usize> = 1..=1024;
pub(super) const HEADS: RangeInclusive<usize> = 1..=4096;
pub(super) const HEAD_DIM: RangeInclusive<usize> = 1..=4096;
pub(super) const WIDTH: RangeInclusive<usize> = 1..=1 << 20;
pub(super) const EXPERTS: RangeInclusive<usize> = 0..=4096;
pub(super) const KERNEL: RangeInclusive<usize> = 2..=64;
pub(super) const CONTEXT: RangeInclusive<usize> = 1..=1 << 30;

/// Positions that a model with `stated` ones can be used for, given how its frequencies are scaled.
pub(super) fn usable_context(stated: usize, scaling: &RopeScaling) -> usize {
    match scaling {
        RopeScaling::Yarn { factor, original_context, .. } => {
            let extended = (factor * *original_context as f64).min(*CONTEXT.end() as f64);
            stated.max(extended as usize)
        }
        RopeScaling::None | RopeScaling::Linear { .. } => stated,
    }
}

/// How a kind of file calls the fields that sizes come from, for messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct FieldNames {
    pub hidden: &'static str,
    pub vocab: &'static str,
    pub layers: &'static str,
    pub heads: &'static str,
    pub kv_heads: &'static str,
    pub head_dim: &'static str,
    pub rope_dim: &'static str,
    pub norm_eps: &'static str,
    pub theta: &'static str,
    pub key_heads: &'static str,
    pub value_heads: &'static str,
    pub key_dim: &'static str,
    pub value_dim: &'static str,
    pub kernel: &'static str,
    pub experts: &'static str,
    pub top_k: &'static str,
    pub width: &'static str,
    pub shared_width: &'static str,
    pub dense_width: &'static str,
    pub bias: &'static str,
    pub beta_fast: &'static str,
    pub beta_slow: &'static str,
}

/// Fields of config.json.
pub(super) const JSON: FieldNames = FieldNames {
    hidden: "hidden_size",
    vocab: "vocab_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    kv_heads: "num_key_value_heads",
    head_dim: "head_dim",
    rope_dim: "partial_rotary_factor",
    norm_eps: "rms_norm_eps",
    theta: "rope_theta",
    key_heads: "linear_num_key_heads",
    value_heads: "linear_num_value_heads",
    key_dim: "linear_key_head_dim",
    value_dim: "linear_value_head_dim",
    kernel: "linear_conv_kernel_dim",
    experts: "num_experts",
    top_k: "num_experts_per_tok",
    width: "moe_intermediate_size",
    shared_width: "shared_expert_intermediate_size",
    dense_width: "intermediate_size",
    bias: "attention_bias",
    beta_fast: "beta_fast",
    beta_slow: "beta_slow",
};

/// Keys of GGUF metadata, behind the architecture's name.
pub(super) const GGUF: FieldNames = FieldNames {
    hidden: "embedding_length",
    vocab: "vocab_size",
    layers: "block_count",
    heads: "attention.head_count",
    kv_heads: "attention.head_count_kv",
    head_dim: "attention.key_length",
    rope_dim: "rope.dimension_count",
    norm_eps: "attention.layer_norm_rms_epsilon",
    theta: "rope.freq_base",
    key_heads: "ssm.group_count",
    value_heads: "ssm.time_step_rank",
    key_dim: "ssm.state_size",
    value_dim: "ssm.inner_size",
    kernel: "ssm.conv_kernel",
    experts: "expert_count",
    top_k: "expert_used_count",
    width: "expert_feed_forward_length",
    shared_width: "expert_shared_feed_forward_length",
    dense_width: "feed_forward_length",
    bias: "attn_q.bias of the first attention layer",
    beta_fast: "rope.scaling.yarn_beta_fast",
    beta_slow: "rope.scaling.yarn_beta_slow",
};

/// Checks that the sizes of `spec` agree with each other.
///
/// # Errors
/// [`Error::BadFile`] naming the fields, their values and what was expected.
pub(super) fn check(path: &Path, names: &FieldNames, spec: &ModelSpec) -> Result<()> {
    let bad = |name: &str, value: &dyn std::fmt::Display, expected: String| {
        Err(Error::bad_file(path, format!("field {name} is {value}; expected {expected}")))
    };
    let attention = &spec.attention;
    if !attention.heads.is_multiple_of(attention.kv_heads) {
        let expected = format!("a divisor of {}, {}", names.heads, attention.heads);
        return bad(names.kv_heads, &attention.kv_heads, expected);
    }
    let rope = &attention.rope;
    if rope.dim < 2 || !rope.dim.is_multiple_of(2) || rope.dim > attention.head_dim {
        let expected = format!("an even number from 2 to {}, {}", names.head_dim, attention.head_dim);
        return bad("rotary dimensions", &format!("{} (from {})", rope.dim, names.rope_dim), expected);
    }
    if !(rope.theta > 1.0 && rope.theta <= 1e15) {
        return bad(names.theta, &rope.theta, "a number above 1, at most 1e15".into());
    }
    if let RopeScaling::Yarn { beta_fast, beta_slow, .. } = rope.scaling {
        // YaRN divides by the logarithm of theta and takes that of 1 / beta.
        if rope.theta < 2.0 {
            return bad(names.theta, &rope.theta, "a number from 2 on, as the frequencies are scaled by YaRN".into());
        }
        for (name, beta) in [(names.beta_fast, beta_fast), (names.beta_slow, beta_slow)] {
            if !(1e-3..=1e6).contains(&beta) {
                return bad(name, &beta, "a number from 0.001 to 1e6".into());
            }
        }
        if beta_fast < beta_slow {
            return bad(names.beta_fast, &beta_fast, format!("at least {}, {beta_slow}", names.beta_slow));
        }
    }
    if !(spec.norm_eps > 0.0 && spec.norm_eps <= 0.1) {
        return bad(names.norm_eps, &spec.norm_eps, "a number above 0, at most 0.1".into());
    }
    if let Some(delta) = &spec.delta
        && !delta.value_heads.is_multiple_of(delta.key_heads)
    {
        let expected = format!("a multiple of {}, {}", names.key_heads, delta.key_heads);
        return bad(names.value_heads, &delta.value_heads, expected);
    }
    if let Some(moe) = &spec.moe
        && !(1..=moe.experts).contains(&moe.top_k)
    {
        return bad(names.top_k, &moe.top_k, format!("from 1 to {}, {}", names.experts, moe.experts));
    }
    if spec.delta.is_none() && spec.layers.iter().any(|l| l.mixer == Mixer::DeltaNet) {
        return Err(Error::Internal("DeltaNet layers without their sizes".into()));
    }
    Ok(())
}
