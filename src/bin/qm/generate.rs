//! `qm generate`: one prompt, one answer.

use std::io::{self, IsTerminal, Read, Write};

use clap::Args;
use qwen3moe::{Model, Prompt};

use crate::answer::{self, Ended};
use crate::arguments::{GenerateArguments, ModelArguments};
use crate::failure::{Failure, Outcome, tell};
use crate::load;

/// Arguments of `qm generate`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// What to answer; read from the standard input where it is left out or "-"
    prompt: Option<String>,
    /// The prompt is a message of a chat, in the model's template [default where the model has one]
    #[arg(long, conflicts_with = "raw")]
    chat: bool,
    /// The prompt is text to continue as it is
    #[arg(long)]
    raw: bool,
    /// System message before the prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Print counts and speeds behind the answer, on the standard error
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    generate: GenerateArguments,
    #[command(flatten)]
    model: ModelArguments,
}

pub fn run(arguments: &Arguments) -> Outcome {
    let text = prompt_text(arguments.prompt.as_deref())?;
    let model = load::load(&arguments.model, arguments.model.load_options())?;
    let stream = model.stream(&prompt(arguments, &model, text)?, &arguments.generate.options())?;
    let mut answer = String::new();
    let mut out = io::stdout().lock();
    let copied = answer::copy(&stream, &mut out, &mut answer);
    if !answer.is_empty() && !answer.ends_with('\n') {
        writeln!(out)?;
    }
    let ended = copied?;
    if arguments.stats {
        tell(format_args!("[{}]", answer::summary(&stream.stats())));
    }
    match ended {
        Ended::Finished => Ok(()),
        Ended::Interrupted => Err(Failure::Interrupted),
    }
}

fn prompt(arguments: &Arguments, model: &Model, text: String) -> Outcome<Prompt> {
    let chat = arguments.chat || arguments.system.is_some() || model.info().has_chat_template;
    if arguments.raw || !chat {
        return Ok(Prompt::Text(text));
    }
    let message = |role: &str, content: &str| serde_json::json!({ "role": role, "content": content });
    let mut messages: Vec<_> = arguments.system.iter().map(|s| message("system", s)).collect();
    messages.push(message("user", &text));
    Ok(Prompt::Chat(serde_json::Value::from(messages).to_string()))
}

/// The prompt given, or everything that the standard input holds.
fn prompt_text(given: Option<&str>) -> Outcome<String> {
    match given {
        Some(text) if text != "-" => return Ok(text.to_owned()),
        None if io::stdin().is_terminal() => {
            return Err(Failure::new("no prompt: give one as an argument, or pipe it in"));
        }
        _ => {}
    }
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes).map_err(|e| Failure::new(format!("cannot read the prompt: {e}")))?;
    String::from_utf8(bytes).map_err(|_| Failure::new("the prompt on the standard input is no UTF-8"))
}
