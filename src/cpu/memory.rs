//! How much memory the backend takes beside the weights.

use crate::error::{Error, Result};
use crate::model::ModelSpec;
use crate::state::{KvFormat, StateLayout};

/// Bytes that [`super::CpuBackend::new`] takes beside the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Keys and values of all pages.
    pub kv: u64,
    /// DeltaNet and convolution states of all slots.
    pub states: u64,
    /// Activations of the largest step.
    pub workspace: u64,
}

/// What a backend with these options takes.
pub fn plan(spec: &ModelSpec, layout: &StateLayout, kv: KvFormat, max_rows: usize) -> MemoryPlan {
    let product = |factors: &[usize]| factors.iter().fold(1u64, |all, f| all.saturating_mul(*f as u64));
    let attention = &spec.attention;
    let positions = [layout.pages, layout.page_tokens];
    let kv_token = [2, attention.kv_heads, kv.head_bytes(attention.head_dim), spec.attention_layers()];
    let state = spec.delta.as_ref().map_or(0, |d| {
        let conv = product(&[d.conv_kernel - 1, d.conv_channels()]);
        let heads = product(&[d.value_heads, d.key_dim, d.value_dim]);
        conv.saturating_add(heads).saturating_mul(product(&[4, spec.delta_layers()]))
    });
    let sizes = WorkspaceSizes::new(spec);
    let row = 2 * spec.hidden + sizes.projections.iter().sum::<usize>() + sizes.mixed + sizes.expert_hidden;
    MemoryPlan {
        // The books of the pool are four bytes a page.
        kv: product(&positions).saturating_mul(product(&kv_token)).saturating_add(product(&[4, layout.pages])),
        states: state.saturating_mul(layout.slots as u64),
        // Four bytes a value, and one more where it is quantised.
        workspace: product(&[5, max_rows, row]),
    }
}

/// Values a row of each activation buffer.
pub struct WorkspaceSizes {
    pub projections: [usize; 4],
    pub mixed: usize,
    pub expert_hidden: usize,
}

impl WorkspaceSizes {
    /// The widest that any layer of the model needs.
    pub fn new(spec: &ModelSpec) -> Self {
        let attention = &spec.attention;
        let heads = attention.heads * attention.head_dim;
        let kv = attention.kv_heads * attention.head_dim;
        let mut projections = [heads * if attention.gated { 2 } else { 1 }, kv.max(1), kv, 0];
        let mut mixed = heads;
        if let Some(delta) = &spec.delta {
            let (qkvz, values) = (delta.conv_channels() + delta.values(), delta.values());
            let widths = [qkvz, values, 2 * delta.value_heads, delta.value_heads];
            for (have, need) in projections.iter_mut().zip(widths) {
                *have = need.max(*have);
            }
            mixed = mixed.max(values);
        }
        let mut expert_hidden = spec.dense_width;
        if let Some(moe) = &spec.moe {
            projections[0] = projections[0].max(moe.experts);
            expert_hidden = expert_hidden.max(moe.top_k * moe.width + moe.shared_width);
        }
        Self { projections, mixed, expert_hidden }
    }
}

/// `rows * width` zeros, touched, so that the memory is really there.
///
/// # Errors
/// [`Error::OutOfHostMemory`] naming `what`.
pub fn zeroed<T: Clone + Default>(rows: usize, width: usize, what: &str) -> Result<Vec<T>> {
    let bytes = (rows as u64).saturating_mul(width as u64).saturating_mul(size_of::<T>() as u64);
    let refused = || Error::OutOfHostMemory { what: what.to_string(), bytes };
    let len = rows.checked_mul(width).ok_or_else(refused)?;
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| refused())?;
    values.resize(len, T::default());
    Ok(values)
}
