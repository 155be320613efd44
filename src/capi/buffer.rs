//! Arrays that the caller owns and a function fills.

use std::ffi::c_char;

use super::arguments::invalid;
use crate::error::{Error, Result};

/// Room for a text and the NUL behind it.
pub(super) struct TextBuffer {
    pointer: *mut c_char,
    capacity: usize,
}

impl TextBuffer {
    /// # Safety
    /// `pointer` is NULL or has room for `capacity` bytes for as long as the result is used.
    pub(super) unsafe fn new(pointer: *mut c_char, capacity: usize) -> Self {
        Self { pointer, capacity: if pointer.is_null() { 0 } else { capacity } }
    }

    /// As [`TextBuffer::new`], and refuses NULL where there is to be room.
    ///
    /// # Safety
    /// As [`TextBuffer::new`].
    pub(super) unsafe fn checked(pointer: *mut c_char, capacity: usize, name: &str) -> Result<Self> {
        if pointer.is_null() && capacity > 0 {
            return Err(invalid(name, format_args!("is NULL, expected room for {capacity} bytes")));
        }
        // SAFETY: as the caller promises.
        let buffer = unsafe { Self::new(pointer, capacity) };
        buffer.put("");
        Ok(buffer)
    }

    /// The caller only asks for the size.
    pub(super) fn is_query(&self) -> bool {
        self.pointer.is_null()
    }

    /// Bytes of room, the NUL's included.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Writes as many whole code points as fit, and a NUL. Returns the bytes written without the NUL.
    pub(super) fn put(&self, text: &str) -> usize {
        let Some(room) = self.capacity.checked_sub(1) else { return 0 };
        let count = whole_code_points(text, room);
        // SAFETY: `count <= room`, and there is room for `capacity = room + 1` bytes; the source is another object.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), self.pointer.cast(), count);
            self.pointer.add(count).write(0);
        }
        count
    }

    /// As [`TextBuffer::put`]; returns the bytes that the whole text and its NUL need.
    pub(super) fn put_with_size(&self, text: &str) -> usize {
        self.put(text);
        text.len() + 1
    }

    /// What to say when `text` does not fit.
    pub(super) fn too_small(&self, what: &str, text: &str) -> Error {
        Error::BufferTooSmall { what: what.into(), needed: text.len() + 1, capacity: self.capacity }
    }
}

/// The longest prefix of whole code points within `room` bytes.
fn whole_code_points(text: &str, room: usize) -> usize {
    let longest = room.min(text.len());
    (0..=longest).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Room for plain values.
pub(super) struct ValueBuffer<T> {
    pointer: *mut T,
    capacity: usize,
}

impl<T: Copy> ValueBuffer<T> {
    /// # Safety
    /// `pointer` is NULL or has room for `capacity` values for as long as the result is used.
    pub(super) unsafe fn new(pointer: *mut T, capacity: usize, name: &str) -> Result<Self> {
        if pointer.is_null() && capacity > 0 {
            return Err(invalid(name, format_args!("is NULL, expected room for {capacity} values")));
        }
        Ok(Self { pointer, capacity })
    }

    /// The caller only asks for the size.
    pub(super) fn is_query(&self) -> bool {
        self.pointer.is_null()
    }

    /// Makes sure that `needed` values fit.
    pub(super) fn check(&self, what: &str, needed: usize) -> Result<()> {
        if needed <= self.capacity {
            return Ok(());
        }
        Err(Error::BufferTooSmall { what: what.into(), needed, capacity: self.capacity })
    }

    /// Writes all of `values`.
    pub(super) fn put(&self, what: &str, values: &[T]) -> Result<()> {
        self.check(what, values.len())?;
        if !values.is_empty() {
            // SAFETY: room for `capacity >= values.len()` values; bytes, because the caller's array may be unaligned.
            unsafe {
                std::ptr::copy_nonoverlapping(values.as_ptr().cast::<u8>(), self.pointer.cast(), size_of_val(values));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_code_points_and_always_terminated() {
        for (capacity, expected) in
            [(0, ""), (1, ""), (2, "a"), (3, "a"), (4, "aé"), (5, "aé"), (8, "aé€"), (64, "aé€")]
        {
            let mut bytes = [0x55 as c_char; 64];
            // SAFETY: `capacity` is at most the array's length.
            let written = unsafe { TextBuffer::new(bytes.as_mut_ptr(), capacity) }.put("aé€");
            let bytes = bytes.map(|b| b.to_ne_bytes()[0]);
            assert_eq!(&bytes[..written], expected.as_bytes(), "capacity {capacity}");
            if capacity > 0 {
                assert_eq!(bytes[written], 0);
            }
            assert!(bytes[capacity..].iter().all(|&b| b == 0x55), "wrote past {capacity}");
        }
    }
}
