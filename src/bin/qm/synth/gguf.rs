//! The head of a GGUF file, version 3: metadata and the list of tensors.
//! Definition: github.com/ggml-org/ggml, docs/gguf.md.

use super::kind::Kind;
use super::shape::{Shape, Tensor};
use super::vocabulary::Vocabulary;

/// Tensors begin at multiples of this (`general.alignment`, whose default this is).
pub const ALIGNMENT: u64 = 32;

/// ChatML as the Qwen models speak it.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + \
     message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' \
     }}{% endif %}";

/// Where each tensor lies, and everything before the first of them.
pub struct Layout {
    pub head: Vec<u8>,
    /// Offset of each tensor from the start of the file.
    pub offsets: Vec<u64>,
    pub file_bytes: u64,
}

pub fn layout(shape: &Shape, kind: Kind, tensors: &[Tensor]) -> Layout {
    let metadata = metadata(shape, kind);
    let mut head = Vec::new();
    head.extend(b"GGUF");
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend(metadata.count.to_le_bytes());
    head.extend(&metadata.bytes);
    let mut relative = Vec::with_capacity(tensors.len());
    let mut end = 0u64;
    for tensor in tensors {
        let offset = end.next_multiple_of(ALIGNMENT);
        put_string(&mut head, &tensor.name);
        head.extend((tensor.dims.len() as u32).to_le_bytes());
        tensor.dims.iter().for_each(|d| head.extend(d.to_le_bytes()));
        head.extend(tensor.kind.ggml_type().to_le_bytes());
        head.extend(offset.to_le_bytes());
        relative.push(offset);
        end = offset + tensor.bytes();
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
    let start = head.len() as u64;
    Layout { head, offsets: relative.iter().map(|o| start + o).collect(), file_bytes: start + end }
}

/// Key-value pairs in their encoded form.
#[derive(Default)]
struct Metadata {
    bytes: Vec<u8>,
    count: u64,
}

fn put_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// Type numbers of `enum gguf_metadata_value_type`.
mod value_type {
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
}

impl Metadata {
    fn key(&mut self, key: &str, value_type: u32) {
        put_string(&mut self.bytes, key);
        self.bytes.extend(value_type.to_le_bytes());
        self.count += 1;
    }

    fn u32(&mut self, key: &str, value: u32) {
        self.key(key, value_type::U32);
        self.bytes.extend(value.to_le_bytes());
    }

    fn f32(&mut self, key: &str, value: f32) {
        self.key(key, value_type::F32);
        self.bytes.extend(value.to_le_bytes());
    }

    fn bool(&mut self, key: &str, value: bool) {
        self.key(key, value_type::BOOL);
        self.bytes.push(u8::from(value));
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key, value_type::STRING);
        put_string(&mut self.bytes, value);
    }

    fn array(&mut self, key: &str, element_type: u32, len: usize) {
        self.key(key, value_type::ARRAY);
        self.bytes.extend(element_type.to_le_bytes());
        self.bytes.extend((len as u64).to_le_bytes());
    }

    fn i32s(&mut self, key: &str, values: &[i32]) {
        self.array(key, value_type::I32, values.len());
        values.iter().for_each(|v| self.bytes.extend(v.to_le_bytes()));
    }

    fn strings(&mut self, key: &str, values: &[String]) {
        self.array(key, value_type::STRING, values.len());
        values.iter().for_each(|v| put_string(&mut self.bytes, v));
    }
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
