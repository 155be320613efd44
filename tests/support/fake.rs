//! A backend that computes no network but remembers like one, for tests of the engine.
//!
//! Its "attention" writes every row's token into the KV page of its position and its "DeltaNet" folds every token into
//! the state of the slot; its logits are a hash of all that the pages and the slot of a sequence then hold. A wrong page,
//! slot, position or order therefore changes the output, and what the output should be follows from the tokens alone:
//! see [`next_token`].
//!
//! With `ahead` it chooses tokens itself, as a device does: a step is computed when it is queued, and its tokens are heard of
//! when it is collected.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use qwen3moe::engine::{Language, MemoryStats, ModelParts, SamplingDefaults};
use qwen3moe::experts::ExpertCounters;
use qwen3moe::model::{
    AttentionSpec, Backend, Batch, Family, FeedForward, LayerSpec, Mixer, ModelSpec, MoeSpec, RopeScaling, RopeSpec,
    Sampler, Sampling,
};
use qwen3moe::state::StateLayout;
use qwen3moe::text::Tokenizer;
use qwen3moe::{Error, Model, Result};

/// One token for each byte, and [`EOS`], [`EOT`].
pub const VOCAB: usize = 258;
pub const EOS: u32 = 256;
pub const EOT: u32 = 257;
const PAGE_TOKENS: usize = 4;

/// How a test steers the backend, and what it did.
#[derive(Default)]
pub struct Control {
    /// Text that every sequence continues, byte by byte, by its own length; empty: hashes decide.
    pub script: Mutex<Vec<u32>>,
    closed: Mutex<bool>,
    opened: Condvar,
    /// Steps begun.
    pub steps: AtomicUsize,
    /// What the next step does in place of its work.
    pub fail_next: AtomicBool,
    pub panic_next: AtomicBool,
    /// How long a step takes, and each of its rows besides.
    pub cost: Mutex<(Duration, Duration)>,
    /// `(position, rows)` of each sequence of each step.
    pub batches: Mutex<Vec<Vec<(usize, usize)>>>,
    /// Steps that were queued at a time at most.
    pub most_queued: AtomicUsize,
    /// Which sequences of each step were still wanted when it was collected.
    pub wanted: Mutex<Vec<Vec<bool>>>,
    /// The backend was dropped.
    pub dropped: AtomicBool,
}

/// Opens `control` in a moment, on a thread of its own: for what waits for a step meanwhile.
pub fn open_later(control: &Arc<Control>) -> std::thread::JoinHandle<()> {
    let control = control.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(10));
        control.open();
    })
}

impl Control {
    /// Makes the next step wait inside the backend, or its tokens, until [`Control::open`].
    pub fn close(&self) {
        *self.closed.lock().unwrap() = true;
    }

    pub fn open(&self) {
        *self.closed.lock().unwrap() = false;
        self.opened.notify_all();
    }

    /// Waits until `steps` steps have begun.
    pub fn wait_for_steps(&self, steps: usize) {
        while self.steps.load(Ordering::SeqCst) < steps {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn pass(&self) {
        let closed = self.closed.lock().unwrap();
        drop(self.opened.wait_while(closed, |closed| *closed).unwrap());
    }
}

pub struct Fake {
    control: Arc<Control>,
    counters: Arc<ExpertCounters>,
    layout: StateLayout,
    /// Token of each position of each page; [`UNWRITTEN`] at first, then whatever the last owner left.
    kv: Vec<u32>,
    states: Vec<u64>,
    /// Steps that can be queued.
    ahead: usize,
    /// Of each slot's stream, and what it chose last.
    samplers: Vec<Option<Sampler>>,
    chosen: Vec<u32>,
    /// Tokens and logits of the queued steps.
    queued: VecDeque<(Vec<Result<u32>>, Vec<f32>)>,
    /// Tokens of the step in progress.
    tokens: Vec<u32>,
}

const UNWRITTEN: u32 = u32::MAX;

/// splitmix64's finaliser.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn fold(state: u64, token: u32) -> u64 {
    mix(state.wrapping_mul(31).wrapping_add(u64::from(token) + 1))
}

/// The logits after a history of tokens.
pub fn logits(history: &[u32], script: &[u32]) -> Vec<f32> {
    let hash = mix(history.iter().fold(0, |state, &token| fold(state, token)) ^ 7);
    let mut logits: Vec<f32> =
        (0..VOCAB as u64).map(|i| (mix(hash ^ (i + 1)) >> 40) as f32 / (1 << 21) as f32).collect();
    if script.is_empty() {
        // Hashes never end a text.
        logits[EOS as usize] = -1.0;
        logits[EOT as usize] = -1.0;
    } else {
        logits[script[history.len() % script.len()] as usize] = 100.0;
    }
    logits
}

/// The most likely token after a history.
pub fn next_token(history: &[u32], script: &[u32]) -> u32 {
    let logits = logits(history, script);
    (0..VOCAB as u32).rev().max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize])).unwrap()
}

