//! Loading a model under the user's eyes.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget};
use qwen3moe::{LoadOptions, LoadProgress, LogLevel, Model, Source};

use crate::arguments::ModelArguments;
use crate::failure::{Outcome, tell};
use crate::{bundled, interrupt, progress};

/// Loads faster than this show no bar.
const PATIENCE: Duration = Duration::from_millis(500);

/// The model at `path`, or the bundled one.
pub fn source(path: Option<&Path>) -> Source {
    path.map_or_else(bundled::source, Source::from)
}

/// Loads the model that the flags name.
pub fn load(arguments: &ModelArguments, options: LoadOptions) -> Outcome<Model> {
    let source = source(arguments.model.as_deref());
    watched("loading", arguments.verbose, options, |options, progress| Model::load(&source, options, progress))
}

/// Runs `work` under a bar called `what`, with its log on the standard error.
pub fn watched<T>(
    what: &'static str,
    verbose: bool,
    mut options: LoadOptions,
    work: impl FnOnce(&LoadOptions, &LoadProgress) -> qwen3moe::Result<T>,
) -> Outcome<T> {
    let bar = progress::bytes(what, 0);
    bar.set_draw_target(ProgressDrawTarget::hidden());
    let (log_bar, least) = (bar.clone(), if verbose { LogLevel::Debug } else { LogLevel::Warning });
    options.log = Some(Arc::new(move |level, line| {
        if level <= least {
            log_bar.suspend(|| tell(format_args!("{}: {line}", level_name(level))));
        }
    }));
    let shared = LoadProgress::default();
    let outcome = std::thread::scope(|scope| {
        let (_loading, ended) = mpsc::channel::<()>();
        let (shared, bar) = (&shared, &bar);
        scope.spawn(move || watch(shared, bar, &ended));
        work(&options, shared)
    });
    bar.finish_and_clear();
    Ok(outcome?)
}

fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warning => "warning",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    }
}

/// Moves the bar until the load ends, which closes the channel; hands Ctrl-C on to the load. The bar is fed from the
/// start, so that the time left is right when it first shows.
fn watch(shared: &LoadProgress, bar: &ProgressBar, ended: &mpsc::Receiver<()>) {
    let start = Instant::now();
    let mut shown = false;
    while ended.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Timeout) {
        bar.set_length(shared.total_bytes());
        bar.set_position(shared.done_bytes());
        if !shown && start.elapsed() >= PATIENCE && shared.total_bytes() > 0 {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            shown = true;
        }
        if interrupt::requested() {
            shared.cancel();
        }
    }
}
