//! What `qm bench` tells: the same numbers for people and as JSON.

use std::fmt;
use std::time::Duration;

use indicatif::HumanBytes;
use qwen3moe::engine::{MemoryStats, ModelInfo};
use qwen3moe::{Operation, PhaseProfile};
use serde_json::{Map, Value, json};

use super::bandwidth::Bandwidth;
use super::spread::Spread;
use super::{Runs, answer};

/// Everything that was measured.
pub struct Report<'a> {
    pub model: String,
    pub info: &'a ModelInfo,
    pub memory: MemoryStats,
    pub exact: bool,
    pub load_time: Duration,
    pub repetitions: u32,
    /// Before and after the runs.
    pub bandwidth: Option<(Bandwidth, Bandwidth)>,
    pub prefills: Vec<Prefill>,
    pub decodes: Vec<Decode>,
    pub streams: Vec<Streams>,
    pub peak: Option<u64>,
}

/// Reading prompts of one length.
pub struct Prefill {
    tokens: usize,
    rate: Spread,
    profile: PhaseProfile,
}

/// Writing behind a context of one length.
pub struct Decode {
    depth: usize,
    /// The context was not read, but filled with random values.
    synthetic: bool,
    tokens: usize,
    rate: Spread,
    profile: PhaseProfile,
}

/// Writing in several streams at the same time.
pub struct Streams {
    pub count: usize,
    /// Of each.
    pub tokens: usize,
    /// Of all together.
    pub rate: Spread,
}

impl Prefill {
    pub fn new(tokens: usize, runs: &Runs) -> Self {
        Self { tokens, rate: runs.rates(|s| s.prompt_tokens, |s| s.prefill), profile: runs.prefill }
    }
}

impl Decode {
    pub fn new(depth: usize, synthetic: bool, tokens: usize, runs: &Runs) -> Self {
        Self { depth, synthetic, tokens, rate: runs.rates(answer::decoded, |s| s.decode), profile: runs.decode }
    }

    fn context(&self) -> String {
        format!("{}{}", self.depth, if self.synthetic { " random values" } else { "" })
    }

    /// Bytes that a second of decoding moves.
    fn bytes_per_second(&self) -> f64 {
        bytes_per_token(&self.profile) * self.rate.median
    }
}

fn bytes_per_token(profile: &PhaseProfile) -> f64 {
    profile.costs.total().bytes as f64 / profile.tokens as f64
}

/// One line of the table of operations.
struct Line {
    operation: Operation,
    bytes_per_token: f64,
    /// `None` for what a device does among other operations.
    time: Option<Time>,
}

struct Time {
    seconds_per_token: f64,
    /// Of the time of all operations.
    share: f64,
    bytes_per_second: f64,
}

/// The operations that there were.
fn lines(profile: &PhaseProfile) -> Vec<Line> {
    let (tokens, total) = (profile.tokens as f64, profile.costs.total().time.as_secs_f64());
    let has_time = |operation: &Operation| !profile.costs[*operation].time.is_zero();
    let bytes_of = |operation: Operation| profile.costs[operation].bytes as f64;
    let line = |operation: Operation| {
        let seconds = profile.costs[operation].time.as_secs_f64();
        // What a device moves in that time is what the operations do that it runs as one.
        let moved = match operation {
            Operation::Device => Operation::ALL.into_iter().filter(|o| !has_time(o)).map(bytes_of).sum(),
            _ => bytes_of(operation),
        };
        let time = has_time(&operation).then(|| Time {
            seconds_per_token: seconds / tokens,
            share: seconds / total,
            bytes_per_second: moved / seconds,
        });
        Line { operation, bytes_per_token: bytes_of(operation) / tokens, time }
    };
    let is_there = |operation: &Operation| has_time(operation) || profile.costs[*operation].bytes > 0;
    Operation::ALL.into_iter().filter(is_there).map(line).collect()
}

fn operations_json(profile: &PhaseProfile) -> Value {
    let entry = |line: Line| {
        let value = json!({
            "seconds_per_token": line.time.as_ref().map(|time| time.seconds_per_token),
            "share_of_time": line.time.as_ref().map(|time| time.share),
            "bytes_per_token": line.bytes_per_token,
            "bytes_per_second": line.time.as_ref().map(|time| time.bytes_per_second),
        });
        (line.operation.name().to_owned(), value)
    };
    Value::Object(lines(profile).into_iter().map(entry).collect::<Map<_, _>>())
}

