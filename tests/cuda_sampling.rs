//! Tokens chosen on a CUDA device, with steps queued ahead, against those that the host chooses by the same device's logits.
//! Where there is no device, or the library was built without CUDA, each test says that it is skipped and passes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod support;

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use qwen3moe::cuda::{Context, CudaBackend, CudaOptions, Modules, Priority, Sizes};
use qwen3moe::engine::{Language, MemoryStats, ModelParts, SamplingDefaults};
use qwen3moe::model::{Backend, Batch, Checkpoint, Costs, Logits, Origin, Sampling, WeightPlan, read_spec};
use qwen3moe::state::{KvFormat, StateLayout};
use qwen3moe::{Event, FinishReason, GenerateOptions, LoadProgress, Model, Prompt, Result, Stream};
use support::batches::counters;
use support::cuda::no_device;
use support::goldens::{Case, cases};

/// A backend that begins when all requests are in line, so that they share every step, and that may leave the choice of
/// tokens to the host.
struct Gated {
    backend: CudaBackend,
    chooses: bool,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Backend for Gated {
    fn attach(&mut self) {
        let (open, opened) = &*self.gate;
        drop(opened.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
        self.backend.attach();
    }
    fn embed(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.backend.embed(batch)
    }
    fn attention(&mut self, layer: usize, batch: &Batch<'_>) -> Result<()> {
        self.backend.attention(layer, batch)
    }
    fn delta_net(&mut self, layer: usize, batch: &Batch<'_>) -> Result<()> {
        self.backend.delta_net(layer, batch)
    }
    fn moe(&mut self, layer: usize) -> Result<()> {
        self.backend.moe(layer)
    }
    fn dense(&mut self, layer: usize) -> Result<()> {
        self.backend.dense(layer)
    }
    fn head(&mut self, batch: &Batch<'_>, logits: &mut [f32]) -> Result<()> {
        self.backend.head(batch, logits)
    }
    fn steps_ahead(&self) -> usize {
        if self.chooses { self.backend.steps_ahead() } else { 0 }
    }
    fn begin_stream(&mut self, slot: usize, sampling: &Sampling, prompt: &[u32]) -> Result<()> {
        self.backend.begin_stream(slot, sampling, prompt)
    }
    fn choose(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.backend.choose(batch)
    }
    fn collect(&mut self, wanted: &[bool], logits: &mut [f32]) -> Result<Vec<Result<u32>>> {
        self.backend.collect(wanted, logits)
    }
    fn logits(&mut self, len: usize) -> Result<Logits> {
        self.backend.logits(len)
    }
    fn take_costs(&mut self) -> Costs {
        self.backend.take_costs()
    }
}

const STREAMS: usize = 4;
const END: u32 = 3;

/// The model of `case` with a gate, which the second value opens.
fn start(case: &Case, chooses: bool) -> (Model, Arc<(Mutex<bool>, Condvar)>) {
    let checkpoint = Checkpoint::open(&case.source()).unwrap();
    let spec = Arc::new(read_spec(&checkpoint).unwrap());
    let plan = WeightPlan::new(&checkpoint, &spec).unwrap();
    let progress = LoadProgress::default();
    let context = Context::hold(0).unwrap();
    let modules = Modules::load(&context).unwrap();
    let layout = StateLayout::new(STREAMS, STREAMS * 256);
    let multiprocessors = context.device().multiprocessors as usize;
    let (kv, max_rows, max_logits) = (KvFormat::F32, 64 + STREAMS, 64 + STREAMS);
    let sizes = Sizes { layout, kv, max_rows, max_logits, multiprocessors };
    let options = CudaOptions { sizes, exact: true, priority: Priority::Default, eos_ids: vec![END], threads: 2 };
    let (counters, origin) = (counters(&spec), Origin::Files(&checkpoint));
    let backend =
        CudaBackend::new((&context, &modules), spec.clone(), &origin, &plan, counters.clone(), &options, &progress);
    let gate = Arc::<(Mutex<bool>, Condvar)>::default();
    let model = Model::start(ModelParts {
        spec,
        backend: Box::new(Gated { backend: backend.unwrap(), chooses, gate: gate.clone() }),
        layout,
        context_length: 256,
        prefill_chunk: 64,
        max_step: None,
        threads: 1,
        language: Language::new(Path::new("case"), None, None, vec![END]).unwrap(),
        sampling: SamplingDefaults::default(),
        counters,
        memory: MemoryStats::default(),
        parameters: 0,
        log: None,
    });
    (model.unwrap(), gate)
}

fn finish(stream: &Stream) -> Result<FinishReason> {
    loop {
        if let Event::Done(reason) = stream.next(None)? {
            return Ok(reason);
        }
    }
}

/// How a stream ended, and its tokens.
type Run = (Result<FinishReason>, Vec<u32>);

/// The tokens and ends of streams with `settings`, all begun at once; and how often experts were visited.
fn run(case: &Case, chooses: bool, settings: &[GenerateOptions]) -> (Vec<Run>, u64) {
    let (model, gate) = start(case, chooses);
    let prompt = |i: usize| Prompt::Tokens(case.ids[i..i + 5].to_vec());
    let streams: Vec<Stream> =
        settings.iter().enumerate().map(|(i, options)| model.stream(&prompt(i), options).unwrap()).collect();
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    let ends = streams.iter().map(|stream| (finish(stream), stream.tokens())).collect();
    (ends, model.expert_stats().activations)
}

fn settings() -> Vec<GenerateOptions> {
    let plain = GenerateOptions { max_tokens: 14, ignore_eos: true, seed: 11, ..GenerateOptions::default() };
    vec![
        GenerateOptions { temperature: Some(0.0), ..plain.clone() },
        GenerateOptions { temperature: Some(0.9), top_k: Some(20), top_p: Some(0.9), ..plain.clone() },
        GenerateOptions {
            repetition_penalty: Some(1.3),
            presence_penalty: 0.3,
            frequency_penalty: 0.2,
            min_p: Some(0.02),
            ..plain.clone()
        },
        GenerateOptions { temperature: Some(1.4), top_p: Some(0.7), min_tokens: 6, ..plain },
    ]
}

/// Runs `check` for some cases of each family.
fn for_some_cases(check: impl Fn(&Case)) {
    if no_device() {
        return;
    }
    cases().iter().filter(|case| case.name.contains("bf16") || case.name.contains("gguf")).take(4).for_each(check);
}

#[test]
fn streams_of_different_settings_in_one_batch_get_the_tokens_that_the_host_would_choose() {
    for_some_cases(|case| {
        let (found, visits) = run(case, true, &settings());
        let (expected, expected_visits) = run(case, false, &settings());
        assert_eq!(found, expected, "{}", case.name);
        assert_eq!(visits, expected_visits, "{}: rows that nobody wanted are not counted", case.name);
    });
}

#[test]
fn a_stream_alone_gets_the_tokens_that_the_host_would_choose_and_ends_where_it_would() {
    for_some_cases(|case| {
        for options in settings() {
            // Ends that the device knows nothing of: a step more than needed is queued.
            let (free, _) = run(case, false, std::slice::from_ref(&options));
            let stops = GenerateOptions { ignore_eos: false, max_tokens: 40, ..options };
            let found = run(case, true, std::slice::from_ref(&stops));
            assert_eq!(found, run(case, false, std::slice::from_ref(&stops)), "{}: {stops:?}", case.name);
            let common = free[0].1.len().min(found.0[0].1.len());
            assert_eq!(free[0].1[..common], found.0[0].1[..common]);
        }
    });
}

#[test]
fn evaluations_beside_streams_have_their_logits() {
    for_some_cases(|case| {
        let (model, gate) = start(case, true);
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        let options = GenerateOptions { max_tokens: 60, ..settings()[2].clone() };
        let stream = model.stream(&Prompt::Tokens(case.ids[..5].to_vec()), &options).unwrap();
        let logits = model.eval(&case.ids).unwrap();
        let difference = support::goldens::difference(&logits, &case.logits);
        assert!(difference < 1e-3, "{}: differs by {difference:e}", case.name);
        assert_eq!(finish(&stream), Ok(FinishReason::Length));
    });
}
