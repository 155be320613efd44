//! What a caller can choose, and the defaults.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cuda::{HostContext, Priority};
use crate::error::{Error, Result};
use crate::state::KvFormat;

/// Where to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The library's choice: the processor.
    #[default]
    Automatic,
    /// The processor.
    Cpu,
    /// The CUDA device with this ordinal.
    Cuda(u32),
}

/// How important a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum LogLevel {
    /// Something failed.
    Error = 1,
    /// Something is not as the user may think.
    Warning = 2,
    /// What was done.
    Info = 3,
    /// Details for developers.
    Debug = 4,
}

/// Receives log lines, on the thread that loads or on the engine's thread.
pub type LogSink = Arc<dyn Fn(LogLevel, &str) + Send + Sync>;

/// How to load a model. `Default` suits a chat on a desktop.
#[derive(Clone)]
pub struct LoadOptions {
    /// Where to run.
    pub device: Device,
    /// The context of the CUDA device to work in; `None`: the primary one. The caller goes on to own it, and keeps it until
    /// the model and its streams are gone.
    pub cuda_context: Option<HostContext>,
    /// Whose work goes first where others of this process use the CUDA device as well.
    pub device_priority: Priority,
    /// Bytes of device memory the model may take; 0: what is free. Without a device it has no effect.
    pub vram_budget: u64,
    /// Bytes of host memory the model may take; 0: what is available.
    pub ram_budget: u64,
    /// Positions one stream can hold, the model's own at most; 0: the smaller of the model's own and 4096.
    pub context_length: usize,
    /// Streams that can run at the same time, 1 to 1024; more wait in line.
    pub streams: usize,
    /// KV positions shared by all streams, `streams * context_length` at most (in whole pages of 64); 0: that many.
    pub kv_tokens: usize,
    /// Worker threads, 1024 at most; 0: one a physical core.
    pub threads: usize,
    /// Rows of one prefill step at most, 8192 at most: smaller answers a cancel sooner, larger reads faster. 0: 512; on a CUDA
    /// device 2048, or 1024 or 512 where the memory does not suffice for more, and no more than all streams can hold.
    pub prefill_chunk: usize,
    /// Time that one step may occupy the device, or the processor; `None`: no bound. Steps have as many rows of prompts as
    /// the steps before say that the time has room for, `prefill_chunk` at most and one at least. The first steps, and those
    /// in which the machine gets slower, are guesses. What cannot be cut is a step of one row for each stream.
    pub max_step: Option<Duration>,
    /// Float32 activations and KV, for comparisons with the reference.
    pub exact: bool,
    /// How keys and values are stored where the load is not `exact`.
    pub kv: KvFormat,
    /// Folder of pack caches, made where there is none; `None`: no cache. The first load of a model writes its weights
    /// there as it packed them, as large as they are in memory; later loads map that file, after every byte of it was
    /// checked, and take seconds. A cache that is stale or damaged is replaced. One that cannot be written does not fail
    /// the load, nor does one of a device's weights for all of which RAM has no room: none is made, and the log says so.
    /// While a model is loaded, nobody may truncate or overwrite its cache: the process would end with SIGBUS. Deleting it
    /// is harmless.
    pub cache_dir: Option<PathBuf>,
    /// Receives log lines.
    pub log: Option<LogSink>,
}

impl LoadOptions {
    /// Streams of one model at most.
    pub const MAX_STREAMS: usize = 1024;
    /// Worker threads of one model at most.
    pub const MAX_THREADS: usize = 1024;
    /// Rows of a prefill step at most.
    pub const MAX_PREFILL_CHUNK: usize = 8192;

    /// How keys and values will be stored.
    pub(super) fn kv_format(&self) -> KvFormat {
        if self.exact { KvFormat::F32 } else { self.kv }
    }

    /// Refuses values out of range; those that depend on the model are checked with it.
    pub(super) fn check(&self) -> Result<()> {
        let check = |name: &str, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(Error::InvalidArgument(format!("{name} is {value}, expected {least} to {most}")))
        };
        check("streams", self.streams, 1, Self::MAX_STREAMS)?;
        check("threads", self.threads, 0, Self::MAX_THREADS)?;
        check("prefill_chunk", self.prefill_chunk, 0, Self::MAX_PREFILL_CHUNK)
    }
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Automatic,
            cuda_context: None,
            device_priority: Priority::Default,
            vram_budget: 0,
            ram_budget: 0,
            context_length: 0,
            streams: 4,
            kv_tokens: 0,
            threads: 0,
            prefill_chunk: 0,
            max_step: None,
            exact: false,
            kv: KvFormat::default(),
            cache_dir: None,
            log: None,
        }
    }
}

/// How to generate. `Default` takes the sampling of the model's own `generation_config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Tokens to generate at most, 1 or more.
    pub max_tokens: usize,
    /// Tokens before which no end-of-sequence token is drawn.
    pub min_tokens: usize,
    /// Divides the logits; 0 takes the most likely token; `None`: the model's default, else 1.
    pub temperature: Option<f32>,
    /// Keeps the k most likely tokens; 0 keeps all; `None`: the model's default, else all.
    pub top_k: Option<u32>,
    /// Keeps the smallest set with this probability; `None`: the model's default, else 1.
    pub top_p: Option<f32>,
    /// Drops tokens less likely than this share of the most likely one; `None`: the model's default, else 0.
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative logits of seen tokens (prompt included); `None`: the model's default, else 1.
    pub repetition_penalty: Option<f32>,
    /// Subtracted from the logits of tokens generated so far.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens generated so far, once for each time.
    pub frequency_penalty: f32,
    /// Key of the random draw; the same seed gives the same text whatever runs beside it.
    pub seed: u64,
    /// Texts that end the generation; not part of the output.
    pub stop: Vec<String>,
    /// Generate past end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Time from the call to the end of the generation at most.
    pub deadline: Option<Duration>,
}

impl GenerateOptions {
    /// Refuses values out of range; [`super::Sampling`] checks its own.
    pub(super) fn check(&self) -> Result<()> {
        if self.max_tokens == 0 {
            return Err(Error::InvalidArgument("max_tokens is 0, expected 1 or more".into()));
        }
        match self.stop.iter().position(String::is_empty) {
            None => Ok(()),
            Some(i) => Err(Error::InvalidArgument(format!("stop string {i} is empty"))),
        }
    }
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 512,
            min_tokens: 0,
            temperature: None,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
            stop: Vec::new(),
            ignore_eos: false,
            deadline: None,
        }
    }
}
