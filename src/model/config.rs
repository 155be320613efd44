//! From what a checkpoint says about itself to a [`ModelSpec`].

use std::collections::BTreeSet;

use super::{ModelSpec, config_gguf, config_json};
use crate::checkpoint::{Checkpoint, Config, Unused};
use crate::error::Result;

/// A model's sizes, and what its config said beyond them.
#[derive(Debug, Clone)]
pub struct ConfigReport {
    /// Sizes and layer kinds.
    pub spec: ModelSpec,
    /// Fields that nothing here knows, by name: reported, because they may change what the model computes.
    pub unrecognised: Vec<String>,
}

/// Reads the sizes of a model from `config.json` or GGUF metadata, and what was not recognised there.
///
/// # Errors
/// [`Error::BadFile`] for fields that are missing, absurd or contradictory, [`Error::Unsupported`] for values this
/// library does not implement; both name file, field, value and what was expected.
pub fn read_config(checkpoint: &Checkpoint) -> Result<ConfigReport> {
    match checkpoint.config() {
        Config::Json { path, fields } => config_json::read(checkpoint, path, fields),
        Config::Gguf(metadata) => config_gguf::read(checkpoint, metadata),
    }
}

/// [`read_config`], less the report.
///
/// # Errors
/// As [`read_config`].
pub fn read_spec(checkpoint: &Checkpoint) -> Result<ModelSpec> {
    read_config(checkpoint).map(|report| report.spec)
}

/// Layers of the multi-token-prediction head that the file holds, by the names of its tensors: published configs count
/// them or not, and quantised copies often lost them.
pub(super) fn mtp_layers(checkpoint: &Checkpoint) -> usize {
    let names = checkpoint.unused().iter().filter(|t| t.reason == Unused::Mtp).map(|t| t.name.as_str());
    let layer = |name: &str| {
        let rest = name.split_once("layers.").or_else(|| name.split_once("blk."))?.1;
        rest.split_once('.').map(|(number, _)| number.to_string())
    };
    names.filter_map(layer).collect::<BTreeSet<_>>().len()
}
