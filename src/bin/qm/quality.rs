//! `qm quality`: what the fast arithmetic costs, format by format, against the exact one on the same bits.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use qwen3moe::{KvFormat, LoadOptions, LoadProgress, Model, Source};
use serde_json::{Value, json};

use crate::arguments::ModelArguments;
use crate::failure::{Failure, Outcome};
use crate::gguf::Kind;
use crate::requantise::{self, Image, Plain, Target};
use crate::{interrupt, load};

/// Held-out text of the bundled model, as its token ids: see examples/tavern.
const HELD_OUT: &str = include_str!("../../../examples/tavern/heldout.json");

/// Arguments of `qm quality`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Formats to write the model in, separated by commas: f32, bf16, f16, q8_0, q4_0, q4_k, q5_k, q6_k, nf4, nf4-double, fp4,
    /// fp4-double, int4-32-sym, int4-32-asym and the same with 64 and 128 [default: all]
    #[arg(long, value_delimiter = ',')]
    formats: Vec<Target>,
    /// File with the text to predict [default: the bundled model's held-out text]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens of the text at most
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..))]
    tokens: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArguments,
}

/// Tokens that are read at a time, each from an empty context.
const WINDOW: usize = 512;

pub fn run(arguments: &Arguments) -> Outcome {
    let source = load::source(arguments.model.model.as_deref());
    let sequences = sequences(arguments, &source)?;
    let tokens: usize = sequences.iter().map(Vec::len).sum();
    let plain = Plain::read(&source)?;
    let formats = if arguments.formats.is_empty() { Target::all() } else { arguments.formats.clone() };
    let mut rows = Vec::new();
    let mut out = io::stdout().lock();
    if !arguments.json {
        writeln!(out, "fast against exact arithmetic on the same file, {tokens} tokens")?;
        writeln!(
            out,
            "{:<14} {:>5} {:>8} {:>11} {:>11} {:>12} {:>12} {:>8}",
            "weights", "KV", "of them", "mean KL", "largest KL", "ppl exact", "ppl fast", "differ"
        )?;
    }
    for format in formats {
        let image = requantise::image(&plain, format)?;
        let exact = open(arguments, &image, LoadOptions { exact: true, ..options(arguments) })?;
        // What a KV format costs does not depend on the weights' format.
        let quantised_kv = (format == Target::Ggml(Kind::BF16)).then_some(KvFormat::Q8_0);
        for kv in [KvFormat::F16].into_iter().chain(quantised_kv) {
            let fast = open(arguments, &image, LoadOptions { kv, ..options(arguments) })?;
            let row = Row { format, kv, image: &image, score: compare(&exact, &fast, &sequences)? };
            if !arguments.json {
                writeln!(out, "{}", row.line())?;
            }
            rows.push(row.json());
        }
    }
    if arguments.json {
        writeln!(out, "{:#}", json!({ "tokens": tokens, "formats": rows }))?;
    }
    Ok(())
}

/// The text as token ids, cut into what is read at a time.
fn sequences(arguments: &Arguments, source: &Source) -> Outcome<Vec<Vec<u32>>> {
    let held_out = || -> Outcome<Vec<Vec<u32>>> {
        let file: Value = serde_json::from_str(HELD_OUT).map_err(|e| Failure::new(format!("internal error: {e}")))?;
        serde_json::from_value(file["token_ids"].clone()).map_err(|e| Failure::new(format!("internal error: {e}")))
    };
    let mut sequences = match (&arguments.text, &arguments.model.model) {
        (Some(path), _) => {
            let read = std::fs::read_to_string(path);
            let text = read.map_err(|e| Failure::new(format!("{}: cannot read: {e}", path.display())))?;
            vec![qwen3moe::tokenize(source, &text, true)?]
        }
        (None, None) => held_out()?,
        (None, Some(_)) => {
            return Err(Failure::new("--text is needed: the held-out text is of the bundled model's vocabulary"));
        }
    };
    let mut left = arguments.tokens.map_or(usize::MAX, |tokens| tokens as usize);
    for sequence in &mut sequences {
        sequence.truncate(left);
        left -= sequence.len();
    }
    let windows = sequences.iter().flat_map(|sequence| sequence.chunks(WINDOW)).filter(|window| window.len() > 1);
    let windows: Vec<Vec<u32>> = windows.map(<[u32]>::to_vec).collect();
    if windows.is_empty() {
        return Err(Failure::new("the text has fewer than two tokens"));
    }
    Ok(windows)
}

