//! Files into named tensors with a logical role. Reads and checks, never computes.
//!
//! [`Checkpoint::open`] reads only headers: the config or metadata and the list of tensors. Every size is checked against
//! the file's real length before anything is allocated from it. [`Checkpoint::read`] copies one tensor's bytes out;
//! files are read, never mapped, so that a file that shrinks under a running program is an error and not a signal.

mod allocate;
mod bnb;
mod folder;
mod gguf;
mod gptq;
mod hf;
mod list;
mod names_gguf;
mod names_hf;
mod quantization;
mod role;
mod safetensors;
mod side;
mod text_files;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use gguf::{Metadata, Value};
pub use role::{DeltaTensor, ExpertPart, LayerTensor, Role};

use crate::error::{Error, Result};
use crate::quant::{Format, FourBit, GroupScales};
use folder::{DataFile, Folder};

pub use folder::FileStamp;

/// Where a checkpoint comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A Hugging Face directory, or its `config.json`, index or one of its weight files; or a GGUF file (the first one
    /// where it is split).
    Path(PathBuf),
    /// The files of a Hugging Face directory, or a GGUF file, compiled into the program: names and contents.
    Embedded(&'static [(&'static str, &'static [u8])]),
    /// The same, held in memory.
    Memory(Arc<[(String, Vec<u8>)]>),
}

/// How the files of a checkpoint are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// config.json and safetensors. Norm weights of the hybrid families are stored less 1.
    HuggingFace,
    /// GGUF. Norm weights are stored as they multiply; the decay is stored as `-exp(A_log)`.
    Gguf,
}

/// A checkpoint whose headers were read and checked.
#[derive(Debug)]
pub struct Checkpoint {
    kind: Kind,
    path: PathBuf,
    files: Vec<DataFile>,
    tensors: Vec<TensorInfo>,
    by_role: HashMap<Role, usize>,
    unused: Vec<UnusedTensor>,
    config: Config,
    folder: Folder,
}

/// What the model is, as the checkpoint says it.
#[derive(Debug)]
pub enum Config {
    /// `config.json`, whole.
    Json {
        /// Path by which messages call it.
        path: PathBuf,
        /// The top-level object.
        fields: serde_json::Map<String, serde_json::Value>,
    },
    /// The metadata of a GGUF file.
    Gguf(Metadata),
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Name as the file spells it.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Shape, slowest axis first (`[out, in]`), whatever order the file uses. For bitsandbytes and GPTQ tensors the logical shape.
    pub shape: Vec<usize>,
    /// Storage type.
    pub format: Format,
    /// Bytes in the file (codes only where scales lie in tensors of their own).
    pub bytes: u64,
    /// Index of the file in the checkpoint's list.
    pub file: usize,
    /// Offset of the first byte in that file.
    pub offset: u64,
    /// Where the scales lie, if in tensors of their own.
    scales: Option<Arc<Scales>>,
}

/// Scales in tensors of their own.
#[derive(Debug)]
enum Scales {
    FourBit(bnb::Scales),
    Group(gptq::Scales),
}

/// A tensor that is recognised and knowingly not used.
#[derive(Debug, Clone)]
pub struct UnusedTensor {
    /// Name as the file spells it.
    pub name: String,
    /// Why it is not used.
    pub reason: Unused,
    /// Shape, slowest axis first.
    pub shape: Vec<usize>,
    /// Storage type in the file's own words.
    pub type_name: String,
    /// Bytes in the file.
    pub bytes: u64,
}

/// Why a tensor is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unused {
    /// Part of the vision tower: this library reads text.
    Vision,
    /// Part of the multi-token-prediction head.
    Mtp,
    /// A table of rotary frequencies, which follow from the config.
    RopeTable,
}

/// What the text side needs, as found beside or inside the model. Plain data; `text` gives it meaning.
#[derive(Debug, Clone, Default)]
pub struct TextFiles {
    /// Contents of `tokenizer.json`.
    pub tokenizer_json: Option<Vec<u8>>,
    /// Contents of `tokenizer_config.json`.
    pub tokenizer_config: Option<Vec<u8>>,
    /// The chat template: `chat_template.jinja`, the config's `chat_template`, or `tokenizer.chat_template` of a GGUF.
    pub chat_template: Option<String>,
    /// The tokenizer of a GGUF file.
    pub gguf: Option<GgufTokenizer>,
    /// Sampling defaults of a GGUF file.
    pub gguf_sampling: GgufSampling,
    /// Ids that end a generation: `generation_config.json`, else `config.json`; of a GGUF file the eos, eot and eom ids and
    /// the control tokens that end a text or a turn by their name.
    pub eos_ids: Vec<u32>,
    /// Contents of `generation_config.json`: sampling defaults of the model.
    pub generation_config: Option<Vec<u8>>,
}

