//! A GGUF file in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use qwen3moe::{CheckpointKind, Family, FeedForward, LayerTensor, Mixer, ModelSpec, Role, RopeScaling, Source};

use super::plain::{Plain, Tensor};
use super::{Image, ggml};
use crate::failure::{Failure, Outcome};
use crate::gguf::{Entry, Kind, Layout, Metadata};

/// Writes `model` with its matrices in `kind`.
///
/// # Errors
/// What the architecture's GGUF files cannot say.
pub fn image(model: &Plain, kind: Kind) -> Outcome<Image> {
    let mut groups: BTreeMap<String, Vec<&Tensor>> = BTreeMap::new();
    for tensor in &model.tensors {
        groups.entry(CheckpointKind::Gguf.name_of(tensor.role)).or_default().push(tensor);
    }
    let (mut entries, mut contents, mut in_format) = (Vec::new(), Vec::new(), 0);
    for (name, mut tensors) in groups {
        tensors.sort_by_key(|tensor| expert(tensor.role));
        let Some(first) = tensors.first() else { continue };
        let stored = stored_kind(first, kind);
        let mut dims: Vec<u64> = first.shape.iter().rev().map(|&d| d as u64).collect();
        if let Role::Layer(_, LayerTensor::SharedExpertGate) = first.role {
            dims.truncate(1);
        }
        if let Role::Layer(_, LayerTensor::Expert(..)) = first.role {
            dims.push(tensors.len() as u64);
        }
        let mut bytes = Vec::new();
        tensors.iter().for_each(|tensor| ggml::encode(stored, &tensor.values, &mut bytes));
        if stored == kind {
            in_format += dims.iter().product::<u64>();
        }
        entries.push(Entry { name, dims, kind: stored });
        contents.push(bytes);
    }
    let layout = Layout::new(&metadata(&model.spec, kind)?, &entries);
    let mut file = layout.head;
    for (offset, bytes) in layout.offsets.iter().zip(contents) {
        file.resize(usize::try_from(*offset).unwrap_or(usize::MAX), 0);
        file.extend(bytes);
    }
    let values = entries.iter().map(|entry| entry.dims.iter().product::<u64>()).sum();
    let source = Source::Memory(Arc::from(vec![("model.gguf".to_owned(), file)]));
    Ok(Image { source, values, in_format })
}

fn expert(role: Role) -> u32 {
    match role {
        Role::Layer(_, LayerTensor::Expert(expert, _)) => expert,
        _ => 0,
    }
}

/// As llama.cpp's quantiser chooses: routers and all that is no matrix stay in F32; where a row is no whole number of
/// blocks a type with smaller ones steps in (there Q5_0 and Q5_1 too, which this library does not read).
fn stored_kind(tensor: &Tensor, kind: Kind) -> Kind {
    use LayerTensor as T;
    let keeps_floats = matches!(tensor.role, Role::Layer(_, T::Router | T::SharedExpertGate | T::Delta(_)))
        && !is_projection(tensor.role);
    if tensor.shape.len() < 2 || keeps_floats {
        return Kind::F32;
    }
    let fits = |kind: &Kind| (tensor.cols() as u64).is_multiple_of(kind.block_elements());
    [kind, Kind::Q8_0, Kind::F16].into_iter().find(fits).unwrap_or(Kind::F16)
}

/// Whether the tensor is a matrix that activations are multiplied with, and that quantisers take on.
pub fn is_projection(role: Role) -> bool {
    use LayerTensor as T;
    use qwen3moe::DeltaTensor as D;
    let Role::Layer(_, tensor) = role else { return false };
    match tensor {
        T::Query | T::Key | T::Value | T::Output | T::Expert(..) | T::SharedExpert(_) | T::Dense(_) => true,
        T::Delta(delta) => {
            matches!(delta, D::QkvzInterleaved | D::BaInterleaved | D::Qkv | D::Z | D::B | D::A | D::Out)
        }
        _ => false,
    }
}

fn metadata(spec: &ModelSpec, kind: Kind) -> Outcome<Metadata> {
    let arch = match spec.family {
        Family::Qwen3Moe => "qwen3moe",
        Family::Qwen3Next => "qwen3next",
        Family::Qwen35Moe => return Err(cannot("value heads of this family in another order")),
    };
    let Some(moe) = spec.moe.as_ref().filter(|_| spec.layers.iter().all(|l| l.feed_forward == FeedForward::Moe)) else {
        return Err(cannot("dense layers"));
    };
    if spec.attention.rope.scaling != RopeScaling::None || !moe.normalise_top_k {
        return Err(cannot("scaled rotary frequencies, or experts whose weights do not add up to 1,"));
    }
    let mut m = Metadata::default();
    let key = |name: &str| format!("{arch}.{name}");
    let attention = &spec.attention;
    m.string("general.architecture", arch);
    m.u32("general.quantization_version", 2);
    m.u32("general.file_type", kind.file_type());
    let sizes = [
        ("block_count", spec.layers.len()),
        ("context_length", spec.context_length),
        ("embedding_length", spec.hidden),
        ("attention.head_count", attention.heads),
        ("attention.head_count_kv", attention.kv_heads),
        ("attention.key_length", attention.head_dim),
        ("attention.value_length", attention.head_dim),
        ("rope.dimension_count", attention.rope.dim),
        ("expert_count", moe.experts),
        ("expert_used_count", moe.top_k),
        ("expert_feed_forward_length", moe.width),
    ];
    let mut sizes = sizes.to_vec();
    if moe.shared_width > 0 {
        sizes.push(("expert_shared_feed_forward_length", moe.shared_width));
    }
    if let Some(delta) = &spec.delta {
        let is_attention = |interval: usize| move |i: usize| (i + 1).is_multiple_of(interval);
        let interval = spec.layers.iter().take_while(|layer| layer.mixer == Mixer::DeltaNet).count() + 1;
        let regular = spec.layers.iter().enumerate();
        if !regular.map(|(i, layer)| (i, layer.mixer == Mixer::Attention)).all(|(i, a)| is_attention(interval)(i) == a)
        {
            return Err(cannot("attention layers at irregular places"));
        }
        sizes.extend([
            ("full_attention_interval", interval),
            ("ssm.conv_kernel", delta.conv_kernel),
            ("ssm.state_size", delta.key_dim),
            ("ssm.group_count", delta.key_heads),
            ("ssm.time_step_rank", delta.value_heads),
            ("ssm.inner_size", delta.values()),
        ]);
    }
    for (name, size) in sizes {
        m.u32(&key(name), u32::try_from(size).map_err(|_| cannot("sizes of this magnitude"))?);
    }
    m.f32(&key("attention.layer_norm_rms_epsilon"), spec.norm_eps);
    m.f32(&key("rope.freq_base"), attention.rope.theta as f32);
    Ok(m)
}

fn cannot(what: &str) -> Failure {
    Failure::new(format!("a model with {what} is not written as GGUF"))
}
