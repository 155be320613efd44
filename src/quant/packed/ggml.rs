//! Packing of ggml's formats and of plain 16-bit floats: which bits of a source row go where in a block.
//!
//! Sections of a block, in order: low nibbles (or whole codes), high bits, scales. Source layouts: see `legacy`,
//! `kquant` and `float`.

use super::layout::{BLOCK, Codes, ROWS, TILE, byte_at, half_at, put_bits, slot_of_row, take_bits};
use crate::quant::Format;
use crate::quant::kquant::{join_scale_and_min, scale_and_min};

/// Lengths of the sections of a block of `tiles` tiles: codes, high bits, scales.
pub const fn sections(format: Format, tiles: usize) -> Option<[usize; 3]> {
    let weights = tiles * ROWS * TILE;
    match format {
        Format::F16 | Format::BF16 => Some([2 * weights, 0, 0]),
        Format::Q8_0 => Some([weights, 0, 2 * ROWS * tiles]),
        Format::Q4_0 | Format::Q4K => Some([weights / 2, 0, 2 * ROWS * tiles]),
        Format::Q6K => Some([weights / 2, weights / 4, 2 * ROWS * tiles + 2 * ROWS]),
        Format::F32 | Format::Bnb4 => None,
    }
}

/// Byte of the 16-bit scale of `row` in tile `tile`: 16 slots a tile.
fn scale_at(tile: usize, row: usize) -> usize {
    2 * (tile * ROWS + slot_of_row(row))
}

/// Packs columns `first..` of up to 16 rows, given as stored, into one zeroed block of `tiles` tiles.
pub fn pack_block(format: Format, rows: &[&[u8]], first: usize, tiles: usize, block: &mut [u8]) {
    let Some([codes_len, high_len, _]) = sections(format, tiles) else { return };
    let (codes, rest) = block.split_at_mut(codes_len);
    let (high, scales) = rest.split_at_mut(high_len);
    let mut nibbles: Codes = [[0; BLOCK]; ROWS];
    for (row, bytes) in rows.iter().enumerate() {
        match format {
            Format::F16 | Format::BF16 => {
                for (column, value) in bytes[2 * first..].as_chunks::<2>().0.iter().take(tiles * TILE).enumerate() {
                    codes[half_at(row, column)..][..2].copy_from_slice(value);
                }
            }
            Format::Q8_0 => {
                for (tile, source) in bytes[first / TILE * 34..].chunks_exact(34).take(tiles).enumerate() {
                    scales[scale_at(tile, row)..][..2].copy_from_slice(&source[..2]);
                    for (i, code) in source[2..].iter().enumerate() {
                        codes[byte_at(row, tile * TILE + i)] = *code;
                    }
                }
            }
            Format::Q4_0 => {
                for (tile, source) in bytes[first / TILE * 18..].chunks_exact(18).take(tiles).enumerate() {
                    scales[scale_at(tile, row)..][..2].copy_from_slice(&source[..2]);
                    for (i, pair) in source[2..].iter().enumerate() {
                        nibbles[row][tile * TILE + i] = pair & 15;
                        nibbles[row][tile * TILE + 16 + i] = pair >> 4;
                    }
                }
            }
            Format::Q4K => {
                let source = &bytes[first / BLOCK * 144..][..144];
                for (i, pair) in source[16..].iter().enumerate() {
                    let column = i / 32 * 64 + i % 32;
                    nibbles[row][column] = pair & 15;
                    nibbles[row][column + 32] = pair >> 4;
                }
                pack_k_scales(&source[..16], row, scales);
            }
            Format::Q6K => {
                let source = &bytes[first / BLOCK * 210..][..210];
                for (column, code) in nibbles[row].iter_mut().enumerate() {
                    let (half, within) = (column / 128, column % 128);
                    let (quarter, i) = (within / 32, within % 32);
                    let low = source[64 * half + i + 32 * (quarter % 2)] >> (4 * (quarter / 2)) & 15;
                    *code = low | (source[128 + 32 * half + i] >> (2 * quarter) & 3) << 4;
                }
                for (sub, scale) in source[192..208].iter().enumerate() {
                    scales[sub * ROWS + slot_of_row(row)] = *scale;
                }
                scales[16 * ROWS + 2 * slot_of_row(row)..][..2].copy_from_slice(&source[208..]);
            }
            Format::F32 | Format::Bnb4 => {}
        }
    }
    match format {
        Format::Q4_0 | Format::Q4K => put_bits::<4>(0, &nibbles, tiles, codes),
        Format::Q6K => {
            put_bits::<4>(0, &nibbles, tiles, codes);
            put_bits::<2>(4, &nibbles, tiles, high);
        }
        _ => {}
    }
}