fn options(arguments: &Arguments) -> LoadOptions {
    LoadOptions { context_length: WINDOW, exact: false, ..arguments.model.load_options() }
}

fn open(arguments: &Arguments, image: &Image, options: LoadOptions) -> Outcome<Model> {
    let context_length = match arguments.model.context {
        0 => options.context_length,
        wanted => wanted,
    };
    Ok(Model::load(&image.source, &LoadOptions { context_length, ..options }, &LoadProgress::default())?)
}

/// How far one model is from another, on the same text.
struct Score {
    mean_kl: f64,
    largest_kl: f64,
    exact_perplexity: f64,
    fast_perplexity: f64,
}

/// Kullback-Leibler divergence of every position, and the perplexity of what follows.
fn compare(exact: &Model, fast: &Model, sequences: &[Vec<u32>]) -> Outcome<Score> {
    let vocab = exact.info().spec.vocab;
    let (mut sum, mut largest, mut positions) = (0.0, 0f64, 0u64);
    let (mut exact_loss, mut fast_loss, mut predicted) = (0.0, 0.0, 0u64);
    for ids in sequences {
        if interrupt::requested() {
            return Err(Failure::Interrupted);
        }
        let (p, q) = (exact.eval(ids)?, fast.eval(ids)?);
        for (i, (p, q)) in p.chunks_exact(vocab).zip(q.chunks_exact(vocab)).enumerate() {
            let (p, q) = (log_softmax(p), log_softmax(q));
            let kl: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
            sum += kl;
            largest = largest.max(kl);
            positions += 1;
            if let Some(&next) = ids.get(i + 1) {
                exact_loss -= p[next as usize];
                fast_loss -= q[next as usize];
                predicted += 1;
            }
        }
    }
    let perplexity = |loss: f64| (loss / predicted as f64).exp();
    Ok(Score {
        mean_kl: sum / positions as f64,
        largest_kl: largest,
        exact_perplexity: perplexity(exact_loss),
        fast_perplexity: perplexity(fast_loss),
    })
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total: f64 = logits.iter().map(|&x| (f64::from(x) - most).exp()).sum();
    logits.iter().map(|&x| f64::from(x) - most - total.ln()).collect()
}

/// One line of the table.
struct Row<'a> {
    format: Target,
    kv: KvFormat,
    image: &'a Image,
    score: Score,
}

impl Row<'_> {
    fn share(&self) -> f64 {
        self.image.in_format as f64 / self.image.values as f64
    }

    fn difference(&self) -> f64 {
        self.score.fast_perplexity / self.score.exact_perplexity - 1.0
    }

    fn line(&self) -> String {
        let score = &self.score;
        format!(
            "{:<14} {:>5} {:>6.1} % {:>11.2e} {:>11.2e} {:>12.5} {:>12.5} {:>6.3} %",
            self.format.name(),
            self.kv.name(),
            100.0 * self.share(),
            score.mean_kl,
            score.largest_kl,
            score.exact_perplexity,
            score.fast_perplexity,
            100.0 * self.difference()
        )
    }

    fn json(&self) -> Value {
        json!({
            "format": self.format.name(),
            "kv": self.kv.name(),
            "share_in_format": self.share(),
            "mean_kl": self.score.mean_kl,
            "largest_kl": self.score.largest_kl,
            "exact_perplexity": self.score.exact_perplexity,
            "fast_perplexity": self.score.fast_perplexity,
            "perplexity_difference": self.difference(),
        })
    }
}
