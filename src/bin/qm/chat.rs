//! `qm chat`: a conversation in the terminal.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use qwen3moe::{Error, Model, Prompt};
use rustyline::error::ReadlineError;
use serde_json::{Value, json};

use crate::answer::{self, Ended};
use crate::arguments::{GenerateArguments, ModelArguments};
use crate::failure::{Failure, Outcome, tell};
use crate::{interrupt, load};

const HELP: &str = "\
/reset          forget the conversation
/system [TEXT]  set the system message and forget the conversation; without TEXT remove it
/quit           leave (also Ctrl-D)
Ctrl-C          stop the answer";

/// Arguments of `qm chat`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// System message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    generate: GenerateArguments,
    #[command(flatten)]
    model: ModelArguments,
}

pub fn run(arguments: &Arguments) -> Outcome {
    let model = load::load(&arguments.model, arguments.model.load_options())?;
    if !model.info().has_chat_template {
        return Err(Failure::new("the model has no chat template: use `qm generate --raw`"));
    }
    let mut input = Input::open()?;
    if let Input::Terminal(_) = input {
        tell("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.");
    }
    let mut chat = Conversation::new(arguments.system.clone());
    while let Some(line) = input.next()? {
        match command(line.trim()) {
            Command::Nothing => {}
            Command::Quit => break,
            Command::Help => tell(HELP),
            Command::Reset => chat = Conversation::new(chat.system),
            Command::System(text) => chat = Conversation::new(text),
            Command::Unknown(name) => tell(format_args!("unknown command {name}; /help lists them")),
            Command::Say(text) => chat.turn(&model, text, &arguments.generate)?,
        }
    }
    Ok(())
}

/// What a line of input asks for.
enum Command<'a> {
    Nothing,
    Quit,
    Help,
    Reset,
    System(Option<String>),
    Unknown(&'a str),
    Say(&'a str),
}

fn command(line: &str) -> Command<'_> {
    let (name, rest) = line.split_once(char::is_whitespace).map_or((line, ""), |(n, r)| (n, r.trim()));
    match name {
        "" => Command::Nothing,
        "/quit" | "/exit" | "/bye" => Command::Quit,
        "/help" | "/?" => Command::Help,
        "/reset" | "/clear" => Command::Reset,
        "/system" => Command::System((!rest.is_empty()).then(|| rest.to_owned())),
        _ if name.starts_with('/') && !name[1..].contains('/') => Command::Unknown(name),
        _ => Command::Say(line),
    }
}

/// The messages so far.
struct Conversation {
    system: Option<String>,
    /// User and assistant in turn.
    turns: Vec<Value>,
}

impl Conversation {
    fn new(system: Option<String>) -> Self {
        Self { system, turns: Vec::new() }
    }

    fn prompt(&self) -> Prompt {
        let system = self.system.iter().map(|s| json!({ "role": "system", "content": s }));
        Prompt::Chat(Value::from_iter(system.chain(self.turns.iter().cloned())).to_string())
    }

    /// Asks and answers. Errors that concern this turn alone are told and end the turn, not the program.
    fn turn(&mut self, model: &Model, text: &str, generate: &GenerateArguments) -> Outcome {
        let before = self.turns.clone();
        self.turns.push(json!({ "role": "user", "content": text }));
        interrupt::clear();
        let mut answer = String::new();
        let outcome = self.answer(model, generate, &mut answer);
        interrupt::clear();
        if answer.is_empty() && outcome.is_err() {
            self.turns = before;
        } else {
            self.turns.push(json!({ "role": "assistant", "content": answer }));
        }
        match outcome {
            Err(message @ Failure::Message(_)) => {
                message.report();
                Ok(())
            }
            other => other,
        }
    }

    fn answer(&mut self, model: &Model, generate: &GenerateArguments, answer: &mut String) -> Outcome {
        let options = generate.options();
        let mut out = io::stdout().lock();
        let (stream, copied) = loop {
            let stream = model.stream(&self.prompt(), &options)?;
            let copied = answer::copy(&stream, &mut out, answer);
            // The last message alone may fill the context, and then there is nothing left to forget.
            let full = copied.is_err() && matches!(stream.next(Some(Duration::ZERO)), Err(Error::ContextFull(_)));
            if !full || stream.stats().generated_tokens > 0 || self.turns.len() <= 2 {
                break (stream, copied);
            }
            self.turns.drain(..2);
            tell("[the context is full: the oldest message and its answer are forgotten]");
        };
        writeln!(out)?;
        let ended = copied?;
        let stats = stream.stats();
        let speed = answer::rate(answer::decoded(&stats), stats.decode);
        let speed = speed.map_or(String::new(), |r| format!(", {r:.1} tok/s"));
        let stopped = if ended == Ended::Interrupted { ", stopped" } else { "" };
        tell(format_args!("[{} tokens{speed}{stopped}]", stats.generated_tokens));
        Ok(())
    }
}

/// Where lines come from.
enum Input {
    /// A terminal, with line editing and a history of lines.
    Terminal(Box<rustyline::DefaultEditor>),
    /// Anything else, line by line.
    Plain(io::StdinLock<'static>),
}

impl Input {
    fn open() -> Outcome<Self> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(Input::Plain(io::stdin().lock()));
        }
        let editor = rustyline::DefaultEditor::new();
        // The editor brings a handler of its own. It reads Ctrl-C as a key, so ours can have the signal.
        interrupt::install();
        editor.map(|e| Input::Terminal(Box::new(e))).map_err(|e| Failure::new(format!("cannot use the terminal: {e}")))
    }

    /// The next line; `None` at the end.
    fn next(&mut self) -> Outcome<Option<String>> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("cannot read the standard input: {error}"));
        match self {
            Input::Terminal(editor) => loop {
                match editor.readline("> ") {
                    Ok(line) => {
                        // The history is a comfort: without it the chat goes on.
                        let _ = editor.add_history_entry(&line);
                        return Ok(Some(line));
                    }
                    Err(ReadlineError::Interrupted) => tell("(/quit or Ctrl-D leaves)"),
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(error) => return Err(failed(&error)),
                }
            },
            Input::Plain(stdin) => {
                let mut bytes = Vec::new();
                if stdin.read_until(b'\n', &mut bytes).map_err(|e| failed(&e))? == 0 {
                    return Ok(None);
                }
                String::from_utf8(bytes).map(Some).map_err(|_| failed(&"it is no UTF-8"))
            }
        }
    }
}
