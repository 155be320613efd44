//! What a caller can choose, as C structs.

use std::ffi::{CString, c_char, c_void};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::arguments::{array, invalid, text};
use super::boundary::boundary;
use super::extensible::{extensible, init_options, read_options};
use super::load::qm_load_progress_t;
use super::status::{QM_OK, qm_status};
use crate::engine::{CudaContext, Device, DevicePriority, GenerateOptions, KvFormat, LoadOptions, LogLevel, LogSink};
use crate::error::Result;

/// Device: the library's choice. For now that is the processor.
pub const QM_DEVICE_AUTOMATIC: i32 = -2;
/// Device: the processor. Numbers from 0 are CUDA devices.
pub const QM_DEVICE_CPU: i32 = -1;

/// KV cache in half precision.
pub const QM_KV_F16: u32 = 0;
/// KV cache in bytes with a scale for every 32 channels: about half of the memory, slightly less exact.
pub const QM_KV_Q8_0: u32 = 1;
/// KV cache in single precision.
pub const QM_KV_F32: u32 = 2;

/// Priority on a CUDA device: that of work of which nothing is said, which on today's devices is the lowest, too.
pub const QM_PRIORITY_DEFAULT: u32 = 0;
/// Priority on a CUDA device: the lowest.
pub const QM_PRIORITY_LOW: u32 = 1;
/// Priority on a CUDA device: the highest.
pub const QM_PRIORITY_HIGH: u32 = 2;

/// Log level: something failed.
pub const QM_LOG_ERROR: i32 = 1;
/// Log level: something is not as the user may think.
pub const QM_LOG_WARNING: i32 = 2;
/// Log level: what was done.
pub const QM_LOG_INFO: i32 = 3;
/// Log level: details for developers.
pub const QM_LOG_DEBUG: i32 = 4;

/// Receives log lines. `level` is one of QM_LOG_*; `text` is one line of UTF-8, valid during the call only.
/// Called on the thread that loads or on the thread that runs the model, and not after the model and all of its streams
/// are freed. It must return soon, must not throw or jump out, and must not call functions of this library.
pub type qm_log_fn = Option<unsafe extern "C" fn(level: i32, text: *const c_char, user_data: *mut c_void)>;

/// Receives the progress of a load, on the thread that called qm_load or qm_load_poll. `progress` is valid during the call
/// only. Returning anything but 0 cancels the load. It must not throw or jump out, and must not call qm_load_free for
/// this load.
pub type qm_progress_fn =
    Option<unsafe extern "C" fn(progress: *const qm_load_progress_t, user_data: *mut c_void) -> i32>;

/// How to load a model. Set it up with qm_load_options_init, then change what you like. Memory that it points to needs to
/// live only as long as the call that it is given to; callbacks and their user data live as long as the model.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct qm_load_options_t {
    /// Bytes of this struct: set by qm_load_options_init.
    pub struct_size: u32,
    /// QM_DEVICE_AUTOMATIC (the default), QM_DEVICE_CPU, or the number of a CUDA device from 0.
    pub device: i32,
    /// Bytes of device memory that the model may take; 0 (default): what is free.
    pub vram_budget: u64,
    /// Bytes of RAM that the model may take; 0 (default): what is available.
    pub ram_budget: u64,
    /// Positions that all streams can hold together; 0 (default): streams * context_length.
    pub kv_tokens: u64,
    /// Positions that one stream can hold; 0 (default): the smaller of the model's own and 4096.
    pub context_length: u32,
    /// Streams that can run at the same time (default 4); more wait in line.
    pub streams: u32,
    /// Worker threads; 0 (default): one a physical core.
    pub threads: u32,
    /// Prompt tokens of one step, 8192 at most: fewer answer a cancel sooner, more read faster. 0 (default): 512; on a CUDA
    /// device 2048, or 1024 or 512 where its memory does not suffice for more.
    pub prefill_chunk: u32,
    /// Not 0: float32 activations, for comparisons with a reference. Slower.
    pub exact: u32,
    /// The least important log level that is delivered (default QM_LOG_INFO).
    pub log_level: i32,
    /// Folder of pack caches, UTF-8, made where there is none; NULL (default): no cache. The first load of a model writes
    /// its weights there as it packed them, as large as they are in memory; later loads check every byte of that file, map
    /// it, and take seconds. A cache that is stale or damaged is replaced. One that cannot be written does not fail the
    /// load, nor does one of a device's weights for all of which RAM has no room: none is made, and the log says so. While a
    /// model is loaded, nobody may truncate or overwrite its cache, or the process ends with SIGBUS; deleting it is
    /// harmless. Models in memory have no cache.
    pub cache_dir: *const c_char,
    /// Receives log lines; NULL (default): nobody does.
    pub log: qm_log_fn,
    /// Given to `log`.
    pub log_user_data: *mut c_void,
    /// Receives progress; NULL (default): nobody does.
    pub progress: qm_progress_fn,
    /// Given to `progress`.
    pub progress_user_data: *mut c_void,
    /// How keys and values are stored: QM_KV_F16 (the default), QM_KV_Q8_0 or QM_KV_F32. With `exact` it is QM_KV_F32.
    pub kv: u32,
    /// Whose work a CUDA device takes first where other streams of this process use it, too: QM_PRIORITY_DEFAULT,
    /// QM_PRIORITY_LOW or QM_PRIORITY_HIGH. A program that draws frames beside the model gives its own streams a high
    /// priority. Without a CUDA device it has no effect.
    pub device_priority: u32,
    /// The CUcontext of the CUDA device `device` to work in; NULL (default): the device's primary context, which is what
    /// programs that use the CUDA runtime work in. The caller goes on to own it, and must keep it alive until the model and
    /// all of its streams are freed.
    pub cuda_context: *mut c_void,
    /// Microseconds that one step may occupy the device, or the processor, at most; 0 (default): no bound. A host that draws
    /// frames on the same device then waits no longer, as a rule: each step has as many rows of prompts as the time has room for,
    /// `prefill_chunk` at most and one at least, as the steps before it tell. The first steps of a model, and those in which
    /// the machine gets slower, are guesses, and may take longer. What cannot be cut is a step of one row for each stream.
    pub max_step_us: i64,
}

