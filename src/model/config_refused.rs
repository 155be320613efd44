//! Fields by which configs of other families ask for a computation that this library does not do. Fine-tunes and research
//! models carry them under the `model_type` of a supported family; without them the model would compute something else.
//!
//! A field that nothing here names is only reported: publishers add fields that change nothing.

use serde_json::Value;

use super::config_fields::Fields;
use crate::error::Result;

/// Fields, and the values by which they ask for nothing. Booleans count as 0, 1.
const ONLY: [(&str, &[f64]); 50] = [
    ("add_bias_linear", &[0.0]),
    ("add_qkv_bias", &[0.0]),
    ("alibi", &[0.0]),
    ("attention_chunk_size", &[0.0]),
    ("attention_multiplier", &[]),
    ("attention_value_scale", &[1.0]),
    ("clip_qkv", &[0.0]),
    ("embedding_multiplier", &[1.0]),
    ("expert_bias", &[0.0]),
    ("first_k_dense_replace", &[0.0]),
    ("interleave_moe_layer_step", &[0.0, 1.0]),
    ("kv_lora_rank", &[0.0]),
    ("lm_head_bias", &[0.0]),
    ("lm_head_multiplier", &[1.0]),
    ("logit_scale", &[1.0]),
    ("logits_scaling", &[1.0]),
    ("mlp_bias", &[0.0]),
    ("moe_layer_freq", &[1.0]),
    ("moe_router_enable_expert_bias", &[0.0]),
    ("moe_routed_scaling_factor", &[1.0]),
    ("n_group", &[0.0, 1.0]),
    ("n_shared_experts", &[0.0, 1.0]),
    ("nope_layer_interval", &[0.0]),
    ("num_expert_group", &[0.0, 1.0]),
    ("num_kv_shared_layers", &[0.0]),
    ("num_shared_experts", &[0.0, 1.0]),
    ("parallel_attn", &[0.0]),
    ("q_lora_rank", &[0.0]),
    ("qk_layernorm", &[1.0]),
    ("qk_norm", &[1.0]),
    ("qkv_bias", &[0.0]),
    ("query_pre_attn_scalar", &[]),
    ("residual_multiplier", &[1.0]),
    ("rope_interleave", &[0.0]),
    ("rope_interleaved", &[0.0]),
    ("routed_scaling_factor", &[1.0]),
    ("route_scale", &[1.0]),
    ("router_bias", &[0.0]),
    ("scale_depth", &[]),
    ("scale_emb", &[1.0]),
    ("scale_embedding", &[0.0]),
    ("sliding_window_pattern", &[]),
    ("swiglu_limit", &[0.0]),
    ("topk_group", &[0.0, 1.0]),
    ("use_alibi", &[0.0]),
    ("use_expert_bias", &[0.0]),
    ("use_mla", &[0.0]),
    ("use_parallel_residual", &[0.0]),
    ("use_qk_norm", &[1.0]),
    ("zero_expert_num", &[0.0]),
];

/// Fields that hold a word, and the one word that names what is done.
const WORDS: [(&str, &str); 5] = [
    ("hidden_activation", "silu"),
    ("position_embedding_type", "rope"),
    ("router_activation", "softmax"),
    ("scoring_func", "softmax"),
    ("topk_method", "greedy"),
];

/// Parts of names that mean the same wherever they stand: a limit on logits, and logits that stand for no position.
const PARTS: [&str; 4] = ["softcap", "soft_cap", "attention_sink", "attn_sink"];

/// Fields without which the layers that they list would have rotary positions.
const LISTS: [&str; 2] = ["no_rope_layers", "no_rope_layer_list"];

/// Refuses a field that asks for another computation.
///
/// # Errors
/// [`crate::Error::Unsupported`] naming file, field and value.
pub(super) fn check(fields: &Fields<'_>) -> Result<()> {
    for (key, allowed) in ONLY {
        only(fields, key, allowed)?;
    }
    for key in LISTS {
        only(fields, key, &[])?;
    }
    for key in fields.keys().filter(|key| PARTS.iter().any(|part| key.contains(part))) {
        only(fields, key, &[0.0])?;
    }
    for (key, word) in WORDS {
        fields.only(key, &Value::from(word))?;
    }
    Ok(())
}

fn only(fields: &Fields<'_>, key: &str, allowed: &[f64]) -> Result<()> {
    let Some(value) = fields.get(key) else { return Ok(()) };
    let accepted = match value {
        Value::Bool(flag) => allowed.contains(&f64::from(u8::from(*flag))),
        Value::Array(items) => items.is_empty(),
        other => other.as_f64().is_some_and(|number| allowed.contains(&number)),
    };
    if accepted {
        return Ok(());
    }
    let spelled: Vec<String> = allowed
        .iter()
        .map(|&number| match number {
            0.0 => "0 or false".to_string(),
            1.0 => "1 or true".to_string(),
            other => other.to_string(),
        })
        .collect();
    let supported = if spelled.is_empty() { "no such field in these families".into() } else { spelled.join(", ") };
    Err(fields.unsupported(key, &supported))
}
