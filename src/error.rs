//! One error type for the whole crate, and the stable status code of each of its variants.

use std::path::{Path, PathBuf};

/// What can go wrong, with the context a caller needs to act: which file, tensor or field, what was found and what was
/// expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument of a call is not acceptable.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// A struct of the C interface comes from another version of the header.
    #[error("ABI mismatch: {0}")]
    AbiMismatch(String),
    /// The operating system refused to open, read or write a file.
    #[error("{}: {what}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried, such as "cannot read 4096 bytes at offset 8".
        what: String,
        /// The operating system's words.
        cause: String,
    },
    /// A file is not what its format says it must be.
    #[error("{}: {what}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// Tensor or field, what was found, what was expected.
        what: String,
    },
    /// A well-formed file asks for something this library does not do.
    #[error("{}: not supported: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Which field or tensor asks for what, and what is supported.
        what: String,
    },
    /// No device of the asked kind is present or this build has no support for it.
    #[error("no such device: {0}")]
    NoDevice(String),
    /// The driver is older than the library needs.
    #[error("driver too old: {0}")]
    DriverTooOld(String),
    /// The machine has no more memory.
    #[error("out of memory: {what} needs {bytes} bytes")]
    OutOfHostMemory {
        /// What the memory was for.
        what: String,
        /// How much was asked for.
        bytes: u64,
    },
    /// The device has no more memory.
    #[error("out of device memory: {what} needs {bytes} bytes")]
    OutOfDeviceMemory {
        /// What the memory was for.
        what: String,
        /// How much was asked for.
        bytes: u64,
    },
    /// A load would take more than the caller allowed or the machine has.
    #[error("over budget: {0}")]
    OverBudget(String),
    /// A sequence reached the end of its context, or the shared KV pool has no free page.
    #[error("context full: {0}")]
    ContextFull(String),
    /// The caller cancelled the operation.
    #[error("cancelled")]
    Cancelled,
    /// The model has no room for another request.
    #[error("busy: {0}")]
    Busy(String),
    /// The device failed and cannot be used again by this model.
    #[error("device lost: {0}")]
    DeviceLost(String),
    /// A defect of this library.
    #[error("internal error: {0}")]
    Internal(String),
    /// A defect of this library that would have unwound into the host.
    #[error("internal error (panic): {0}")]
    Panic(String),
    /// A caller's buffer has no room for any of what is to go into it.
    #[error("buffer too small: {what} needs a capacity of {needed}, found {capacity}")]
    BufferTooSmall {
        /// What is to go into the buffer.
        what: String,
        /// The capacity that takes all of it, in the buffer's own unit.
        needed: usize,
        /// The capacity that the caller gave.
        capacity: usize,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The status code that the C interface returns for this error. Codes are never renumbered and never reused.
    pub fn status(&self) -> i32 {
        match self {
            Error::InvalidArgument(_) => -1,
            Error::AbiMismatch(_) => -2,
            Error::Io { .. } => -3,
            Error::BadFile { .. } => -4,
            Error::Unsupported { .. } => -5,
            Error::NoDevice(_) => -6,
            Error::DriverTooOld(_) => -7,
            Error::OutOfHostMemory { .. } => -8,
            Error::OutOfDeviceMemory { .. } => -9,
            Error::OverBudget(_) => -10,
            Error::ContextFull(_) => -11,
            Error::Cancelled => -12,
            Error::Busy(_) => -13,
            Error::DeviceLost(_) => -14,
            Error::Internal(_) => -15,
            Error::Panic(_) => -16,
            Error::BufferTooSmall { .. } => -17,
        }
    }

    /// An [`Error::Io`] from the operating system's error.
    pub fn io(path: impl AsRef<Path>, what: impl Into<String>, cause: &std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), what: what.into(), cause: cause.to_string() }
    }

    /// An [`Error::BadFile`].
    pub fn bad_file(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Error::BadFile { path: path.as_ref().to_path_buf(), what: what.into() }
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Error::Unsupported { path: path.as_ref().to_path_buf(), what: what.into() }
    }
}
