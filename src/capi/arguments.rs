//! Pointers from C, checked once and then safe to use for the length of the call.

use std::ffi::{CStr, c_char};
use std::ptr::NonNull;

use crate::error::{Error, Result};

/// An [`Error::InvalidArgument`] that names the argument.
pub(super) fn invalid(name: &str, what: impl std::fmt::Display) -> Error {
    Error::InvalidArgument(format!("{name}: {what}"))
}

/// Makes sure that a pointer is not NULL.
pub(super) fn not_null<T>(pointer: *const T, name: &str) -> Result<()> {
    if pointer.is_null() { Err(null(name)) } else { Ok(()) }
}

fn null(name: &str) -> Error {
    invalid(name, "is NULL, expected a pointer")
}

/// The object behind a handle.
///
/// # Safety
/// `pointer` is NULL or points to a live `T` that stays alive for `'a`.
pub(super) unsafe fn handle<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    // SAFETY: as the caller promises.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(name))
}

/// A NUL-terminated UTF-8 text.
///
/// # Safety
/// `pointer` is NULL or points to a NUL-terminated string that stays as it is for `'a`.
pub(super) unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    let pointer = NonNull::new(pointer.cast_mut()).ok_or_else(|| null(name))?;
    // SAFETY: not NULL, and NUL-terminated as the caller promises.
    utf8(unsafe { CStr::from_ptr(pointer.as_ptr()) }.to_bytes(), name)
}

/// The bytes of a text, checked to be UTF-8.
pub(super) fn utf8<'a>(bytes: &'a [u8], name: &str) -> Result<&'a str> {
    std::str::from_utf8(bytes)
        .map_err(|e| invalid(name, format_args!("is not UTF-8 at byte {}, expected UTF-8", e.valid_up_to())))
}

/// An array; NULL stands for an empty one.
///
/// # Safety
/// `pointer` is NULL or points to `count` values that stay as they are for `'a`.
pub(super) unsafe fn array<'a, T>(pointer: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    not_null(pointer, name)?;
    if !pointer.is_aligned() || count.checked_mul(size_of::<T>()).is_none_or(|bytes| isize::try_from(bytes).is_err()) {
        return Err(invalid(name, format_args!("{count} values at {pointer:p} cannot be an array")));
    }
    // SAFETY: not NULL, aligned, of a possible size, and `count` values long as the caller promises.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// Where a function puts a result.
pub(super) struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// Checks the pointer and writes `initial`, so that no error leaves the caller's variable as it was.
    ///
    /// # Safety
    /// `pointer` is NULL or valid for writes for as long as the result is used.
    pub(super) unsafe fn new(pointer: *mut T, name: &str, initial: T) -> Result<Self> {
        let out = Self(NonNull::new(pointer).ok_or_else(|| null(name))?);
        out.set(initial);
        Ok(out)
    }

    /// Writes the result.
    pub(super) fn set(&self, value: T) {
        // SAFETY: `new` was promised a pointer that is valid for writes; the old value is plain data.
        unsafe { self.0.as_ptr().write_unaligned(value) }
    }
}

impl<T> Out<*mut T> {
    /// Gives `value` to the caller, who frees it with [`free`].
    pub(super) fn give(&self, value: T) {
        self.set(Box::into_raw(Box::new(value)));
    }
}

/// Takes back and drops what [`Out::give`] gave. NULL does nothing.
///
/// # Safety
/// `pointer` is NULL or came from [`Out::give`] and is not used again.
pub(super) unsafe fn free<T>(pointer: *mut T) {
    if !pointer.is_null() {
        // SAFETY: came from `Box::into_raw` and is given back only once, as the caller promises.
        drop(unsafe { Box::from_raw(pointer) });
    }
}
