//! config.json of the three families. Definitions and defaults: the configuration_*.py files of transformers 5.17.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::{ConfigReport, mtp_layers};
use super::config_fields::Fields;
use super::config_limits::{self as limits, JSON};
use super::{
    AttentionSpec, DeltaSpec, Family, FeedForward, HeadOrder, LayerSpec, Mixer, ModelSpec, MoeSpec, config_refused,
    config_rope,
};
use crate::checkpoint::{Checkpoint, Role};
use crate::error::{Error, Result};

/// Fields that do not change what a loaded model computes: training, bookkeeping, sampling defaults (which
/// generation_config.json holds), and what is decided by the tensors themselves.
const NO_EFFECT: [&str; 53] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "do_sample",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "label2id",
    "language_model_only",
    "length_penalty",
    "max_length",
    "max_window_layers",
    "min_length",
    "model_type",
    "mtp_num_hidden_layers",
    "mtp_use_dedicated_embeddings",
    "name_or_path",
    "num_beams",
    "num_labels",
    "num_nextn_predict_layers",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "prefix",
    "problem_type",
    "quantization_config",
    "repetition_penalty",
    "return_dict",
    "router_aux_loss_coef",
    "sep_token_id",
    "sliding_window",
    "task_specific_params",
    "temperature",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

/// Fields of the vision-language wrapper around `text_config`.
const WRAPPER: [&str; 6] = [
    "image_token_id",
    "video_token_id",
    "vision_config",
    "vision_end_token_id",
    "vision_start_token_id",
    "tie_word_embeddings",
];

/// Reads the sizes from the top-level object of config.json.
pub(super) fn read(checkpoint: &Checkpoint, path: &Path, object: &Map<String, Value>) -> Result<ConfigReport> {
    let outer = Fields::new(path, "", object);
    let text = outer.object("text_config")?;
    let family = family(&outer, text.as_ref())?;
    let mut unrecognised = Vec::new();
    let config = text.as_ref().unwrap_or(&outer);
    let mut spec = read_text(config, family, &mut unrecognised)?;
    if text.is_some() {
        config_refused::check(&outer)?;
        outer.ignore(&NO_EFFECT);
        outer.ignore(&WRAPPER);
        spec.tied_head = tied(&outer, config)?;
        unrecognised.extend(outer.unrecognised());
    }
    unrecognised.extend(config.unrecognised());
    // As in transformers 5: a head that is in the file is used, even where the config ties it.
    spec.tied_head &= checkpoint.tensor(Role::Head).is_none();
    spec.mtp_layers = mtp_layers(checkpoint);
    limits::check(path, &JSON, &spec)?;
    Ok(ConfigReport { spec, unrecognised })
}

fn family(outer: &Fields<'_>, text: Option<&Fields<'_>>) -> Result<Family> {
    const SUPPORTED: &str = "qwen3_moe, qwen3_next, qwen3_5_moe (with its text_config), qwen3_5_moe_text";
    let kind = outer.text("model_type")?.ok_or_else(|| outer.bad("model_type", SUPPORTED))?;
    match (kind, text) {
        ("qwen3_moe", None) => Ok(Family::Qwen3Moe),
        ("qwen3_next", None) => Ok(Family::Qwen3Next),
        ("qwen3_5_moe_text", None) => Ok(Family::Qwen35Moe),
        ("qwen3_5_moe", Some(text)) => match text.text("model_type")? {
            None | Some("qwen3_5_moe_text") => Ok(Family::Qwen35Moe),
            Some(_) => Err(text.unsupported("model_type", "qwen3_5_moe_text")),
        },
        ("qwen3_5_moe", None) => Err(outer.bad("text_config", "an object, as model_type is qwen3_5_moe")),
        ("qwen3_moe" | "qwen3_next" | "qwen3_5_moe_text", Some(_)) => {
            Err(outer.unsupported("text_config", "only around qwen3_5_moe"))
        }
        _ => Err(outer.unsupported("model_type", SUPPORTED)),
    }
}

fn tied(outer: &Fields<'_>, config: &Fields<'_>) -> Result<bool> {
    const KEY: &str = "tie_word_embeddings";
    match (outer.flag(KEY)?, config.flag(KEY)?) {
        (Some(a), Some(b)) if a != b => Err(outer.bad(KEY, &format!("{b}, as text_config says"))),
        (a, b) => Ok(a.or(b).unwrap_or(false)),
    }
}

