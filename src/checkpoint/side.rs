//! Side tensors: what lies beside the codes of a quantised weight.

use safetensors::Dtype;

use super::allocate;
use super::folder::DataFile;
use super::safetensors::Entry;
use crate::error::{Error, Result};
use crate::quant::{AlignedBuffer, Bytes};

/// A side tensor: where it lies and what it is.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub file: usize,
    pub entry: Entry,
}

impl Piece {
    pub fn file<'a>(&self, files: &'a [DataFile]) -> Result<&'a DataFile> {
        files.get(self.file).ok_or_else(|| Error::Internal(format!("file {} of a side tensor", self.file)))
    }

    /// Checks type and number of values.
    pub fn expect(&self, files: &[DataFile], dtype: Dtype, count: u64) -> Result<()> {
        let Entry { name, bytes, dtype: found, .. } = &self.entry;
        if *found == dtype && count.checked_mul(dtype.bitsize() as u64 / 8) == Some(*bytes) {
            return Ok(());
        }
        Err(self.file(files)?.bad(format!("{name}: {bytes} bytes of {found}, where {count} values of {dtype} must be")))
    }

    pub fn read(&self, files: &[DataFile]) -> Result<Bytes> {
        let len = usize::try_from(self.entry.bytes).unwrap_or(usize::MAX);
        let mut buffer = AlignedBuffer::zeroed(len, &self.entry.name)?;
        self.file(files)?.read(self.entry.offset, &mut buffer)?;
        Ok(buffer.into())
    }

    /// The values of a float32 tensor, all finite.
    pub fn read_floats(&self, files: &[DataFile]) -> Result<Vec<f32>> {
        let bytes = self.read(files)?;
        let mut values: Vec<f32> = allocate::list(bytes.len() as u64 / 4, &self.entry.name)?;
        values.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(i) => Err(self.file(files)?.bad(format!("{}: value {i} is not finite", self.entry.name))),
        }
    }
}
