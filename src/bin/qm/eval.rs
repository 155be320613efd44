//! `qm eval`: the logits of given tokens, for comparisons with other programs.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use crate::arguments::ModelArguments;
use crate::failure::{Failure, Outcome};
use crate::{load, npy};

/// Arguments of `qm eval`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Token ids, separated by commas
    #[arg(long, value_delimiter = ',', required_unless_present = "text", conflicts_with = "text")]
    ids: Vec<u32>,
    /// Text to take the tokens of; special tokens spelled out in it count as such
    #[arg(long)]
    text: Option<String>,
    /// Where to write the logits: .npy, float32 [tokens, vocabulary]
    #[arg(long, value_name = "FILE")]
    logits: PathBuf,
    #[command(flatten)]
    model: ModelArguments,
}

pub fn run(arguments: &Arguments) -> Outcome {
    // Before the load, so that the context has room for them.
    let ids = match &arguments.text {
        Some(text) => qwen3moe::tokenize(&load::source(arguments.model.model.as_deref()), text, true)?,
        None => arguments.ids.clone(),
    };
    let mut options = arguments.model.load_options();
    options.context_length = options.context_length.max(ids.len());
    let model = load::load(&arguments.model, options)?;
    let logits = model.eval(&ids)?;
    let vocab = model.info().spec.vocab;
    let path = arguments.logits.as_path();
    npy::write(path, &logits, vocab).map_err(|e| Failure::new(format!("{}: cannot write: {e}", path.display())))?;
    writeln!(io::stdout(), "{}: float32 [{}, {vocab}]", path.display(), ids.len())?;
    Ok(())
}
