//! What a load would take, from the headers alone.

use super::{Fit, LoadOptions};
use crate::error::{Error, Result};
use crate::model::Source;

/// What loading `source` with `options` would take, without reading a weight.
///
/// # Errors
/// As [`super::Model::load`] for broken files and options. A model that is too large is no error: [`Fit::fits`] is false.
pub fn fit(_source: &Source, _options: &LoadOptions) -> Result<Fit> {
    Err(Error::Internal("the engine is not built yet".into()))
}
