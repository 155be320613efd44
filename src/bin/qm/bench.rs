//! `qm bench`: how fast a model reads a prompt and writes an answer.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::HumanBytes;
use qwen3moe::{Event, GenerateOptions, Model, Prompt, StreamStats};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use serde_json::json;

use crate::arguments::ModelArguments;
use crate::failure::{Failure, Outcome};
use crate::{answer, interrupt, load};

/// Arguments of `qm bench`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Tokens of the prompt, drawn at random
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,
    /// Tokens to generate
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..))]
    generate_tokens: u32,
    /// Runs that count; a short one before them warms up
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArguments,
}

/// Median and range of a handful of measurements.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |i: usize| values.get(i).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median =
            if values.len().is_multiple_of(2) { (at(middle.wrapping_sub(1)) + at(middle)) / 2.0 } else { at(middle) };
        Self { median, least: at(0), most: at(values.len().wrapping_sub(1)) }
    }

    fn json(&self) -> serde_json::Value {
        json!({ "median": self.median, "min": self.least, "max": self.most })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2}..{:.2})", self.median, self.least, self.most)
    }
}

pub fn run(arguments: &Arguments) -> Outcome {
    let (prompt_tokens, generate_tokens) = (arguments.prompt_tokens as usize, arguments.generate_tokens as usize);
    let mut options = arguments.model.load_options();
    options.context_length = options.context_length.max(prompt_tokens.saturating_add(generate_tokens));
    let start = Instant::now();
    let model = load::load(&arguments.model, options)?;
    let load_time = start.elapsed();

    let info = model.info();
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut prompt = |length: usize| -> Vec<u32> {
        (0..length).map(|_| (random.next_u64() % info.spec.vocab.max(1) as u64) as u32).collect()
    };
    measure(&model, prompt(prompt_tokens.min(16)), 4)?;
    let runs = (0..arguments.repetitions)
        .map(|_| measure(&model, prompt(prompt_tokens), generate_tokens))
        .collect::<Outcome<Vec<StreamStats>>>()?;
    let rates = |tokens: fn(&StreamStats) -> u64, time: fn(&StreamStats) -> Duration| {
        Spread::new(runs.iter().filter_map(|s| answer::rate(tokens(s), time(s))).collect())
    };
    let prefill = rates(|s| s.prompt_tokens, |s| s.prefill);
    let decode = rates(answer::decoded, |s| s.decode);

    let memory = model.memory();
    let model_bytes = memory.ram.weights().saturating_add(memory.vram.weights());
    let mut out = io::stdout().lock();
    if arguments.json {
        let report = json!({
            "model": arguments.model.model.as_ref().map_or("bundled".into(), |p| p.display().to_string()),
            "family": info.spec.family.name(),
            "layers": info.spec.layers.len(),
            "parameters": info.parameters,
            "model_bytes": model_bytes,
            "threads": info.threads,
            "exact": arguments.model.exact,
            "load_seconds": load_time.as_secs_f64(),
            "prompt_tokens": prompt_tokens,
            "generate_tokens": generate_tokens,
            "repetitions": arguments.repetitions,
            "prefill_tokens_per_second": prefill.json(),
            "decode_tokens_per_second": decode.json(),
            "peak_memory_bytes": peak_memory(),
            "version": env!("CARGO_PKG_VERSION"),
        });
        writeln!(out, "{report:#}")?;
        return Ok(());
    }
    let count = runs.len();
    writeln!(
        out,
        "model        {}, {} layers, {}",
        info.spec.family.name(),
        info.spec.layers.len(),
        HumanBytes(model_bytes)
    )?;
    writeln!(out, "threads      {}", info.threads)?;
    writeln!(out, "load         {:.2} s", load_time.as_secs_f64())?;
    writeln!(out, "prefill      {prefill} tok/s, {prompt_tokens} tokens, median of {count} (range)")?;
    writeln!(out, "decode       {decode} tok/s, {generate_tokens} tokens, median of {count} (range)")?;
    match peak_memory() {
        Some(bytes) => writeln!(out, "peak memory  {}", HumanBytes(bytes))?,
        None => writeln!(out, "peak memory  unknown on this system")?,
    }
    Ok(())
}

/// One generation of exactly `generate` tokens.
fn measure(model: &Model, prompt: Vec<u32>, generate: usize) -> Outcome<StreamStats> {
    let options = GenerateOptions {
        max_tokens: generate,
        temperature: Some(0.0),
        repetition_penalty: Some(1.0),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let stream = model.stream(&Prompt::Tokens(prompt), &options)?;
    while !matches!(stream.next(Some(Duration::from_millis(200)))?, Event::Done(_)) {
        if interrupt::requested() {
            return Err(Failure::Interrupted);
        }
    }
    Ok(stream.stats())
}

/// The most memory that this process ever had in RAM at once, in bytes.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        let spread = Spread::new(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((spread.median, spread.least, spread.most), (2.5, 1.0, 4.0));
        assert_eq!(Spread::new(vec![7.0]).median, 7.0);
    }
}
