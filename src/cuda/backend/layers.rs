//! What a step queues: the layers, one after another, and the head. Steps that replay a recording only count what they move.

use super::super::args::{Matrix, NormArgs, QuantisedRow};
use super::super::delta_net::DeltaWork;
use super::super::memory::DeviceSlice;
use super::super::moe::{Moe, MoeShape, MoeWork};
use super::super::norm::{Norm, Normed};
use super::super::plan::results;
use super::super::products::{Inputs, Output};
use super::super::step::Step;
use super::super::weights::Weight;
use super::{CudaBackend, Mode};
use crate::error::{Error, Result};
use crate::model::{Batch, BatchSequence, MixerWeights, Operation};

impl CudaBackend {
    fn wrong_layer(&self, layer: usize, expected: &str) -> Error {
        Error::Internal(format!("layer {layer} of {} is no {expected} layer", self.spec.layers.len()))
    }

    /// Rows of activations, picked ones or the first `count`, before norm `norm`: the norm is the product's where there is one
    /// row, and done here otherwise, as floats, quantised, or both, as they are wanted. `early`: see [`Normed::early`].
    fn normed(
        &self,
        (pick, count): (Option<DeviceSlice<u32>>, usize),
        norm: DeviceSlice<f32>,
        (floats, quantised): (bool, bool),
        early: bool,
    ) -> Result<Inputs> {
        let (work, norm) = (&self.work, (norm, self.spec.norm_eps));
        if count == 1 {
            return Ok(Inputs { pick, norm: Some(norm), ..Inputs::rows(work.x, 1) });
        }
        let out = Normed { early, ..work.normed_as((floats, quantised)) };
        self.kernels.norm.run(&self.stream, (work.x, pick, count), norm, out)?;
        Ok(Inputs { quantised: out.quantised, ..Inputs::rows(work.normed, count) })
    }

