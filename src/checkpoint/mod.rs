//! Files into named tensors with a logical role. Reads and checks, never computes.
//!
//! [`Checkpoint::open`] reads only headers: the config or metadata and the list of tensors. Every size is checked against
//! the file's real length before anything is allocated from it. [`Checkpoint::read`] copies one tensor's bytes out;
//! files are read, never mapped, so that a file that shrinks under a running program is an error and not a signal.

mod role;

use std::path::{Path, PathBuf};

pub use role::{DeltaTensor, ExpertPart, LayerTensor, Role};

use crate::error::{Error, Result};
use crate::quant::Format;

/// Where a checkpoint comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A Hugging Face directory, or a GGUF file (the first one where it is split).
    Path(PathBuf),
    /// The files of a Hugging Face directory, compiled into the program: names and contents.
    Embedded(&'static [(&'static str, &'static [u8])]),
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Name as the file spells it.
    pub name: String,
    /// What it is for; `None` for tensors that are recognised and knowingly not used (vision, MTP).
    pub role: Option<Role>,
    /// Shape, slowest axis first (`[out, in]`), whatever order the file uses. For bitsandbytes tensors the logical shape.
    pub shape: Vec<usize>,
    /// Storage type.
    pub format: Format,
    /// Bytes in the file (codes only for bitsandbytes tensors).
    pub bytes: u64,
    /// Index of the file in the checkpoint's list.
    pub file: usize,
    /// Offset of the first byte in that file.
    pub offset: u64,
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
    /// Ids that end a generation: `generation_config.json`, else `config.json`, else GGUF metadata (eos, eot, eom ids).
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
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: bool,
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        Source::Path(path.to_path_buf())
    }
}
