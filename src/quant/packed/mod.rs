//! The packed form: one copy of a weight that every kernel streams.
//!
//! A matrix is cut into strips of 16 rows; a strip is its blocks of 256 columns in order (the last one may have fewer
//! tiles of 32), each with the codes first and the scales behind them. Packing permutes the bits of the source format,
//! it does not round: [`Packed::decode_row`] gives the values of the reference decoder bit for bit. The one exception is
//! the absmax of [`Format::Bnb4`], which becomes an f16 (see [`SideTables::codebook`]). Rows beyond the last and columns
//! beyond a tile's end are zero codes with zero scales.

mod block;
mod layout;
mod tile;

use std::borrow::Cow;
use std::sync::Arc;

pub use block::{GROUP_BYTES, sections};
pub use layout::{BLOCK, LINE, ROWS, TILE, row_of_slot, slot_of_row};
pub use tile::{Tile, decode_tile};

use super::nf4::{SEGMENT, SEGMENT_BYTES, decode_segments};
use super::{AlignedBuffer, Bytes, Format, FourBit, Matrix, decode, int4};
use crate::error::{Error, Result};

/// A matrix in packed form.
#[derive(Debug, Clone)]
pub struct Packed {
    format: Format,
    rows: usize,
    cols: usize,
    strip_len: usize,
    tables: SideTables,
    data: Bytes,
}

/// What some packed matrices need beside their strips. Plain numbers: a cache writes them as they are and gives them back
/// to [`Packed::from_parts`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SideTables {
    /// What each code of a [`Format::Bnb4`] matrix stands for, before its f16 absmax: the file's table times the power of
    /// two by which the absmaxes were divided, so that the largest uses f16's full range.
    pub codebook: Option<Arc<[f32; 16]>>,
    /// Which column of the weight each packed column is, where GPTQ's activation order sorted them by group. A product
    /// takes its input in this order.
    pub column_order: Option<Arc<[u32]>>,
}

impl SideTables {
    /// Bytes that the tables occupy.
    pub fn bytes(&self) -> usize {
        let order = self.column_order.as_deref().map_or(0, size_of_val);
        order + self.codebook.as_deref().map_or(0, size_of_val)
    }
}

/// Bytes of a block of `tiles` tiles.
pub fn block_bytes(format: Format, tiles: usize) -> Option<usize> {
    sections(format, tiles).map(|lengths| lengths.iter().sum())
}

/// Bytes of a strip of `cols` columns; `None` for formats without a packed form and rows that are no whole tiles.
pub fn strip_bytes(format: Format, cols: usize) -> Option<usize> {
    if !cols.is_multiple_of(TILE) {
        return None;
    }
    let whole = block_bytes(format, BLOCK / TILE)?.checked_mul(cols / BLOCK)?;
    match cols % BLOCK / TILE {
        0 => Some(whole),
        tiles => whole.checked_add(block_bytes(format, tiles)?),
    }
}

/// Columns at which blocks start, with the tiles of each block.
pub fn blocks(cols: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..cols).step_by(BLOCK).map(move |first| (first, (cols - first).min(BLOCK) / TILE))
}

impl Packed {
    /// Packs `matrix`, or answers `None` where its format or shape has no packed form.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`].
    pub fn pack(matrix: &Matrix) -> Result<Option<Self>> {
        let (format, rows, cols) = (matrix.format(), matrix.rows(), matrix.cols());
        let Some(strip_len) = strip_bytes(format, cols) else { return Ok(None) };
        let scales = matrix.scales();
        if scales.is_some_and(|scales| !FourBit::has_segments(scales.block_size)) {
            return Ok(None);
        }
        let total = strip_len.checked_mul(rows.div_ceil(ROWS));
        let total = total.ok_or_else(|| Error::Internal(format!("{format} [{rows}, {cols}] overflows")))?;
        let mut data = AlignedBuffer::zeroed(total, "packed weights")?;
        let tables = Self::pack_into(matrix, &mut data)?;
        Ok(Some(Self { format, rows, cols, strip_len, tables, data: data.into() }))
    }

