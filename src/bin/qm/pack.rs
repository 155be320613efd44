//! `qm pack`: a model's pack cache, made ahead of its first load.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use indicatif::HumanBytes;
use qwen3moe::{LoadOptions, Source};

use crate::failure::Outcome;
use crate::load;

/// Arguments of `qm pack`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Hugging Face directory or GGUF file
    model: PathBuf,
    /// Folder to write to, made where there is none; loads with the same --cache-dir use what is there
    #[arg(long, value_name = "FOLDER")]
    cache_dir: PathBuf,
    /// Worker threads [default: one a physical core]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Tell what is done
    #[arg(short, long)]
    verbose: bool,
}

pub fn run(arguments: &Arguments) -> Outcome {
    let options = LoadOptions {
        cache_dir: Some(arguments.cache_dir.clone()),
        threads: arguments.threads,
        ..LoadOptions::default()
    };
    let source = Source::from(arguments.model.as_path());
    let start = Instant::now();
    let report = load::watched("packing", arguments.verbose, options, |options, progress| {
        qwen3moe::pack(&source, options, progress)
    })?;
    let what = if report.written { "written" } else { "already there and whole, checked" };
    let (path, bytes, seconds) = (report.path.display(), HumanBytes(report.bytes), start.elapsed().as_secs_f64());
    writeln!(io::stdout(), "{path}: {bytes} of weights, {what} in {seconds:.1} s")?;
    Ok(())
}