fn read_text(config: &Fields<'_>, family: Family, unrecognised: &mut Vec<String>) -> Result<ModelSpec> {
    config.ignore(&NO_EFFECT);
    refuse_what_is_not_done(config, family)?;
    let hybrid = family != Family::Qwen3Moe;
    let hidden = config.require_size(JSON.hidden, limits::HIDDEN)?;
    let heads = config.require_size(JSON.heads, limits::HEADS)?;
    let head_dim = match config.size(JSON.head_dim, limits::HEAD_DIM)? {
        Some(dim) => dim,
        None if hybrid => 256,
        None if hidden / heads > 0 => hidden / heads,
        None => return Err(config.bad(JSON.head_dim, "a positive integer")),
    };
    let stated_context = config.require_size("max_position_embeddings", limits::CONTEXT)?;
    let rope = config_rope::read(config, family, head_dim, stated_context, unrecognised)?;
    let context_length = limits::usable_context(stated_context, &rope.scaling);
    let layers = layers(config, family)?;
    let any = |wanted: FeedForward| layers.iter().any(|l| l.feed_forward == wanted);
    let dense_width = match any(FeedForward::Dense) {
        true => config.require_size(JSON.dense_width, limits::WIDTH)?,
        false => {
            config.size(JSON.dense_width, 0..=*limits::WIDTH.end())?;
            0
        }
    };
    let moe = match any(FeedForward::Moe) {
        true => Some(moe(config, family)?),
        false => {
            config.ignore(&["norm_topk_prob", JSON.top_k, JSON.width, JSON.shared_width]);
            None
        }
    };
    let eps = config.number(JSON.norm_eps)?.ok_or_else(|| config.bad(JSON.norm_eps, "a small positive number"))?;
    Ok(ModelSpec {
        family,
        hidden,
        vocab: config.require_size(JSON.vocab, limits::VOCAB)?,
        attention: AttentionSpec {
            heads,
            kv_heads: config.require_size(JSON.kv_heads, limits::HEADS)?,
            head_dim,
            gated: hybrid,
            bias: config.flag(JSON.bias)?.unwrap_or(false),
            rope,
        },
        delta: if hybrid { Some(delta(config)?) } else { None },
        moe,
        dense_width,
        norm_eps: eps as f32,
        tied_head: config.flag("tie_word_embeddings")?.unwrap_or(false),
        context_length,
        mtp_layers: 0,
        layers,
    })
}

/// Fields that name a computation this library does not do, unless they hold the one value it does.
fn refuse_what_is_not_done(config: &Fields<'_>, family: Family) -> Result<()> {
    config_refused::check(config)?;
    config.only("hidden_act", &json!("silu"))?;
    config.only("use_sliding_window", &json!(false))?;
    config.only("is_encoder_decoder", &json!(false))?;
    config.only("per_layer_config", &json!({}))?;
    config.only("mamba_ssm_dtype", &json!("float32"))?;
    config.only("attn_output_gate", &json!(family != Family::Qwen3Moe))?;
    match config.get("output_gate_type") {
        Some(_) => Err(config.unsupported("output_gate_type", "no such field in these families")),
        None => Ok(()),
    }
}

fn delta(config: &Fields<'_>) -> Result<DeltaSpec> {
    Ok(DeltaSpec {
        key_heads: config.require_size(JSON.key_heads, limits::HEADS)?,
        value_heads: config.require_size(JSON.value_heads, limits::HEADS)?,
        key_dim: config.require_size(JSON.key_dim, limits::HEAD_DIM)?,
        value_dim: config.require_size(JSON.value_dim, limits::HEAD_DIM)?,
        conv_kernel: config.require_size(JSON.kernel, limits::KERNEL)?,
        head_order: HeadOrder::Grouped,
    })
}

fn moe(config: &Fields<'_>, family: Family) -> Result<MoeSpec> {
    const NORMALISE: &str = "norm_topk_prob";
    let normalise_top_k = match family {
        Family::Qwen3Moe => config.flag(NORMALISE)?.unwrap_or(false),
        Family::Qwen3Next => config.flag(NORMALISE)?.unwrap_or(true),
        Family::Qwen35Moe => {
            config.only(NORMALISE, &json!(true))?;
            true
        }
    };
    let shared_width = match family {
        Family::Qwen3Moe => {
            config.only(JSON.shared_width, &json!(0))?;
            0
        }
        _ => config.require_size(JSON.shared_width, limits::WIDTH)?,
    };
    Ok(MoeSpec {
        experts: experts(config)?,
        top_k: config.require_size(JSON.top_k, limits::EXPERTS)?,
        width: config.require_size(JSON.width, limits::WIDTH)?,
        shared_width,
        normalise_top_k,
    })
}

