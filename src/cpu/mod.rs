//! The backend for processors.
//!
//! [`CpuBackend`] owns the weights, the memory of all sequences and the activations of the step in progress. Each layer
//! kind is one file: [`attention`], [`delta_net`], [`experts`]; they share the matrix product in [`matmul`], its integer
//! kernels in [`int8`] and its float ones in [`float`], other vector kernels in [`kernels`] (an [`isa`] tier is chosen at
//! load) and the worker threads in [`pool`].

mod affinity;
mod attention;
mod delta_net;
mod experts;
mod float;
mod gemm;
mod int8;
mod isa;
mod kernels;
mod matmul;
mod memory;
mod pool;
mod rope;
#[cfg(test)]
mod testing;
mod traffic;
mod vector_math;

use std::sync::Arc;

pub use affinity::cores;
use attention::KvCache;
use delta_net::DeltaStates;
use experts::Routing;
use int8::Int8Rows;
pub use isa::Isa;
use matmul::Processor;
pub use memory::{MemoryPlan, plan};
use rope::Rope;

use crate::error::{Error, Result};
use crate::experts::ExpertCounters;
use crate::model::{
    Backend, BackendInfo, Batch, Costs, FeedForwardWeights, LoadProgress, MixerWeights, ModelSpec, Operation, Weights,
};
use crate::state::{KvFormat, Sequence, StateLayout};

/// How the backend runs.
#[derive(Debug, Clone)]
pub struct CpuOptions {
    /// Worker threads, at least 1.
    pub threads: usize,
    /// Keep activations in float32 rather than int8.
    pub exact: bool,
    /// How keys and values are stored.
    pub kv: KvFormat,
    /// Rows of one step at most.
    pub max_rows: usize,
    /// Which instructions the kernels use.
    pub isa: Isa,
}

/// Runs the network on the processor.
pub struct CpuBackend {
    spec: Arc<ModelSpec>,
    weights: Weights,
    processor: Processor,
    rope: Option<Rope>,
    kv: KvCache,
    states: DeltaStates,
    counters: Arc<ExpertCounters>,
    layout: StateLayout,
    max_rows: usize,
    work: Workspace,
}

/// Activations of the step in progress, sized for the largest step at load.
#[derive(Default)]
struct Workspace {
    rows: usize,
    /// Residual stream `[rows, hidden]`.
    x: Vec<f32>,
    /// Normalised input of the current half layer `[rows, hidden]`.
    normed: Vec<f32>,
    /// `normed`, `mixed` or the heads of a DeltaNet layer, quantised, whichever is multiplied next.
    int8: Int8Rows,
    /// `expert_hidden`, quantised.
    hidden_int8: Int8Rows,
    /// Projections `[rows, width]`: one buffer for each of up to four matrices.
    projections: [Vec<f32>; 4],
    /// Output of the mixer before its last projection `[rows, widest mixer]`.
    mixed: Vec<f32>,
    /// Experts of each row.
    routing: Routing,
    /// SwiGLU activations `[entries, width]`.
    expert_hidden: Vec<f32>,
    /// What the step moved so far.
    costs: Costs,
}

impl CpuBackend {
    /// Takes ownership of the weights and all memory that any later step will need.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`], [`Error::Internal`] when no thread can be started, [`Error::Cancelled`] between the
    /// memory of two layers when `progress` asks for that.
    pub fn new(
        spec: Arc<ModelSpec>,
        weights: Weights,
        layout: StateLayout,
        counters: Arc<ExpertCounters>,
        options: &CpuOptions,
        progress: &LoadProgress,
    ) -> Result<Self> {
        let needs_attention = spec.attention_layers() > 0;
        Ok(Self {
            processor: Processor::new(options.threads, options.exact, options.isa)?,
            rope: needs_attention.then(|| Rope::new(&spec.attention.rope, options.max_rows)).transpose()?,
            kv: KvCache::new(&spec, &layout, options.kv, progress)?,
            states: DeltaStates::new(&spec, layout.slots, progress)?,
            work: Workspace::new(&spec, options.max_rows)?,
            max_rows: options.max_rows,
            spec,
            weights,
            counters,
            layout,
        })
    }

    /// `normed = rms_norm(x) * weight`, row by row.
    fn norm_rows(&mut self, which: fn(&crate::model::LayerWeights) -> &[f32], layer: usize) {
        let (hidden, eps, isa) = (self.spec.hidden, self.spec.norm_eps, self.processor.isa);
        let weight = which(&self.weights.layers[layer]);
        let (x, rows) = (&self.work.x, self.work.rows);
        self.processor.pool.run_chunks(&mut self.work.normed[..rows * hidden], hidden, |row, out, _| {
            isa.rms_norm(&x[row * hidden..(row + 1) * hidden], weight, eps, out);
        });
    }

    fn wrong_layer(&self, layer: usize, expected: &str) -> Error {
        Error::Internal(format!("layer {layer} of {} is no {expected} layer", self.spec.layers.len()))
    }
}

impl Backend for CpuBackend {
    fn attach(&mut self) {
        self.processor.pool.attach();
    }

    fn embed(&mut self, batch: &Batch<'_>) -> Result<()> {
        batch.check(self.spec.vocab, self.max_rows, &self.layout, false)?;
        let hidden = self.spec.hidden;
        self.work.rows = batch.tokens.len();
        let (x, embedding) = (&mut self.work.x[..self.work.rows * hidden], &self.weights.embedding);
        self.processor.pool.run_chunks(x, hidden, |row, x, _| embedding.decode_row(batch.tokens[row] as usize, x));
        self.work.costs[Operation::Embed].bytes += traffic::embed(&self.weights.embedding, batch.tokens.len());
        if let Some(rope) = &mut self.rope {
            rope.prepare(batch, &self.processor.pool);
        }
        for s in batch.sequences.iter().filter(|s| s.position == 0) {
            self.states.clear(s.memory.slot);
        }
        Ok(())
    }