extensible!(qm_load_options_t, first: 96, size: 120, {
    struct_size: 0, device: 4, vram_budget: 8, ram_budget: 16, kv_tokens: 24, context_length: 32, streams: 36,
    threads: 40, prefill_chunk: 44, exact: 48, log_level: 52, cache_dir: 56, log: 64, log_user_data: 72,
    progress: 80, progress_user_data: 88, kv: 96, device_priority: 100, cuda_context: 104, max_step_us: 112,
});

/// How to generate. Set it up with qm_generate_options_init, then change what you like. Memory that it points to needs to
/// live only as long as the call that it is given to.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct qm_generate_options_t {
    /// Bytes of this struct: set by qm_generate_options_init.
    pub struct_size: u32,
    /// Tokens to generate at most (default 512).
    pub max_tokens: u32,
    /// Tokens before which the model does not end by itself (default 0).
    pub min_tokens: u32,
    /// Not 0: generate on where the model would end by itself (default 0).
    pub ignore_eos: u32,
    /// Divides the logits; 0 always takes the most likely token; negative (default): the model's own, else 1.
    pub temperature: f32,
    /// Draws from the smallest set of tokens with this probability; negative (default): the model's own, else 1 (all).
    pub top_p: f32,
    /// Drops tokens less likely than this share of the most likely one; negative (default): the model's own, else 0.
    pub min_p: f32,
    /// Makes tokens seen in prompt and answer less likely (1: no change); negative (default): the model's own, else 1.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that were generated (default 0).
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens that were generated, once for each time (default 0).
    pub frequency_penalty: f32,
    /// Draws from this many most likely tokens; 0: from all; negative (default): the model's own, else all.
    pub top_k: i32,
    /// Number of texts in `stop`.
    pub stop_count: u32,
    /// Key of the random draws (default 0): the same seed gives the same text, whatever else runs.
    pub seed: u64,
    /// Microseconds from the call to the end of the generation at most; 0 (default): no limit.
    pub deadline_us: i64,
    /// UTF-8 texts that end the generation, and are not part of it; NULL (default) when stop_count is 0.
    pub stop: *const *const c_char,
}

extensible!(qm_generate_options_t, first: 72, size: 72, {
    struct_size: 0, max_tokens: 4, min_tokens: 8, ignore_eos: 12, temperature: 16, top_p: 20, min_p: 24,
    repetition_penalty: 28, presence_penalty: 32, frequency_penalty: 36, top_k: 40, stop_count: 44, seed: 48,
    deadline_us: 56, stop: 64,
});