/// `num_experts`, which transformers 5 writes as `num_local_experts` for qwen3_moe.
fn experts(config: &Fields<'_>) -> Result<usize> {
    const OTHER: &str = "num_local_experts";
    match (config.size(JSON.experts, limits::EXPERTS)?, config.size(OTHER, limits::EXPERTS)?) {
        (Some(a), Some(b)) if a != b => Err(config.bad(OTHER, &format!("{a}, as {} says", JSON.experts))),
        (Some(n), _) | (None, Some(n)) => Ok(n),
        (None, None) => Err(config.bad(JSON.experts, "the number of experts")),
    }
}

fn layers(config: &Fields<'_>, family: Family) -> Result<Vec<LayerSpec>> {
    let count = config.require_size(JSON.layers, limits::LAYERS)?;
    let mixers = mixers(config, family, count)?;
    let step = config.size("decoder_sparse_step", 1..=*limits::LAYERS.end())?.unwrap_or(1);
    let dense = config.sizes("mlp_only_layers")?.unwrap_or_default();
    if dense.len() > count {
        return Err(config.bad("mlp_only_layers", &format!("at most {count} layers")));
    }
    if let Some(layer) = dense.iter().find(|&&l| l >= count) {
        return Err(config.bad("mlp_only_layers", &format!("layers below {count}, not {layer}")));
    }
    if family == Family::Qwen35Moe {
        config.only("decoder_sparse_step", &json!(1))?;
        config.only("mlp_only_layers", &json!([]))?;
    }
    let experts = experts(config)?;
    if experts == 0 && family == Family::Qwen35Moe {
        return Err(config.bad(JSON.experts, "at least 1"));
    }
    let feed_forward = |i: usize| match experts > 0 && (i + 1).is_multiple_of(step) && !dense.contains(&i) {
        true => FeedForward::Moe,
        false => FeedForward::Dense,
    };
    Ok(mixers.into_iter().enumerate().map(|(i, mixer)| LayerSpec { mixer, feed_forward: feed_forward(i) }).collect())
}

/// `layer_types`, or every `full_attention_interval`-th layer; where both stand they must agree.
fn mixers(config: &Fields<'_>, family: Family, count: usize) -> Result<Vec<Mixer>> {
    const TYPES: &str = "layer_types";
    const INTERVAL: &str = "full_attention_interval";
    let listed = config.texts(TYPES)?;
    let listed =
        listed.map(|types| types.into_iter().map(|t| mixer(config, t)).collect::<Result<Vec<_>>>()).transpose()?;
    if listed.as_ref().is_some_and(|types| types.len() != count) {
        return Err(config.bad(TYPES, &format!("{count} layers, as {} says", JSON.layers)));
    }
    if family == Family::Qwen3Moe {
        return match listed {
            Some(types) if types.contains(&Mixer::DeltaNet) => {
                Err(config.unsupported(TYPES, "full_attention alone in the qwen3_moe family"))
            }
            _ => Ok(vec![Mixer::Attention; count]),
        };
    }
    let interval = config.size(INTERVAL, 1..=*limits::LAYERS.end())?;
    let every =
        |n: usize| (1..=count).map(move |i| if i.is_multiple_of(n) { Mixer::Attention } else { Mixer::DeltaNet });
    match (listed, interval) {
        (Some(types), Some(n)) if !every(n).eq(types.iter().copied()) => {
            Err(config.bad(INTERVAL, "what layer_types says: the two contradict each other"))
        }
        (Some(types), _) => Ok(types),
        (None, interval) => Ok(every(interval.unwrap_or(4)).collect()),
    }
}

fn mixer(config: &Fields<'_>, name: &str) -> Result<Mixer> {
    match name {
        "full_attention" | "attention" => Ok(Mixer::Attention),
        "linear_attention" => Ok(Mixer::DeltaNet),
        other => Err(Error::unsupported(
            config.path(),
            format!("field layer_types holds {other:?}; supported: full_attention, linear_attention"),
        )),
    }
}
