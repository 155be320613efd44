//! Tensor names of Hugging Face checkpoints.

use super::role::Named;
use super::{DeltaTensor, ExpertPart, LayerTensor, Role, Unused};

/// What may stand before `layers.N.` and `embed_tokens`: text models, the vision-language wrapper, and its older form.
const PREFIXES: [&str; 3] = ["model.language_model.", "language_model.model.", "model."];

/// Tensors of the trunk outside its layers, behind a prefix.
const TRUNK: [(&str, Role); 2] = [("embed_tokens.weight", Role::Embedding), ("norm.weight", Role::FinalNorm)];

/// The head, which stands outside the prefix.
const HEADS: [&str; 2] = ["lm_head.weight", "language_model.lm_head.weight"];

/// Tensors of a layer, behind `layers.N.`. Routed experts one by one follow a pattern of their own.
const LAYER: [(&str, LayerTensor); 33] = [
    ("input_layernorm.weight", LayerTensor::InputNorm),
    ("post_attention_layernorm.weight", LayerTensor::PostAttentionNorm),
    ("self_attn.q_proj.weight", LayerTensor::Query),
    ("self_attn.k_proj.weight", LayerTensor::Key),
    ("self_attn.v_proj.weight", LayerTensor::Value),
    ("self_attn.o_proj.weight", LayerTensor::Output),
    ("self_attn.q_proj.bias", LayerTensor::QueryBias),
    ("self_attn.k_proj.bias", LayerTensor::KeyBias),
    ("self_attn.v_proj.bias", LayerTensor::ValueBias),
    ("self_attn.o_proj.bias", LayerTensor::OutputBias),
    ("self_attn.q_norm.weight", LayerTensor::QueryNorm),
    ("self_attn.k_norm.weight", LayerTensor::KeyNorm),
    ("linear_attn.in_proj_qkvz.weight", LayerTensor::Delta(DeltaTensor::QkvzInterleaved)),
    ("linear_attn.in_proj_ba.weight", LayerTensor::Delta(DeltaTensor::BaInterleaved)),
    ("linear_attn.in_proj_qkv.weight", LayerTensor::Delta(DeltaTensor::Qkv)),
    ("linear_attn.in_proj_z.weight", LayerTensor::Delta(DeltaTensor::Z)),
    ("linear_attn.in_proj_b.weight", LayerTensor::Delta(DeltaTensor::B)),
    ("linear_attn.in_proj_a.weight", LayerTensor::Delta(DeltaTensor::A)),
    ("linear_attn.conv1d.weight", LayerTensor::Delta(DeltaTensor::Conv)),
    ("linear_attn.A_log", LayerTensor::Delta(DeltaTensor::ALog)),
    ("linear_attn.dt_bias", LayerTensor::Delta(DeltaTensor::DtBias)),
    ("linear_attn.norm.weight", LayerTensor::Delta(DeltaTensor::Norm)),
    ("linear_attn.out_proj.weight", LayerTensor::Delta(DeltaTensor::Out)),
    ("mlp.gate.weight", LayerTensor::Router),
    ("mlp.experts.gate_up_proj", LayerTensor::ExpertsGateUp),
    ("mlp.experts.down_proj", LayerTensor::Experts(ExpertPart::Down)),
    ("mlp.shared_expert.gate_proj.weight", LayerTensor::SharedExpert(ExpertPart::Gate)),
    ("mlp.shared_expert.up_proj.weight", LayerTensor::SharedExpert(ExpertPart::Up)),
    ("mlp.shared_expert.down_proj.weight", LayerTensor::SharedExpert(ExpertPart::Down)),
    ("mlp.shared_expert_gate.weight", LayerTensor::SharedExpertGate),
    ("mlp.gate_proj.weight", LayerTensor::Dense(ExpertPart::Gate)),
    ("mlp.up_proj.weight", LayerTensor::Dense(ExpertPart::Up)),
    ("mlp.down_proj.weight", LayerTensor::Dense(ExpertPart::Down)),
];

const EXPERT_PARTS: [(&str, ExpertPart); 3] = [
    ("gate_proj.weight", ExpertPart::Gate),
    ("up_proj.weight", ExpertPart::Up),
    ("down_proj.weight", ExpertPart::Down),
];

/// What the tensor called `name` is, or `None` where nobody knows.
pub(super) fn classify(name: &str) -> Option<Named> {
    if let Some(reason) = unused(name) {
        return Some(Named::Unused(reason));
    }
    if HEADS.contains(&name) {
        return Some(Named::Role(Role::Head));
    }
    let rest = PREFIXES.iter().find_map(|p| name.strip_prefix(p))?;
    if let Some((_, role)) = TRUNK.iter().find(|(n, _)| *n == rest) {
        return Some(Named::Role(*role));
    }
    let (layer, rest) = number(rest.strip_prefix("layers.")?)?;
    let tensor = match rest.strip_prefix("mlp.experts.").and_then(number) {
        Some((expert, part)) => LayerTensor::Expert(expert, EXPERT_PARTS.iter().find(|(n, _)| *n == part)?.1),
        None => LAYER.iter().find(|(n, _)| *n == rest)?.1,
    };
    Some(Named::Role(Role::Layer(layer, tensor)))
}

