//! The network, written once.

use super::{Backend, Batch, FeedForward, Mixer, ModelSpec};
use crate::error::Result;

/// Runs one step: every row of `batch` through every layer, and the logits that the batch asks for into `logits`
/// (`[batch.logit_rows().len(), vocab]`, row-major).
///
/// # Errors
/// Whatever the backend reports; the sequences of the batch are then in an undefined state and must be dropped.
pub fn forward(spec: &ModelSpec, backend: &mut dyn Backend, batch: &Batch<'_>, logits: &mut [f32]) -> Result<()> {
    layers(spec, backend, batch)?;
    backend.head(batch, logits)
}

/// Queues one step on a backend that chooses tokens itself.
///
/// # Errors
/// As [`forward`].
pub fn queue(spec: &ModelSpec, backend: &mut dyn Backend, batch: &Batch<'_>) -> Result<()> {
    layers(spec, backend, batch)?;
    backend.choose(batch)
}

fn layers(spec: &ModelSpec, backend: &mut dyn Backend, batch: &Batch<'_>) -> Result<()> {
    backend.embed(batch)?;
    for (index, layer) in spec.layers.iter().enumerate() {
        match layer.mixer {
            Mixer::Attention => backend.attention(index, batch)?,
            Mixer::DeltaNet => backend.delta_net(index, batch)?,
        }
        match layer.feed_forward {
            FeedForward::Moe => backend.moe(index)?,
            FeedForward::Dense => backend.dense(index)?,
        }
    }
    Ok(())
}
