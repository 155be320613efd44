//! Text into token ids, ids back into text, and ids into logits.

use std::ffi::c_char;

use super::arguments::{Out, array, handle, invalid, utf8};
use super::boundary::boundary;
use super::buffer::{TextBuffer, ValueBuffer};
use super::model::qm_model;
use super::status::{QM_OK, qm_status};
use crate::error::{Error, Result};

/// Flag of qm_tokenize and qm_detokenize: special tokens are recognised where they are spelled out in a text, and spelled
/// out in the text that ids become. Without it they are ordinary text, and left out.
pub const QM_TEXT_SPECIAL: u32 = 1;

fn special(flags: u32) -> Result<bool> {
    if flags & !QM_TEXT_SPECIAL != 0 {
        return Err(invalid("flags", format_args!("{flags:#x}, expected 0 or QM_TEXT_SPECIAL")));
    }
    Ok(flags & QM_TEXT_SPECIAL != 0)
}

/// Token ids from C, where they are signed.
///
/// # Safety
/// `ids` is NULL or points to `n` numbers.
unsafe fn token_ids(ids: *const i32, n: usize) -> Result<Vec<u32>> {
    // SAFETY: as the caller promises.
    let ids = unsafe { array(ids, n, "ids") }?;
    let id = |(i, &id): (usize, &i32)| {
        u32::try_from(id).map_err(|_| invalid("ids", format_args!("ids[{i}] is {id}, expected 0 or more")))
    };
    ids.iter().enumerate().map(id).collect()
}

/// Turns the `len` bytes of UTF-8 at `text` (no NUL needed) into token ids. `flags`: 0 or QM_TEXT_SPECIAL. Writes the ids
/// to `ids`, which has room for `cap`, and their number to `*n`. `ids` may be NULL when `cap` is 0: then only `*n` is
/// written. If they do not fit: QM_ERR_BUFFER_TOO_SMALL, `*n` is the `cap` that is needed, and nothing is written to
/// `ids`.
///
/// Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_BUFFER_TOO_SMALL, QM_ERR_UNSUPPORTED (the model has no tokenizer).
///
/// # Safety
/// `m` is NULL or live, `text` points to `len` bytes, `ids` has room for `cap` numbers, `n` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_tokenize(
    m: *const qm_model,
    text: *const c_char,
    len: usize,
    flags: u32,
    ids: *mut i32,
    cap: usize,
    n: *mut usize,
) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        let (n, buffer, model, bytes) = unsafe {
            (
                Out::new(n, "n", 0)?,
                ValueBuffer::new(ids, cap, "ids")?,
                handle(m, "m")?,
                array(text.cast::<u8>(), len, "text")?,
            )
        };
        let tokens = model.model.tokenize(utf8(bytes, "text")?, special(flags)?)?;
        n.set(tokens.len());
        if buffer.is_query() {
            return Ok(QM_OK);
        }
        let signed = |&id: &u32| i32::try_from(id).map_err(|_| Error::Internal(format!("token id {id}")));
        buffer.put("the token ids", &tokens.iter().map(signed).collect::<Result<Vec<i32>>>()?)?;
        Ok(QM_OK)
    })
}

/// Turns the `n` token ids at `ids` into text. `flags`: 0 or QM_TEXT_SPECIAL. Writes the text and a NUL to the `cap` bytes
/// at `buf`, and its length without the NUL to `*len`; bytes that are not UTF-8 become U+FFFD. `buf` may be NULL when
/// `cap` is 0: then `*len` is the `cap` that is needed, which counts the NUL. If it does not fit:
/// QM_ERR_BUFFER_TOO_SMALL, `*len` is the `cap` that is needed, and the whole code points that fit are in `buf`.
///
/// Errors: QM_ERR_INVALID_ARGUMENT (also: an id that the model does not have), QM_ERR_BUFFER_TOO_SMALL,
/// QM_ERR_UNSUPPORTED (the model has no tokenizer).
///
/// # Safety
/// `m` is NULL or live, `ids` points to `n` numbers, `buf` has room for `cap` bytes, `len` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_detokenize(
    m: *const qm_model,
    ids: *const i32,
    n: usize,
    flags: u32,
    buf: *mut c_char,
    cap: usize,
    len: *mut usize,
) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        let (len, buffer, model, ids) = unsafe {
            (Out::new(len, "len", 0)?, TextBuffer::checked(buf, cap, "buf")?, handle(m, "m")?, token_ids(ids, n)?)
        };
        let text = model.model.detokenize(&ids, special(flags)?)?;
        let needed = buffer.put_with_size(&text);
        if needed > buffer.capacity() {
            len.set(needed);
            return if buffer.is_query() { Ok(QM_OK) } else { Err(buffer.too_small("the text", &text)) };
        }
        len.set(text.len());
        Ok(QM_OK)
    })
}

/// Computes the logits behind each of the `n` token ids at `ids`, beside the streams that run: `n` rows of as many numbers
/// as the model's vocabulary has (qm_model_info_t.vocab), row by row, to `logits`, which has room for `cap` numbers; their
/// number goes to `*len`. `logits` may be NULL when `cap` is 0: then nothing is computed and only `*len` is written. If
/// they do not fit: QM_ERR_BUFFER_TOO_SMALL, `*len` is the `cap` that is needed, and nothing is computed. Blocks.
///
/// Errors: QM_ERR_INVALID_ARGUMENT (also: no ids, or an id that the model does not have), QM_ERR_BUFFER_TOO_SMALL,
/// QM_ERR_CONTEXT_FULL (more ids than one stream can hold), QM_ERR_BUSY, QM_ERR_OUT_OF_HOST_MEMORY, QM_ERR_DEVICE_LOST.
///
/// # Safety
/// `m` is NULL or live, `ids` points to `n` numbers, `logits` has room for `cap` numbers, `len` is NULL or valid for
/// writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_eval(
    m: *mut qm_model,
    ids: *const i32,
    n: usize,
    logits: *mut f32,
    cap: usize,
    len: *mut usize,
) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        let (len, buffer, model, ids) = unsafe {
            (Out::new(len, "len", 0)?, ValueBuffer::new(logits, cap, "logits")?, handle(m, "m")?, token_ids(ids, n)?)
        };
        let vocab = model.model.info().spec.vocab;
        let needed = ids.len().checked_mul(vocab).ok_or_else(|| invalid("n", format_args!("{n} rows of {vocab}")))?;
        len.set(needed);
        if buffer.is_query() {
            return Ok(QM_OK);
        }
        buffer.check("the logits", needed)?;
        let values = model.model.eval(&ids).inspect_err(|_| len.set(0))?;
        buffer.put("the logits", &values)?;
        Ok(QM_OK)
    })
}
