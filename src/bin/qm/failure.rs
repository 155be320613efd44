//! How a command ends without success.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

/// Why a command stopped.
#[derive(Debug)]
pub enum Failure {
    /// An error to tell the user, in one line.
    Message(String),
    /// The reader of our output went away: nothing to tell, nobody to tell it to.
    BrokenPipe,
    /// Ctrl-C.
    Interrupted,
}

/// Result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Writes a line to the standard error. Where that is closed there is nobody to tell, and nothing to do about it.
pub fn tell(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

impl Failure {
    /// A message.
    pub fn new(message: impl Into<String>) -> Self {
        Failure::Message(message.into())
    }

    /// Tells the user, where there is something to tell, and gives the program's exit code.
    pub fn report(&self) -> ExitCode {
        match self {
            Failure::Message(message) => {
                let lines: Vec<&str> = message.lines().map(str::trim).collect();
                tell(format_args!("error: {}", lines.join(" ")));
                ExitCode::FAILURE
            }
            Failure::BrokenPipe => ExitCode::SUCCESS,
            // What shells report for a program that SIGINT ended.
            Failure::Interrupted => ExitCode::from(130),
        }
    }
}

impl From<qwen3moe::Error> for Failure {
    fn from(error: qwen3moe::Error) -> Self {
        match error {
            qwen3moe::Error::Cancelled => Failure::Interrupted,
            other => Failure::Message(other.to_string()),
        }
    }
}

/// Errors of writing to the standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
            _ => Failure::Message(format!("cannot write the output: {error}")),
        }
    }
}