impl Default for qm_load_options_t {
    fn default() -> Self {
        let options = LoadOptions::default();
        Self {
            struct_size: size_of::<Self>() as u32,
            device: QM_DEVICE_AUTOMATIC,
            vram_budget: options.vram_budget,
            ram_budget: options.ram_budget,
            kv_tokens: options.kv_tokens as u64,
            context_length: options.context_length as u32,
            streams: options.streams as u32,
            threads: options.threads as u32,
            prefill_chunk: options.prefill_chunk as u32,
            exact: u32::from(options.exact),
            log_level: QM_LOG_INFO,
            cache_dir: std::ptr::null(),
            log: None,
            log_user_data: std::ptr::null_mut(),
            progress: None,
            progress_user_data: std::ptr::null_mut(),
            kv: QM_KV_F16,
            device_priority: QM_PRIORITY_DEFAULT,
            cuda_context: std::ptr::null_mut(),
            max_step_us: 0,
        }
    }
}

impl Default for qm_generate_options_t {
    fn default() -> Self {
        let options = GenerateOptions::default();
        Self {
            struct_size: size_of::<Self>() as u32,
            max_tokens: options.max_tokens as u32,
            min_tokens: options.min_tokens as u32,
            ignore_eos: u32::from(options.ignore_eos),
            temperature: -1.0,
            top_p: -1.0,
            min_p: -1.0,
            repetition_penalty: -1.0,
            presence_penalty: options.presence_penalty,
            frequency_penalty: options.frequency_penalty,
            top_k: -1,
            stop_count: 0,
            seed: options.seed,
            deadline_us: 0,
            stop: std::ptr::null(),
        }
    }
}

/// Sets `o`, a struct of `size` bytes, to the defaults. Pass `sizeof *o`.
/// Errors: QM_ERR_INVALID_ARGUMENT (`o` is NULL), QM_ERR_ABI_MISMATCH (impossible size).
///
/// # Safety
/// `o` is NULL or valid for writes of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_load_options_init(o: *mut qm_load_options_t, size: usize) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        unsafe { init_options(o, size, "o") }?;
        Ok(QM_OK)
    })
}

/// Sets `o`, a struct of `size` bytes, to the defaults. Pass `sizeof *o`.
/// Errors: QM_ERR_INVALID_ARGUMENT (`o` is NULL), QM_ERR_ABI_MISMATCH (impossible size).
///
/// # Safety
/// `o` is NULL or valid for writes of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_generate_options_init(o: *mut qm_generate_options_t, size: usize) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        unsafe { init_options(o, size, "o") }?;
        Ok(QM_OK)
    })
}

/// The caller's progress callback.
#[derive(Clone, Copy)]
pub(super) struct ProgressCallback {
    function: unsafe extern "C" fn(*const qm_load_progress_t, *mut c_void) -> i32,
    user_data: *mut c_void,
}

// SAFETY: the pointer is only handed back to the caller's own function, and the header says on which threads.
unsafe impl Send for ProgressCallback {}
// SAFETY: as above.
unsafe impl Sync for ProgressCallback {}

impl ProgressCallback {
    /// Reports; `true` asks to cancel.
    pub(super) fn call(&self, progress: &qm_load_progress_t) -> bool {
        // SAFETY: the caller gave the function and its data for this use.
        unsafe { (self.function)(progress, self.user_data) != 0 }
    }
}

/// The caller's log callback.
struct LogCallback {
    function: unsafe extern "C" fn(i32, *const c_char, *mut c_void),
    user_data: *mut c_void,
}

// SAFETY: the pointer is only handed back to the caller's own function, and the header says on which threads.
unsafe impl Send for LogCallback {}
// SAFETY: as above.
unsafe impl Sync for LogCallback {}

impl LogCallback {
    fn call(&self, level: LogLevel, line: &str) {
        if let Ok(line) = CString::new(line.replace('\0', "\u{fffd}")) {
            // SAFETY: the caller gave the function and its data for this use.
            unsafe { (self.function)(level as i32, line.as_ptr(), self.user_data) }
        }
    }
}

