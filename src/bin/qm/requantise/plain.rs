//! The weights of a float checkpoint, one form for both kinds of files.

use half::{bf16, f16};
use qwen3moe::{
    Checkpoint, CheckpointKind, DeltaTensor, ExpertPart, Family, LayerTensor, ModelSpec, Role, Source, TensorInfo,
    read_config,
};

use crate::failure::{Failure, Outcome};

/// A model in float32. Norms are as they multiply, decays are `-exp(A_log)`, experts stand one by one.
pub struct Plain {
    pub spec: ModelSpec,
    pub tensors: Vec<Tensor>,
}

/// One weight.
pub struct Tensor {
    pub role: Role,
    /// Slowest axis first.
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Tensor {
    /// Inputs of a matrix.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

impl Plain {
    /// Reads the checkpoint at `source`, whole.
    ///
    /// # Errors
    /// Broken files, and weights that are quantised.
    pub fn read(source: &Source) -> Outcome<Self> {
        let checkpoint = Checkpoint::open(source)?;
        let spec = read_config(&checkpoint)?.spec;
        let mut tensors = Vec::new();
        for info in checkpoint.tensors() {
            let values = floats(&checkpoint, info)?;
            add(&mut tensors, info, values);
        }
        if checkpoint.kind() == CheckpointKind::HuggingFace {
            tensors.iter_mut().for_each(|tensor| from_hugging_face(tensor, spec.family));
        }
        Ok(Self { spec, tensors })
    }
}

fn floats(checkpoint: &Checkpoint, info: &TensorInfo) -> Outcome<Vec<f32>> {
    let mut bytes = vec![0; usize::try_from(info.bytes).map_err(|_| Failure::new("a tensor beyond memory"))?];
    checkpoint.read(info, 0, &mut bytes)?;
    match info.format.name() {
        "F32" => Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        "F16" => Ok(bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
        "BF16" => Ok(bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
        other => Err(Failure::new(format!(
            "{}: tensor {} is {other}; only a model in F32, F16 or BF16 can be written in other formats",
            checkpoint.path().display(),
            info.name
        ))),
    }
}

/// Adds the tensor, cut into experts where it holds all of them.
fn add(tensors: &mut Vec<Tensor>, info: &TensorInfo, values: Vec<f32>) {
    let parts: &[ExpertPart] = match info.role {
        Role::Layer(_, LayerTensor::Experts(ref part)) => std::slice::from_ref(part),
        Role::Layer(_, LayerTensor::ExpertsGateUp) => &[ExpertPart::Gate, ExpertPart::Up],
        _ => &[],
    };
    let ([experts, rows, cols], Role::Layer(layer, _)) = (info.shape[..].try_into().unwrap_or([0; 3]), info.role)
    else {
        tensors.push(Tensor { role: info.role, shape: info.shape.clone(), values });
        return;
    };
    if parts.is_empty() || experts == 0 {
        tensors.push(Tensor { role: info.role, shape: info.shape.clone(), values });
        return;
    }
    let rows = rows / parts.len();
    for (i, values) in values.chunks_exact(rows * cols).enumerate() {
        let (expert, part) = ((i / parts.len()) as u32, parts[i % parts.len()]);
        let role = Role::Layer(layer, LayerTensor::Expert(expert, part));
        tensors.push(Tensor { role, shape: vec![rows, cols], values: values.to_vec() });
    }
}

/// The hybrid families store norms less 1, all families the logarithm of the decay.
fn from_hugging_face(tensor: &mut Tensor, family: Family) {
    if is_shifted(tensor.role, family) {
        tensor.values.iter_mut().for_each(|w| *w += 1.0);
    } else if let Role::Layer(layer, LayerTensor::Delta(DeltaTensor::ALog)) = tensor.role {
        tensor.role = Role::Layer(layer, LayerTensor::Delta(DeltaTensor::NegExpA));
        tensor.values.iter_mut().for_each(|a| *a = -a.exp());
    }
}

/// Whether Hugging Face files of `family` store this norm less 1.
pub fn is_shifted(role: Role, family: Family) -> bool {
    use LayerTensor as T;
    let norm = match role {
        Role::FinalNorm => true,
        Role::Layer(_, tensor) => {
            matches!(tensor, T::InputNorm | T::PostAttentionNorm | T::QueryNorm | T::KeyNorm)
        }
        Role::Embedding | Role::Head => false,
    };
    norm && family != Family::Qwen3Moe
}
