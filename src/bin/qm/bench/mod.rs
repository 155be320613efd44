//! `qm bench`: how fast a model reads a prompt and writes an answer, and where the time goes.

mod bandwidth;
mod report;
mod spread;
mod streams;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::Args;
use qwen3moe::{Event, GenerateOptions, Model, PhaseProfile, Profile, Prompt, Stream, StreamStats};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use crate::arguments::{ModelArguments, parse_bytes};
use crate::failure::{Failure, Outcome};
use crate::{answer, interrupt, load, process};
use bandwidth::Bandwidth;
use report::{Decode, Prefill, Report, Streams};
use spread::Spread;

/// Arguments of `qm bench`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Tokens of the prompt, drawn at random; several sizes separated by commas are measured one by one
    #[arg(long, value_delimiter = ',', default_value = "512", value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: Vec<u32>,
    /// Tokens to generate
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..))]
    generate_tokens: u32,
    /// Generate behind this many tokens; several depths are separated by commas [default: the longest prompt]
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    depth: Vec<u32>,
    /// Fill the context with random keys and values instead of reading that many tokens: a long one takes minutes to read
    #[arg(long)]
    synthetic_context: bool,
    /// Generate in so many streams at the same time, behind prompts of sixteen tokens; several numbers are separated by commas
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    streams: Vec<u32>,
    /// Runs that count; a short one before them warms up
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Memory for the test of the machine's read bandwidth, before and after the runs; 0 leaves the test out
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "1GiB")]
    bandwidth_buffer: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArguments,
}

/// All runs over prompts of one length.
#[derive(Default)]
struct Runs {
    stats: Vec<StreamStats>,
    prefill: PhaseProfile,
    decode: PhaseProfile,
}

pub fn run(arguments: &Arguments) -> Outcome {
    let prompts: Vec<usize> = arguments.prompt_tokens.iter().map(|&n| n as usize).collect();
    let longest = prompts.iter().copied().max().unwrap_or(1);
    let depths: Vec<usize> = match arguments.depth[..] {
        [] => vec![longest],
        ref depths => depths.iter().map(|&n| n as usize).collect(),
    };
    let generate = arguments.generate_tokens as usize;
    let mut options = arguments.model.load_options();
    let deepest = depths.iter().map(|depth| depth.saturating_add(generate)).max().unwrap_or(0);
    options.context_length = options.context_length.max(deepest).max(longest.saturating_add(1));
    let streams: Vec<usize> = arguments.streams.iter().map(|&n| n as usize).collect();
    if !streams.is_empty() {
        options.context_length = options.context_length.max(generate.saturating_add(streams::PROMPT));
    }
    options.streams = streams.iter().copied().fold(options.streams, usize::max);
    let start = Instant::now();
    let model = load::load(&arguments.model, options)?;
    let load_time = start.elapsed();

    let info = model.info();
    let bandwidth = || -> Option<Bandwidth> {
        let bytes = bandwidth::buffer_bytes(arguments.bandwidth_buffer);
        (arguments.bandwidth_buffer > 0).then(|| bandwidth::measure(bytes, info.threads)).flatten()
    };
    // The peak shall be the model's own, without the buffer that measures the machine.
    let peak_of_load = process::peak_memory();
    let before = bandwidth();
    process::forget_peak_memory();

    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    measure(&model, &mut random, 0, longest.min(16), 4)?;
    let mut measured = |invented: usize, prompt: usize, generate: usize| -> Outcome<Runs> {
        let mut runs = Runs::default();
        for _ in 0..arguments.repetitions {
            let (stats, profile) = measure(&model, &mut random, invented, prompt, generate)?;
            runs.stats.push(stats);
            runs.prefill.add(&profile.prefill);
            runs.decode.add(&profile.decode);
        }
        Ok(runs)
    };
    let (mut prefills, mut decodes) = (Vec::new(), Vec::new());
    let synthetic = arguments.synthetic_context;
    for &tokens in prompts.iter().filter(|tokens| synthetic || !depths.contains(tokens)) {
        prefills.push(Prefill::new(tokens, &measured(0, tokens, 1)?));
    }
    for &depth in &depths {
        let invented = if synthetic { depth - 1 } else { 0 };
        let runs = measured(invented, depth - invented, generate)?;
        if !synthetic && prompts.contains(&depth) {
            prefills.push(Prefill::new(depth, &runs));
        }
        decodes.push(Decode::new(depth, synthetic, generate, &runs));
    }
    let mut together = Vec::new();
    for &count in &streams {
        let rates = (0..arguments.repetitions).map(|_| streams::measure(&model, &mut random, count, generate));
        together.push(Streams { count, tokens: generate, rate: Spread::new(rates.collect::<Outcome<_>>()?) });
    }
    let peak = peak_of_load.max(process::peak_memory());
    let after = bandwidth();

    let report = Report {
        model: arguments.model.model.as_ref().map_or("bundled".into(), |path| path.display().to_string()),
        info,
        memory: model.memory(),
        exact: arguments.model.exact,
        load_time,
        repetitions: arguments.repetitions,
        bandwidth: before.zip(after),
        prefills,
        decodes,
        streams: together,
        peak,
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{:#}", report.json())?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(())
}

impl Runs {
    fn rates(&self, tokens: fn(&StreamStats) -> u64, time: fn(&StreamStats) -> Duration) -> Spread {
        Spread::new(self.stats.iter().filter_map(|s| answer::rate(tokens(s), time(s))).collect())
    }
}

/// One generation of exactly `generate` tokens behind `invented` positions of random memory and a random prompt, and what
/// it cost.
fn measure(
    model: &Model,
    random: &mut Xoshiro256PlusPlus,
    invented: usize,
    prompt: usize,
    generate: usize,
) -> Outcome<(StreamStats, Profile)> {
    let (prompt, options) = (prompt_of(model, random, prompt), greedy(generate));
    let before = model.profile();
    let stream = model.stream_behind(invented, &prompt, &options)?;
    let stats = read(&stream)?;
    Ok((stats, model.profile().since(&before)))
}

/// Reads a stream to its end.
fn read(stream: &Stream) -> Outcome<StreamStats> {
    while !matches!(stream.next(Some(Duration::from_millis(200)))?, Event::Done(_)) {
        if interrupt::requested() {
            return Err(Failure::Interrupted);
        }
    }
    Ok(stream.stats())
}

/// A prompt of `tokens` random tokens.
fn prompt_of(model: &Model, random: &mut Xoshiro256PlusPlus, tokens: usize) -> Prompt {
    let vocab = model.info().spec.vocab.max(1) as u64;
    Prompt::Tokens((0..tokens).map(|_| (random.next_u64() % vocab) as u32).collect())
}

/// The most likely tokens, exactly so many.
fn greedy(tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens: tokens,
        temperature: Some(0.0),
        repetition_penalty: Some(1.0),
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}