/// Checked load options.
///
/// # Safety
/// `pointer` is NULL or points to a struct of its own `struct_size`, whose strings are NUL-terminated and whose context
/// lives as long as what is loaded.
pub(super) unsafe fn load_options(
    pointer: *const qm_load_options_t,
) -> Result<(LoadOptions, Option<ProgressCallback>)> {
    // SAFETY: as the caller promises.
    let o = unsafe { read_options(pointer) }?;
    let device = match o.device {
        QM_DEVICE_AUTOMATIC => Device::Automatic,
        QM_DEVICE_CPU => Device::Cpu,
        ordinal => Device::Cuda(u32::try_from(ordinal).map_err(|_| {
            invalid("device", format_args!("{ordinal}, expected -2 (automatic), -1 (CPU) or a CUDA device from 0"))
        })?),
    };
    if !(0..=QM_LOG_DEBUG).contains(&o.log_level) {
        return Err(invalid("log_level", format_args!("{}, expected 0 to {QM_LOG_DEBUG}", o.log_level)));
    }
    let kv = match o.kv {
        QM_KV_F16 => KvFormat::F16,
        QM_KV_Q8_0 => KvFormat::Q8_0,
        QM_KV_F32 => KvFormat::F32,
        other => return Err(invalid("kv", format_args!("{other}, expected QM_KV_F16, QM_KV_Q8_0 or QM_KV_F32"))),
    };
    let device_priority = match o.device_priority {
        QM_PRIORITY_DEFAULT => DevicePriority::Default,
        QM_PRIORITY_LOW => DevicePriority::Low,
        QM_PRIORITY_HIGH => DevicePriority::High,
        other => {
            let expected = "expected QM_PRIORITY_DEFAULT, QM_PRIORITY_LOW or QM_PRIORITY_HIGH";
            return Err(invalid("device_priority", format_args!("{other}, {expected}")));
        }
    };
    // SAFETY: NULL, or a context that lives as long as the model, as the caller promises.
    let cuda_context = unsafe { CudaContext::from_raw(o.cuda_context) };
    let max_step = microseconds(o.max_step_us, "max_step_us")?;
    let cache_dir = match o.cache_dir.is_null() {
        true => None,
        // SAFETY: not NULL, and NUL-terminated as the caller promises.
        false => Some(PathBuf::from(unsafe { text(o.cache_dir, "cache_dir") }?)),
    };
    let log = o.log.map(|function| -> LogSink {
        let (sink, most) = (LogCallback { function, user_data: o.log_user_data }, o.log_level);
        Arc::new(move |level, line| {
            if level as i32 <= most {
                sink.call(level, line);
            }
        })
    });
    let options = LoadOptions {
        device,
        cuda_context,
        device_priority,
        vram_budget: o.vram_budget,
        ram_budget: o.ram_budget,
        context_length: o.context_length as usize,
        streams: o.streams as usize,
        kv_tokens: usize::try_from(o.kv_tokens).unwrap_or(usize::MAX),
        threads: o.threads as usize,
        prefill_chunk: o.prefill_chunk as usize,
        max_step,
        exact: o.exact != 0,
        kv,
        cache_dir,
        log,
    };
    let user_data = o.progress_user_data;
    Ok((options, o.progress.map(|function| ProgressCallback { function, user_data })))
}

/// Checked generate options.
///
/// # Safety
/// `pointer` is NULL or points to a struct of its own `struct_size`, whose `stop` has `stop_count` strings.
pub(super) unsafe fn generate_options(pointer: *const qm_generate_options_t) -> Result<GenerateOptions> {
    // SAFETY: as the caller promises.
    let o = unsafe { read_options(pointer) }?;
    let deadline = microseconds(o.deadline_us, "deadline_us")?;
    // SAFETY: as the caller promises.
    let stop = unsafe { array(o.stop, o.stop_count as usize, "stop") }?.iter().enumerate().map(|(i, &stop)| {
        // SAFETY: as the caller promises.
        unsafe { text(stop, &format!("stop[{i}]")) }.map(str::to_owned)
    });
    Ok(GenerateOptions {
        max_tokens: o.max_tokens as usize,
        min_tokens: o.min_tokens as usize,
        temperature: or_default(o.temperature, "temperature")?,
        top_k: u32::try_from(o.top_k).ok(),
        top_p: or_default(o.top_p, "top_p")?,
        min_p: or_default(o.min_p, "min_p")?,
        repetition_penalty: or_default(o.repetition_penalty, "repetition_penalty")?,
        presence_penalty: o.presence_penalty,
        frequency_penalty: o.frequency_penalty,
        seed: o.seed,
        stop: stop.collect::<Result<_>>()?,
        ignore_eos: o.ignore_eos != 0,
        deadline,
    })
}

/// A time that is no limit where 0.
fn microseconds(value: i64, name: &str) -> Result<Option<Duration>> {
    let value = u64::try_from(value).map_err(|_| invalid(name, format_args!("{value}, expected 0 or more")))?;
    Ok((value > 0).then(|| Duration::from_micros(value)))
}

/// A number that is the model's own where negative.
fn or_default(value: f32, name: &str) -> Result<Option<f32>> {
    if value.is_nan() {
        return Err(invalid(name, "is not a number"));
    }
    Ok((value >= 0.0).then_some(value))
}