/// What greedy generation continues `prompt` with.
pub fn continuation(prompt: &[u32], tokens: usize) -> Vec<u32> {
    let mut history = prompt.to_vec();
    for _ in 0..tokens {
        history.push(next_token(&history, &[]));
    }
    history.split_off(prompt.len())
}

impl Fake {
    fn fail(&mut self) -> Result<()> {
        if self.control.fail_next.swap(false, Ordering::SeqCst) {
            self.queued.clear();
            return Err(Error::DeviceLost("the test pulled it out".into()));
        }
        Ok(())
    }

    fn cell(&self, pages: &[u32], position: usize) -> usize {
        let page = pages[position / PAGE_TOKENS] as usize;
        assert!(page < self.layout.pages);
        page * PAGE_TOKENS + position % PAGE_TOKENS
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.control.dropped.store(true, Ordering::SeqCst);
    }
}

impl Backend for Fake {
    fn embed(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.control.steps.fetch_add(1, Ordering::SeqCst);
        let waiting = self.queued.len() + 1;
        assert!(waiting <= self.ahead.max(1), "{waiting} steps are queued, {} may", self.ahead);
        self.control.most_queued.fetch_max(waiting, Ordering::SeqCst);
        self.tokens.clone_from(&batch.tokens);
        for s in &batch.sequences {
            for token in self.tokens[s.rows.clone()].iter_mut().filter(|token| **token == Batch::CHOSEN) {
                assert!(self.ahead > 0 && s.rows.len() == 1);
                *token = self.chosen[s.memory.slot];
            }
        }
        if self.ahead == 0 {
            self.control.pass();
        }
        let (fixed, per_row) = *self.control.cost.lock().unwrap();
        std::thread::sleep(fixed + per_row * batch.tokens.len() as u32);
        let shape = batch.sequences.iter().map(|s| (s.position, s.rows.len())).collect();
        self.control.batches.lock().unwrap().push(shape);
        if self.ahead == 0 {
            self.fail()?;
        }
        if self.control.panic_next.swap(false, Ordering::SeqCst) {
            panic!("the test asked for it");
        }
        Ok(())
    }

    fn attention(&mut self, _layer: usize, batch: &Batch<'_>) -> Result<()> {
        for s in &batch.sequences {
            for (i, row) in s.rows.clone().enumerate() {
                let cell = self.cell(&s.memory.pages, s.position + i);
                self.kv[cell] = self.tokens[row];
            }
        }
        Ok(())
    }

    fn delta_net(&mut self, _layer: usize, batch: &Batch<'_>) -> Result<()> {
        for s in &batch.sequences {
            let state = &mut self.states[s.memory.slot];
            if s.position == 0 {
                *state = 0;
            }
            for &token in &self.tokens[s.rows.clone()] {
                *state = fold(*state, token);
            }
        }
        Ok(())
    }

    fn moe(&mut self, layer: usize) -> Result<()> {
        self.counters.record(layer, 0);
        Ok(())
    }

    fn dense(&mut self, _layer: usize) -> Result<()> {
        Ok(())
    }

    fn head(&mut self, batch: &Batch<'_>, out: &mut [f32]) -> Result<()> {
        let script = self.control.script.lock().unwrap().clone();
        let mut rows = out.chunks_mut(VOCAB);
        let wanted = batch.logit_rows();
        for s in &batch.sequences {
            let end = s.position + s.rows.len();
            let history: Vec<u32> = (0..end).map(|p| self.kv[self.cell(&s.memory.pages, p)]).collect();
            let state = history.iter().fold(0, |state, &token| fold(state, token));
            assert_eq!(self.states[s.memory.slot], state, "slot and pages tell different stories");
            for row in s.rows.clone().filter(|row| wanted.contains(row)) {
                let seen = s.position + row - s.rows.start + 1;
                rows.next().unwrap().copy_from_slice(&logits(&history[..seen], &script));
            }
        }
        assert!(rows.next().is_none(), "as many rows as wanted");
        Ok(())
    }

    fn steps_ahead(&self) -> usize {
        self.ahead
    }

    fn begin_stream(&mut self, slot: usize, sampling: &Sampling, prompt: &[u32]) -> Result<()> {
        self.samplers[slot] = Some(Sampler::new(*sampling, VOCAB, prompt, &[EOS, EOT])?);
        Ok(())
    }

