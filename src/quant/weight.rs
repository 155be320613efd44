//! A weight as a model holds it.

use super::packed::{ROWS, strip_bytes};
use super::{Format, Matrix, Packed};
use crate::error::Result;

/// A weight matrix `[rows, cols]`: packed where its format and shape have a packed form, else as stored.
#[derive(Debug, Clone)]
pub enum Weight {
    /// In strips of 16 rows.
    Packed(Packed),
    /// As the file stores it: float32, columns that are no multiple of 32 (64 for bitsandbytes), and matrices of a few
    /// rows, which would mostly be padding.
    Stored(Matrix),
}

/// Whether a matrix of `rows` rows is worth packing. Group int4 always is: what its files hold is put in order anyway.
fn packs(format: Format, rows: usize) -> bool {
    rows >= ROWS || matches!(format, Format::Int4(_))
}

impl Weight {
    /// Takes over `matrix`; its memory is freed where a packed copy replaces it.
    ///
    /// # Errors
    /// [`crate::Error::OutOfHostMemory`].
    pub fn new(matrix: Matrix) -> Result<Self> {
        if packs(matrix.format(), matrix.rows())
            && let Some(packed) = Packed::pack(&matrix)?
        {
            return Ok(Weight::Packed(packed));
        }
        Ok(Weight::Stored(matrix))
    }

    /// Bytes of the strips of a `[rows, cols]` matrix of `format`, its tables not counted; `None` where it stays as stored.
    /// [`Format::Bnb4`] is taken to have blocks of whole segments ([`FourBit::has_segments`]).
    ///
    /// [`FourBit::has_segments`]: super::FourBit::has_segments
    pub fn packed_bytes(format: Format, rows: usize, cols: usize) -> Option<u64> {
        let strip = strip_bytes(format, cols).filter(|_| packs(format, rows))?;
        (strip as u64).checked_mul(rows.div_ceil(ROWS) as u64)
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

    /// The strips from number `strip` on, as they lie in memory; nothing where there are none.
    pub fn strips_from(&self, strip: usize) -> &[u8] {
        match self {
            Weight::Packed(packed) => packed.data().get(strip * packed.strip_bytes()..).unwrap_or_default(),
            Weight::Stored(_) => &[],
        }
    }

    /// Bytes of a strip; none where there are no strips.
    pub fn strip_bytes(&self) -> usize {
        match self {
            Weight::Packed(packed) => packed.strip_bytes(),
            Weight::Stored(_) => 0,
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
