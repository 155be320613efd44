//! Status codes and error texts.

use std::ffi::c_char;

use super::boundary::{last_error, quietly};
use super::buffer::TextBuffer;

/// What a function says about its outcome: 0 for success, positive for "no error, but", negative for an error.
/// Codes are never renumbered and never reused; treat a negative code that you do not know as QM_ERR_INTERNAL.
pub type qm_status = i32;

/// Done as asked.
pub const QM_OK: qm_status = 0;
/// Not there yet: ask again.
pub const QM_PENDING: qm_status = 1;
/// The generation ended; every text was delivered.
pub const QM_DONE: qm_status = 2;
/// An argument is not acceptable: NULL, not UTF-8, out of range.
pub const QM_ERR_INVALID_ARGUMENT: qm_status = -1;
/// A struct comes from another version of the header, or was not set up by its init function.
pub const QM_ERR_ABI_MISMATCH: qm_status = -2;
/// The operating system refused to open, read or write a file.
pub const QM_ERR_IO: qm_status = -3;
/// A file is damaged, or is not what its format says it must be.
pub const QM_ERR_BAD_FILE: qm_status = -4;
/// A well-formed file or a request asks for something this library or this model does not do.
pub const QM_ERR_UNSUPPORTED: qm_status = -5;
/// No device of the asked kind is present, or this build has no support for it.
pub const QM_ERR_NO_DEVICE: qm_status = -6;
/// The device's driver is older than the library needs.
pub const QM_ERR_DRIVER_TOO_OLD: qm_status = -7;
/// The machine has no more memory.
pub const QM_ERR_OUT_OF_HOST_MEMORY: qm_status = -8;
/// The device has no more memory.
pub const QM_ERR_OUT_OF_DEVICE_MEMORY: qm_status = -9;
/// A load would take more memory than the caller allowed or the machine has.
pub const QM_ERR_OVER_BUDGET: qm_status = -10;
/// A sequence reached the end of its context, or the memory shared by the streams is full.
pub const QM_ERR_CONTEXT_FULL: qm_status = -11;
/// The caller cancelled the operation.
pub const QM_ERR_CANCELLED: qm_status = -12;
/// There is no room for another request, or another thread is inside a call that needs the handle to itself.
pub const QM_ERR_BUSY: qm_status = -13;
/// The device failed and cannot be used again by this model.
pub const QM_ERR_DEVICE_LOST: qm_status = -14;
/// A defect of this library.
pub const QM_ERR_INTERNAL: qm_status = -15;
/// A defect of this library that was stopped before it could reach the caller.
pub const QM_ERR_PANIC: qm_status = -16;
/// A buffer is too small for any of what is to go into it. Nothing is lost: the needed size is reported.
pub const QM_ERR_BUFFER_TOO_SMALL: qm_status = -17;

/// A short English name of a status, such as "context full". Never NULL; "unknown status" for codes that this version
/// does not know. The text is static: do not free it. Callable from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn qm_status_str(status: qm_status) -> *const c_char {
    let text = match status {
        QM_OK => c"ok",
        QM_PENDING => c"pending",
        QM_DONE => c"done",
        QM_ERR_INVALID_ARGUMENT => c"invalid argument",
        QM_ERR_ABI_MISMATCH => c"ABI mismatch",
        QM_ERR_IO => c"input/output error",
        QM_ERR_BAD_FILE => c"bad file",
        QM_ERR_UNSUPPORTED => c"not supported",
        QM_ERR_NO_DEVICE => c"no such device",
        QM_ERR_DRIVER_TOO_OLD => c"driver too old",
        QM_ERR_OUT_OF_HOST_MEMORY => c"out of memory",
        QM_ERR_OUT_OF_DEVICE_MEMORY => c"out of device memory",
        QM_ERR_OVER_BUDGET => c"over budget",
        QM_ERR_CONTEXT_FULL => c"context full",
        QM_ERR_CANCELLED => c"cancelled",
        QM_ERR_BUSY => c"busy",
        QM_ERR_DEVICE_LOST => c"device lost",
        QM_ERR_INTERNAL => c"internal error",
        QM_ERR_PANIC => c"internal error (panic)",
        QM_ERR_BUFFER_TOO_SMALL => c"buffer too small",
        _ => c"unknown status",
    };
    text.as_ptr()
}

/// The text of the last error that a function of this library returned to the calling thread: what was wrong, where
/// (file, tensor, field), and what would be right. Calls that succeed leave it as it is; it is empty before the first.
///
/// Writes as many whole code points as fit into the `cap` bytes at `buf`, and a NUL behind them. Returns the bytes that
/// the whole text needs, its NUL included; a return value above `cap` means that the text was cut. `buf` may be NULL
/// when `cap` is 0. Other threads have their own last error.
///
/// # Safety
/// `buf` has room for `cap` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_last_error(buf: *mut c_char, cap: usize) -> usize {
    // SAFETY: the caller gave room for `cap` bytes.
    quietly(0, || last_error(|text| unsafe { TextBuffer::new(buf, cap) }.put_with_size(text)))
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;
    use std::path::PathBuf;

    use super::*;
    use crate::error::Error;

    #[test]
    fn every_error_has_the_code_and_the_name_that_the_header_gives_it() {
        let (s, path) = (String::new, PathBuf::new);
        let cases = [
            (Error::InvalidArgument(s()), QM_ERR_INVALID_ARGUMENT, "invalid argument"),
            (Error::AbiMismatch(s()), QM_ERR_ABI_MISMATCH, "ABI mismatch"),
            (Error::Io { path: path(), what: s(), cause: s() }, QM_ERR_IO, "input/output error"),
            (Error::BadFile { path: path(), what: s() }, QM_ERR_BAD_FILE, "bad file"),
            (Error::Unsupported { path: path(), what: s() }, QM_ERR_UNSUPPORTED, "not supported"),
            (Error::NoDevice(s()), QM_ERR_NO_DEVICE, "no such device"),
            (Error::DriverTooOld(s()), QM_ERR_DRIVER_TOO_OLD, "driver too old"),
            (Error::OutOfHostMemory { what: s(), bytes: 0 }, QM_ERR_OUT_OF_HOST_MEMORY, "out of memory"),
            (Error::OutOfDeviceMemory { what: s(), bytes: 0 }, QM_ERR_OUT_OF_DEVICE_MEMORY, "out of device memory"),
            (Error::OverBudget(s()), QM_ERR_OVER_BUDGET, "over budget"),
            (Error::ContextFull(s()), QM_ERR_CONTEXT_FULL, "context full"),
            (Error::Cancelled, QM_ERR_CANCELLED, "cancelled"),
            (Error::Busy(s()), QM_ERR_BUSY, "busy"),
            (Error::DeviceLost(s()), QM_ERR_DEVICE_LOST, "device lost"),
            (Error::Internal(s()), QM_ERR_INTERNAL, "internal error"),
            (Error::Panic(s()), QM_ERR_PANIC, "internal error (panic)"),
            (Error::BufferTooSmall { what: s(), needed: 0, capacity: 0 }, QM_ERR_BUFFER_TOO_SMALL, "buffer too small"),
        ];
        for (error, code, name) in cases {
            assert_eq!(error.status(), code);
            // SAFETY: the function returns a static text.
            assert_eq!(unsafe { CStr::from_ptr(qm_status_str(code)) }.to_str(), Ok(name));
        }
    }
}