/// The tokenizer as GGUF metadata carries it.
#[derive(Debug, Clone, Default)]
pub struct GgufTokenizer {
    /// `tokenizer.ggml.model`.
    pub model: String,
    /// `tokenizer.ggml.pre`.
    pub pre: String,
    /// `tokenizer.ggml.tokens`, in the byte-level alphabet.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`: 1 normal, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub types: Vec<i32>,
    /// `tokenizer.ggml.merges`.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos_id: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos_id: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: bool,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: bool,
}

/// `general.sampling.*` of a GGUF file: how its model wants to be sampled.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GgufSampling {
    /// `temp`.
    pub temperature: Option<f64>,
    /// `top_k`; 0 and less keep all.
    pub top_k: Option<i64>,
    /// `top_p`.
    pub top_p: Option<f64>,
    /// `min_p`.
    pub min_p: Option<f64>,
    /// `penalty_repeat`.
    pub repetition_penalty: Option<f64>,
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        Source::Path(path.to_path_buf())
    }
}

impl Kind {
    /// The name that a tensor with `role` has in files of this kind.
    pub fn name_of(self, role: Role) -> String {
        match self {
            Kind::HuggingFace => names_hf::name_of(role),
            Kind::Gguf => names_gguf::name_of(role),
        }
    }
}

