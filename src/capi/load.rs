//! From files to a model: at once, or on a thread that can be watched and stopped.

use std::ffi::c_char;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::arguments::{Out, free, handle, invalid, text};
use super::boundary::{boundary, catch, quietly};
use super::extensible::{extensible, write_output};
use super::model::qm_model;
use super::options::{ProgressCallback, load_options, qm_load_options_t};
use super::status::{QM_OK, QM_PENDING, qm_status};
use crate::engine::{LoadOptions, Model};
use crate::error::{Error, Result};
use crate::{LoadProgress, Source};

/// How often qm_load reports progress.
const REPORT_EVERY: Duration = Duration::from_millis(50);

/// A load that was started with qm_load_start. Owned by the caller: free it with qm_load_free.
pub struct qm_load_op {
    progress: Arc<LoadProgress>,
    callback: Option<ProgressCallback>,
    outcome: Arc<Outcome>,
    started: Instant,
    thread: Option<JoinHandle<()>>,
}

/// How far a load is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qm_load_progress_t {
    /// Bytes of this struct that the library filled in; what is behind them is zero.
    pub struct_size: u32,
    /// Share of the bytes that was read, 0 to 1.
    pub fraction: f32,
    /// Bytes read so far, and written to a pack cache. Starts anew where a pack cache turns out to be damaged.
    pub done_bytes: u64,
    /// Bytes that the load reads and writes; 0 until the files' headers are read.
    pub total_bytes: u64,
    /// Microseconds since the load was started.
    pub elapsed_us: u64,
}

extensible!(qm_load_progress_t, first: 32, size: 32, {
    struct_size: 0, fraction: 4, done_bytes: 8, total_bytes: 16, elapsed_us: 24,
});

/// What the loading thread leaves for the others.
struct Outcome {
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    Loading,
    Loaded(Model),
    Failed(Error),
    Taken,
}

/// The files at `path`.
pub(super) fn source(path: &str) -> Result<Source> {
    if path.is_empty() {
        return Err(invalid("path", "is empty, expected a GGUF file or a Hugging Face directory"));
    }
    Ok(Source::from(Path::new(path)))
}

impl Outcome {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl qm_load_op {
    fn start(path: &str, options: LoadOptions, callback: Option<ProgressCallback>) -> Result<Self> {
        let source = source(path)?;
        let progress = Arc::new(LoadProgress::default());
        let outcome = Arc::new(Outcome { state: Mutex::new(State::Loading), changed: Condvar::new() });
        let (watched, result) = (progress.clone(), outcome.clone());
        let load = move || {
            let loaded = catch(|| Model::load(&source, &options, &watched)).and_then(|loaded| loaded);
            *result.state() = match loaded {
                Ok(model) => State::Loaded(model),
                Err(error) => State::Failed(error),
            };
            result.changed.notify_all();
        };
        let thread = std::thread::Builder::new()
            .name("qm-load".into())
            .spawn(load)
            .map_err(|cause| Error::OutOfHostMemory { what: format!("the loading thread ({cause})"), bytes: 0 })?;
        Ok(Self { progress, callback, outcome, started: Instant::now(), thread: Some(thread) })
    }