/// Byte of the record of sub-block `sub` for the four slots of `quad`: four 6-bit scales, four 6-bit minima, and 16 bits
/// of `d` (even `sub`) or `dmin` (odd) of slot `sub / 2` of the quad.
fn record_at(sub: usize, quad: usize) -> usize {
    8 * (4 * sub + quad)
}

/// Packs `d`, `dmin` and the twelve bytes of 6-bit scales and minima of one row.
fn pack_k_scales(head: &[u8], row: usize, scales: &mut [u8]) {
    let (quad, lane) = (slot_of_row(row) / 4, slot_of_row(row) % 4);
    for sub in 0..8 {
        let (scale, min) = scale_and_min(&head[4..], sub);
        let at = record_at(sub, quad);
        let mut record = [0; 8];
        record.copy_from_slice(&scales[at..at + 8]);
        let bits = u64::from(scale) << (6 * lane) | u64::from(min) << (24 + 6 * lane);
        let record = u64::from_le_bytes(record) | bits;
        scales[at..at + 8].copy_from_slice(&record.to_le_bytes());
    }
    for (which, value) in head[..4].chunks_exact(2).enumerate() {
        scales[record_at(2 * lane + which, quad) + 6..][..2].copy_from_slice(value);
    }
}

/// The inverse of [`pack_k_scales`].
fn unpack_k_scales(scales: &[u8], row: usize) -> [u8; 16] {
    let (quad, lane) = (slot_of_row(row) / 4, slot_of_row(row) % 4);
    let mut head = [0; 16];
    for which in 0..2 {
        head[2 * which..2 * which + 2].copy_from_slice(&scales[record_at(2 * lane + which, quad) + 6..][..2]);
    }
    for sub in 0..8 {
        let mut record = [0; 8];
        record.copy_from_slice(&scales[record_at(sub, quad)..][..8]);
        let record = u64::from_le_bytes(record);
        let field = |shift: usize| (record >> shift & 63) as u8;
        join_scale_and_min(&mut head[4..], sub, field(6 * lane), field(24 + 6 * lane));
    }
    head
}

/// The inverse of [`pack_block`] for one row: its bytes as stored in the source, appended to `out`.
pub fn unpack_row(format: Format, block: &[u8], row: usize, tiles: usize, out: &mut Vec<u8>) {
    let Some([codes_len, high_len, _]) = sections(format, tiles) else { return };
    let (codes, rest) = block.split_at(codes_len);
    let (high, scales) = rest.split_at(high_len);
    let mut nibbles: Codes = [[0; BLOCK]; ROWS];
    if matches!(format, Format::Q4_0 | Format::Q4K | Format::Q6K) {
        take_bits::<4>(0, codes, tiles, &mut nibbles);
    }
    if format == Format::Q6K {
        take_bits::<2>(4, high, tiles, &mut nibbles);
    }
    let nibbles = &nibbles[row];
    match format {
        Format::F16 | Format::BF16 => {
            (0..tiles * TILE).for_each(|c| out.extend_from_slice(&codes[half_at(row, c)..][..2]));
        }
        Format::Q8_0 => {
            for tile in 0..tiles {
                out.extend_from_slice(&scales[scale_at(tile, row)..][..2]);
                out.extend((0..TILE).map(|i| codes[byte_at(row, tile * TILE + i)]));
            }
        }
        Format::Q4_0 => {
            for tile in 0..tiles {
                out.extend_from_slice(&scales[scale_at(tile, row)..][..2]);
                out.extend((0..16).map(|i| nibbles[tile * TILE + i] | nibbles[tile * TILE + 16 + i] << 4));
            }
        }
        Format::Q4K => {
            out.extend_from_slice(&unpack_k_scales(scales, row));
            let pair = |i: usize| nibbles[i / 32 * 64 + i % 32] | nibbles[i / 32 * 64 + i % 32 + 32] << 4;
            out.extend((0..128).map(pair));
        }
        Format::Q6K => {
            let at = |half: usize, quarter: usize, i: usize| nibbles[128 * half + 32 * quarter + i];
            for half in 0..2 {
                out.extend((0..64).map(|i| at(half, i / 32, i % 32) & 15 | (at(half, i / 32 + 2, i % 32) & 15) << 4));
            }
            for half in 0..2 {
                out.extend((0..32).map(|i| (0..4).fold(0, |byte, q| byte | (at(half, q, i) >> 4) << (2 * q))));
            }
            out.extend((0..16).map(|sub| scales[sub * ROWS + slot_of_row(row)]));
            out.extend_from_slice(&scales[16 * ROWS + 2 * slot_of_row(row)..][..2]);
        }
        Format::F32 | Format::Bnb4 => {}
    }
}
