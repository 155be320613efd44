//! Where the time and the memory traffic of a model's steps go, by operation.
//!
//! [`Timed`] stands between the network and its backend and looks at the clock around every operation; the backend tells
//! the bytes. [`ProfileCounters`] keeps the sums since load, prefill and decode apart, for any thread to read.
//!
//! A device does what is queued later than the clock sees it, and all operations of a step in one submission: there they have
//! bytes and no time, and the wait for the step counts to [`Operation::Device`]. The times of a phase still add up to what
//! passed, also where the next step is queued before the last one is waited for.

use std::ops::{Index, IndexMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Backend, Batch};
use crate::error::Result;

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Looking up the embedding.
    Embed,
    /// Attention layers, their projections included.
    Attention,
    /// DeltaNet layers, their projections included.
    DeltaNet,
    /// Routers of the Mixture-of-Experts layers.
    Router,
    /// Routed and shared experts.
    Experts,
    /// Dense feed-forward layers.
    Dense,
    /// The head.
    Head,
    /// The wait for a device, which runs all operations above as one and chooses the tokens. Has time and no bytes of its own.
    Device,
    /// From logits to tokens and text; from tokens on, where a device chooses them.
    Sampling,
    /// What else the engine does in a step; for a device also queueing it.
    Other,
}

impl Operation {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// In the order in which a step runs them.
    pub const ALL: [Operation; 10] = [
        Operation::Embed,
        Operation::Attention,
        Operation::DeltaNet,
        Operation::Router,
        Operation::Experts,
        Operation::Dense,
        Operation::Head,
        Operation::Device,
        Operation::Sampling,
        Operation::Other,
    ];

    /// A name for tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Embed => "embed",
            Operation::Attention => "attention",
            Operation::DeltaNet => "delta_net",
            Operation::Router => "router",
            Operation::Experts => "experts",
            Operation::Dense => "dense",
            Operation::Head => "head",
            Operation::Device => "device",
            Operation::Sampling => "sampling",
            Operation::Other => "other",
        }
    }
}

/// What an operation cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Time on the engine's clock.
    pub time: Duration,
    /// Bytes of weights, recurrent states and KV that cannot stay in a cache between two steps: each is counted once a step
    /// for a read and once for a write. Weights of experts that no row visits are not counted, activations neither.
    pub bytes: u64,
}

/// The cost of every operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Costs([Cost; Operation::COUNT]);

impl Index<Operation> for Costs {
    type Output = Cost;
    fn index(&self, operation: Operation) -> &Cost {
        &self.0[operation as usize]
    }
}

impl IndexMut<Operation> for Costs {
    fn index_mut(&mut self, operation: Operation) -> &mut Cost {
        &mut self.0[operation as usize]
    }
}

impl Costs {
    /// Adds `other`.
    pub fn add(&mut self, other: &Costs) {
        for operation in Operation::ALL {
            self[operation].time += other[operation].time;
            self[operation].bytes += other[operation].bytes;
        }
    }

    /// The same bytes; all of the time is that of queueing, which is no operation's.
    pub fn queued(mut self) -> Costs {
        let time = self.total().time;
        self.0.iter_mut().for_each(|cost| cost.time = Duration::ZERO);
        self[Operation::Other].time = time;
        self
    }

    /// Of all operations together.
    pub fn total(&self) -> Cost {
        let add = |sum: Cost, cost: &Cost| Cost { time: sum.time + cost.time, bytes: sum.bytes + cost.bytes };
        self.0.iter().fold(Cost::default(), add)
    }
}

/// A backend with a clock.
pub struct Timed<'a> {
    backend: &'a mut dyn Backend,
    costs: Costs,
}

impl<'a> Timed<'a> {
    /// Starts a step of `backend`.
    pub fn new(backend: &'a mut dyn Backend) -> Self {
        // What a step that failed half-way left there belongs to nobody.
        backend.take_costs();
        Self { backend, costs: Costs::default() }
    }

    /// What the step cost.
    pub fn finish(mut self) -> Costs {
        let told = self.backend.take_costs();
        for operation in Operation::ALL {
            self.costs[operation].bytes += told[operation].bytes;
        }
        // The call that runs the experts runs their router, of which only the backend knows the time.
        let router = told[Operation::Router].time;
        self.costs[Operation::Router].time = router;
        let experts = &mut self.costs[Operation::Experts].time;
        *experts = experts.saturating_sub(router);
        self.costs
    }

