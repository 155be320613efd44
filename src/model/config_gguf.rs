//! GGUF metadata of the three architectures. Definitions: gguf-py's constants.py and llama.cpp's loader.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::config::{ConfigReport, mtp_layers};
use super::config_limits::{self as limits, GGUF};
use super::{
    AttentionSpec, DeltaSpec, Family, FeedForward, HeadOrder, LayerSpec, Mixer, ModelSpec, MoeSpec, RopeScaling,
    RopeSpec,
};
use crate::checkpoint::{Checkpoint, LayerTensor, Metadata, Role, Value};
use crate::error::{Error, Result};

/// Keys that do not change what a loaded model computes.
const NO_EFFECT: [&str; 4] = ["block_count", "feed_forward_length", "nextn_predict_layers", "rope.scaling.finetuned"];

/// Keys that name a computation this library does not do, unless they hold one of these values. Booleans count as 0, 1.
const ONLY: [(&str, &[f64]); 28] = [
    ("attention.causal", &[1.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.output_scale", &[0.0, 1.0]),
    ("attention.shared_kv_layers", &[0.0]),
    ("attention.sliding_window", &[0.0]),
    ("attention.temperature_length", &[0.0]),
    ("attention.temperature_scale", &[0.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("expert_gating_func", &[0.0, 1.0]),
    ("expert_group_count", &[0.0, 1.0]),
    ("expert_group_used_count", &[0.0, 1.0]),
    ("expert_shared_count", &[0.0, 1.0]),
    ("expert_weights_norm", &[1.0]),
    ("expert_weights_scale", &[0.0, 1.0]),
    ("final_logit_softcapping", &[0.0]),
    ("interleave_moe_layer_step", &[0.0, 1.0]),
    ("leading_dense_block_count", &[0.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("moe_every_n_layers", &[0.0, 1.0]),
    ("n_deepstack_layers", &[0.0]),
    ("pooling_type", &[0.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("rope.scaling.alpha", &[0.0]),
    ("router_logit_softcapping", &[0.0]),
    ("ssm.dt_b_c_rms", &[0.0]),
    ("use_parallel_residual", &[0.0]),
];

/// Keys of the text side by their prefix, with the names that are read and those that say nothing byte-level BPE needs.
const TEXT_PREFIXES: [(&str, &[&str]); 2] = [
    ("general.sampling.", &["temp", "top_k", "top_p", "min_p", "penalty_repeat"]),
    (
        "tokenizer.ggml.",
        &[
            "model",
            "pre",
            "tokens",
            "token_type",
            "merges",
            "scores",
            "bos_token_id",
            "eos_token_id",
            "eot_token_id",
            "eom_token_id",
            "add_bos_token",
            "add_eos_token",
            "unknown_token_id",
            "padding_token_id",
            "seperator_token_id",
            "cls_token_id",
            "mask_token_id",
            "fim_pre_token_id",
            "fim_suf_token_id",
            "fim_mid_token_id",
            "fim_pad_token_id",
            "fim_rep_token_id",
            "fim_sep_token_id",
            "prefix_token_id",
            "suffix_token_id",
            "middle_token_id",
            "token_type_count",
            "add_space_prefix",
        ],
    ),
];

/// Reads the sizes from the metadata of a GGUF file.
pub(super) fn read(checkpoint: &Checkpoint, metadata: &Metadata) -> Result<ConfigReport> {
    const ARCH: &str = "general.architecture";
    let family = match metadata.string(ARCH)? {
        Some("qwen3moe") => Family::Qwen3Moe,
        Some("qwen3next") => Family::Qwen3Next,
        Some("qwen35moe") => Family::Qwen35Moe,
        _ => return Err(metadata.unsupported(ARCH, "qwen3moe, qwen3next, qwen35moe")),
    };
    let arch = metadata.string(ARCH)?.unwrap_or_default();
    let keys = Keys { metadata, arch, seen: RefCell::default() };
    for key in NO_EFFECT {
        keys.get(key);
    }
    for (key, allowed) in ONLY {
        keys.only(key, allowed)?;
    }
    let spec = read_spec(checkpoint, &keys, family)?;
    limits::check(metadata.path(), &GGUF, &spec)?;
    Ok(ConfigReport { spec, unrecognised: keys.unrecognised() })
}

fn read_spec(checkpoint: &Checkpoint, keys: &Keys<'_>, family: Family) -> Result<ModelSpec> {
    let hybrid = family != Family::Qwen3Moe;
    let hidden = keys.require_size(GGUF.hidden, limits::HIDDEN)?;
    let layers = layers(keys, hybrid)?;
    let heads = keys.uniform_size(GGUF.heads, limits::HEADS, &layers)?;
    let head_dim = match keys.size(GGUF.head_dim, limits::HEAD_DIM)? {
        Some(dim) => dim,
        None if hidden / heads > 0 => hidden / heads,
        None => return Err(keys.bad(GGUF.head_dim, "a positive integer")),
    };
    const VALUE_LENGTH: &str = "attention.value_length";
    if keys.size(VALUE_LENGTH, limits::HEAD_DIM)?.is_some_and(|length| length != head_dim) {
        return Err(keys.unsupported(VALUE_LENGTH, &format!("the length of a key, {head_dim}")));
    }
    let scale = 1.0 / (head_dim as f64).sqrt();
    if keys.number("attention.scale")?.is_some_and(|s| s != 0.0 && (s - scale).abs() > 1e-6 * scale) {
        return Err(keys.unsupported("attention.scale", &format!("{scale}")));
    }
    let stated_context = keys.require_size("context_length", limits::CONTEXT)?;
    let rope = rope(keys, family, head_dim, stated_context)?;
    let context_length = limits::usable_context(stated_context, &rope.scaling);
    let embedding = checkpoint.require(Role::Embedding)?;
    let vocab = embedding.shape.first().copied().filter(|v| limits::VOCAB.contains(v));
    let vocab = vocab.ok_or_else(|| {
        let what = format!("tensor {} has the shape {:?}, no vocabulary", embedding.name, embedding.shape);
        Error::bad_file(checkpoint.file_path(embedding), what)
    })?;
    if keys.size(GGUF.vocab, limits::VOCAB)?.is_some_and(|v| v != vocab) {
        return Err(keys.bad(GGUF.vocab, &format!("{vocab}, the rows of {}", embedding.name)));
    }
    let first_attention = layers.iter().position(|l| l.mixer == Mixer::Attention).unwrap_or(0) as u32;
    let kv_heads = keys.uniform_size(GGUF.kv_heads, limits::HEADS, &layers)?;
    let eps = keys.number(GGUF.norm_eps)?.ok_or_else(|| keys.bad(GGUF.norm_eps, "a small positive number"))?;
    Ok(ModelSpec {
        family,
        hidden,
        vocab,
        layers,
        attention: AttentionSpec {
            heads,
            kv_heads,
            head_dim,
            gated: hybrid,
            bias: checkpoint.tensor(Role::Layer(first_attention, LayerTensor::QueryBias)).is_some(),
            rope,
        },
        delta: if hybrid { Some(delta(keys, family)?) } else { None },
        moe: Some(MoeSpec {
            experts: keys.require_size(GGUF.experts, 1..=*limits::EXPERTS.end())?,
            top_k: keys.require_size(GGUF.top_k, limits::EXPERTS)?,
            width: keys.require_size(GGUF.width, limits::WIDTH)?,
            shared_width: match hybrid {
                true => keys.require_size(GGUF.shared_width, limits::WIDTH)?,
                false => keys.size(GGUF.shared_width, 0..=0)?.unwrap_or(0),
            },
            // llama.cpp normalises in all three architectures.
            normalise_top_k: true,
        }),
        dense_width: 0,
        norm_eps: eps as f32,
        tied_head: checkpoint.tensor(Role::Head).is_none(),
        context_length,
        mtp_layers: mtp_layers(checkpoint),
    })
}

/// The trunk: all blocks, less those of the MTP head behind them.
fn layers(keys: &Keys<'_>, hybrid: bool) -> Result<Vec<LayerSpec>> {
    const RECURRENT: &str = "attention.recurrent_layers";
    let blocks = keys.require_size(GGUF.layers, limits::LAYERS)?;
    let behind = keys.size("nextn_predict_layers", 0..=blocks - 1)?.unwrap_or(0);
    let count = blocks - behind;
    let recurrent: Vec<bool> = match keys.get(RECURRENT) {
        None if !hybrid => vec![false; count],
        None => every(count, interval(keys)?.unwrap_or(4)).collect(),
        Some(Value::Bools(list)) if list.len() == count || list.len() == blocks => list[..count].to_vec(),
        Some(_) => return Err(keys.bad(RECURRENT, &format!("an array of {blocks} booleans"))),
    };
    if !hybrid && recurrent.contains(&true) {
        return Err(keys.unsupported(RECURRENT, "false for every block of this architecture"));
    }
    if hybrid && interval(keys)?.is_some_and(|n| !every(count, n).eq(recurrent.iter().copied())) {
        return Err(keys.bad(INTERVAL, &format!("what {RECURRENT} says: the two contradict each other")));
    }
    let mixer = |recurrent: bool| if recurrent { Mixer::DeltaNet } else { Mixer::Attention };
    Ok(recurrent.into_iter().map(|r| LayerSpec { mixer: mixer(r), feed_forward: FeedForward::Moe }).collect())
}

const INTERVAL: &str = "full_attention_interval";

fn interval(keys: &Keys<'_>) -> Result<Option<usize>> {
    keys.size(INTERVAL, 1..=*limits::LAYERS.end())
}

/// Which of `count` layers are recurrent where every `interval`-th has attention.
fn every(count: usize, interval: usize) -> impl Iterator<Item = bool> {
    (1..=count).map(move |i| !i.is_multiple_of(interval))
}

fn delta(keys: &Keys<'_>, family: Family) -> Result<DeltaSpec> {
    let value_heads = keys.require_size(GGUF.value_heads, limits::HEADS)?;
    let inner = keys.require_size(GGUF.value_dim, 1..=*limits::HEADS.end() * *limits::HEAD_DIM.end())?;
    if !inner.is_multiple_of(value_heads) {
        return Err(keys.bad(GGUF.value_dim, &format!("a multiple of {}, {value_heads}", GGUF.value_heads)));
    }
    Ok(DeltaSpec {
        key_heads: keys.require_size(GGUF.key_heads, limits::HEADS)?,
        value_heads,
        key_dim: keys.require_size(GGUF.key_dim, limits::HEAD_DIM)?,
        value_dim: inner / value_heads,
        conv_kernel: keys.require_size(GGUF.kernel, limits::KERNEL)?,
        head_order: if family == Family::Qwen35Moe { HeadOrder::Tiled } else { HeadOrder::Grouped },
    })
}

fn rope(keys: &Keys<'_>, family: Family, head_dim: usize, context: usize) -> Result<RopeSpec> {
    let dim = keys.size(GGUF.rope_dim, 1..=head_dim)?.unwrap_or(head_dim);
    const SECTIONS: &str = "rope.dimension_sections";
    if family == Family::Qwen35Moe {
        // Text positions are equal on all axes, so that the sections only have to add up.
        let sections = keys.integers(SECTIONS)?.ok_or_else(|| keys.bad(SECTIONS, "an array of integers"))?;
        let sum = sections.iter().try_fold(0i64, |n, &s| n.checked_add(s).filter(|_| s >= 0));
        if sum != i64::try_from(dim / 2).ok() {
            return Err(keys.bad(SECTIONS, &format!("numbers that add up to {}", dim / 2)));
        }
    }
    let theta = keys.number(GGUF.theta)?.ok_or_else(|| keys.bad(GGUF.theta, "the base of the frequencies"))?;
    Ok(RopeSpec { dim, theta, scaling: scaling(keys, context)? })
}

fn scaling(keys: &Keys<'_>, context: usize) -> Result<RopeScaling> {
    const TYPE: &str = "rope.scaling.type";
    const FACTOR: &str = "rope.scaling.factor";
    let factor = match keys.number(FACTOR)? {
        None | Some(0.0) => 1.0,
        Some(f) if (1.0..=1e6).contains(&f) => f,
        Some(_) => return Err(keys.bad(FACTOR, "a number from 1 to 1e6")),
    };
    keys.only("rope.scale_linear", &[0.0, 1.0])?;
    let original = keys.size("rope.scaling.original_context_length", limits::CONTEXT)?.unwrap_or(context);
    let kind = keys.string(TYPE)?.unwrap_or(if factor == 1.0 { "none" } else { "linear" });
    match kind {
        "none" => Ok(RopeScaling::None),
        "linear" if factor == 1.0 => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor }),
        "yarn" => {
            let positive = |key: &str, default: f64| match keys.number(key)? {
                Some(v) if v < 0.0 => Err(keys.bad(key, "a positive number")),
                Some(v) if v > 0.0 => Ok(v),
                _ => Ok(default),
            };
            keys.only("rope.scaling.yarn_ext_factor", &[-1.0, 1.0])?;
            keys.only("rope.scaling.yarn_attn_factor", &[-1.0, 0.0, 1.0])?;
            keys.only("rope.scaling.yarn_log_multiplier", &[0.0])?;
            let attention = positive("rope.scaling.attn_factor", 1.0)?;
            Ok(RopeScaling::Yarn {
                factor,
                original_context: original,
                beta_fast: positive("rope.scaling.yarn_beta_fast", 32.0)?,
                beta_slow: positive("rope.scaling.yarn_beta_slow", 1.0)?,
                attention_factor: attention * (0.1 * factor.ln() + 1.0),
                truncate: true,
            })
        }
        _ => Err(keys.unsupported(TYPE, "none, linear, yarn")),
    }
}

/// The keys of one architecture, remembering which were asked for.
struct Keys<'a> {
    metadata: &'a Metadata,
    arch: &'a str,
    seen: RefCell<BTreeSet<String>>,
}

impl<'a> Keys<'a> {
    fn key(&self, name: &str) -> String {
        let key = format!("{}.{name}", self.arch);
        self.seen.borrow_mut().insert(key.clone());
        key
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.metadata.get(&self.key(name))
    }

    fn bad(&self, name: &str, expected: &str) -> Error {
        self.metadata.bad(&self.key(name), expected)
    }

    fn unsupported(&self, name: &str, supported: &str) -> Error {
        self.metadata.unsupported(&self.key(name), supported)
    }

    fn string(&self, name: &str) -> Result<Option<&'a str>> {
        self.metadata.string(&self.key(name))
    }

    fn integers(&self, name: &str) -> Result<Option<&'a [i64]>> {
        self.metadata.integers(&self.key(name))
    }

    fn size(&self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        let Some(value) = self.metadata.unsigned(&self.key(name))? else { return Ok(None) };
        let size = usize::try_from(value).ok().filter(|v| range.contains(v));
        size.map(Some).ok_or_else(|| self.bad(name, &format!("an integer from {} to {}", range.start(), range.end())))
    }

    fn require_size(&self, name: &str, range: RangeInclusive<usize>) -> Result<usize> {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        self.size(name, range)?.ok_or_else(|| self.bad(name, &expected))
    }

    /// A size of the attention that files may give once or block by block. Layers without attention may say 0; the others
    /// must agree. What is said of blocks behind the trunk does not count.
    fn uniform_size(&self, name: &str, range: RangeInclusive<usize>, layers: &[LayerSpec]) -> Result<usize> {
        let Some(Value::Integers(list)) = self.get(name) else { return self.require_size(name, range) };
        let blocks = self.require_size(GGUF.layers, limits::LAYERS)?;
        if list.len() != blocks && list.len() != layers.len() {
            return Err(self.bad(name, &format!("one number, or one for each of the {blocks} blocks")));
        }
        let mut found = None;
        for (index, (&size, layer)) in list.iter().zip(layers).enumerate() {
            if size == 0 && layer.mixer == Mixer::DeltaNet {
                continue;
            }
            let Some(size) = usize::try_from(size).ok().filter(|s| range.contains(s)) else {
                let expected = format!("an integer from {} to {}", range.start(), range.end());
                return Err(self.bad(name, &format!("{expected} for block {index}, not {size}")));
            };
            if found.is_some_and(|other| other != size) {
                return Err(self.unsupported(name, "the same number in every layer"));
            }
            found = Some(size);
        }
        found.ok_or_else(|| self.bad(name, "positive integers"))
    }

    /// A finite number, of whatever type.
    fn number(&self, name: &str) -> Result<Option<f64>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Float(v)) if v.is_finite() => Ok(Some(*v)),
            Some(Value::Unsigned(v)) => Ok(Some(*v as f64)),
            Some(Value::Signed(v)) => Ok(Some(*v as f64)),
            Some(_) => Err(self.bad(name, "a finite number")),
        }
    }

    /// Refuses every value but those allowed; an absent key passes.
    fn only(&self, name: &str, allowed: &[f64]) -> Result<()> {
        let value = match self.get(name) {
            None => return Ok(()),
            Some(Value::Bool(v)) => f64::from(u8::from(*v)),
            Some(_) => self.number(name)?.unwrap_or(f64::NAN),
        };
        match allowed.contains(&value) {
            true => Ok(()),
            false => Err(self.unsupported(name, &format!("{allowed:?}"))),
        }
    }

    fn unrecognised(&self) -> Vec<String> {
        let seen = self.seen.borrow();
        let own = format!("{}.", self.arch);
        let unknown = self.metadata.keys().into_iter().filter(|key| {
            let of_text = TEXT_PREFIXES.iter().find_map(|(prefix, known)| Some((key.strip_prefix(prefix)?, known)));
            match of_text {
                Some((name, known)) => !known.contains(&name),
                None => key.starts_with(&own) && !seen.contains(*key),
            }
        });
        unknown.map(str::to_string).collect()
    }
}
