//! From what a checkpoint says about itself to a [`ModelSpec`].

use super::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};

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
    let _ = checkpoint;
    Err(Error::Internal("configs are not read yet".into()))
}

/// [`read_config`], less the report.
///
/// # Errors
/// As [`read_config`].
pub fn read_spec(checkpoint: &Checkpoint) -> Result<ModelSpec> {
    read_config(checkpoint).map(|report| report.spec)
}
