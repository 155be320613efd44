//! How far a load is, and the wish to stop it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Progress of one load, shared between the thread that loads and any that watch.
#[derive(Debug, Default)]
pub struct LoadProgress {
    total: AtomicU64,
    done: AtomicU64,
    cancelled: AtomicBool,
}

impl LoadProgress {
    /// Bytes that the load will read, and write to a pack cache; 0 until the headers are read.
    pub fn total_bytes(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Bytes read, and written, so far. Starts anew where a pack cache turns out to be damaged.
    pub fn done_bytes(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Asks the load to stop; it ends with [`Error::Cancelled`] within a few megabytes of weights, the reading of the
    /// tokenizer, or the setting up of one layer's memory.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Sets the bytes that the load will read, of which none is read yet.
    pub fn restart(&self, bytes: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(bytes, Ordering::Relaxed);
    }

    /// Reports `bytes` more read or written.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when the load was asked to stop.
    pub fn advance(&self, bytes: u64) -> Result<()> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        if self.cancelled.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }
}
