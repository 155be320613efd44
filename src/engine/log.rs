//! Log lines for the host.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{LogLevel, LogSink};

/// Where a model's log lines go. The host's function may panic; that ends here.
#[derive(Clone, Default)]
pub(super) struct Log(Option<LogSink>);

impl Log {
    pub(super) fn new(sink: Option<LogSink>) -> Self {
        Self(sink)
    }

    pub(super) fn line(&self, level: LogLevel, text: &str) {
        if let Some(sink) = &self.0 {
            let _ = catch_unwind(AssertUnwindSafe(|| sink(level, text)));
        }
    }
}