impl Report<'_> {
    /// What decoding is held against: the mean of what all threads together read before and after the runs.
    fn bandwidth(&self) -> Option<f64> {
        let (before, after) = self.bandwidth.as_ref()?;
        Some((before.all_threads.median + after.all_threads.median) / 2.0)
    }

    fn model_bytes(&self) -> u64 {
        self.memory.ram.weights().saturating_add(self.memory.vram.weights())
    }

    pub fn json(&self) -> Value {
        let bandwidth = self.bandwidth();
        let prefill = |p: &Prefill| {
            json!({
                "tokens": p.tokens,
                "tokens_per_second": p.rate.json(),
                "bytes_per_token": bytes_per_token(&p.profile),
                "operations": operations_json(&p.profile),
            })
        };
        let decode = |d: &Decode| {
            json!({
                "depth": d.depth,
                "synthetic_context": d.synthetic,
                "tokens": d.tokens,
                "tokens_per_second": d.rate.json(),
                "bytes_per_token": bytes_per_token(&d.profile),
                "bytes_per_second": d.bytes_per_second(),
                "bandwidth_share": bandwidth.map(|all| d.bytes_per_second() / all),
                "operations": operations_json(&d.profile),
            })
        };
        let streams =
            |s: &Streams| json!({ "streams": s.count, "tokens": s.tokens, "tokens_per_second": s.rate.json() });
        json!({
            "model": self.model,
            "family": self.info.spec.family.name(),
            "layers": self.info.spec.layers.len(),
            "parameters": self.info.parameters,
            "model_bytes": self.model_bytes(),
            "kernels": self.info.backend.kernels,
            "threads": self.info.threads,
            "kv_type": self.info.backend.kv_type,
            "exact": self.exact,
            "load_seconds": self.load_time.as_secs_f64(),
            "repetitions": self.repetitions,
            "bandwidth": self.bandwidth.as_ref().map(|(before, after)| json!({
                "bytes_per_second": bandwidth,
                "before": before.json(),
                "after": after.json(),
            })),
            "prefill": self.prefills.iter().map(prefill).collect::<Vec<_>>(),
            "decode": self.decodes.iter().map(decode).collect::<Vec<_>>(),
            "streams": self.streams.iter().map(streams).collect::<Vec<_>>(),
            "peak_memory_bytes": self.peak,
            "version": env!("CARGO_PKG_VERSION"),
        })
    }
}

/// Bytes in units of 1000, as bandwidths are given.
fn gigabytes(bytes: f64) -> String {
    match bytes {
        0.0..1e6 => format!("{:.1} kB", bytes / 1e3),
        1e6..1e9 => format!("{:.1} MB", bytes / 1e6),
        _ => format!("{:.2} GB", bytes / 1e9),
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (spec, backend) = (&self.info.spec, &self.info.backend);
        let size = HumanBytes(self.model_bytes());
        writeln!(f, "model        {}, {} layers, {size}", spec.family.name(), spec.layers.len())?;
        let threads = self.info.threads;
        writeln!(f, "computed by  {}, {threads} threads, KV {}", backend.kernels, backend.kv_type)?;
        writeln!(f, "load         {:.2} s", self.load_time.as_secs_f64())?;
        if let Some((before, after)) = &self.bandwidth {
            let giga = |spread: &Spread| spread.median / 1e9;
            let (all, one) = ([&before.all_threads, &after.all_threads], [&before.one_thread, &after.one_thread]);
            writeln!(f, "memory read  {:.1} GB/s before, {:.1} after", giga(all[0]), giga(all[1]))?;
            writeln!(f, "  one thread {:.1} GB/s before, {:.1} after", giga(one[0]), giga(one[1]))?;
        }
        let count = format!("median of {} (range)", self.repetitions);
        for p in &self.prefills {
            writeln!(f, "prefill      {} tok/s, {} tokens, {count}", p.rate, p.tokens)?;
        }
        for d in &self.decodes {
            let context = d.context();
            writeln!(f, "decode       {} tok/s, {} tokens behind {context}, {count}", d.rate, d.tokens)?;
            let rate = d.bytes_per_second();
            write!(f, "  traffic    {} a token, {}/s", gigabytes(bytes_per_token(&d.profile)), gigabytes(rate))?;
            match self.bandwidth() {
                Some(bandwidth) => writeln!(f, ": {:.1} % of memory read", 100.0 * rate / bandwidth)?,
                None => writeln!(f)?,
            }
        }
        for s in &self.streams {
            writeln!(f, "streams      {} tok/s in sum, {} streams of {} tokens, {count}", s.rate, s.count, s.tokens)?;
        }
        match self.peak {
            Some(bytes) => writeln!(f, "peak memory  {}", HumanBytes(bytes))?,
            None => writeln!(f, "peak memory  unknown on this system")?,
        }
        for p in &self.prefills {
            table(f, &format!("prefill of {} tokens", p.tokens), &p.profile)?;
        }
        for d in &self.decodes {
            table(f, &format!("decode behind {}", d.context()), &d.profile)?;
        }
        Ok(())
    }
}

fn table(f: &mut fmt::Formatter<'_>, title: &str, profile: &PhaseProfile) -> fmt::Result {
    writeln!(f, "\n{title:<30} {:>12} {:>7} {:>12} {:>12}", "us a token", "%", "a token", "a second")?;
    for line in lines(profile) {
        let time = line.time.map_or_else(
            || ["-"; 3].map(String::from),
            |t| {
                [
                    format!("{:.2}", 1e6 * t.seconds_per_token),
                    format!("{:.2}", 100.0 * t.share),
                    gigabytes(t.bytes_per_second),
                ]
            },
        );
        let [time, share, rate] = time;
        let (name, bytes) = (line.operation.name(), gigabytes(line.bytes_per_token));
        writeln!(f, "  {name:<28} {time:>12} {share:>7} {bytes:>12} {rate:>12}")?;
    }
    Ok(())
}
