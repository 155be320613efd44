//! A weight matrix in its stored type.

use std::ops::Range;
use std::sync::Arc;

use super::{Bytes, Format, FourBit, float, int4, kquant, legacy};
use crate::error::{Error, Result};

/// A `[rows, cols]` weight, row-major, in its stored type. Row `r` holds the weights of output `r`.
#[derive(Debug, Clone)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    format: Format,
    data: Bytes,
    /// Scales of a [`Format::Bnb4`] matrix.
    four_bit: Option<Arc<FourBit>>,
    /// Which column of the weight each stored column is; `None`: the same.
    column_order: Option<Arc<[u32]>>,
}

impl Matrix {
    /// A matrix whose rows are whole blocks of `format`.
    ///
    /// # Errors
    /// [`Error::Internal`] when `data` is not exactly `rows * cols` values of `format`, or a row is no whole number of
    /// blocks: callers check files before they come here.
    pub fn new(format: Format, rows: usize, cols: usize, data: Bytes) -> Result<Self> {
        let expected = (format != Format::Bnb4)
            .then(|| format.bytes_for(cols as u64)?.checked_mul(rows as u64))
            .flatten()
            .ok_or_else(|| Error::Internal(format!("{format} cannot store rows of {cols}")))?;
        if expected != data.len() as u64 {
            return Err(Error::Internal(format!(
                "{format} [{rows}, {cols}] takes {expected} bytes, not {}",
                data.len()
            )));
        }
        Ok(Self { rows, cols, format, data, four_bit: None, column_order: None })
    }

    /// A bitsandbytes 4-bit matrix: `codes` holds two values a byte over the flattened tensor.
    ///
    /// # Errors
    /// [`Error::Internal`] when the codes or the scales are too few for the shape.
    pub fn four_bit(rows: usize, cols: usize, codes: Bytes, scales: FourBit) -> Result<Self> {
        let elements = rows.checked_mul(cols).ok_or_else(|| Error::Internal(format!("[{rows}, {cols}] overflows")))?;
        if codes.len() != elements.div_ceil(2) || scales.elements() < elements {
            return Err(Error::Internal(format!(
                "4-bit [{rows}, {cols}] with {} code bytes and scales for {} values",
                codes.len(),
                scales.elements()
            )));
        }
        let four_bit = Some(Arc::new(scales));
        Ok(Self { rows, cols, format: Format::Bnb4, data: codes, four_bit, column_order: None })
    }

    /// The matrix whose stored column `i` is column `order[i]`.
    ///
    /// # Errors
    /// [`Error::Internal`] when `order` is no order of the columns.
    pub fn with_column_order(self, order: Arc<[u32]>) -> Result<Self> {
        int4::check_order(&order, self.cols)?;
        Ok(Self { column_order: Some(order), ..self })
    }

    /// The rows `range` of this matrix, sharing its memory.
    ///
    /// # Errors
    /// [`Error::Internal`] when the range reaches past the end, or for [`Format::Bnb4`], whose blocks do not respect rows.
    pub fn view(&self, range: Range<usize>) -> Result<Self> {
        let row = (self.format != Format::Bnb4).then(|| self.format.bytes_for(self.cols as u64)).flatten();
        let Some(row) = row.filter(|_| range.start <= range.end && range.end <= self.rows) else {
            return Err(Error::Internal(format!("rows {range:?} of {} [{}, {}]", self.format, self.rows, self.cols)));
        };
        let data = self.data.slice(range.start * row as usize..range.end * row as usize)?;
        let column_order = self.column_order.clone();
        Ok(Self { rows: range.len(), cols: self.cols, format: self.format, data, four_bit: None, column_order })
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The storage type.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes that the matrix occupies, scales included.
    pub fn bytes(&self) -> usize {
        let scales = self.four_bit.as_ref().map_or(0, |scales| scales.bytes());
        self.data.len() + scales + self.column_order.as_deref().map_or(0, size_of_val)
    }

    /// All bytes, scales of [`Format::Bnb4`] not included.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The stored bytes of row `row`, or `None` for [`Format::Bnb4`], whose blocks do not respect rows.
    pub fn row_bytes(&self, row: usize) -> Option<&[u8]> {
        let len = (self.format != Format::Bnb4).then(|| self.format.bytes_for(self.cols as u64)).flatten()? as usize;
        self.data.get(row * len..(row + 1) * len)
    }

    /// The table and scales of a [`Format::Bnb4`] matrix.
    pub fn scales(&self) -> Option<&FourBit> {
        self.four_bit.as_deref()
    }

    /// Which column of the weight each stored column is; `None`: the same.
    pub fn column_order(&self) -> Option<&Arc<[u32]>> {
        self.column_order.as_ref()
    }

    /// The values `[rows, cols]` where they are stored as the processor's own float32, in memory that suits it.
    pub fn as_floats(&self) -> Option<&[f32]> {
        if self.format != Format::F32 || cfg!(target_endian = "big") {
            return None;
        }
        // SAFETY: every bit pattern is an `f32`.
        match unsafe { self.data().align_to::<f32>() } {
            ([], values, []) => Some(values),
            _ => None,
        }
    }

    /// Decodes row `row` into `out`, `cols` values.
    ///
    /// # Panics
    /// When `row` is out of range or `out` has another length: both are defects of the caller.
    #[inline(always)]
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {}, {} values", self.rows, out.len());
        match (&self.four_bit, self.row_bytes(row)) {
            (Some(scales), _) => scales.decode(&self.data, row * self.cols, out),
            (None, Some(bytes)) => decode(self.format, bytes, out),
            (None, None) => unreachable!("a matrix without 4-bit scales has rows of whole blocks"),
        }
        if let Some(order) = &self.column_order {
            int4::restore_order(order, out);
        }
    }
}

/// Decodes whole blocks of `format` (any but [`Format::Bnb4`]) into `out`.
///
/// # Panics
/// When the lengths do not agree.
#[inline(always)]
pub fn decode(format: Format, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(format.bytes_for(out.len() as u64), Some(bytes.len() as u64), "{format}: {} values", out.len());
    match format {
        Format::F32 => float::decode_f32(bytes, out),
        Format::F16 => float::decode_f16(bytes, out),
        Format::BF16 => float::decode_bf16(bytes, out),
        Format::Q8_0 => legacy::decode_q8_0(bytes, out),
        Format::Q4_0 => legacy::decode_q4_0(bytes, out),
        Format::Q4K => kquant::decode_q4_k(bytes, out),
        Format::Q5K => kquant::decode_q5_k(bytes, out),
        Format::Q6K => kquant::decode_q6_k(bytes, out),
        Format::Int4(group) => int4::decode(group, bytes, out),
        Format::Bnb4 => unreachable!("Bnb4 has no self-contained blocks"),
    }
}
