//! Generations: text that comes out piece by piece, or all at once.

use std::ffi::c_char;
use std::sync::{Mutex, OnceLock, TryLockError};
use std::time::Duration;

use super::arguments::{Out, free, handle, not_null, text};
use super::boundary::{boundary, quietly};
use super::buffer::TextBuffer;
use super::extensible::{extensible, write_output};
use super::model::qm_model;
use super::options::{generate_options, qm_generate_options_t};
use super::status::{QM_DONE, QM_OK, QM_PENDING, qm_status};
use crate::engine::{Event, FinishReason, Prompt, Stream, StreamStats};
use crate::error::{Error, Result};

/// A running generation. Owned by the caller: free it with qm_stream_free. It keeps its model alive.
pub struct qm_stream {
    stream: Stream,
    /// Text that the engine gave and the caller's buffer had no room for.
    pending: Mutex<String>,
    /// What ended the stream, if it was an error.
    failure: OnceLock<String>,
}

const _: () = {
    const fn crosses_threads<T: Send + Sync>() {}
    crosses_threads::<qm_stream>();
};

/// Why a generation ended: it has not, or it failed.
pub const QM_FINISH_NONE: u32 = 0;
/// Why a generation ended: the model ended it.
pub const QM_FINISH_END_OF_SEQUENCE: u32 = 1;
/// Why a generation ended: a stop text.
pub const QM_FINISH_STOP: u32 = 2;
/// Why a generation ended: max_tokens were generated.
pub const QM_FINISH_LENGTH: u32 = 3;
/// Why a generation ended: the deadline passed.
pub const QM_FINISH_DEADLINE: u32 = 4;

/// Counts and times of one stream.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qm_stream_stats_t {
    /// Bytes of this struct that the library filled in; what is behind them is zero.
    pub struct_size: u32,
    /// Why it ended: one of QM_FINISH_*.
    pub finish: u32,
    /// Tokens of the prompt; 0 until it is tokenised.
    pub prompt_tokens: u64,
    /// Prompt tokens read so far.
    pub prefilled_tokens: u64,
    /// Tokens generated so far.
    pub generated_tokens: u64,
    /// Microseconds before the first step: for the prompt to become tokens, and in line.
    pub queued_us: u64,
    /// Microseconds from the first step to the first generated token.
    pub prefill_us: u64,
    /// Microseconds from the first generated token to the last so far: (generated_tokens - 1) / decode_us is the speed.
    pub decode_us: u64,
}

extensible!(qm_stream_stats_t, first: 56, size: 56, {
    struct_size: 0, finish: 4, prompt_tokens: 8, prefilled_tokens: 16, generated_tokens: 24, queued_us: 32,
    prefill_us: 40, decode_us: 48,
});

impl From<StreamStats> for qm_stream_stats_t {
    fn from(stats: StreamStats) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            struct_size: size_of::<Self>() as u32,
            finish: match stats.finish {
                None => QM_FINISH_NONE,
                Some(FinishReason::EndOfSequence) => QM_FINISH_END_OF_SEQUENCE,
                Some(FinishReason::Stop) => QM_FINISH_STOP,
                Some(FinishReason::Length) => QM_FINISH_LENGTH,
                Some(FinishReason::Deadline) => QM_FINISH_DEADLINE,
            },
            prompt_tokens: stats.prompt_tokens,
            prefilled_tokens: stats.prefilled_tokens,
            generated_tokens: stats.generated_tokens,
            queued_us: micros(stats.queued),
            prefill_us: micros(stats.prefill),
            decode_us: micros(stats.decode),
        }
    }
}

impl qm_stream {
    fn new(stream: Stream) -> Self {
        Self { stream, pending: Mutex::default(), failure: OnceLock::new() }
    }

    /// Delivers the next text into `buffer`; `len` gets its length, or the size needed where nothing fits.
    fn next(&self, buffer: &TextBuffer, len: &Out<usize>, timeout: Option<Duration>) -> Result<qm_status> {
        let mut pending = match self.pending.try_lock() {
            Ok(pending) => pending,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Busy("another thread is in qm_stream_next with this stream".into()));
            }
        };
        if pending.is_empty() {
            match self.stream.next(timeout).inspect_err(|error| self.note(error))? {
                Event::Text(text) => pending.push_str(&text),
                Event::Pending => return Ok(QM_PENDING),
                Event::Done(_) => return Ok(QM_DONE),
            }
        }
        // What else is there and fits. An end or an error comes again with the next call.
        while pending.len() + 1 < buffer.capacity() {
            let Ok(Event::Text(text)) = self.stream.next(Some(Duration::ZERO)) else { break };
            pending.push_str(&text);
        }
        let written = buffer.put(&pending);
        if written == 0 {
            len.set(pending.len() + 1);
            return Err(buffer.too_small("the next text", &pending));
        }
        pending.drain(..written);
        len.set(written);
        Ok(QM_OK)
    }

    fn note(&self, error: &Error) {
        self.failure.get_or_init(|| error.to_string());
    }
}