    fn time(&mut self, operation: Operation, call: impl FnOnce(&mut dyn Backend) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        let done = call(self.backend);
        self.costs[operation].time += start.elapsed();
        done
    }
}

impl Backend for Timed<'_> {
    fn embed(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.time(Operation::Embed, |backend| backend.embed(batch))
    }

    fn attention(&mut self, layer: usize, batch: &Batch<'_>) -> Result<()> {
        self.time(Operation::Attention, |backend| backend.attention(layer, batch))
    }

    fn delta_net(&mut self, layer: usize, batch: &Batch<'_>) -> Result<()> {
        self.time(Operation::DeltaNet, |backend| backend.delta_net(layer, batch))
    }

    fn moe(&mut self, layer: usize) -> Result<()> {
        self.time(Operation::Experts, |backend| backend.moe(layer))
    }

    fn dense(&mut self, layer: usize) -> Result<()> {
        self.time(Operation::Dense, |backend| backend.dense(layer))
    }

    fn head(&mut self, batch: &Batch<'_>, logits: &mut [f32]) -> Result<()> {
        self.time(Operation::Head, |backend| backend.head(batch, logits))
    }

    fn choose(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.time(Operation::Head, |backend| backend.choose(batch))
    }
}

/// Which of the two kinds of work a step counts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Some rows belong to prompts, or are evaluated.
    Prefill,
    /// Every row is a token that was generated.
    Decode,
}

/// Costs of all steps since load, by phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Profile {
    /// Steps that read prompts.
    pub prefill: PhaseProfile,
    /// Steps that only wrote.
    pub decode: PhaseProfile,
}

/// Costs of the steps of one phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PhaseProfile {
    /// Steps.
    pub steps: u64,
    /// Rows of those steps.
    pub tokens: u64,
    /// Costs of those steps.
    pub costs: Costs,
}

impl Profile {
    /// What came after `earlier`, a profile of the same model.
    pub fn since(&self, earlier: &Profile) -> Profile {
        Profile { prefill: self.prefill.since(&earlier.prefill), decode: self.decode.since(&earlier.decode) }
    }
}

impl PhaseProfile {
    /// Adds the steps of `other`.
    pub fn add(&mut self, other: &PhaseProfile) {
        self.steps += other.steps;
        self.tokens += other.tokens;
        self.costs.add(&other.costs);
    }

    fn since(&self, earlier: &PhaseProfile) -> PhaseProfile {
        let mut costs = self.costs;
        for operation in Operation::ALL {
            let (cost, before) = (&mut costs[operation], earlier.costs[operation]);
            cost.time = cost.time.saturating_sub(before.time);
            cost.bytes = cost.bytes.saturating_sub(before.bytes);
        }
        let (steps, tokens) = (self.steps.saturating_sub(earlier.steps), self.tokens.saturating_sub(earlier.tokens));
        PhaseProfile { steps, tokens, costs }
    }
}

/// The sums behind a [`Profile`]: written by the engine's thread, read by any. Relaxed atomics, because a statistic that is
/// one step old is still a true statistic.
#[derive(Debug, Default)]
pub struct ProfileCounters {
    prefill: PhaseCounters,
    decode: PhaseCounters,
}

#[derive(Debug, Default)]
struct PhaseCounters {
    steps: AtomicU64,
    tokens: AtomicU64,
    nanoseconds: [AtomicU64; Operation::COUNT],
    bytes: [AtomicU64; Operation::COUNT],
}

impl ProfileCounters {
    /// Adds a step of `rows` rows.
    pub fn record_step(&self, phase: Phase, rows: usize, costs: &Costs) {
        let counters = self.phase(phase);
        counters.steps.fetch_add(1, Ordering::Relaxed);
        counters.tokens.fetch_add(rows as u64, Ordering::Relaxed);
        for operation in Operation::ALL {
            counters.bytes[operation as usize].fetch_add(costs[operation].bytes, Ordering::Relaxed);
            self.record_time(phase, operation, costs[operation].time);
        }
    }