    fn choose(&mut self, batch: &Batch<'_>) -> Result<()> {
        let mut all = vec![0.0; batch.logit_rows().len() * VOCAB];
        self.head(batch, &mut all)?;
        let (mut unread, mut tokens, mut logits) = (&mut all[..], Vec::new(), Vec::new());
        for s in &batch.sequences {
            let (own, rest) = unread.split_at_mut(s.logit_rows().len() * VOCAB);
            unread = rest;
            let Some(choice) = &s.choice else {
                logits.extend_from_slice(own);
                continue;
            };
            let sampler = self.samplers[s.memory.slot].as_mut().unwrap();
            assert_eq!(choice.index, sampler.chosen(), "draws are counted without a gap");
            let token = sampler.sample(own);
            self.chosen[s.memory.slot] = token.clone().unwrap_or(0);
            tokens.push(token);
        }
        self.queued.push_back((tokens, logits));
        Ok(())
    }

    fn collect(&mut self, wanted: &[bool], logits: &mut [f32]) -> Result<Vec<Result<u32>>> {
        self.control.wanted.lock().unwrap().push(wanted.to_vec());
        self.control.pass();
        self.fail()?;
        let (tokens, own) = self.queued.pop_front().unwrap();
        logits[..own.len()].copy_from_slice(&own);
        Ok(tokens)
    }
}

/// Sizes of a fake model.
#[derive(Clone)]
pub struct Sizes {
    pub streams: usize,
    pub context: usize,
    /// KV positions of all streams; 0: enough for all.
    pub kv_tokens: usize,
    pub chunk: usize,
    /// Time of a step at most.
    pub max_step: Option<Duration>,
    /// Steps that can be queued, on a backend that chooses tokens itself; 0: one that does not.
    pub ahead: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { streams: 4, context: 64, kv_tokens: 0, chunk: 8, max_step: None, ahead: 0 }
    }
}

pub fn parts(sizes: &Sizes) -> (ModelParts, Arc<Control>) {
    let spec = Arc::new(spec());
    let kv_tokens = if sizes.kv_tokens == 0 { sizes.streams * sizes.context } else { sizes.kv_tokens };
    let layout = StateLayout { page_tokens: PAGE_TOKENS, pages: kv_tokens.div_ceil(PAGE_TOKENS), slots: sizes.streams };
    let control = Arc::new(Control::default());
    let counters = Arc::new(ExpertCounters::new(2, [true, true]));
    let backend = Fake {
        control: control.clone(),
        counters: counters.clone(),
        layout,
        kv: vec![UNWRITTEN; layout.pages * PAGE_TOKENS],
        // A slot that was never written is no empty state.
        states: vec![99; layout.slots],
        ahead: sizes.ahead,
        samplers: vec![None; layout.slots],
        chosen: vec![UNWRITTEN; layout.slots],
        queued: VecDeque::new(),
        tokens: Vec::new(),
    };
    let language = Language::new(Path::new("fake"), Some(tokenizer()), None, vec![EOS, EOT]).unwrap();
    let parts = ModelParts {
        spec,
        backend: Box::new(backend),
        layout,
        context_length: sizes.context,
        prefill_chunk: sizes.chunk,
        max_step: sizes.max_step,
        threads: 1,
        language,
        sampling: SamplingDefaults::default(),
        counters,
        memory: MemoryStats::default(),
        parameters: 0,
        log: None,
    };
    (parts, control)
}

pub fn model(sizes: &Sizes) -> (Model, Arc<Control>) {
    let (parts, control) = parts(sizes);
    (Model::start(parts).unwrap(), control)
}

fn spec() -> ModelSpec {
    let layer = |mixer| LayerSpec { mixer, feed_forward: FeedForward::Moe };
    ModelSpec {
        family: Family::Qwen3Next,
        hidden: 8,
        vocab: VOCAB,
        layers: vec![layer(Mixer::Attention), layer(Mixer::DeltaNet)],
        attention: AttentionSpec {
            heads: 1,
            kv_heads: 1,
            head_dim: 8,
            gated: true,
            bias: false,
            rope: RopeSpec { dim: 8, theta: 1e4, scaling: RopeScaling::None },
        },
        delta: None,
        moe: Some(MoeSpec { experts: 2, top_k: 1, width: 8, shared_width: 0, normalise_top_k: true }),
        dense_width: 0,
        norm_eps: 1e-6,
        tied_head: true,
        context_length: 1 << 20,
        mtp_layers: 0,
    }
}

/// A tokenizer whose ids are bytes, in GPT-2's byte-level alphabet, with two special tokens.
fn tokenizer() -> Tokenizer {
    let itself = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 256..;
    let vocab: serde_json::Map<_, _> = (0..256)
        .map(|byte| {
            let character = if itself(byte) { byte } else { others.next().unwrap() };
            (char::from_u32(character).unwrap().to_string(), byte.into())
        })
        .collect();
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let json = serde_json::json!({
        "version": "1.0",
        "added_tokens": [special(EOS, "<|end|>"), special(EOT, "<|turn|>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    Tokenizer::from_huggingface(Path::new("fake"), json.to_string().as_bytes(), None).unwrap()
}
