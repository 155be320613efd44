//! A model's weights written anew in another number format, in memory, as files of that format hold them.
//!
//! For measuring what a format and its kernels cost: quantisers here round to nearest and look for nothing better. Only
//! ratios between two ways to compute the same file mean something.

mod bnb;
mod ggml;
mod gguf;
mod huggingface;
mod int4;
mod plain;

use std::str::FromStr;

use qwen3moe::Source;

use crate::failure::Outcome;
use crate::gguf::Kind;
pub use plain::Plain;

/// A number format that the library loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A GGUF file.
    Ggml(Kind),
    /// A Hugging Face directory of bitsandbytes.
    Bnb {
        /// FP4 rather than NF4.
        fp4: bool,
        /// The scales are quantised once more.
        nested: bool,
    },
    /// A Hugging Face directory of GPTQ.
    Int4 {
        /// Columns that share a scale.
        group: usize,
        /// The zero point is the middle of the codes.
        symmetric: bool,
    },
}

impl Target {
    /// Every format, in the order of a table.
    pub fn all() -> Vec<Target> {
        let ggml = [Kind::F32, Kind::BF16, Kind::F16, Kind::Q8_0, Kind::Q4_0, Kind::Q4K, Kind::Q5K, Kind::Q6K];
        let bnb = [(false, false), (false, true), (true, false), (true, true)];
        let int4 = [32, 64, 128].into_iter().flat_map(|group| [(group, true), (group, false)]);
        let ggml = ggml.into_iter().map(Target::Ggml);
        let bnb = bnb.into_iter().map(|(fp4, nested)| Target::Bnb { fp4, nested });
        let int4 = int4.map(|(group, symmetric)| Target::Int4 { group, symmetric });
        ggml.chain(bnb).chain(int4).collect()
    }

    /// A name for tables and flags.
    pub fn name(self) -> String {
        match self {
            Target::Ggml(kind) => kind.name().to_owned(),
            Target::Bnb { fp4, nested } => {
                format!("{}{}", if fp4 { "FP4" } else { "NF4" }, if nested { "-double" } else { "" })
            }
            Target::Int4 { group, symmetric } => format!("INT4-{group}-{}", if symmetric { "sym" } else { "asym" }),
        }
    }
}

impl FromStr for Target {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let all = Self::all();
        let found = all.iter().find(|target| target.name().eq_ignore_ascii_case(text));
        let names = || all.iter().map(|target| target.name()).collect::<Vec<_>>().join(", ");
        found.copied().ok_or_else(|| format!("{text:?} is none of {}", names()))
    }
}

/// A model in memory.
pub struct Image {
    pub source: Source,
    /// Values of all tensors.
    pub values: u64,
    /// Those of them that are in the format asked for: rows may be too short for its blocks, and some tensors stay in
    /// floats whatever the format.
    pub in_format: u64,
}

/// Writes `model` in the format `target`.
///
/// # Errors
/// What such files cannot hold.
pub fn image(model: &Plain, target: Target) -> Outcome<Image> {
    match target {
        Target::Ggml(kind) => gguf::image(model, kind),
        Target::Bnb { .. } | Target::Int4 { .. } => huggingface::image(model, target),
    }
}
