//! The program `qm`: a thin user of the library's Rust interface. One file a subcommand.

mod answer;
mod arguments;
mod bench;
mod bundled;
mod chat;
mod doctor;
mod eval;
mod failure;
mod fit;
mod generate;
mod gguf;
mod inspect;
mod interrupt;
mod load;
mod npy;
mod pack;
mod process;
mod progress;
mod quality;
mod requantise;
mod soak;
mod synth;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs Qwen3 Mixture-of-Experts models
#[derive(Debug, Parser)]
#[command(name = "qm", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer one prompt
    Generate(generate::Arguments),
    /// Talk with a model
    Chat(chat::Arguments),
    /// Write the logits of given tokens to a file
    Eval(eval::Arguments),
    /// Tell what this program was built with, and what the machine offers
    Doctor(doctor::Arguments),
    /// Tell what a model file is, and what of it will be used
    Inspect(inspect::Arguments),
    /// Tell what memory a model would take, without loading it
    Fit(fit::Arguments),
    /// Pack a model's weights into a file from which it loads in seconds
    Pack(pack::Arguments),
    /// Measure how fast a model reads and writes
    Bench(bench::Arguments),
    /// Compare the fast arithmetic with the exact one, for every number format
    Quality(quality::Arguments),
    /// Generate or load for long, and fail where memory, files or threads grow
    Soak(soak::Arguments),
    /// Write a random model of a published model's shape, to measure a machine with
    Synth(synth::Arguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    interrupt::install();
    let outcome = match &cli.command {
        Command::Generate(arguments) => generate::run(arguments),
        Command::Chat(arguments) => chat::run(arguments),
        Command::Eval(arguments) => eval::run(arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Fit(arguments) => fit::run(arguments),
        Command::Pack(arguments) => pack::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Quality(arguments) => quality::run(arguments),
        Command::Soak(arguments) => soak::run(arguments),
        Command::Synth(arguments) => synth::run(arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
