//! A loaded model, as Rust programs and the C interface see it.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::feed::{Feed, Writer};
use super::language::Output;
use super::log::Log;
use super::pace::Pace;
use super::panics::silence;
use super::prompt::{Draft, PromptLimits, Prompts, check_ids};
use super::request::{Eval, Generate, Limits, Request, Ticket, Work};
use super::worker::{Worker, WorkerParts};
use super::{
    Event, ExpertStats, GenerateOptions, Generation, Language, LogSink, MemoryStats, ModelInfo, Prompt, Sampling,
    SamplingDefaults, Stream,
};
use crate::error::{Error, Result};
use crate::experts::ExpertCounters;
use crate::model::{Backend, ModelSpec, Profile, ProfileCounters};
use crate::state::StateLayout;

/// A loaded model. Clones share it; the last one to go, streams included, ends the model's threads and frees the memory.
/// It waits for the step in progress and for a prompt that is being tokenised.
#[derive(Clone)]
pub struct Model {
    shared: Arc<Shared>,
}

/// What a model is put together from: [`Model::load`] reads it from files; tests and other backends bring their own.
pub struct ModelParts {
    /// Sizes and layers.
    pub spec: Arc<ModelSpec>,
    /// Runs the network over this spec.
    pub backend: Box<dyn Backend>,
    /// Pages and slots that the backend set up.
    pub layout: StateLayout,
    /// Positions one stream can hold.
    pub context_length: usize,
    /// Rows of prompts in one step at most. A step has `layout.slots` rows more at most.
    pub prefill_chunk: usize,
    /// Time that a step should take at most.
    pub max_step: Option<Duration>,
    /// Worker threads of the backend, for information.
    pub threads: usize,
    /// Tokenizer and chat template.
    pub language: Language,
    /// What the model's files say on sampling.
    pub sampling: SamplingDefaults,
    /// Written by the backend.
    pub counters: Arc<ExpertCounters>,
    /// What backend and weights take.
    pub memory: MemoryStats,
    /// Parameters of the trunk.
    pub parameters: u64,
    /// Receives log lines.
    pub log: Option<LogSink>,
}

struct Shared {
    info: ModelInfo,
    limits: PromptLimits,
    language: Arc<Language>,
    sampling: SamplingDefaults,
    counters: Arc<ExpertCounters>,
    profile: Arc<ProfileCounters>,
    memory: MemoryStats,
    /// Requests in line.
    waiting: Arc<AtomicUsize>,
    engine: Engine,
}

/// The ways to the model's threads, and their ends.
struct Engine {
    /// `None` only while it ends.
    inboxes: Option<Inboxes>,
    threads: Vec<JoinHandle<()>>,
}

struct Inboxes {
    requests: Sender<Request>,
    /// Requests whose prompts are not yet ids.
    drafts: Sender<Draft>,
}

impl Model {
    /// Starts the thread that owns `parts`, and the one that turns prompts into ids.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for parts without room for a sequence, [`Error::OutOfHostMemory`], [`Error::Internal`]
    /// when a thread cannot be started.
    pub fn start(parts: ModelParts) -> Result<Model> {
        if parts.layout.slots == 0 || parts.layout.pages == 0 || parts.layout.page_tokens == 0 {
            return Err(Error::InvalidArgument(format!("{:?} has no room for a sequence", parts.layout)));
        }
        silence();
        let language = Arc::new(parts.language);
        let (requests, inbox) = mpsc::channel();
        let info = ModelInfo {
            spec: ModelSpec::clone(&parts.spec),
            context_length: parts.context_length,
            streams: parts.layout.slots,
            kv_tokens: parts.layout.pages.saturating_mul(parts.layout.page_tokens),
            threads: parts.threads,
            backend: parts.backend.info(),
            parameters: parts.parameters,
            has_chat_template: language.has_template(),
            has_tokenizer: language.has_tokenizer(),
            eos_ids: language.eos_ids.clone(),
        };
        let profile = Arc::<ProfileCounters>::default();
        let worker = Worker::new(
            WorkerParts {
                spec: parts.spec,
                backend: parts.backend,
                layout: parts.layout,
                context_length: parts.context_length,
                prefill_chunk: parts.prefill_chunk,
                pace: Pace::new(parts.max_step, parts.prefill_chunk),
                eos_ids: language.eos_ids.clone(),
                profile: profile.clone(),
                log: Log::new(parts.log),
            },
            inbox,
        )?;
        let limits =
            PromptLimits { vocab: info.spec.vocab, context_length: info.context_length, kv_tokens: info.kv_tokens };
        let (drafts, new_drafts) = mpsc::channel();
        let prompts = Prompts { language: language.clone(), limits, drafts: new_drafts, requests: requests.clone() };
        let mut engine = Engine { inboxes: Some(Inboxes { requests, drafts }), threads: Vec::new() };
        // In the order in which they are joined: the first is a sender to the second.
        engine.spawn("qm-prompt", move || prompts.run())?;
        engine.spawn("qm-engine", move || worker.run())?;
        let shared = Shared {
            info,
            limits,
            language,
            sampling: parts.sampling,
            counters: parts.counters,
            profile,
            memory: parts.memory,
            waiting: Arc::default(),
            engine,
        };
        Ok(Model { shared: Arc::new(shared) })
    }