fn unused(name: &str) -> Option<Unused> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|p| name.starts_with(p));
    if starts(&["model.visual.", "visual.", "model.vision_tower."]) {
        Some(Unused::Vision)
    } else if starts(&["mtp.", "model.mtp.", "model.language_model.mtp."]) {
        Some(Unused::Mtp)
    } else if name.ends_with("rotary_emb.inv_freq") {
        Some(Unused::RopeTable)
    } else {
        None
    }
}

/// The name of the tensor with `role`, with the prefix of text models; for roles that only GGUF has, the nearest one.
pub(super) fn name_of(role: Role) -> String {
    match role {
        Role::Head => HEADS[0].to_string(),
        Role::Embedding | Role::FinalNorm => {
            let name = TRUNK.iter().find(|(_, r)| *r == role).map_or("", |(n, _)| n);
            format!("model.{name}")
        }
        Role::Layer(layer, LayerTensor::Expert(expert, part)) => {
            let name = EXPERT_PARTS.iter().find(|(_, p)| *p == part).map_or("", |(n, _)| n);
            format!("model.layers.{layer}.mlp.experts.{expert}.{name}")
        }
        Role::Layer(layer, tensor) => {
            let tensor = match tensor {
                LayerTensor::Experts(ExpertPart::Gate | ExpertPart::Up) => LayerTensor::ExpertsGateUp,
                LayerTensor::Delta(DeltaTensor::NegExpA) => LayerTensor::Delta(DeltaTensor::ALog),
                other => other,
            };
            let name = LAYER.iter().find(|(_, t)| *t == tensor).map_or("", |(n, _)| n);
            format!("model.layers.{layer}.{name}")
        }
    }
}

/// Splits `12.rest` into 12 and `rest`. Only the shortest decimal spelling counts, so that no two names mean one tensor.
pub(super) fn number(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_once('.')?;
    let value: u32 = digits.parse().ok()?;
    (value.to_string() == digits).then_some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str) -> Option<Role> {
        match classify(name)? {
            Named::Role(role) => Some(role),
            Named::Unused(_) => None,
        }
    }

    #[test]
    fn every_prefix_leads_to_the_same_roles() {
        for prefix in PREFIXES {
            assert_eq!(role(&format!("{prefix}norm.weight")), Some(Role::FinalNorm));
            for (name, tensor) in &LAYER {
                assert_eq!(role(&format!("{prefix}layers.17.{name}")), Some(Role::Layer(17, *tensor)));
            }
        }
        assert_eq!(
            role("model.language_model.layers.3.mlp.experts.511.down_proj.weight"),
            Some(Role::Layer(3, LayerTensor::Expert(511, ExpertPart::Down)))
        );
    }

    #[test]
    fn names_and_roles_are_inverse() {
        for (_, tensor) in &LAYER {
            assert_eq!(role(&name_of(Role::Layer(4, *tensor))), Some(Role::Layer(4, *tensor)));
        }
        for r in [Role::Embedding, Role::FinalNorm, Role::Head, Role::Layer(0, LayerTensor::Expert(9, ExpertPart::Up))]
        {
            assert_eq!(role(&name_of(r)), Some(r));
        }
    }

    #[test]
    fn vision_and_mtp_are_known_and_unused() {
        for (name, reason) in [
            ("model.visual.blocks.0.attn.qkv.weight", Unused::Vision),
            ("mtp.layers.0.mlp.experts.3.up_proj.weight", Unused::Mtp),
            ("mtp.fc.weight", Unused::Mtp),
            ("model.layers.0.self_attn.rotary_emb.inv_freq", Unused::RopeTable),
        ] {
            assert!(matches!(classify(name), Some(Named::Unused(r)) if r == reason), "{name}");
        }
    }

    #[test]
    fn unusual_spellings_are_unknown() {
        for name in [
            "model.layers.01.input_layernorm.weight",
            "model.layers.+1.input_layernorm.weight",
            "model.layers.4294967296.input_layernorm.weight",
            "model.layers..input_layernorm.weight",
            "model.layers.0.mlp.experts.0.gate_up_proj",
            "model.layers.0.mlp.gate.e_score_correction_bias",
            "layers.0.input_layernorm.weight",
            "",
        ] {
            assert!(classify(name).is_none(), "{name}");
        }
    }
}
