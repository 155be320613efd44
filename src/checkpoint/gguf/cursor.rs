//! Reading the header of a GGUF file from front to back, never past its end and never more than a header can be.

use crate::checkpoint::allocate;
use crate::checkpoint::folder::DataFile;
use crate::error::Result;

/// Bytes of metadata and tensor list at most. The largest published tokenizers take 15 MB.
const MAX_HEADER: u64 = 1 << 26;

/// Bytes fetched from the file at once.
const WINDOW: u64 = 1 << 18;

/// A position in the header of a file.
pub(super) struct Cursor<'a> {
    pub file: &'a DataFile,
    at: u64,
    end: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Cursor<'a> {
    pub fn new(file: &'a DataFile) -> Self {
        Self { file, at: 0, end: file.len().min(MAX_HEADER), window: Vec::new(), window_at: 0 }
    }

    /// Offset of the next byte.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Bytes that are left.
    pub fn remaining(&self) -> u64 {
        self.end - self.at
    }

    /// The error that says that `what` needs more bytes than there are.
    pub fn truncated(&self, what: &str) -> crate::Error {
        if self.end == MAX_HEADER {
            return self
                .file
                .bad(format!("{what} at byte {} makes the header larger than {MAX_HEADER} bytes", self.at));
        }
        self.file
            .bad(format!("{what} at byte {} reaches past the end of the file, {} bytes: truncated", self.at, self.end))
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: u64, what: &str) -> Result<&[u8]> {
        if len > self.remaining() {
            return Err(self.truncated(what));
        }
        let inside = self.at - self.window_at;
        if inside + len > self.window.len() as u64 {
            let fetch = len.max(WINDOW.min(self.remaining()));
            if fetch > self.window.len() as u64 {
                self.window = allocate::zeroed(fetch, "a GGUF header")?;
            } else {
                self.window.truncate(fetch as usize);
            }
            self.window_at = self.at;
            self.file.read(self.at, &mut self.window)?;
        }
        let start = (self.at - self.window_at) as usize;
        self.at += len;
        self.window.get(start..start + len as usize).ok_or_else(|| crate::Error::Internal("GGUF window".into()))
    }

    pub fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `least` bytes each, checked against what is left.
    pub fn count(&mut self, least: u64, what: &str) -> Result<u64> {
        let count = self.u64(what)?;
        if count.checked_mul(least).is_none_or(|bytes| bytes > self.remaining()) {
            return Err(self.file.bad(format!(
                "{what} is {count}, where {} bytes are left for {least} or more bytes each",
                self.remaining()
            )));
        }
        Ok(count)
    }

    /// Passes over `len` bytes.
    pub fn skip(&mut self, len: u64, what: &str) -> Result<()> {
        if len > self.remaining() {
            return Err(self.truncated(what));
        }
        self.at += len;
        Ok(())
    }

    /// A length and that many bytes of UTF-8, `limit` at most.
    pub fn string(&mut self, limit: u64, what: &str) -> Result<String> {
        let (file, len) = (self.file, self.u64(what)?);
        let at = self.at;
        if len > limit && len <= self.remaining() {
            return Err(file.bad(format!("{what} at byte {at} has {len} bytes, where at most {limit} make sense")));
        }
        let bytes = self.take(len, what)?;
        let mut text = allocate::list(len, what)?;
        text.extend_from_slice(bytes);
        String::from_utf8(text).map_err(|_| file.bad(format!("{what} at byte {at} is no UTF-8")))
    }
}
