//! Tensor names of GGUF files, as llama.cpp's converter writes them.

use super::names_hf::number;
use super::role::Named;
use super::{DeltaTensor, ExpertPart, LayerTensor, Role, Unused};

const TRUNK: [(&str, Role); 3] =
    [("token_embd.weight", Role::Embedding), ("output_norm.weight", Role::FinalNorm), ("output.weight", Role::Head)];

/// Tensors of a block, behind `blk.N.`.
const BLOCK: [(&str, LayerTensor); 36] = [
    ("attn_norm.weight", LayerTensor::InputNorm),
    ("post_attention_norm.weight", LayerTensor::PostAttentionNorm),
    ("ffn_norm.weight", LayerTensor::PostAttentionNorm),
    ("attn_q.weight", LayerTensor::Query),
    ("attn_k.weight", LayerTensor::Key),
    ("attn_v.weight", LayerTensor::Value),
    ("attn_output.weight", LayerTensor::Output),
    ("attn_q.bias", LayerTensor::QueryBias),
    ("attn_k.bias", LayerTensor::KeyBias),
    ("attn_v.bias", LayerTensor::ValueBias),
    ("attn_output.bias", LayerTensor::OutputBias),
    ("attn_q_norm.weight", LayerTensor::QueryNorm),
    ("attn_k_norm.weight", LayerTensor::KeyNorm),
    ("ssm_in.weight", LayerTensor::Delta(DeltaTensor::QkvzInterleaved)),
    ("ssm_ba.weight", LayerTensor::Delta(DeltaTensor::BaInterleaved)),
    ("attn_qkv.weight", LayerTensor::Delta(DeltaTensor::Qkv)),
    ("attn_gate.weight", LayerTensor::Delta(DeltaTensor::Z)),
    ("ssm_beta.weight", LayerTensor::Delta(DeltaTensor::B)),
    ("ssm_alpha.weight", LayerTensor::Delta(DeltaTensor::A)),
    ("ssm_conv1d.weight", LayerTensor::Delta(DeltaTensor::Conv)),
    ("ssm_a", LayerTensor::Delta(DeltaTensor::NegExpA)),
    ("ssm_dt.bias", LayerTensor::Delta(DeltaTensor::DtBias)),
    ("ssm_norm.weight", LayerTensor::Delta(DeltaTensor::Norm)),
    ("ssm_out.weight", LayerTensor::Delta(DeltaTensor::Out)),
    ("ffn_gate_inp.weight", LayerTensor::Router),
    ("ffn_gate_exps.weight", LayerTensor::Experts(ExpertPart::Gate)),
    ("ffn_up_exps.weight", LayerTensor::Experts(ExpertPart::Up)),
    ("ffn_down_exps.weight", LayerTensor::Experts(ExpertPart::Down)),
    ("ffn_gate_up_exps.weight", LayerTensor::ExpertsGateUp),
    ("ffn_gate_shexp.weight", LayerTensor::SharedExpert(ExpertPart::Gate)),
    ("ffn_up_shexp.weight", LayerTensor::SharedExpert(ExpertPart::Up)),
    ("ffn_down_shexp.weight", LayerTensor::SharedExpert(ExpertPart::Down)),
    ("ffn_gate_inp_shexp.weight", LayerTensor::SharedExpertGate),
    ("ffn_gate.weight", LayerTensor::Dense(ExpertPart::Gate)),
    ("ffn_up.weight", LayerTensor::Dense(ExpertPart::Up)),
    ("ffn_down.weight", LayerTensor::Dense(ExpertPart::Down)),
];

/// What the tensor called `name` is, or `None` where nobody knows. Blocks from `trunk` on belong to the MTP head.
pub(super) fn classify(name: &str, trunk: u32) -> Option<Named> {
    if let Some((_, role)) = TRUNK.iter().find(|(n, _)| *n == name) {
        return Some(Named::Role(*role));
    }
    if name == "rope_freqs.weight" {
        return Some(Named::Unused(Unused::RopeTable));
    }
    let (block, rest) = number(name.strip_prefix("blk.")?)?;
    if block >= trunk {
        let known = rest.starts_with("nextn.") || BLOCK.iter().any(|(n, _)| *n == rest);
        return known.then_some(Named::Unused(Unused::Mtp));
    }
    let (_, tensor) = BLOCK.iter().find(|(n, _)| *n == rest)?;
    Some(Named::Role(Role::Layer(block, *tensor)))
}

/// The name of the tensor with `role`. Experts one by one have none: the files hold them together.
pub(super) fn name_of(role: Role) -> String {
    match role {
        Role::Layer(layer, tensor) => {
            let tensor = match tensor {
                LayerTensor::Expert(_, part) => LayerTensor::Experts(part),
                LayerTensor::Delta(DeltaTensor::ALog) => LayerTensor::Delta(DeltaTensor::NegExpA),
                other => other,
            };
            let name = BLOCK.iter().find(|(_, t)| *t == tensor).map_or("", |(n, _)| n);
            format!("blk.{layer}.{name}")
        }
        _ => TRUNK.iter().find(|(_, r)| *r == role).map_or("", |(n, _)| n).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_behind_the_trunk_are_the_mtp_head() {
        for name in ["blk.4.nextn.eh_proj.weight", "blk.4.attn_norm.weight", "blk.5.ffn_gate_exps.weight"] {
            assert!(matches!(classify(name, 4), Some(Named::Unused(Unused::Mtp))), "{name}");
        }
        assert!(classify("blk.3.nextn.eh_proj.weight", 4).is_none(), "a trunk block has no such tensor");
        assert!(classify("blk.4.something.weight", 4).is_none());
    }

    #[test]
    fn both_names_of_the_second_norm_mean_the_same() {
        for name in ["blk.0.ffn_norm.weight", "blk.0.post_attention_norm.weight"] {
            let Some(Named::Role(role)) = classify(name, 1) else { panic!("{name}") };
            assert_eq!(role, Role::Layer(0, LayerTensor::PostAttentionNorm));
        }
    }

    #[test]
    fn names_and_roles_are_inverse() {
        for (_, tensor) in BLOCK {
            let role = Role::Layer(7, tensor);
            assert!(matches!(classify(&name_of(role), 8), Some(Named::Role(r)) if r == role), "{role:?}");
        }
        for (name, role) in TRUNK {
            assert_eq!(name_of(role), name);
        }
    }
}
