//! A Hugging Face directory in memory.

use std::sync::Arc;

use half::bf16;
use qwen3moe::{
    CheckpointKind, DeltaTensor, Family, FeedForward, LayerTensor, Mixer, ModelSpec, Role, RopeScaling, Source,
};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::gguf::is_projection;
use super::plain::{Plain, Tensor, is_shifted};
use super::{Image, Target, bnb, int4};
use crate::failure::{Failure, Outcome};

/// One tensor of the file.
pub struct Stored {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// Writes `model` with its projections in `target`; embedding, head and routers stay BF16, as the tools leave them.
///
/// # Errors
/// What such directories cannot say.
pub fn image(model: &Plain, target: Target) -> Outcome<Image> {
    let (mut stored, mut values, mut in_format) = (Vec::new(), 0, 0);
    for tensor in &model.tensors {
        values += tensor.values.len() as u64;
        let name = CheckpointKind::HuggingFace.name_of(tensor.role);
        let quantised = if is_projection(tensor.role) { quantised(&name, tensor, target) } else { Vec::new() };
        if quantised.is_empty() {
            stored.push(float(name, tensor, model.spec.family));
        } else {
            in_format += tensor.values.len() as u64;
            stored.extend(quantised);
        }
    }
    let views = stored.iter().map(|s| Ok((s.name.as_str(), TensorView::new(s.dtype, s.shape.clone(), &s.bytes)?)));
    let views: Result<Vec<_>, safetensors::SafeTensorError> = views.collect();
    let file = views.and_then(|views| safetensors::serialize(views, None));
    let file = file.map_err(|e| Failure::new(format!("internal error: {e}")))?;
    let config = config(&model.spec, quantization_config(target))?.to_string().into_bytes();
    let files = vec![("config.json".to_owned(), config), ("model.safetensors".to_owned(), file)];
    Ok(Image { source: Source::Memory(Arc::from(files)), values, in_format })
}

/// The tensors that hold a projection; none where its shape does not allow the format.
fn quantised(name: &str, tensor: &Tensor, target: Target) -> Vec<Stored> {
    match target {
        Target::Bnb { fp4, nested } => {
            let stored = |part: bnb::Part| Stored {
                name: format!("{name}{}", part.suffix),
                dtype: if part.is_float { Dtype::F32 } else { Dtype::U8 },
                shape: part.shape,
                bytes: part.bytes,
            };
            bnb::encode(fp4, nested, &tensor.shape, &tensor.values).into_iter().map(stored).collect()
        }
        Target::Int4 { group, symmetric } => {
            int4::encode(name, group, symmetric, tensor.cols(), &tensor.values).unwrap_or_default()
        }
        Target::Ggml(_) => Vec::new(),
    }
}

/// Matrices in BF16, the rest in F32.
fn float(name: String, tensor: &Tensor, family: Family) -> Stored {
    let mut values = tensor.values.clone();
    if is_shifted(tensor.role, family) {
        values.iter_mut().for_each(|w| *w -= 1.0);
    }
    let (mut shape, mut dtype) = (tensor.shape.clone(), if tensor.shape.len() > 1 { Dtype::BF16 } else { Dtype::F32 });
    match tensor.role {
        Role::Layer(_, LayerTensor::Delta(DeltaTensor::NegExpA)) => values.iter_mut().for_each(|a| *a = (-*a).ln()),
        // `[channels, 1, kernel]`, as of a convolution.
        Role::Layer(_, LayerTensor::Delta(DeltaTensor::Conv)) => {
            shape.insert(1, 1);
            dtype = Dtype::F32;
        }
        Role::Layer(_, LayerTensor::SharedExpertGate) => shape = vec![1, tensor.cols()],
        _ => {}
    }
    let bytes = match dtype {
        Dtype::BF16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    Stored { name, dtype, shape, bytes }
}

fn quantization_config(target: Target) -> Value {
    match target {
        Target::Bnb { fp4, nested } => json!({
            "quant_method": "bitsandbytes",
            "load_in_4bit": true,
            "load_in_8bit": false,
            "bnb_4bit_compute_dtype": "bfloat16",
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_quant_type": if fp4 { "fp4" } else { "nf4" },
            "bnb_4bit_use_double_quant": nested,
        }),
        Target::Int4 { group, symmetric } => int4::config(group, symmetric),
        Target::Ggml(_) => Value::Null,
    }
}

fn config(spec: &ModelSpec, quantization: Value) -> Outcome<Value> {
    let (attention, rope) = (&spec.attention, &spec.attention.rope);
    if rope.scaling != RopeScaling::None {
        return Err(Failure::new("a model with scaled rotary frequencies is not written as a Hugging Face directory"));
    }
    let dense = spec.layers.iter().enumerate().filter(|(_, layer)| layer.feed_forward == FeedForward::Dense);
    let mut config = json!({
        "model_type": match spec.family {
            Family::Qwen35Moe => "qwen3_5_moe_text",
            other => other.name(),
        },
        "hidden_size": spec.hidden,
        "vocab_size": spec.vocab,
        "num_hidden_layers": spec.layers.len(),
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "attention_bias": attention.bias,
        "max_position_embeddings": spec.context_length,
        "rms_norm_eps": spec.norm_eps,
        "rope_theta": rope.theta,
        "tie_word_embeddings": spec.tied_head,
        "mlp_only_layers": dense.map(|(i, _)| i).collect::<Vec<_>>(),
        "quantization_config": quantization,
    });
    let mut set = |name: &str, value: Value| config[name] = value;
    if spec.dense_width > 0 {
        set("intermediate_size", spec.dense_width.into());
    }
    if let Some(moe) = &spec.moe {
        set("num_experts", moe.experts.into());
        set("num_experts_per_tok", moe.top_k.into());
        set("moe_intermediate_size", moe.width.into());
        set("norm_topk_prob", moe.normalise_top_k.into());
        if moe.shared_width > 0 {
            set("shared_expert_intermediate_size", moe.shared_width.into());
        }
    }
    if let Some(delta) = &spec.delta {
        let kind = |mixer| if mixer == Mixer::Attention { "full_attention" } else { "linear_attention" };
        set("layer_types", spec.layers.iter().map(|layer| kind(layer.mixer)).collect::<Vec<_>>().into());
        set("partial_rotary_factor", (rope.dim as f64 / attention.head_dim as f64).into());
        set("linear_num_key_heads", delta.key_heads.into());
        set("linear_num_value_heads", delta.value_heads.into());
        set("linear_key_head_dim", delta.key_dim.into());
        set("linear_value_head_dim", delta.value_dim.into());
        set("linear_conv_kernel_dim", delta.conv_kernel.into());
    }
    Ok(config)
}
