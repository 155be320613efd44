//! What DeltaNet layers remember of each sequence.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cpu::memory::zeroed;
use crate::error::{Error, Result};
use crate::model::{DeltaSpec, LoadProgress, Mixer, ModelSpec};

/// Recurrent states of all sequences, for every DeltaNet layer.
pub struct DeltaStates {
    /// One a trunk layer; `None` for layers without DeltaNet.
    layers: Vec<Option<DeltaLayer>>,
}

/// Recurrent states of one layer.
pub struct DeltaLayer {
    /// `[slots, key_heads]`; a lock each, taken by the one task that owns the head.
    heads: Vec<Mutex<KeyHead>>,
    key_heads: usize,
}

/// What belongs to a key head of one sequence.
pub struct KeyHead {
    /// Last `kernel - 1` inputs of the convolution, oldest first, of the query's, the key's and the values' channels:
    /// `[kernel - 1, 2 key_dim + r value_dim]`.
    pub conv: Vec<f32>,
    /// States of its `r` value heads: `[r, key_dim, value_dim]`.
    pub states: Vec<f32>,
}

impl DeltaStates {
    /// Zero states for `slots` sequences.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`], [`Error::Cancelled`] between two layers.
    pub fn new(spec: &ModelSpec, slots: usize, progress: &LoadProgress) -> Result<Self> {
        let Some(delta) = &spec.delta else { return Ok(Self { layers: Vec::new() }) };
        let layer = || -> Result<DeltaLayer> {
            progress.advance(0)?;
            DeltaLayer::new(delta, slots)
        };
        let layers = spec.layers.iter().map(|l| (l.mixer == Mixer::DeltaNet).then(layer).transpose());
        Ok(Self { layers: layers.collect::<Result<_>>()? })
    }

    /// The states of trunk layer `layer`.
    pub fn layer(&self, layer: usize) -> Result<&DeltaLayer> {
        let found = self.layers.get(layer).and_then(Option::as_ref);
        found.ok_or_else(|| Error::Internal(format!("layer {layer} has no DeltaNet state")))
    }

    /// Forgets what slot `slot` holds, in every layer.
    pub fn clear(&mut self, slot: usize) {
        for layer in self.layers.iter().flatten() {
            for head in 0..layer.key_heads {
                let mut head = layer.head(slot, head);
                head.conv.fill(0.0);
                head.states.fill(0.0);
            }
        }
    }
}

impl DeltaLayer {
    /// Zero states for `slots` sequences.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`].
    pub fn new(spec: &DeltaSpec, slots: usize) -> Result<Self> {
        let ratio = spec.value_heads / spec.key_heads;
        let head = |_| -> Result<_> {
            Ok(Mutex::new(KeyHead {
                conv: zeroed(spec.conv_kernel - 1, 2 * spec.key_dim + ratio * spec.value_dim, "convolution states")?,
                states: zeroed(ratio * spec.key_dim, spec.value_dim, "DeltaNet states")?,
            }))
        };
        let heads = (0..slots * spec.key_heads).map(head).collect::<Result<_>>()?;
        Ok(Self { heads, key_heads: spec.key_heads })
    }

    /// Bytes of all states of one sequence.
    pub fn bytes_per_sequence(&self) -> u64 {
        let values = self.heads.first().map_or(0, |head| {
            let head = head.lock().unwrap_or_else(PoisonError::into_inner);
            head.conv.len() + head.states.len()
        });
        (4 * self.key_heads * values) as u64
    }

    /// What slot `slot` holds of key head `head`.
    pub fn head(&self, slot: usize, head: usize) -> MutexGuard<'_, KeyHead> {
        // A task that panicked fails the step, whatever it left.
        self.heads[slot * self.key_heads + head].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
