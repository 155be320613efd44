//! Memory of weights: zeroed buffers in large pages, mapped files, and shared read-only views into both.

use std::any::Any;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{Mmap, MmapMut, MmapOptions};

use crate::error::{Error, Result};

/// A large page of the usual processors. Buffers of this size and more begin at a multiple of it.
pub const LARGE_PAGE: usize = 2 << 20;

/// A zeroed byte buffer that begins at a page, or at a [`LARGE_PAGE`] where it is as long as one; its allocation may fail
/// without harm.
///
/// The memory is not there before it is written: threads that fill a buffer together also bring its pages in together.
pub struct AlignedBuffer {
    /// `None` where `len` is 0.
    memory: Option<MmapMut>,
    /// Where in `memory` the buffer begins.
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// Allocates `len` zero bytes.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`] naming `what` when the system refuses.
    pub fn zeroed(len: usize, what: &str) -> Result<Self> {
        let refused = || Error::OutOfHostMemory { what: what.to_string(), bytes: len as u64 };
        if len == 0 {
            return Ok(Self { memory: None, start: 0, len });
        }
        let slack = if len < LARGE_PAGE { 0 } else { LARGE_PAGE };
        let reserved = len.checked_add(slack).ok_or_else(refused)?;
        let memory = MmapOptions::new().len(reserved).map_anon().map_err(|_| refused())?;
        let start = if slack == 0 { 0 } else { memory.as_ptr().align_offset(LARGE_PAGE) };
        // Only a wish: without large pages everything works, slower by the misses of the address cache.
        #[cfg(target_os = "linux")]
        if slack > 0 {
            let _ = memory.advise_range(memmap2::Advice::HugePage, start, len);
        }
        Ok(Self { memory: Some(memory), start, len })
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.memory.as_ref().and_then(|memory| memory.get(self.start..self.start + self.len)).unwrap_or_default()
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let range = self.start..self.start + self.len;
        self.memory.as_mut().and_then(|memory| memory.get_mut(range)).unwrap_or_default()
    }
}

/// A read-only view of part of a shared buffer or mapped file; cloning shares, it does not copy.
#[derive(Clone)]
pub struct Bytes {
    start: NonNull<u8>,
    len: usize,
    /// Keeps the memory alive, which is never written again.
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the memory is only read, as long as the owner, which may be shared between threads, keeps it in place.
unsafe impl Send for Bytes {}
// SAFETY: see `Send`.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// The view of `range` within this view.
    ///
    /// # Errors
    /// [`Error::Internal`] when the range reaches past the end.
    pub fn slice(&self, range: Range<usize>) -> Result<Self> {
        let Some(part) = self.get(range.clone()) else {
            return Err(Error::Internal(format!("view {range:?} of {} bytes", self.len)));
        };
        Ok(Self { start: NonNull::from(part).cast(), len: part.len(), _owner: Arc::clone(&self._owner) })
    }

    /// A view of all that `owner` holds at a place that does not move with it.
    fn all<T: Deref<Target = [u8]> + Send + Sync + 'static>(owner: T) -> Self {
        let owner = Arc::new(owner);
        let all: &[u8] = &owner;
        Self { start: NonNull::from(all).cast(), len: all.len(), _owner: owner }
    }
}

impl From<AlignedBuffer> for Bytes {
    fn from(buffer: AlignedBuffer) -> Self {
        Self::all(buffer)
    }
}

/// A mapped file must neither shrink nor change while a view of it lives: see [`Mmap`].
impl From<Mmap> for Bytes {
    fn from(file: Mmap) -> Self {
        Self::all(file)
    }
}

impl Deref for Bytes {
    type Target = [u8];
    #[inline(always)]
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `len` initialised bytes within the owner's memory, which stays while `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

/// A read-only view of float32 values, in the processor's byte order.
#[derive(Clone)]
pub struct Floats(Bytes);

impl Floats {
    /// `bytes` as values.
    ///
    /// # Errors
    /// [`Error::Internal`] when they are no whole number of values or begin at an odd place.
    pub fn new(bytes: Bytes) -> Result<Self> {
        if !bytes.len().is_multiple_of(4) || !bytes.start.cast::<f32>().is_aligned() {
            return Err(Error::Internal(format!("{} bytes at {:?} are no float32 values", bytes.len(), bytes.start)));
        }
        Ok(Self(bytes))
    }
}

impl Deref for Floats {
    type Target = [f32];
    #[inline(always)]
    fn deref(&self) -> &[f32] {
        // SAFETY: `new` checked alignment and length, and every bit pattern is a float32.
        unsafe { std::slice::from_raw_parts(self.0.start.cast().as_ptr(), self.0.len / 4) }
    }
}

impl std::fmt::Debug for Floats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} values", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_and_begin_at_pages_large_ones_at_large_pages() {
        for (len, alignment) in [(1, 4096), (LARGE_PAGE - 1, 4096), (LARGE_PAGE, LARGE_PAGE), (5 << 20, LARGE_PAGE)] {
            let mut buffer = AlignedBuffer::zeroed(len, "test").unwrap();
            assert_eq!((buffer.len(), buffer.as_ptr().align_offset(alignment)), (len, 0));
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.fill(7);
            let bytes = Bytes::from(buffer);
            assert_eq!(bytes.slice(len - 1..len).unwrap()[..], [7]);
            assert!(bytes.slice(len - 1..len + 1).is_err());
        }
        assert!(AlignedBuffer::zeroed(0, "test").unwrap().is_empty());
        assert!(matches!(AlignedBuffer::zeroed(usize::MAX, "test"), Err(Error::OutOfHostMemory { .. })));
        assert!(matches!(AlignedBuffer::zeroed(1 << 60, "test"), Err(Error::OutOfHostMemory { .. })));
    }

    #[test]
    fn views_outlive_what_they_were_cut_from() {
        let mut buffer = AlignedBuffer::zeroed(64, "test").unwrap();
        buffer[8..12].copy_from_slice(&1.5f32.to_ne_bytes());
        let all = Bytes::from(buffer);
        let floats = Floats::new(all.slice(8..16).unwrap()).unwrap();
        assert!(Floats::new(all.slice(7..15).unwrap()).is_err());
        assert!(Floats::new(all.slice(8..15).unwrap()).is_err());
        drop(all);
        assert_eq!(floats[..], [1.5, 0.0]);
    }
}