    fn attention(&mut self, layer: usize, batch: &Batch<'_>) -> Result<()> {
        self.norm_rows(|l| &l.input_norm, layer);
        let Some(MixerWeights::Attention(weights)) = self.weights.layers.get(layer).map(|l| &l.mixer) else {
            return Err(self.wrong_layer(layer, "attention"));
        };
        let rope = self.rope.as_ref().ok_or_else(|| Error::Internal("no rotary table".into()))?;
        let context = attention::Context { spec: &self.spec, processor: &self.processor, rope };
        let kv = self.kv.layer_mut(layer)?;
        context.run(weights, kv, batch, &mut self.work);
        self.work.costs[Operation::Attention].bytes += traffic::attention(weights, kv, batch);
        Ok(())
    }

    fn delta_net(&mut self, layer: usize, batch: &Batch<'_>) -> Result<()> {
        self.norm_rows(|l| &l.input_norm, layer);
        let (Some(MixerWeights::DeltaNet(weights)), Some(delta)) =
            (self.weights.layers.get(layer).map(|l| &l.mixer), &self.spec.delta)
        else {
            return Err(self.wrong_layer(layer, "DeltaNet"));
        };
        let context = delta_net::Context { spec: delta, eps: self.spec.norm_eps, processor: &self.processor };
        let states = self.states.layer(layer)?;
        context.run(weights, states, batch, &mut self.work);
        self.work.costs[Operation::DeltaNet].bytes += traffic::delta_net(weights, states, batch);
        Ok(())
    }

    fn moe(&mut self, layer: usize) -> Result<()> {
        self.norm_rows(|l| &l.feed_forward_norm, layer);
        let (Some(FeedForwardWeights::Moe(weights)), Some(moe)) =
            (self.weights.layers.get(layer).map(|l| &l.feed_forward), &self.spec.moe)
        else {
            return Err(self.wrong_layer(layer, "expert"));
        };
        let context = experts::Context { hidden: self.spec.hidden, processor: &self.processor };
        context.moe(weights, moe, &mut self.work);
        for expert in self.work.routing.activations() {
            self.counters.record(layer, expert);
        }
        self.work.costs[Operation::Router].bytes += traffic::router(weights);
        self.work.costs[Operation::Experts].bytes += traffic::experts(weights, self.work.routing.active());
        Ok(())
    }

    fn dense(&mut self, layer: usize) -> Result<()> {
        self.norm_rows(|l| &l.feed_forward_norm, layer);
        let Some(FeedForwardWeights::Dense(weights)) = self.weights.layers.get(layer).map(|l| &l.feed_forward) else {
            return Err(self.wrong_layer(layer, "dense"));
        };
        let context = experts::Context { hidden: self.spec.hidden, processor: &self.processor };
        context.dense(weights, &mut self.work);
        self.work.costs[Operation::Dense].bytes += traffic::swiglu(weights);
        Ok(())
    }

    fn head(&mut self, batch: &Batch<'_>, logits: &mut [f32]) -> Result<()> {
        let (hidden, eps) = (self.spec.hidden, self.spec.norm_eps);
        let wanted = batch.logit_rows();
        if logits.len() != wanted.len() * self.spec.vocab {
            return Err(Error::Internal(format!("{} logits for {} rows", logits.len(), wanted.len())));
        }
        let work = &mut self.work;
        for (row, out) in wanted.iter().zip(work.normed.chunks_exact_mut(hidden)) {
            self.processor.isa.rms_norm(&work.x[row * hidden..(row + 1) * hidden], &self.weights.final_norm, eps, out);
        }
        let normed = &work.normed[..wanted.len() * hidden];
        let inputs = self.processor.inputs(normed, hidden, &mut work.int8, [&self.weights.head]);
        self.processor.matmul(&self.weights.head, inputs, logits);
        if !wanted.is_empty() {
            work.costs[Operation::Head].bytes += self.weights.head.bytes() as u64;
        }
        self.processor.pool.rest();
        Ok(())
    }

    fn invent(&mut self, memory: &Sequence, positions: usize) -> Result<()> {
        self.states.clear(memory.slot);
        self.kv.invent(self.processor.isa, &memory.pages, positions);
        Ok(())
    }

    fn take_costs(&mut self) -> Costs {
        std::mem::take(&mut self.work.costs)
    }

    fn info(&self) -> BackendInfo {
        BackendInfo { kernels: self.processor.isa.name(), kv_type: self.kv.format().name() }
    }
}

impl Workspace {
    fn new(spec: &ModelSpec, max_rows: usize) -> Result<Self> {
        let sizes = memory::WorkspaceSizes::new(spec);
        let rows = |width: usize| memory::zeroed(max_rows, width, "work space");
        Ok(Self {
            rows: 0,
            x: rows(spec.hidden)?,
            normed: rows(spec.hidden)?,
            projections: [
                rows(sizes.projections[0])?,
                rows(sizes.projections[1])?,
                rows(sizes.projections[2])?,
                rows(sizes.projections[3])?,
            ],
            mixed: rows(sizes.mixed)?,
            int8: Int8Rows::default(),
            hidden_int8: Int8Rows::default(),
            routing: Routing::default(),
            expert_hidden: rows(sizes.expert_hidden)?,
            costs: Costs::default(),
        })
    }
}
