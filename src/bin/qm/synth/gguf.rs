//! The head of a synthetic model's GGUF file.

use super::shape::{Shape, Tensor};
use super::vocabulary::Vocabulary;
use crate::gguf::{Entry, Kind, Layout, Metadata};

/// ChatML as the Qwen models speak it.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + \
     message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' \
     }}{% endif %}";

pub fn layout(shape: &Shape, kind: Kind, tensors: &[Tensor]) -> Layout {
    let entry = |tensor: &Tensor| Entry { name: tensor.name.clone(), dims: tensor.dims.clone(), kind: tensor.kind };
    Layout::new(&metadata(shape, kind), &tensors.iter().map(entry).collect::<Vec<_>>())
}

fn metadata(shape: &Shape, kind: Kind) -> Metadata {
    let mut m = Metadata::default();
    let key = |name: &str| format!("{}.{name}", shape.arch);
    m.string("general.architecture", shape.arch);
    m.string("general.type", "model");
    m.string("general.name", &format!("Synthetic {} of {} layers", shape.name, shape.layers));
    m.u32("general.quantization_version", 2);
    m.u32("general.file_type", kind.file_type());
    m.u32(&key("block_count"), shape.layers);
    m.u32(&key("context_length"), shape.context);
    m.u32(&key("embedding_length"), shape.hidden);
    m.u32(&key("feed_forward_length"), shape.dense_width);
    m.u32(&key("attention.head_count"), shape.heads);
    m.u32(&key("attention.head_count_kv"), shape.kv_heads);
    m.u32(&key("attention.key_length"), shape.head_dim);
    m.u32(&key("attention.value_length"), shape.head_dim);
    m.f32(&key("attention.layer_norm_rms_epsilon"), 1e-6);
    m.f32(&key("rope.freq_base"), shape.rope_theta);
    m.u32(&key("rope.dimension_count"), shape.rope_dim);
    m.u32(&key("expert_count"), shape.experts);
    m.u32(&key("expert_used_count"), shape.top_k);
    m.u32(&key("expert_feed_forward_length"), shape.expert_width);
    if shape.shared_width > 0 {
        m.u32(&key("expert_shared_feed_forward_length"), shape.shared_width);
    }
    if let Some(delta) = shape.delta {
        m.u32(&key("full_attention_interval"), delta.interval);
        m.u32(&key("ssm.conv_kernel"), delta.conv_kernel);
        m.u32(&key("ssm.state_size"), delta.dim);
        m.u32(&key("ssm.group_count"), delta.key_heads);
        m.u32(&key("ssm.time_step_rank"), delta.value_heads);
        m.u32(&key("ssm.inner_size"), delta.values());
    }
    if shape.arch == "qwen35moe" {
        m.i32s(&key("rope.dimension_sections"), &[11, 11, 10, 0]);
    }
    let vocabulary = Vocabulary::new(shape);
    m.string("tokenizer.ggml.model", "gpt2");
    m.string("tokenizer.ggml.pre", shape.tokenizer_pre);
    m.strings("tokenizer.ggml.tokens", &vocabulary.tokens);
    m.i32s("tokenizer.ggml.token_type", &vocabulary.types);
    m.strings("tokenizer.ggml.merges", &vocabulary.merges);
    m.u32("tokenizer.ggml.bos_token_id", shape.specials_at);
    m.u32("tokenizer.ggml.eos_token_id", shape.specials_at + 2);
    m.u32("tokenizer.ggml.padding_token_id", shape.specials_at);
    m.bool("tokenizer.ggml.add_bos_token", false);
    m.string("tokenizer.chat_template", CHAT_TEMPLATE);
    m
}