    fn progress(&self) -> qm_load_progress_t {
        let (done_bytes, total_bytes) = (self.progress.done_bytes(), self.progress.total_bytes());
        qm_load_progress_t {
            struct_size: size_of::<qm_load_progress_t>() as u32,
            fraction: if total_bytes == 0 { 0.0 } else { (done_bytes as f64 / total_bytes as f64).min(1.0) as f32 },
            done_bytes,
            total_bytes,
            elapsed_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// Tells the callback, and cancels if it asks for that. No lock is held: a callback may take long.
    fn report(&self) {
        if self.callback.is_some_and(|callback| callback.call(&self.progress())) {
            self.progress.cancel();
        }
    }

    /// The model, if it is there: only the first to ask gets it.
    fn take(&self) -> Result<Option<Model>> {
        let mut state = self.outcome.state();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Loading => {
                *state = State::Loading;
                Ok(None)
            }
            State::Loaded(model) => Ok(Some(model)),
            State::Failed(error) => {
                *state = State::Failed(error.clone());
                Err(error)
            }
            State::Taken => Err(invalid("op", "has given its model already")),
        }
    }

    fn wait(&self) -> Result<Model> {
        loop {
            self.report();
            if let Some(model) = self.take()? {
                return Ok(model);
            }
            let state = self.outcome.state();
            if matches!(*state, State::Loading) {
                match self.callback {
                    Some(_) => drop(self.outcome.changed.wait_timeout(state, REPORT_EVERY)),
                    None => drop(self.outcome.changed.wait(state)),
                }
            }
        }
    }
}

impl Drop for qm_load_op {
    fn drop(&mut self) {
        self.progress.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Loads a model and waits for it. `path` (UTF-8): a GGUF file (the first one where it is split) or a directory in the
/// form of Hugging Face. `options`: NULL for the defaults. `*out`: yours, free it with qm_model_free; NULL on every error.
///
/// The reading is done on another thread, which is gone when the function returns; the progress callback is called on the
/// calling thread, every 50 ms and at the end. Any number of threads may load at the same time.
///
/// Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH, QM_ERR_IO, QM_ERR_BAD_FILE, QM_ERR_UNSUPPORTED,
/// QM_ERR_NO_DEVICE, QM_ERR_OVER_BUDGET (nothing was loaded; the text has the numbers), QM_ERR_OUT_OF_HOST_MEMORY,
/// QM_ERR_OUT_OF_DEVICE_MEMORY, QM_ERR_CANCELLED (by the progress callback).
///
/// # Safety
/// `path` is NULL or NUL-terminated, `options` is NULL or a struct of its own size, `out` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_load(
    path: *const c_char,
    options: *const qm_load_options_t,
    out: *mut *mut qm_model,
) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        let (out, path, (options, callback)) =
            unsafe { (Out::new(out, "out", std::ptr::null_mut())?, text(path, "path")?, load_options(options)?) };
        out.give(qm_model::new(qm_load_op::start(path, options, callback)?.wait()?));
        Ok(QM_OK)
    })
}

/// Starts to load a model on another thread, and returns at once. Arguments as for qm_load; `*out`: yours, free it with
/// qm_load_free; NULL on every error. Ask with qm_load_poll how far it is. The progress callback is called by
/// qm_load_poll. A wrong path or a damaged file is reported by qm_load_poll, not here.
///
/// Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH, QM_ERR_OUT_OF_HOST_MEMORY.
///
/// # Safety
/// As for qm_load.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_load_start(
    path: *const c_char,
    options: *const qm_load_options_t,
    out: *mut *mut qm_load_op,
) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        let (out, path, (options, callback)) =
            unsafe { (Out::new(out, "out", std::ptr::null_mut())?, text(path, "path")?, load_options(options)?) };
        out.give(qm_load_op::start(path, options, callback)?);
        Ok(QM_OK)
    })
}

/// Asks how far a load is. Never blocks. `progress`: a struct of `size` bytes (pass `sizeof *progress`), or NULL.
///
/// Returns QM_PENDING while it is loading, then once QM_OK with the model in `*out`: yours, free it with qm_model_free;
/// `*out` is NULL otherwise. A load that failed returns its error at each call (those of qm_load). After QM_OK the op has
/// nothing more to give: QM_ERR_INVALID_ARGUMENT.
///
/// # Safety
/// `op` is NULL or live, `progress` is NULL or valid for writes of `size` bytes, `out` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_load_poll(
    op: *mut qm_load_op,
    progress: *mut qm_load_progress_t,
    size: usize,
    out: *mut *mut qm_model,
) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        let (out, op) = unsafe { (Out::new(out, "out", std::ptr::null_mut())?, handle(op, "op")?) };
        if !progress.is_null() {
            // SAFETY: not NULL, valid for writes of `size` bytes as the caller promises.
            unsafe { write_output(progress, size, &op.progress(), "progress") }?;
        }
        op.report();
        let Some(model) = op.take()? else { return Ok(QM_PENDING) };
        out.give(qm_model::new(model));
        Ok(QM_OK)
    })
}

/// Asks a load to stop; it ends with QM_ERR_CANCELLED, which qm_load_poll reports, unless it was complete before. That
/// takes as long as reading a few megabytes of weights, reading the tokenizer or setting up the memory of one layer's
/// streams, whichever it is at. Returns at once. Callable from any thread at any time before qm_load_free.
/// Errors: QM_ERR_INVALID_ARGUMENT (`op` is NULL).
///
/// # Safety
/// `op` is NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_load_cancel(op: *mut qm_load_op) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        unsafe { handle(op, "op") }?.progress.cancel();
        Ok(QM_OK)
    })
}

/// Frees a load. One that is still running is cancelled first, and the function waits for its thread to end: see
/// qm_load_cancel for how long that takes. A model that was taken from it lives on; one that was not is freed. NULL does
/// nothing.
///
/// # Safety
/// `op` is NULL or live, and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_load_free(op: *mut qm_load_op) {
    // SAFETY: as the caller promises.
    quietly((), || unsafe { free(op) });
}