    /// Whether `count` rows are to be normed as floats, and quantised, for products with `matrices`.
    fn forms<'a>(&self, mut matrices: impl Iterator<Item = &'a Matrix> + Clone, count: usize) -> (bool, bool) {
        let takes = |matrix| self.kernels.products.takes_quantised(matrix, count);
        (!matrices.clone().all(takes), matrices.any(takes))
    }

    /// The products of such rows with `outputs`, normed in the forms that they take.
    fn normed_products(
        &self,
        rows: (Option<DeviceSlice<u32>>, usize),
        norm: DeviceSlice<f32>,
        outputs: &[(&Weight, DeviceSlice<f32>)],
    ) -> Result<()> {
        let forms = self.forms(outputs.iter().map(|(weight, _)| &weight.matrix), rows.1);
        let inputs = self.normed(rows, norm, forms, true)?;
        self.kernels.products.run(&self.stream, inputs, outputs, Output::Set)
    }

    /// The products of all rows with a mixer's `outputs`, before them the norm, unless the layer in front did that.
    fn mixer_products(
        &self,
        layer: usize,
        norm: DeviceSlice<f32>,
        outputs: &[(&Weight, DeviceSlice<f32>)],
    ) -> Result<()> {
        let count = self.step()?.count();
        match self.normed_for.filter(|(of, _)| *of == layer) {
            None => self.normed_products((None, count), norm, outputs),
            Some((_, quantised)) => {
                let inputs = Inputs { quantised, ..Inputs::rows(self.work.normed, count) };
                self.kernels.products.run(&self.stream, inputs, outputs, Output::Set)
            }
        }
    }

    /// The norm in front of the mixer behind layer `layer`, for its feed-forward half to do, where it can.
    fn norm_behind(&self, layer: usize, shape: &MoeShape, count: usize) -> Result<Option<NormArgs>> {
        let Some(weights) = self.model.weights.layers.get(layer + 1) else { return Ok(None) };
        if !Moe::norms_behind(shape, count) {
            return Ok(None);
        }
        let matrices = weights.mixer.projections();
        let out = self.work.normed_as(self.forms(matrices.iter().map(|weight| &weight.matrix), count));
        let norm = (weights.input_norm, self.spec.norm_eps);
        Norm::args((self.work.x, None, count), norm, Normed { early: true, ..out }).map(Some)
    }

    pub(super) fn run_attention(&mut self, layer: usize, batch: &Batch<'_>) -> Result<()> {
        let step = self.step()?;
        let (Some(weights), Some(Some(kv)), Some(kernel)) =
            (self.model.weights.layers.get(layer), self.model.kv.get(layer), &self.kernels.attention)
        else {
            return Err(self.wrong_layer(layer, "attention"));
        };
        let MixerWeights::Attention(attention) = &weights.mixer else {
            return Err(self.wrong_layer(layer, "attention"));
        };
        let linears = [&attention.query, &attention.key, &attention.value, &attention.output];
        let bytes: u64 = linears.iter().map(|linear| linear.bytes()).sum();
        let positions: usize = batch.sequences.iter().map(|s| s.position + 2 * s.rows.len()).sum();
        self.costs[Operation::Attention].bytes += bytes + positions as u64 * kv.bytes_per_position(&self.sizes.layout);
        if let Mode::Replay(_) = self.mode {
            return Ok(());
        }
        let (stream, products, work) = (&self.stream, &self.kernels.products, &self.work.attention);
        let [query, key, value, output] = &linears.map(|linear| linear.weight());
        let outputs = [(query, work.queries), (key, work.keys), (value, work.values)];
        self.mixer_products(layer, weights.input_norm, &outputs)?;
        kernel.run(stream, &step, attention, kv, work)?;
        let mixed = Inputs::rows(work.out, step.count());
        products.run(stream, mixed, &[(output, self.work.x)], Output::Add)
    }

    pub(super) fn run_delta_net(&mut self, layer: usize, batch: &Batch<'_>) -> Result<()> {
        let step = self.step()?;
        let (Some(weights), Some(Some(states)), Some(kernel)) =
            (self.model.weights.layers.get(layer), self.model.states.get(layer), &self.kernels.delta_net)
        else {
            return Err(self.wrong_layer(layer, "DeltaNet"));
        };
        let MixerWeights::DeltaNet(delta) = &weights.mixer else {
            return Err(self.wrong_layer(layer, "DeltaNet"));
        };
        let matrices = delta.inputs.matrices().chain(delta.gates.matrices()).chain([&delta.output]);
        let matrices: u64 = matrices.map(|weight| weight.bytes).sum();
        let bytes = matrices + 4 * delta.conv.len() as u64;
        let of_sequence = |s: &BatchSequence<'_>| kernel.state_bytes(&step, s.rows.len(), s.position, s.memory.slot);
        let of_states: u64 = batch.sequences.iter().map(of_sequence).sum();
        self.costs[Operation::DeltaNet].bytes += bytes + of_states;
        if let Mode::Replay(_) = self.mode {
            return Ok(());
        }
        let (stream, products) = (&self.stream, &self.kernels.products);
        let quantised = kernel.quantises(&step) && products.takes_quantised(&delta.output.matrix, step.count());
        let row = if quantised { self.work.moe.row } else { QuantisedRow::NONE };
        let work = &DeltaWork { row, ..self.work.delta_net };
        let [first, second, third, fourth] = work.projections;
        let of_inputs = delta.inputs.matrices().zip([first, second]);
        let outputs: Vec<(&Weight, _)> = of_inputs.chain(delta.gates.matrices().zip([third, fourth])).collect();
        self.mixer_products(layer, weights.input_norm, &outputs)?;
        kernel.run(stream, &step, delta, states, work)?;
        let mixed = Inputs { quantised: row, ..Inputs::rows(work.out, step.count()) };
        products.run(stream, mixed, &[(&delta.output, self.work.x)], Output::Add)
    }

    /// A feed-forward half of either kind.
    pub(super) fn run_feed_forward(&mut self, layer: usize) -> Result<()> {
        let step = self.step()?;
        let model = &self.model;
        let (Some(weights), Some(moe), Some(bytes)) =
            (model.weights.layers.get(layer), model.feed_forward.get(layer), model.expert_bytes.get(layer))
        else {
            return Err(self.wrong_layer(layer, "feed-forward"));
        };
        let [router, gate] = weights.feed_forward.router();
        let which = if router.is_some() { Operation::Experts } else { Operation::Dense };
        self.costs[Operation::Router].bytes += [router, gate].iter().flatten().map(|weight| weight.bytes).sum::<u64>();
        self.costs[which].bytes += bytes.shared;
        if let Mode::Replay(_) = self.mode {
            return Ok(());
        }
        let (count, stream) = (step.count(), &self.stream);
        let shared_gate = gate.and(self.work.moe.shared_gate);
        let router = router.map(|router| (router, self.work.moe.logits));
        let outputs: Vec<(&Weight, _)> = router.into_iter().chain(gate.zip(shared_gate)).collect();
        let quantised = moe.takes_quantised(count);
        let norm = (weights.feed_forward_norm, self.spec.norm_eps);
        let inputs = if self.kernels.products.norms(&outputs, count) {
            // The router norms them on their way, and leaves them as experts want them.
            let rows_norm = Norm::args((self.work.x, None, count), norm, self.work.normed_as((!quantised, quantised)))?;
            Inputs { rows_norm: Some(rows_norm), ..Inputs::rows(self.work.x, count) }
        } else {
            let forms = (!outputs.is_empty() || !quantised, quantised);
            self.normed((None, count), weights.feed_forward_norm, forms, false)?
        };
        if !outputs.is_empty() {
            self.kernels.products.run_exact(stream, Inputs { early: true, ..inputs }, &outputs)?;
        }
        let work = MoeWork { shared_gate, ..self.work.moe };
        let (choices, behind) = (self.choices_of(layer, count)?, self.norm_behind(layer, &moe.shape, count)?);
        self.kernels.moe.run(stream, count, moe, norm, (&work, choices), behind)?;
        self.normed_for = behind.map(|norm| (layer + 1, norm.row));
        Ok(())
    }

    /// Where layer `layer` leaves the choices of `count` rows: those of all layers lie one behind another.
    fn choices_of(&self, layer: usize, count: usize) -> Result<DeviceSlice<u32>> {
        let len = count * self.model.feed_forward.get(layer).map_or(0, |moe| moe.shape.top_k);
        let first = results(&self.sizes) + self.model.moe_index.get(layer).map_or(0, |index| index * len);
        self.reports.on_device(self.side).part(first, len)
    }

    pub(super) fn queue_head(&self, step: &Step) -> Result<()> {
        let (weights, count) = (&self.model.weights, step.picks.len());
        if count == 0 {
            return Ok(());
        }
        // The only row of a step is not looked up: it is the first.
        let picks = Some(step.picks).filter(|_| step.count() > 1);
        self.normed_products((picks, count), weights.final_norm, &[(&weights.head, self.work.logits)])
    }
}
