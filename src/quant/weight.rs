//! A weight as a model holds it.

use super::packed::{ROWS, strip_bytes};
use super::{Format, Matrix, Packed};
use crate::error::Result;

/// A weight matrix `[rows, cols]`: packed where its format and shape have a packed form, else as stored.
#[derive(Debug, Clone)]
pub enum Weight {
    /// In strips of 16 rows.
    Packed(Packed),
    /// As the file stores it: float32, bitsandbytes' flat blocks, columns that are no multiple of 32, and matrices of a
    /// few rows, which would mostly be padding.
    Stored(Matrix),
}

impl Weight {
    /// Takes over `matrix`; its memory is freed where a packed copy replaces it.
    ///
    /// # Errors
    /// [`crate::Error::OutOfHostMemory`].
    pub fn new(matrix: Matrix) -> Result<Self> {
        if matrix.rows() >= ROWS
            && let Some(packed) = Packed::pack(&matrix)?
        {
            return Ok(Weight::Packed(packed));
        }
        Ok(Weight::Stored(matrix))
    }

    /// Bytes that a `[rows, cols]` matrix of `format` will occupy, scales of [`Format::Bnb4`] not counted.
    pub fn bytes_for(format: Format, rows: usize, cols: usize) -> Option<u64> {
        match strip_bytes(format, cols) {
            Some(strip) if rows >= ROWS => (strip as u64).checked_mul(rows.div_ceil(ROWS) as u64),
            _ => {
                let elements = (rows as u64).checked_mul(cols as u64)?;
                if format == Format::Bnb4 { Some(elements.div_ceil(2)) } else { format.bytes_for(elements) }
            }
        }
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        match self {
            Weight::Packed(packed) => packed.rows(),
            Weight::Stored(matrix) => matrix.rows(),
        }
    }

    /// Number of inputs.
    pub fn cols(&self) -> usize {
        match self {
            Weight::Packed(packed) => packed.cols(),
            Weight::Stored(matrix) => matrix.cols(),
        }
    }

    /// Bytes that the matrix occupies, scales included.
    pub fn bytes(&self) -> usize {
        match self {
            Weight::Packed(packed) => packed.bytes(),
            Weight::Stored(matrix) => matrix.bytes(),
        }
    }

    /// Whether this is a clone of `other`, as a tied head is of the embedding.
    pub fn shares_memory(&self, other: &Self) -> bool {
        match (self, other) {
            (Weight::Packed(a), Weight::Packed(b)) => a.data().as_ptr() == b.data().as_ptr(),
            (Weight::Stored(a), Weight::Stored(b)) => a.data().as_ptr() == b.data().as_ptr(),
            _ => false,
        }
    }

    /// Decodes row `row` into `out`, `cols` values.
    ///
    /// # Panics
    /// When `row` is out of range or `out` has another length: both are defects of the caller.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        match self {
            Weight::Packed(packed) => packed.decode_row(row, out),
            Weight::Stored(matrix) => matrix.decode_row(row, out),
        }
    }
}
