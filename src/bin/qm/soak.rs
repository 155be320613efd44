//! `qm soak`: long runs in one process, which fail where memory, files or threads grow.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::HumanBytes;
use qwen3moe::{Event, GenerateOptions, Model, Prompt, Stream};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use crate::arguments::{ModelArguments, parse_bytes};
use crate::failure::{Failure, Outcome};
use crate::process::{self, Holdings};
use crate::{interrupt, load};

/// Streams that run side by side, so that pages and slots change hands in ever new orders.
const STREAMS: usize = 3;
/// Lines that tell what the process holds, spread over the run.
const LINES: u64 = 20;

/// Arguments of `qm soak`.
#[derive(Debug, Args)]
#[group(id = "work", required = true, multiple = false, args = ["tokens", "loads"])]
pub struct Arguments {
    /// Tokens to generate, by streams of random length that follow each other
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    tokens: Option<u64>,
    /// Times to load the model, generate a few tokens, and free it
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    loads: Option<u64>,
    /// How much more memory the process may hold at the end than at most in the first tenth
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "8MiB")]
    growth: u64,
    #[command(flatten)]
    model: ModelArguments,
}

pub fn run(arguments: &Arguments) -> Outcome {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    match (arguments.tokens, arguments.loads) {
        (Some(tokens), _) => {
            let mut options = arguments.model.load_options();
            options.streams = STREAMS;
            let model = load::load(&arguments.model, options)?;
            generate(&model, &mut random, Watch::new("tokens", tokens, arguments.growth))
        }
        (None, loads) => {
            let mut watch = Watch::new("loads", loads.unwrap_or(1), arguments.growth);
            while !watch.done() {
                let model = load::load(&arguments.model, arguments.model.load_options())?;
                read(&start(&model, &mut random, 8)?)?;
                drop(model);
                watch.advance(1)?;
            }
            watch.finish()
        }
    }
}

/// Generates until `watch` has seen enough tokens: whenever a stream ends, another one takes its place.
fn generate(model: &Model, random: &mut Xoshiro256PlusPlus, mut watch: Watch) -> Outcome {
    let longest = model.info().context_length / 2;
    let mut streams = Vec::with_capacity(STREAMS);
    while !watch.done() {
        while streams.len() < STREAMS {
            let tokens = 1 + random.next_u64() as usize % longest.clamp(1, 500);
            streams.push(start(model, random, tokens)?);
        }
        // The others go on meanwhile.
        let stream = streams.swap_remove(random.next_u64() as usize % streams.len());
        watch.advance(read(&stream)?)?;
    }
    watch.finish()
}

/// A stream of exactly `tokens` tokens behind a random prompt.
fn start(model: &Model, random: &mut Xoshiro256PlusPlus, tokens: usize) -> Outcome<Stream> {
    let info = model.info();
    let length = 1 + random.next_u64() as usize % (info.context_length / 4).clamp(1, 100);
    let prompt = (0..length).map(|_| (random.next_u64() % info.spec.vocab.max(1) as u64) as u32).collect();
    let options = GenerateOptions {
        max_tokens: tokens,
        temperature: Some(1.0),
        seed: random.next_u64(),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    Ok(model.stream(&Prompt::Tokens(prompt), &options)?)
}

/// Reads a stream to its end; the tokens it generated.
fn read(stream: &Stream) -> Outcome<u64> {
    while !matches!(stream.next(Some(Duration::from_millis(200)))?, Event::Done(_)) {
        if interrupt::requested() {
            return Err(Failure::Interrupted);
        }
    }
    Ok(stream.stats().generated_tokens)
}

/// Looks at what the process holds while the work goes on.
struct Watch {
    unit: &'static str,
    wanted: u64,
    done: u64,
    growth: u64,
    start: Instant,
    next_line: u64,
    /// The most in the first tenth, in which caches and work space get their size.
    warm: Option<Holdings>,
}

impl Watch {
    fn new(unit: &'static str, wanted: u64, growth: u64) -> Self {
        Self { unit, wanted, done: 0, growth, start: Instant::now(), next_line: 0, warm: None }
    }

    fn done(&self) -> bool {
        self.done >= self.wanted
    }

    fn advance(&mut self, by: u64) -> Outcome {
        self.done += by;
        let now = holdings()?;
        if self.done >= self.next_line {
            self.tell(&now)?;
            self.next_line = self.done + (self.wanted / LINES).max(1);
        }
        // One look at least, however few the steps.
        if self.warm.is_none() || self.done * 10 <= self.wanted {
            self.warm = Some(match &self.warm {
                Some(most) => most.max(&now),
                None => now,
            });
        }
        Ok(())
    }

    fn tell(&self, now: &Holdings) -> Outcome {
        writeln!(
            io::stdout(),
            "{:>9} {}  {:>8.1} s  {} in RAM, {} open files, {} threads",
            self.done,
            self.unit,
            self.start.elapsed().as_secs_f64(),
            HumanBytes(now.memory),
            now.files,
            now.threads
        )?;
        Ok(())
    }

    /// # Errors
    /// What grew.
    fn finish(self) -> Outcome {
        let now = holdings()?;
        let Some(warm) = &self.warm else { return Ok(()) };
        if let Some(what) = grown(warm, &now, self.growth) {
            return Err(Failure::new(format!("after {} {}: {what}", self.done, self.unit)));
        }
        let (before, after) = (HumanBytes(warm.memory), HumanBytes(now.memory));
        writeln!(io::stdout(), "nothing grew: {before} at most in the first tenth, {after} at the end")?;
        Ok(())
    }
}

fn holdings() -> Outcome<Holdings> {
    process::holdings().ok_or_else(|| Failure::new("this system does not tell what a process holds"))
}

/// What of `now` is more than `warm` allows.
fn grown(warm: &Holdings, now: &Holdings, growth: u64) -> Option<String> {
    let memory = now.memory.saturating_sub(warm.memory);
    if memory > growth {
        let (more, allowed) = (HumanBytes(memory), HumanBytes(growth));
        return Some(format!("{more} more in RAM than in the first tenth, {allowed} allowed"));
    }
    for (what, before, after) in [("open files", warm.files, now.files), ("threads", warm.threads, now.threads)] {
        if after > before {
            return Some(format!("{after} {what}, in the first tenth {before}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_memory_than_allowed_more_files_and_more_threads_are_growth() {
        let warm = Holdings { memory: 100, files: 4, threads: 3 };
        let with = |change: fn(&mut Holdings)| {
            let mut now = warm.clone();
            change(&mut now);
            grown(&warm, &now, 10)
        };
        assert_eq!(with(|now| now.memory = 110), None);
        assert_eq!(with(|now| (now.memory, now.files, now.threads) = (1, 1, 1)), None);
        assert!(with(|now| now.memory = 111).unwrap().contains("11 B more"));
        assert!(with(|now| now.files = 5).unwrap().contains("5 open files"));
        assert!(with(|now| now.threads = 4).unwrap().contains("4 threads"));
    }
}
