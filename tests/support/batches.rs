//! Several sequences through one backend.

use std::sync::Arc;

use qwen3moe::experts::ExpertCounters;
use qwen3moe::model::{Backend, Batch, FeedForward, LogitRows, ModelSpec, forward};
use qwen3moe::state::{Pools, StateLayout};

/// Counters for the experts of `spec`.
pub fn counters(spec: &ModelSpec) -> Arc<ExpertCounters> {
    let is_moe = spec.layers.iter().map(|layer| layer.feed_forward == FeedForward::Moe);
    Arc::new(ExpertCounters::new(spec.moe.as_ref().map_or(0, |moe| moe.experts), is_moe))
}

/// Runs three sequences through `backend`, `rows[i]` rows of sequence `i` in each step, and returns their logits.
pub fn interleaved(
    spec: &ModelSpec,
    backend: &mut dyn Backend,
    layout: StateLayout,
    sequences: [&[u32]; 3],
    rows: [usize; 3],
) -> [Vec<f32>; 3] {
    let mut pools = Pools::new(layout).unwrap();
    let mut memory = [(); 3].map(|()| pools.open().unwrap());
    let mut position = [0; 3];
    let mut logits = [(); 3].map(|()| Vec::new());
    while (0..3).any(|i| position[i] < sequences[i].len()) {
        let ends: [usize; 3] = std::array::from_fn(|i| (position[i] + rows[i]).min(sequences[i].len()));
        for i in 0..3 {
            assert!(pools.reserve(&mut memory[i], ends[i]));
        }
        let mut batch = Batch::default();
        for i in (0..3).filter(|&i| position[i] < ends[i]) {
            batch.push(&memory[i], position[i], &sequences[i][position[i]..ends[i]], LogitRows::All);
        }
        let mut out = vec![0.0; batch.tokens.len() * spec.vocab];
        forward(spec, backend, &batch, &mut out).unwrap();
        let mut out = out.as_slice();
        for i in 0..3 {
            let (own, rest) = out.split_at((ends[i] - position[i]) * spec.vocab);
            logits[i].extend_from_slice(own);
            out = rest;
        }
        position = ends;
    }
    logits
}
