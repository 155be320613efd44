//! Every tensor the model needs, with the shape its config implies.

use super::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};

/// Checks that every tensor that `spec` needs is there with the right shape, and that none is left over.
///
/// # Errors
/// [`Error::BadFile`] naming tensor, found shape, expected shape and the fields it follows from.
pub fn check_shapes(checkpoint: &Checkpoint, spec: &ModelSpec) -> Result<()> {
    let _ = (checkpoint, spec);
    Err(Error::Internal("shapes are not checked yet".into()))
}
