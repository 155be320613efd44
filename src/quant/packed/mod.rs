//! The packed form: one copy of a weight that every kernel streams.
//!
//! A matrix is cut into strips of 16 rows; a strip is its blocks of 256 columns in order (the last one may have fewer
//! tiles of 32), each with the codes first and the scales behind them. Packing permutes the bits of the source format,
//! it does not round: [`Packed::decode_rows`] gives the values of the reference decoder bit for bit. Rows beyond the
//! last and columns beyond a tile's end are zero codes with zero scales.

mod ggml;
mod layout;
mod tile;

pub use ggml::sections;
pub use layout::{BLOCK, LINE, ROWS, TILE, row_of_slot, slot_of_row};
pub use tile::{Tile, decode_tile};

use super::{AlignedBuffer, Bytes, Format, Matrix, decode};
use crate::error::{Error, Result};

/// A matrix in packed form.
#[derive(Debug, Clone)]
pub struct Packed {
    format: Format,
    rows: usize,
    cols: usize,
    strip_len: usize,
    data: Bytes,
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
        let total = strip_len.checked_mul(rows.div_ceil(ROWS));
        let total = total.ok_or_else(|| Error::Internal(format!("{format} [{rows}, {cols}] overflows")))?;
        let mut data = AlignedBuffer::zeroed(total, "packed weights")?;
        for (s, strip) in data.chunks_exact_mut(strip_len).enumerate() {
            let source: Vec<&[u8]> = (s * ROWS..rows.min((s + 1) * ROWS)).filter_map(|r| matrix.row_bytes(r)).collect();
            pack_strip(format, cols, &source, strip);
        }
        Ok(Some(Self { format, rows, cols, strip_len, data: data.into() }))
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

    /// Bytes that the matrix occupies.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// All strips.
    pub fn data(&self) -> &[u8] {
        &self.data
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
        decode(self.format, &self.unpack_row(row), out);
    }

    /// The bytes of row `row` as the source format stores them.
    pub fn unpack_row(&self, row: usize) -> Vec<u8> {
        let mut rest = self.strip(row / ROWS);
        let mut out = Vec::new();
        for (_, tiles) in blocks(self.cols) {
            let (block, later) = rest.split_at(block_bytes(self.format, tiles).unwrap_or(0));
            ggml::unpack_row(self.format, block, row % ROWS, tiles, &mut out);
            rest = later;
        }
        out
    }
}

/// Packs up to 16 rows, given as stored, into one zeroed strip.
pub fn pack_strip(format: Format, cols: usize, rows: &[&[u8]], strip: &mut [u8]) {
    let mut rest = strip;
    for (first, tiles) in blocks(cols) {
        let (block, later) = rest.split_at_mut(block_bytes(format, tiles).unwrap_or(0));
        ggml::pack_block(format, rows, first, tiles, block);
        rest = later;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_permutes_bits_and_loses_none() {
        let mut seed = 1u32;
        let mut random = || {
            seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
            (seed >> 24) as u8
        };
        let formats = [Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0, Format::Q4K, Format::Q6K];
        for format in formats {
            for (rows, cols) in [(16usize, 256usize), (1, 256), (37, 512), (5, 32), (33, 320)] {
                let Some(len) = format.bytes_for((rows * cols) as u64) else { continue };
                let whole_rows = cols.is_multiple_of(format.block_elements());
                if !whole_rows {
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
        for format in [Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0, Format::Q4K, Format::Q6K] {
            let (rows, cols) = (16, if format.block_elements() == 256 { 512 } else { 352 });
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
                    decode_tile(format, block, tiles, tile, &mut values);
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