    /// Facts about the model.
    pub fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// Starts a generation, and returns without waiting for anything: a text or a chat becomes token ids on a thread of
    /// the library.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for options out of range, [`Error::Unsupported`] for a text or a chat that the model
    /// has no tokenizer or no template for, [`Error::ContextFull`] for a text with more bytes than the context could ever
    /// hold, [`Error::Busy`] while too many requests wait. Token ids are checked at once too. What else is wrong with a
    /// text or a chat is said by [`Stream::next`].
    pub fn stream(&self, prompt: &Prompt, options: &GenerateOptions) -> Result<Stream> {
        self.stream_behind(0, prompt, options)
    }

    /// As [`Model::stream`], behind `invented` positions of random memory, before which nothing was read: for measuring
    /// what a long context costs. What comes out means nothing. A prompt of token ids only, where `invented` is not 0.
    ///
    /// # Errors
    /// As [`Model::stream`].
    #[doc(hidden)]
    pub fn stream_behind(&self, invented: usize, prompt: &Prompt, options: &GenerateOptions) -> Result<Stream> {
        let called = Instant::now();
        let shared = &self.shared;
        options.check()?;
        let sampling = Sampling::resolve(options, &shared.sampling)?;
        if !options.stop.is_empty() {
            shared.language.tokenizer()?;
        }
        shared.language.check_prompt(prompt, &shared.limits)?;
        let feed = Arc::new(Feed::new());
        let generate = Box::new(Generate {
            writer: Writer::new(feed.clone()),
            sampling,
            output: Output::new(shared.language.clone(), &options.stop),
            limits: Limits {
                max_tokens: options.max_tokens,
                ignore_eos: options.ignore_eos,
                // A time that the clock cannot express never comes.
                deadline: options.deadline.and_then(|time| called.checked_add(time)),
            },
            generated: 0,
        });
        let ticket = Ticket::take(&shared.waiting)?;
        let inboxes = shared.engine.inboxes()?;
        match prompt {
            Prompt::Tokens(ids) => {
                // Ids stand for what was invented, so that lengths and limits are those of such a prompt.
                let tokens = [&vec![0; invented], &ids[..]].concat();
                shared.limits.check(&tokens)?;
                let request = Request { invented, ..Request::generate(tokens, generate, ticket) };
                inboxes.requests.send(request).map_err(|_| gone())?;
            }
            Prompt::Text(_) | Prompt::Chat(_) if invented > 0 => {
                return Err(Error::InvalidArgument("an invented context goes before token ids only".into()));
            }
            Prompt::Text(_) | Prompt::Chat(_) => {
                inboxes.drafts.send(Draft { prompt: prompt.clone(), generate, ticket }).map_err(|_| gone())?;
            }
        }
        Ok(Stream::new(self.clone(), feed))
    }

    /// Generates to the end, and returns the whole text.
    ///
    /// # Errors
    /// As [`Model::stream`] and [`Stream::next`].
    pub fn generate(&self, prompt: &Prompt, options: &GenerateOptions) -> Result<Generation> {
        let stream = self.stream(prompt, options)?;
        let mut text = String::new();
        loop {
            match stream.next(None)? {
                Event::Text(more) => text.push_str(&more),
                Event::Pending => {}
                Event::Done(finish) => return Ok(Generation { text, finish, stats: stream.stats() }),
            }
        }
    }