/// Starts a generation from a prepared prompt.
///
/// # Safety
/// As for qm_stream_open.
unsafe fn open(
    m: *mut qm_model,
    input: *const c_char,
    name: &str,
    prompt: fn(String) -> Prompt,
    o: *const qm_generate_options_t,
) -> Result<Stream> {
    // SAFETY: as the caller promises.
    let (model, input, options) = unsafe { (handle(m, "m")?, text(input, name)?, generate_options(o)?) };
    model.model.stream(&prompt(input.to_owned()), &options)
}

/// Continues `prompt` and waits for the whole text. `prompt` (UTF-8) is continued as it is, without a chat template;
/// special tokens that are spelled out in it are recognised. `o`: NULL for the defaults.
///
/// Writes the text and a NUL to the `cap` bytes at `buf`, and its length without the NUL to `*len`. If it does not fit:
/// QM_ERR_BUFFER_TOO_SMALL, the whole code points that fit are in `buf`, and `*len` is the `cap` that is needed; the same
/// call with that much room gives the same text. If the generation fails, `buf` and `*len` hold the text until then.
/// Blocks; use a stream to see text early or to cancel, and `deadline_us` to limit the time.
///
/// Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH, QM_ERR_BUFFER_TOO_SMALL, QM_ERR_CONTEXT_FULL, QM_ERR_BUSY,
/// QM_ERR_UNSUPPORTED (no tokenizer), QM_ERR_DEVICE_LOST.
///
/// # Safety
/// `m` is NULL or live, `prompt` is NULL or NUL-terminated, `o` is NULL or a struct of its own size, `buf` has room for
/// `cap` bytes, `len` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_generate(
    m: *mut qm_model,
    prompt: *const c_char,
    o: *const qm_generate_options_t,
    buf: *mut c_char,
    cap: usize,
    len: *mut usize,
) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        let (len, buffer, stream) = unsafe {
            let len = Out::new(len, "len", 0)?;
            (len, TextBuffer::checked(buf, cap, "buf")?, open(m, prompt, "prompt", Prompt::Text, o)?)
        };
        let mut text = String::new();
        let ended = loop {
            match stream.next(None) {
                Ok(Event::Text(piece)) => text.push_str(&piece),
                Ok(Event::Pending) => {}
                Ok(Event::Done(_)) => break Ok(QM_OK),
                Err(error) => break Err(error),
            }
        };
        let written = buffer.put(&text);
        len.set(written);
        let status = ended?;
        if text.len() >= buffer.capacity() {
            len.set(text.len() + 1);
            return Err(buffer.too_small("the generated text", &text));
        }
        Ok(status)
    })
}

/// Starts to continue `prompt`, and returns at once, however long `prompt` is: it is copied, and tokenised on a thread of
/// the library. `prompt` and `o` as for qm_generate. `*out`: yours, free it with qm_stream_free; NULL on every error. Fetch
/// the text with qm_stream_next, which also returns what is wrong with the prompt: QM_ERR_INVALID_ARGUMENT (it is empty)
/// or QM_ERR_CONTEXT_FULL (it has too many tokens).
///
/// Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH, QM_ERR_CONTEXT_FULL (the prompt has more bytes than the context
/// could ever hold), QM_ERR_BUSY, QM_ERR_UNSUPPORTED (no tokenizer).
///
/// # Safety
/// `m` is NULL or live, `prompt` is NULL or NUL-terminated, `o` is NULL or a struct of its own size, `out` is NULL or
/// valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_stream_open(
    m: *mut qm_model,
    prompt: *const c_char,
    o: *const qm_generate_options_t,
    out: *mut *mut qm_stream,
) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        let (out, stream) =
            unsafe { (Out::new(out, "out", std::ptr::null_mut())?, open(m, prompt, "prompt", Prompt::Text, o)?) };
        out.give(qm_stream::new(stream));
        Ok(QM_OK)
    })
}

/// Starts an answer in a chat, and returns at once. `messages_json` (UTF-8): a JSON array of messages, oldest first, such
/// as `[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]`, which the model's own chat
/// template turns into a prompt. That too is done on a thread of the library: QM_ERR_INVALID_ARGUMENT, where the JSON is
/// not such an array or the template refuses it, is returned by qm_stream_next. The rest is as for qm_stream_open.
///
/// Errors: those of qm_stream_open; QM_ERR_UNSUPPORTED also where the model has no chat template.
///
/// # Safety
/// As for qm_stream_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_chat_open(
    m: *mut qm_model,
    messages_json: *const c_char,
    o: *const qm_generate_options_t,
    out: *mut *mut qm_stream,
) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        let (out, stream) = unsafe {
            (Out::new(out, "out", std::ptr::null_mut())?, open(m, messages_json, "messages_json", Prompt::Chat, o)?)
        };
        out.give(qm_stream::new(stream));
        Ok(QM_OK)
    })
}