    /// Packs `matrix`, which has a packed form, into zeroed memory of exactly its size.
    ///
    /// # Errors
    /// [`Error::Internal`] for memory of another size.
    pub fn pack_into(matrix: &Matrix, out: &mut [u8]) -> Result<SideTables> {
        let (format, rows, cols, scales) = (matrix.format(), matrix.rows(), matrix.cols(), matrix.scales());
        let strip_len = strip_bytes(format, cols).filter(|len| len.checked_mul(rows.div_ceil(ROWS)) == Some(out.len()));
        let strip_len = strip_len.ok_or_else(|| {
            Error::Internal(format!("packed {format} [{rows}, {cols}] does not take {} bytes", out.len()))
        })?;
        let factor = scales.map_or(1.0, FourBit::packed_factor);
        for (s, strip) in out.chunks_exact_mut(strip_len.max(1)).enumerate() {
            let row = |r| match scales {
                Some(scales) => Some(Cow::Owned(scales.segments(matrix.data(), r * cols, cols, factor))),
                None => matrix.row_bytes(r).map(Cow::Borrowed),
            };
            let rows: Vec<Cow<'_, [u8]>> = (s * ROWS..rows.min((s + 1) * ROWS)).filter_map(row).collect();
            let rows: Vec<&[u8]> = rows.iter().map(AsRef::as_ref).collect();
            pack_strip(format, cols, &rows, strip);
        }
        Ok(SideTables {
            codebook: scales.map(|scales| Arc::new(scales.table.map(|value| value * factor))),
            column_order: matrix.column_order().cloned(),
        })
    }

    /// The matrix whose strips are `data`, as [`Packed::data`] gave them.
    ///
    /// # Errors
    /// [`Error::Internal`] when `data` or `tables` do not fit format and shape.
    pub fn from_parts(format: Format, rows: usize, cols: usize, tables: SideTables, data: Bytes) -> Result<Self> {
        let strip_len = strip_bytes(format, cols);
        let expected = strip_len.and_then(|len| len.checked_mul(rows.div_ceil(ROWS)));
        let (Some(strip_len), true) = (strip_len, expected == Some(data.len())) else {
            let len = data.len();
            return Err(Error::Internal(format!("packed {format} [{rows}, {cols}] of {len} bytes, not {expected:?}")));
        };
        if tables.codebook.is_some() != (format == Format::Bnb4) {
            return Err(Error::Internal(format!("packed {format} with or without a codebook")));
        }
        if let Some(order) = &tables.column_order {
            int4::check_order(order, cols)?;
        }
        Ok(Self { format, rows, cols, strip_len, tables, data })
    }

    /// The format whose bits are packed.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that the matrix occupies, its tables included.
    pub fn bytes(&self) -> usize {
        self.data.len() + self.tables.bytes()
    }

    /// What lies beside the strips.
    pub fn tables(&self) -> &SideTables {
        &self.tables
    }

    /// What each code of [`Format::Bnb4`] stands for; zeros for other formats.
    pub fn codebook(&self) -> &[f32; 16] {
        self.tables.codebook.as_deref().unwrap_or(&[0.0; 16])
    }

    /// Which column of the weight each packed column is; `None`: the same. A product gathers its input first.
    pub fn column_order(&self) -> Option<&[u32]> {
        self.tables.column_order.as_deref()
    }

    /// All strips.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Bytes of a strip.
    pub fn strip_bytes(&self) -> usize {
        self.strip_len
    }

    /// Strip `strip`: rows `16 * strip..`, blocks in column order.
    pub fn strip(&self, strip: usize) -> &[u8] {
        &self.data[strip * self.strip_len..(strip + 1) * self.strip_len]
    }

    /// Decodes row `row` into `out`, `cols` values: the definition that kernels are tested against.
    ///
    /// # Panics
    /// When `row` is out of range or `out` has another length: both are defects of the caller.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {}, {} values", self.rows, out.len());
        let bytes = self.unpack_row(row);
        match &self.tables.codebook {
            Some(codebook) => decode_segments(codebook, &bytes, out),
            None => decode(self.format, &bytes, out),
        }
        if let Some(order) = self.column_order() {
            int4::restore_order(order, out);
        }
    }

    /// The bytes of row `row` as the source format stores them; of [`Format::Bnb4`], its segments.
    pub fn unpack_row(&self, row: usize) -> Vec<u8> {
        let mut rest = self.strip(row / ROWS);
        let mut out = Vec::new();
        for (_, tiles) in blocks(self.cols) {
            let (packed, later) = rest.split_at(block_bytes(self.format, tiles).unwrap_or(0));
            block::unpack_row(self.format, packed, row % ROWS, tiles, &mut out);
            rest = later;
        }
        out
    }
}

