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
pub fn load(arguments: &ModelArguments, mut options: LoadOptions) -> Outcome<Model> {
    let bar = progress::bytes("loading", 0);
    bar.set_draw_target(ProgressDrawTarget::hidden());
    let (log_bar, least) = (bar.clone(), if arguments.verbose { LogLevel::Debug } else { LogLevel::Warning });
    options.log = Some(Arc::new(move |level, line| {
        if level <= least {
            log_bar.suspend(|| tell(format_args!("{}: {line}", level_name(level))));
        }
    }));
    let shared = LoadProgress::default();
    let loaded = std::thread::scope(|scope| {
        let (_loading, ended) = mpsc::channel::<()>();
        let (shared, bar) = (&shared, &bar);
        scope.spawn(move || watch(shared, bar, &ended));
        Model::load(&source(arguments.model.as_deref()), &options, shared)
    });
    bar.finish_and_clear();
    Ok(loaded?)
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