/// Fetches the text that was generated since the last call. `timeout_us`: how many microseconds to wait for some; 0 never
/// blocks, negative waits as long as it takes. Other threads' calls for other streams do not wait for this one.
///
/// - QM_OK: `buf` holds text, never empty, of whole UTF-8 code points with a NUL behind them; `*len` is its length without
///   the NUL. Text that did not fit comes with the next calls: any `cap` of 5 or more always makes progress.
/// - QM_PENDING: nothing within the time. `*len` is 0.
/// - QM_DONE: the generation ended, and so does each later call. `*len` is 0. qm_stream_stats knows why it ended.
/// - QM_ERR_BUFFER_TOO_SMALL: `cap` has no room for even one code point and the NUL. Nothing is lost: the same text comes
///   next time, and `*len` is the `cap` that takes all of it.
/// - Another error: `*len` is 0. QM_ERR_CANCELLED, QM_ERR_CONTEXT_FULL, QM_ERR_OUT_OF_HOST_MEMORY, QM_ERR_DEVICE_LOST,
///   QM_ERR_INTERNAL, QM_ERR_PANIC and, for a prompt that is empty or no chat, QM_ERR_INVALID_ARGUMENT ended the
///   generation, after all text until then was delivered, and come again at each call; qm_stream_error has the text.
///   QM_ERR_BUSY (another thread is in this function with this stream) and QM_ERR_INVALID_ARGUMENT for an argument of
///   this function change nothing.
///
/// # Safety
/// `s` is NULL or live, `buf` has room for `cap` bytes, `len` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_stream_next(
    s: *mut qm_stream,
    buf: *mut c_char,
    cap: usize,
    len: *mut usize,
    timeout_us: i64,
) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        let (len, buffer, stream) =
            unsafe { (Out::new(len, "len", 0)?, TextBuffer::checked(buf, cap, "buf")?, handle(s, "s")?) };
        not_null(buf, "buf")?;
        stream.next(&buffer, &len, u64::try_from(timeout_us).ok().map(Duration::from_micros))
    })
}

/// Ends a generation at its next step, or when its prompt is tokenised. Text that was generated until then can still be fetched; then qm_stream_next
/// returns QM_ERR_CANCELLED. Returns at once; does nothing to a generation that has ended. Callable from any thread at any
/// time before qm_stream_free. Errors: QM_ERR_INVALID_ARGUMENT (`s` is NULL).
///
/// # Safety
/// `s` is NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_stream_cancel(s: *const qm_stream) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        unsafe { handle(s, "s") }?.stream.cancel();
        Ok(QM_OK)
    })
}

/// Writes counts and times of a stream to `out`, a struct of `size` bytes (pass `sizeof *out`). Callable while another
/// thread is in qm_stream_next. Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH (impossible size).
///
/// # Safety
/// `s` is NULL or live, `out` is NULL or valid for writes of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_stream_stats(s: *const qm_stream, out: *mut qm_stream_stats_t, size: usize) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        unsafe { write_output(out, size, &handle(s, "s")?.stream.stats().into(), "out") }?;
        Ok(QM_OK)
    })
}

/// The text of the error that ended a stream, as qm_stream_next returned it to whichever thread; empty if there was none
/// or `s` is NULL. Writes as many whole code points as fit into the `cap` bytes at `buf`, and a NUL behind them. Returns
/// the bytes that the whole text needs, its NUL included. `buf` may be NULL when `cap` is 0.
///
/// # Safety
/// `s` is NULL or live, `buf` has room for `cap` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_stream_error(s: *const qm_stream, buf: *mut c_char, cap: usize) -> usize {
    quietly(0, || {
        // SAFETY: as the caller promises.
        let (stream, buffer) = unsafe { (s.as_ref(), TextBuffer::new(buf, cap)) };
        buffer.put_with_size(stream.and_then(|stream| stream.failure.get()).map_or("", String::as_str))
    })
}

/// Frees a stream, and cancels it if it is running; does not wait for its end, unless the model was freed before and this
/// is the last of its streams. NULL does nothing.
///
/// # Safety
/// `s` is NULL or live, and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_stream_free(s: *mut qm_stream) {
    // SAFETY: as the caller promises.
    quietly((), || unsafe { free(s) });
}