impl Checkpoint {
    /// Reads and checks the headers of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::BadFile`] for files that are not what their format says, [`Error::Unsupported`] for
    /// well-formed files with tensors or types this library does not know.
    pub fn open(source: &Source) -> Result<Self> {
        let Source::Path(path) = source else {
            let folder = Folder::in_memory(source).unwrap_or(Folder::Embedded(&[]));
            return match folder.in_memory_name(".gguf") {
                Some(name) => gguf::open(folder, &name),
                None => hf::open(folder, None),
            };
        };
        if path.is_dir() {
            return hf::open(Folder::Disk(path.clone()), None);
        }
        std::fs::metadata(path).map_err(|e| Error::io(path, "cannot open", &e))?;
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            return Err(Error::bad_file(path, "has no UTF-8 file name"));
        };
        let parent = path.parent().unwrap_or(Path::new("")).to_path_buf();
        if name.ends_with(".gguf") || gguf::is_gguf(path) {
            return gguf::open(Folder::Disk(parent), name);
        }
        if path.is_file() && (name.ends_with(".json") || name.ends_with(".safetensors")) {
            return hf::open(Folder::Disk(parent), Some(name));
        }
        Err(Error::bad_file(path, "is neither a Hugging Face directory nor a GGUF file"))
    }

    /// How the files are made.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The directory or file that was opened, as messages call it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that holds `tensor`.
    pub fn file_path(&self, tensor: &TensorInfo) -> &Path {
        self.files.get(tensor.file).map_or(&self.path, DataFile::path)
    }

    /// The paths of the files that hold the tensors.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(DataFile::path)
    }

    /// Name, length and time of the last change of every file that holds tensors, as they were when it was opened; `None`
    /// for files in memory, and where the system does not tell.
    pub fn stamps(&self) -> Option<Vec<FileStamp>> {
        self.files.iter().map(DataFile::stamp).collect()
    }

    /// Every tensor with a role, in the order of files and offsets.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor with `role`, where there is one.
    pub fn tensor(&self, role: Role) -> Option<&TensorInfo> {
        self.by_role.get(&role).and_then(|&i| self.tensors.get(i))
    }

    /// The tensor with `role`.
    ///
    /// # Errors
    /// [`Error::BadFile`] with the name that the tensor should have.
    pub fn require(&self, role: Role) -> Result<&TensorInfo> {
        self.require_indexed(role).map(|(_, tensor)| tensor)
    }

    /// The tensor with `role`, and its index in [`Checkpoint::tensors`].
    ///
    /// # Errors
    /// As [`Checkpoint::require`].
    pub fn require_indexed(&self, role: Role) -> Result<(usize, &TensorInfo)> {
        let found = self.by_role.get(&role).and_then(|&i| Some((i, self.tensors.get(i)?)));
        found.ok_or_else(|| {
            Error::bad_file(&self.path, format!("tensor {} is missing ({role:?})", self.expected_name(role)))
        })
    }

    /// The name that a tensor with `role` has in files of this kind.
    pub fn expected_name(&self, role: Role) -> String {
        self.kind.name_of(role)
    }

    /// Tensors that are recognised and not used.
    pub fn unused(&self) -> &[UnusedTensor] {
        &self.unused
    }

    /// What the model is, as the checkpoint says it.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Copies `out.len()` bytes of `tensor`, from `offset` within it, out of the file. Callable from several threads at
    /// once.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::BadFile`] when the file has become shorter, [`Error::Internal`] when the range reaches
    /// past the tensor.
    pub fn read(&self, tensor: &TensorInfo, offset: u64, out: &mut [u8]) -> Result<()> {
        let within = offset.checked_add(out.len() as u64).is_some_and(|end| end <= tensor.bytes);
        let Some(file) = self.files.get(tensor.file).filter(|_| within) else {
            return Err(Error::Internal(format!(
                "read of {} bytes at {offset} in tensor {} of {} bytes",
                out.len(),
                tensor.name,
                tensor.bytes
            )));
        };
        file.read(tensor.offset + offset, out)
    }

    /// The table and scales of a [`Format::Bnb4`] tensor.
    ///
    /// # Errors
    /// As [`Checkpoint::read`]; [`Error::BadFile`] when a scale or table entry is not finite.
    pub fn four_bit(&self, tensor: &TensorInfo) -> Result<FourBit> {
        match tensor.scales.as_deref() {
            Some(Scales::FourBit(scales)) => scales.read(&self.files),
            _ => Err(Error::Internal(format!("tensor {} is {}, not 4-bit", tensor.name, tensor.format))),
        }
    }

    /// The scales and zeros of a [`Format::Int4`] tensor.
    ///
    /// # Errors
    /// As [`Checkpoint::read`]; [`Error::BadFile`] for a scale that is not finite or a column in a group that does not
    /// exist; [`Error::Unsupported`] for a scale that is no f16 and for groups of different sizes.
    pub fn group_scales(&self, tensor: &TensorInfo) -> Result<GroupScales> {
        match tensor.scales.as_deref() {
            Some(Scales::Group(scales)) => scales.read(&self.files),
            _ => Err(Error::Internal(format!("tensor {} is {}, not group int4", tensor.name, tensor.format))),
        }
    }

    /// Tokenizer, chat template and end-of-sequence ids, as found beside or inside the model.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::BadFile`] when a file is too large, is no JSON, or a field has the wrong type.
    pub fn text_files(&self) -> Result<TextFiles> {
        text_files::read(self)
    }
}

impl TensorInfo {
    /// Number of values.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64))
    }

    /// Whether nothing but its shape can keep the tensor from being packed: bitsandbytes' smallest blocks do.
    pub fn can_be_packed(&self) -> bool {
        match self.scales.as_deref() {
            Some(Scales::FourBit(scales)) => FourBit::has_segments(scales.block_size()),
            _ => true,
        }
    }

    /// Whether the packed form keeps an order of the columns: the checkpoint says that they were quantised in one.
    pub fn has_column_order(&self) -> bool {
        matches!(self.scales.as_deref(), Some(Scales::Group(scales)) if scales.has_column_order())
    }

    /// Bytes of the scales that lie beside the codes; 0 unless the format is [`Format::Bnb4`] or [`Format::Int4`].
    pub fn scale_bytes(&self) -> u64 {
        match self.scales.as_deref() {
            Some(Scales::FourBit(scales)) => scales.bytes(),
            Some(Scales::Group(scales)) => scales.bytes(),
            None => 0,
        }
    }

    /// Values that share an absmax; `None` unless the format is [`Format::Bnb4`].
    pub fn block_size(&self) -> Option<usize> {
        match self.scales.as_deref() {
            Some(Scales::FourBit(scales)) => Some(scales.block_size()),
            _ => None,
        }
    }
}
