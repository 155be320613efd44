//! Owned, aligned memory for weights, and shared views into it.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Alignment of every weight buffer: a page, so that one copy or one pin takes whole buffers.
const ALIGNMENT: usize = 4096;

/// A zeroed, page-aligned byte buffer whose allocation may fail without harm.
pub struct AlignedBuffer {
    pointer: NonNull<u8>,
    layout: Option<Layout>,
    len: usize,
}

impl AlignedBuffer {
    /// Allocates `len` zero bytes.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`] naming `what` when the allocator refuses.
    pub fn zeroed(len: usize, what: &str) -> Result<Self> {
        let refused = || Error::OutOfHostMemory { what: what.to_string(), bytes: len as u64 };
        if len == 0 {
            return Ok(Self { pointer: NonNull::dangling(), layout: None, len: 0 });
        }
        let layout = Layout::from_size_align(len, ALIGNMENT).map_err(|_| refused())?;
        // SAFETY: the layout has a non-zero size.
        let pointer = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refused)?;
        Ok(Self { pointer, layout: Some(layout), len })
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if let Some(layout) = self.layout {
            // SAFETY: `pointer` came from `alloc_zeroed` with this very layout and is freed once.
            unsafe { dealloc(self.pointer.as_ptr(), layout) }
        }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `pointer` is valid for `len` initialised bytes (or dangling with `len` 0) while `self` lives.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len) }
    }
}

// SAFETY: the buffer owns its memory, as `Vec<u8>` does; sharing hands out `&[u8]` only.
unsafe impl Send for AlignedBuffer {}
// SAFETY: see `Send`.
unsafe impl Sync for AlignedBuffer {}

/// A read-only view of part of a shared buffer; cloning shares, it does not copy.
#[derive(Clone)]
pub struct Bytes {
    buffer: Arc<AlignedBuffer>,
    range: Range<usize>,
}

impl Bytes {
    /// The view of `range` within this view.
    ///
    /// # Errors
    /// [`Error::Internal`] when the range reaches past the end.
    pub fn slice(&self, range: Range<usize>) -> Result<Self> {
        if range.start > range.end || range.end > self.range.len() {
            return Err(Error::Internal(format!("view {range:?} of {} bytes", self.range.len())));
        }
        let start = self.range.start + range.start;
        Ok(Self { buffer: Arc::clone(&self.buffer), range: start..start + range.len() })
    }
}

impl From<AlignedBuffer> for Bytes {
    fn from(buffer: AlignedBuffer) -> Self {
        let range = 0..buffer.len;
        Self { buffer: Arc::new(buffer), range }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.range.len())
    }
}