    /// Adds time that `operation` took in a step.
    pub fn record_time(&self, phase: Phase, operation: Operation, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.phase(phase).nanoseconds[operation as usize].fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// The sums so far.
    pub fn snapshot(&self) -> Profile {
        Profile { prefill: self.prefill.snapshot(), decode: self.decode.snapshot() }
    }

    fn phase(&self, phase: Phase) -> &PhaseCounters {
        match phase {
            Phase::Prefill => &self.prefill,
            Phase::Decode => &self.decode,
        }
    }
}

impl PhaseCounters {
    fn snapshot(&self) -> PhaseProfile {
        let mut costs = Costs::default();
        for operation in Operation::ALL {
            let load = |counters: &[AtomicU64]| counters[operation as usize].load(Ordering::Relaxed);
            costs[operation] = Cost { time: Duration::from_nanos(load(&self.nanoseconds)), bytes: load(&self.bytes) };
        }
        PhaseProfile { steps: self.steps.load(Ordering::Relaxed), tokens: self.tokens.load(Ordering::Relaxed), costs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    /// Every call takes a while; a call of the experts says that half a millisecond of it was the router's.
    #[derive(Default)]
    struct Slow(Costs);

    impl Slow {
        fn work(&mut self, operation: Operation, bytes: u64) -> Result<()> {
            self.0[operation].bytes += bytes;
            std::thread::sleep(Duration::from_millis(2));
            Ok(())
        }
    }

    impl Backend for Slow {
        fn embed(&mut self, _: &Batch<'_>) -> Result<()> {
            self.work(Operation::Embed, 1)
        }
        fn attention(&mut self, _: usize, _: &Batch<'_>) -> Result<()> {
            self.work(Operation::Attention, 10)
        }
        fn delta_net(&mut self, _: usize, _: &Batch<'_>) -> Result<()> {
            Err(Error::Internal("on purpose".into()))
        }
        fn moe(&mut self, _: usize) -> Result<()> {
            self.0[Operation::Router].time += Duration::from_micros(500);
            self.work(Operation::Experts, 100)
        }
        fn dense(&mut self, _: usize) -> Result<()> {
            self.work(Operation::Dense, 1000)
        }
        fn head(&mut self, _: &Batch<'_>, _: &mut [f32]) -> Result<()> {
            self.work(Operation::Head, 10_000)
        }
        fn take_costs(&mut self) -> Costs {
            std::mem::take(&mut self.0)
        }
    }

    #[test]
    fn time_and_bytes_go_to_the_operation_that_spent_them() {
        let (mut slow, batch) = (Slow::default(), Batch::default());
        let mut timed = Timed::new(&mut slow);
        timed.embed(&batch).unwrap();
        timed.attention(0, &batch).unwrap();
        timed.moe(0).unwrap();
        timed.moe(1).unwrap();
        timed.head(&batch, &mut []).unwrap();
        let costs = timed.finish();
        assert_eq!(Operation::ALL.map(|o| costs[o].bytes), [1, 10, 0, 0, 200, 0, 10_000, 0, 0, 0]);
        assert_eq!(costs[Operation::Router].time, Duration::from_millis(1));
        assert!(costs[Operation::Experts].time >= Duration::from_millis(3));
        assert!(costs[Operation::Attention].time >= Duration::from_millis(2));
        assert_eq!(costs[Operation::Dense].time, Duration::ZERO);
        assert_eq!(costs.total().bytes, 10_211);
    }

    #[test]
    fn what_a_failed_step_cost_is_not_the_next_one_s() {
        let (mut slow, batch) = (Slow::default(), Batch::default());
        let mut timed = Timed::new(&mut slow);
        timed.embed(&batch).unwrap();
        timed.delta_net(0, &batch).unwrap_err();
        assert_eq!(Timed::new(&mut slow).finish().total(), Cost::default());
    }

    #[test]
    fn a_profile_since_an_earlier_one_holds_the_steps_between() {
        let counters = ProfileCounters::default();
        let mut costs = Costs::default();
        costs[Operation::Head] = Cost { time: Duration::from_nanos(7), bytes: 3 };
        counters.record_step(Phase::Prefill, 5, &costs);
        let earlier = counters.snapshot();
        counters.record_step(Phase::Prefill, 2, &costs);
        counters.record_step(Phase::Decode, 1, &costs);
        counters.record_time(Phase::Decode, Operation::Sampling, Duration::from_nanos(9));
        let between = counters.snapshot().since(&earlier);
        assert_eq!((between.prefill.steps, between.prefill.tokens), (1, 2));
        assert_eq!((between.decode.steps, between.decode.tokens), (1, 1));
        assert_eq!(between.prefill.costs, costs);
        assert_eq!(between.decode.costs[Operation::Sampling].time, Duration::from_nanos(9));
        assert_eq!(between.decode.costs.total(), Cost { time: Duration::from_nanos(16), bytes: 3 });
    }
}
