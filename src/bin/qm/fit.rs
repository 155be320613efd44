//! `qm fit`: what a load would take, without loading.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use indicatif::HumanBytes;
use qwen3moe::{Device, Fit, KvFormat, LoadOptions, MemoryUse};
use serde_json::{Map, Value, json};

use crate::arguments::{parse_bytes, parse_device};
use crate::failure::{Failure, Outcome};
use crate::load;

/// Arguments of `qm fit`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Hugging Face directory or GGUF file; without it the bundled model
    model: Option<PathBuf>,
    /// Where to run: cpu, or the number of a CUDA device (qm doctor lists them)
    #[arg(long, value_parser = parse_device, default_value = "cpu")]
    device: Device,
    /// Device memory the model may take, such as 12GiB [default: what is free]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "0", hide_default_value = true)]
    vram_budget: u64,
    /// Positions one stream can hold [default: the smaller of the model's own and 4096]
    #[arg(long, value_name = "TOKENS", default_value_t = 0, hide_default_value = true)]
    context: usize,
    /// Streams that run at the same time
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Memory the model may take, such as 12GiB [default: what is available]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "0", hide_default_value = true)]
    ram_budget: u64,
    /// How keys and values are stored: f16, q8_0 or f32
    #[arg(long, value_name = "FORMAT", default_value_t = KvFormat::default())]
    kv: KvFormat,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Outcome {
    let options = LoadOptions {
        device: arguments.device,
        vram_budget: arguments.vram_budget,
        context_length: arguments.context,
        streams: arguments.streams,
        ram_budget: arguments.ram_budget,
        kv: arguments.kv,
        ..LoadOptions::default()
    };
    let fit = qwen3moe::fit(&load::source(arguments.model.as_deref()), &options)?;
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{:#}", to_json(&fit))?;
    } else {
        write!(out, "{}", to_text(&fit))?;
    }
    if fit.fits { Ok(()) } else { Err(Failure::new(format!("the model does not fit: {}", fit.advice))) }
}

/// The components of a memory use that are not empty, largest first.
fn components(memory: &MemoryUse) -> Vec<(&'static str, u64)> {
    let mut list = vec![
        ("embeddings", memory.embeddings),
        ("attention", memory.attention),
        ("delta_net", memory.delta_net),
        ("experts", memory.experts),
        ("other", memory.other),
        ("kv", memory.kv),
        ("states", memory.states),
        ("workspace", memory.workspace),
    ];
    list.retain(|&(_, bytes)| bytes > 0);
    list.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    list
}

/// Lines for people, each with its newline.
pub fn to_text(fit: &Fit) -> String {
    let mut text = format!("memory        {} of RAM", HumanBytes(fit.ram_required));
    if fit.ram_available > 0 {
        text += &format!(", {} available", HumanBytes(fit.ram_available));
    }
    if fit.vram_required > 0 {
        text += &format!("; {} on the device, {} allowed", HumanBytes(fit.vram_required), HumanBytes(fit.vram_limit));
    }
    text += if fit.fits { ": fits\n" } else { ": does not fit\n" };
    for (name, bytes) in components(&fit.memory.ram) {
        text += &format!("  {name:<12}{}\n", HumanBytes(bytes));
    }
    for (name, bytes) in components(&fit.memory.vram) {
        text += &format!("  {name:<12}{} on the device\n", HumanBytes(bytes));
    }
    text += &format!(
        "room for      {} x {} tokens; 1000 more take {}, one more stream {}\n",
        fit.streams,
        fit.context_length,
        HumanBytes(fit.kv_per_1000_tokens),
        HumanBytes(fit.state_per_stream),
    );
    if !fit.fits {
        text += &format!("advice        {}\n", fit.advice);
    }
    text
}

pub fn to_json(fit: &Fit) -> Value {
    let object = |memory: &MemoryUse| -> Map<String, Value> {
        components(memory).into_iter().map(|(name, bytes)| (name.to_owned(), json!(bytes))).collect()
    };
    json!({
        "fits": fit.fits,
        "ram_required": fit.ram_required,
        "ram_available": fit.ram_available,
        "ram_limit": fit.ram_limit,
        "ram": object(&fit.memory.ram),
        "vram_required": fit.vram_required,
        "vram_limit": fit.vram_limit,
        "vram": object(&fit.memory.vram),
        "context_length": fit.context_length,
        "streams": fit.streams,
        "kv_tokens": fit.kv_tokens,
        "kv_per_1000_tokens": fit.kv_per_1000_tokens,
        "state_per_stream": fit.state_per_stream,
        "advice": fit.advice,
    })
}