/// Packs up to 16 rows, given as stored, into one zeroed strip.
pub fn pack_strip(format: Format, cols: usize, rows: &[&[u8]], strip: &mut [u8]) {
    let mut rest = strip;
    for (first, tiles) in blocks(cols) {
        let (packed, later) = rest.split_at_mut(block_bytes(format, tiles).unwrap_or(0));
        block::pack_block(format, rows, first, tiles, packed);
        rest = later;
    }
}

/// A strip of every format in packed form, of source bytes that are always the same: it changes with the layout.
pub fn sample() -> Vec<u8> {
    let mut out = Vec::new();
    for format in Format::ALL {
        let cols = BLOCK + BLOCK / 2;
        for cols in [cols, 2 * cols] {
            let row = match format {
                Format::Bnb4 => Some(cols / SEGMENT * SEGMENT_BYTES),
                _ => format.bytes_for(cols as u64).map(|bytes| bytes as usize),
            };
            let (Some(row), Some(strip)) = (row, strip_bytes(format, cols)) else { continue };
            let source: Vec<u8> = (0..ROWS * row).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 13) as u8).collect();
            let rows: Vec<&[u8]> = source.chunks_exact(row).collect();
            let start = out.len();
            out.resize(start + strip, 0);
            pack_strip(format, cols, &rows, &mut out[start..]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packed formats whose rows are blocks that carry their scales.
    fn in_blocks() -> impl Iterator<Item = Format> {
        Format::ALL.into_iter().filter(|format| ![Format::F32, Format::Bnb4].contains(format))
    }

    #[test]
    fn packing_permutes_bits_and_loses_none() {
        let mut seed = 1u32;
        let mut random = || {
            seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
            (seed >> 24) as u8
        };
        for format in in_blocks() {
            for (rows, cols) in [(16usize, 256usize), (1, 256), (37, 512), (5, 32), (33, 320), (9, 384)] {
                let Some(len) = format.bytes_for((rows * cols) as u64) else { continue };
                if !cols.is_multiple_of(format.block_elements()) {
                    continue;
                }
                let mut buffer = AlignedBuffer::zeroed(len as usize, "test").unwrap();
                buffer.iter_mut().for_each(|b| *b = random());
                let matrix = Matrix::new(format, rows, cols, buffer.into()).unwrap();
                let packed = Packed::pack(&matrix).unwrap().unwrap();
                for row in 0..rows {
                    assert_eq!(
                        packed.unpack_row(row),
                        matrix.row_bytes(row).unwrap(),
                        "{format} [{rows}, {cols}], {row}"
                    );
                }
            }
        }
    }
    /// The float kernels' view of a tile against the reference decoder, up to the rounding of one product.
    #[test]
    fn tiles_hold_the_values_of_the_reference_decoder() {
        let mut seed = 7u32;
        for format in in_blocks() {
            let (rows, cols) = (16, if format.block_elements() > 32 { 512 } else { 352 });
            let len = format.bytes_for(rows * cols).unwrap() as usize;
            let mut buffer = AlignedBuffer::zeroed(len, "test").unwrap();
            for (i, byte) in buffer.iter_mut().enumerate() {
                seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
                // Small exponents wherever a format may keep a 16-bit float.
                *byte = if i % 2 == 1 { (seed >> 24) as u8 & 0xbf } else { (seed >> 24) as u8 };
            }
            let matrix = Matrix::new(format, rows as usize, cols as usize, buffer.into()).unwrap();
            let packed = Packed::pack(&matrix).unwrap().unwrap();
            let mut rest = packed.strip(0);
            for (first, tiles) in blocks(cols as usize) {
                let (block, later) = rest.split_at(block_bytes(format, tiles).unwrap());
                rest = later;
                for tile in 0..tiles {
                    let mut values: Tile = [[f32::NAN; ROWS]; TILE];
                    decode_tile(format, packed.codebook(), block, tiles, tile, &mut values);
                    for row in 0..ROWS {
                        let mut expected = vec![0.0; cols as usize];
                        matrix.decode_row(row, &mut expected);
                        for (column, values) in values.iter().enumerate() {
                            let expected = expected[first + tile * TILE + column];
                            let found = values[slot_of_row(row)];
                            let close = (found - expected).abs() <= 1e-5 * expected.abs().max(1e-30);
                            assert!(
                                close || found.to_bits() == expected.to_bits(),
                                "{format} {row} {column}: {found} for {expected}"
                            );
                        }
                    }
                }
            }
        }
    }
}
