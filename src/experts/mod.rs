//! Which expert was asked for how often, and where the experts live.
//!
//! Counters are written by the backend and read by any thread; they are plain relaxed atomics, because a statistic that
//! is one step old is still a true statistic.

use std::sync::atomic::{AtomicU64, Ordering};

/// Activations of every expert of every Mixture-of-Experts layer since load.
#[derive(Debug)]
pub struct ExpertCounters {
    experts: usize,
    /// One row a trunk layer, `None` for layers without experts.
    layers: Vec<Option<Box<[AtomicU64]>>>,
}

impl ExpertCounters {
    /// Zeroed counters: `moe_layers[i]` says whether trunk layer `i` has `experts` routed experts.
    pub fn new(experts: usize, moe_layers: impl IntoIterator<Item = bool>) -> Self {
        let row = || (0..experts).map(|_| AtomicU64::new(0)).collect();
        Self { experts, layers: moe_layers.into_iter().map(|moe| moe.then(row)).collect() }
    }

    /// Counts one activation of `expert` in trunk layer `layer`.
    pub fn record(&self, layer: usize, expert: usize) {
        self.add(layer, expert, 1);
    }

    /// Counts `activations` of `expert` in trunk layer `layer`.
    pub fn add(&self, layer: usize, expert: usize, activations: u64) {
        if let Some(Some(row)) = self.layers.get(layer)
            && let Some(counter) = row.get(expert)
        {
            counter.fetch_add(activations, Ordering::Relaxed);
        }
    }

    /// Activations of each expert of trunk layer `layer`; `None` where the layer has no experts.
    pub fn layer(&self, layer: usize) -> Option<Vec<u64>> {
        let row = self.layers.get(layer)?.as_ref()?;
        Some(row.iter().map(|c| c.load(Ordering::Relaxed)).collect())
    }

    /// Activations of all experts of all layers.
    pub fn total(&self) -> u64 {
        self.layers.iter().flatten().flat_map(|row| row.iter()).map(|c| c.load(Ordering::Relaxed)).sum()
    }

    /// Routed experts of all layers.
    pub fn expert_count(&self) -> usize {
        self.experts * self.layers.iter().flatten().count()
    }

    /// Trunk layers, with and without experts.
    pub fn layer_count(&self) -> usize {
        self.layers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_layer_and_in_all_and_ignores_layers_without_experts() {
        let counters = ExpertCounters::new(3, [true, false, true]);
        for (layer, expert) in [(0, 1), (0, 1), (2, 0), (1, 0), (0, 9)] {
            counters.record(layer, expert);
        }
        assert_eq!(counters.layer(0), Some(vec![0, 2, 0]));
        assert_eq!(counters.layer(1), None);
        assert_eq!((counters.total(), counters.expert_count()), (3, 6));
    }
}