    /// Logits `[n, vocab]` of every position of `ids`, computed in the engine beside the running streams.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no ids or an id that the vocabulary lacks, [`Error::ContextFull`],
    /// [`Error::OutOfHostMemory`] for the result, a failure of the engine.
    pub fn eval(&self, ids: &[u32]) -> Result<Vec<f32>> {
        self.shared.limits.check(ids)?;
        let len = ids.len().checked_mul(self.shared.info.spec.vocab);
        let bytes = (ids.len() as u64).saturating_mul(self.shared.info.spec.vocab as u64).saturating_mul(4);
        let refused = || Error::OutOfHostMemory { what: format!("the logits of {} positions", ids.len()), bytes };
        let mut logits = Vec::new();
        logits.try_reserve_exact(len.ok_or_else(refused)?).map_err(|_| refused())?;
        let (reply, answer) = mpsc::sync_channel(1);
        let ticket = Some(Ticket::take(&self.shared.waiting)?);
        let request = Request { tokens: ids.to_vec(), invented: 0, work: Work::Eval(Eval { logits, reply }), ticket };
        self.shared.engine.inboxes()?.requests.send(request).map_err(|_| gone())?;
        answer.recv().unwrap_or_else(|_| Err(Error::Internal("the engine dropped the request".into())))
    }

    /// Token ids of `text`, with what the model wants around a text (Qwen models: nothing). `special`: special tokens
    /// spelled out in the text become their ids; otherwise they are text.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model without a tokenizer.
    pub fn tokenize(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        self.shared.language.tokenize(text, special)
    }

    /// Text of `ids`, bytes that are no UTF-8 replaced by U+FFFD. `special`: special tokens are spelled out; otherwise
    /// they are left out.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model without a tokenizer, [`Error::InvalidArgument`] for an unknown id.
    pub fn detokenize(&self, ids: &[u32], special: bool) -> Result<String> {
        let tokenizer = self.shared.language.tokenizer()?;
        check_ids(ids, self.shared.info.spec.vocab.max(tokenizer.vocab_size()))?;
        Ok(tokenizer.decode(ids, !special))
    }

    /// The text that the model's template makes of `chat`: a JSON array of messages `{"role", "content", ...}`, or an
    /// object with `messages`, `add_generation_prompt` (true unless it says otherwise) and variables for the template.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model without a template, [`Error::InvalidArgument`] for messages that are no such
    /// JSON or that the template refuses.
    pub fn render_chat(&self, chat: &str) -> Result<String> {
        self.shared.language.render(chat)
    }

    /// Use of the routed experts since load.
    pub fn expert_stats(&self) -> ExpertStats {
        let activations = self.shared.counters.total();
        let experts = self.shared.counters.expert_count() as u64;
        ExpertStats {
            activations,
            hits: activations,
            resident_experts: experts,
            experts,
            hit_rate: if activations > 0 { 1.0 } else { 0.0 },
            ..ExpertStats::default()
        }
    }

    /// Activations of each routed expert of trunk layer `layer` since load.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a layer that the model does not have or that has no experts.
    pub fn expert_counts(&self, layer: usize) -> Result<Vec<u64>> {
        let counters = &self.shared.counters;
        counters.layer(layer).ok_or_else(|| {
            let what = match counters.layer_count() {
                layers if layer < layers => "it has no routed experts".to_owned(),
                layers => format!("the model has {layers} layers"),
            };
            Error::InvalidArgument(format!("layer {layer}: {what}"))
        })
    }

    /// Time and memory traffic of all steps since load, by operation. When a stream has ended, its steps are in it, but for
    /// the engine's own time in the last of them.
    pub fn profile(&self) -> Profile {
        self.shared.profile.snapshot()
    }

    /// Memory that the model holds, by component.
    pub fn memory(&self) -> MemoryStats {
        self.shared.memory
    }
}

fn gone() -> Error {
    Error::Internal("the model's threads are gone".into())
}

impl Engine {
    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(body);
        self.threads.push(thread.map_err(|e| Error::Internal(format!("cannot start the thread {name}: {e}")))?);
        Ok(())
    }

    fn inboxes(&self) -> Result<&Inboxes> {
        self.inboxes.as_ref().ok_or_else(gone)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.inboxes = None;
        for thread in self.threads.drain(..) {
            // The last handle may go inside a log function of the host, which the engine's own thread runs: it then ends
            // by itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
