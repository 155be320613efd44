//! Which bits of a source row go where in a block.
//!
//! Sections of a block, in order: low nibbles (or whole codes), high bits, scales. Source layouts: see `legacy`,
//! `kquant`, `float`, `int4` and, for [`Format::Bnb4`], the segments of `nf4`. In the scales' section,
//! - Q8_0 and Q4_0 have 16 f16 in slot order a tile,
//! - Q4_K and Q5_K four records of eight bytes a tile (see [`record_at`]),
//! - Q6_K 16 int8 in slot order for 16 columns, and 16 f16 behind them all,
//! - Bnb4 16 f16 absmaxes in slot order for 64 columns, whose codes choose from [`SideTables::codebook`],
//! - group int4 16 f16 scales, then 16 u8 zeros (0 to 16), each in slot order, a group.
//!
//! [`SideTables::codebook`]: super::SideTables::codebook

use super::layout::{BLOCK, Codes, LINE, ROWS, TILE, byte_at, half_at, place, slot_of_row, take_bits};
use crate::quant::Format;
use crate::quant::int4;
use crate::quant::kquant::join_scale_and_min;
use crate::quant::nf4::{SEGMENT, SEGMENT_BYTES};

/// Bytes of the scales and zeros of one group of [`Format::Int4`].
pub const GROUP_BYTES: usize = 3 * ROWS;

/// Lengths of the sections of a block of `tiles` tiles: codes, high bits, scales.
pub const fn sections(format: Format, tiles: usize) -> Option<[usize; 3]> {
    let weights = tiles * ROWS * TILE;
    match format {
        Format::F16 | Format::BF16 => Some([2 * weights, 0, 0]),
        Format::Q8_0 => Some([weights, 0, 2 * ROWS * tiles]),
        Format::Q4_0 | Format::Q4K => Some([weights / 2, 0, 2 * ROWS * tiles]),
        Format::Q5K => Some([weights / 2, weights / 8, 2 * ROWS * tiles]),
        Format::Q6K => Some([weights / 2, weights / 4, 2 * ROWS * tiles + 2 * ROWS]),
        Format::Bnb4 if (tiles * TILE).is_multiple_of(SEGMENT) => Some([weights / 2, 0, ROWS * tiles]),
        Format::Int4(group) if (tiles * TILE).is_multiple_of(group.columns()) => {
            Some([weights / 2, 0, tiles * TILE / group.columns() * GROUP_BYTES])
        }
        Format::F32 | Format::Bnb4 | Format::Int4(_) => None,
    }
}

/// Byte of 16-bit scale number `index` of `row`: 16 slots each.
fn scale_at(index: usize, row: usize) -> usize {
    2 * (index * ROWS + slot_of_row(row))
}

/// Packs columns `first..` of up to 16 rows, given as stored, into one zeroed block of `tiles` tiles.
///
/// Works in words of four codes, because a load packs every weight: [`unpack_row`] is the plain inverse.
pub fn pack_block(format: Format, rows: &[&[u8]], first: usize, tiles: usize, block: &mut [u8]) {
    let Some([codes_len, high_len, _]) = sections(format, tiles) else { return };
    let (codes, rest) = block.split_at_mut(codes_len);
    let (high, scales) = rest.split_at_mut(high_len);
    let mut records = [[0; 4]; 8];
    for (row, bytes) in rows.iter().enumerate() {
        match format {
            Format::F16 | Format::BF16 => {
                let source = bytes[2 * first..].as_chunks::<4>().0;
                put_words(codes, row, 16, source.iter().take(16 * tiles));
            }
            Format::Q8_0 => {
                for (tile, source) in bytes[first / TILE * 34..].as_chunks::<34>().0.iter().take(tiles).enumerate() {
                    scales[scale_at(tile, row)..][..2].copy_from_slice(&source[..2]);
                    put_words(&mut codes[8 * LINE * tile..], row, 8, source[2..].as_chunks::<4>().0.iter());
                }
            }
            Format::Q4_0 => {
                for (tile, source) in bytes[first / TILE * 18..].as_chunks::<18>().0.iter().take(tiles).enumerate() {
                    scales[scale_at(tile, row)..][..2].copy_from_slice(&source[..2]);
                    for (line, eight) in source[2..].as_chunks::<8>().0.iter().enumerate() {
                        let [low, high] = nibble_words(*eight);
                        put_word(codes, 4 * tile + line, row, false, low);
                        put_word(codes, 4 * tile + line + 2, row, true, high);
                    }
                }
            }
            Format::Q4K => {
                let source = &bytes[first / BLOCK * 144..][..144];
                let (runs, _) = source[16..].as_chunks::<32>();
                for (i, run) in runs.iter().enumerate() {
                    put_nibbles(codes, row, [2 * i, 2 * i + 1], run);
                }
                add_k_scales(&source[..16], row, &mut records);
            }
            Format::Q5K => {
                let source = &bytes[first / BLOCK * 176..][..176];
                for (i, run) in source[48..].as_chunks::<32>().0.iter().enumerate() {
                    put_nibbles(codes, row, [2 * i, 2 * i + 1], run);
                }
                put_single_bits(high, row, &source[16..48]);
                add_k_scales(&source[..16], row, &mut records);
            }
            Format::Q6K => {
                let source = &bytes[first / BLOCK * 210..][..210];
                for (i, run) in source[..128].as_chunks::<32>().0.iter().enumerate() {
                    let tile = i / 2 * 4 + i % 2;
                    put_nibbles(codes, row, [tile, tile + 2], run);
                }
                for (i, sixteen) in source[128..192].as_chunks::<16>().0.iter().enumerate() {
                    put_crumbs(high, row, i, sixteen);
                }
                for (sub, scale) in source[192..208].iter().enumerate() {
                    scales[sub * ROWS + slot_of_row(row)] = *scale;
                }
                scales[16 * ROWS + 2 * slot_of_row(row)..][..2].copy_from_slice(&source[208..]);
            }
            Format::Bnb4 => {
                let segments = bytes[first / SEGMENT * SEGMENT_BYTES..].as_chunks::<SEGMENT_BYTES>().0;
                for (s, source) in segments.iter().take(tiles * TILE / SEGMENT).enumerate() {
                    scales[scale_at(s, row)..][..2].copy_from_slice(&source[..2]);
                    for (line, four) in source[2..].as_chunks::<4>().0.iter().enumerate() {
                        put_pairs(
                            codes,
                            SEGMENT / 8 * s + line,
                            row,
                            u32::from_le_bytes(four.map(|b| b.rotate_left(4))),
                        );
                    }
                }
            }
            Format::Int4(group) => {
                let (columns, len) = (group.columns(), format.block_bytes());
                let groups = bytes[first / columns * len..].chunks_exact(len).take(tiles * TILE / columns);
                for (g, source) in groups.enumerate() {
                    let scales = &mut scales[g * GROUP_BYTES..][..GROUP_BYTES];
                    scales[scale_at(0, row)..][..2].copy_from_slice(&source[..2]);
                    scales[2 * ROWS + slot_of_row(row)] = source[2];
                    for (line, four) in source[int4::HEAD..].as_chunks::<4>().0.iter().enumerate() {
                        put_pairs(codes, columns / 8 * g + line, row, u32::from_le_bytes(*four));
                    }
                }
            }
            Format::F32 => {}
        }
    }
    if matches!(format, Format::Q4K | Format::Q5K) {
        for (out, record) in scales.as_chunks_mut::<8>().0.iter_mut().zip(records.as_flattened()) {
            *out = record.to_le_bytes();
        }
    }
}

/// Puts the four bytes of `row` into line `line`.
#[inline(always)]
fn put_word(lines: &mut [u8], line: usize, row: usize, rotated: bool, word: u32) {
    lines[line * LINE + place(row, rotated)..][..4].copy_from_slice(&word.to_le_bytes());
}

/// Puts four bytes of `row` into each line, of which a tile has `per_tile`.
#[inline(always)]
fn put_words<'a>(lines: &mut [u8], row: usize, per_tile: usize, words: impl Iterator<Item = &'a [u8; 4]>) {
    for (line, word) in words.enumerate() {
        let rotated = line % per_tile >= per_tile / 2;
        lines[line * LINE + place(row, rotated)..][..4].copy_from_slice(word);
    }
}

/// The low nibbles of eight bytes, and the high ones, as a line of eight columns holds them: those of the last four bytes
/// above those of the first four.
#[inline(always)]
fn nibble_words(eight: [u8; 8]) -> [u32; 2] {
    let pairs = u64::from_le_bytes(eight);
    let (first, last) = (pairs as u32, (pairs >> 32) as u32);
    let low = 0x0f0f_0f0f;
    [first & low | (last & low) << 4, first >> 4 & low | last & !low]
}

/// Puts 32 bytes, which hold the codes of two tiles in their low and their high nibbles.
#[inline(always)]
fn put_nibbles(codes: &mut [u8], row: usize, tiles: [usize; 2], run: &[u8; 32]) {
    for (line, eight) in run.as_chunks::<8>().0.iter().enumerate() {
        for (tile, word) in tiles.into_iter().zip(nibble_words(*eight)) {
            put_word(codes, 4 * tile + line, row, line >= 2, word);
        }
    }
}

/// Puts eight columns, one nibble each, the lowest first, into line `line`.
#[inline(always)]
fn put_pairs(codes: &mut [u8], line: usize, row: usize, columns: u32) {
    let spread = |four: u32| {
        let two = (four | four << 8) & 0x00ff_00ff;
        (two | two << 4) & 0x0f0f_0f0f
    };
    put_word(codes, line, row, line % 4 >= 2, spread(columns & 0xffff) | spread(columns >> 16) << 4);
}

/// Puts the 32 bytes of Q5_K's upper bits: bit `sub` of each belongs to tile `sub`.
#[inline(always)]
fn put_single_bits(high: &mut [u8], row: usize, bytes: &[u8]) {
    let mut words = [0; 8];
    for (field, four) in bytes.as_chunks::<4>().0.iter().enumerate() {
        let four = u32::from_le_bytes(*four);
        for (sub, word) in words.iter_mut().enumerate() {
            *word |= (four >> sub & 0x0101_0101) << field;
        }
    }
    for (tile, word) in words.into_iter().enumerate() {
        put_word(high, tile, row, false, word);
    }
}

/// Puts 16 bytes of Q6_K's upper bits, the `i`-th of four: one half line of four tiles.
#[inline(always)]
fn put_crumbs(high: &mut [u8], row: usize, i: usize, sixteen: &[u8; 16]) {
    let (half, line) = (i / 2, i % 2);
    let mut words = [0; 4];
    for (field, four) in sixteen.as_chunks::<4>().0.iter().enumerate() {
        let four = u32::from_le_bytes(*four);
        for (quarter, word) in words.iter_mut().enumerate() {
            *word |= (four >> (2 * quarter) & 0x0303_0303) << (2 * field);
        }
    }
    for (quarter, word) in words.into_iter().enumerate() {
        put_word(high, 2 * (4 * half + quarter) + line, row, line == 1, word);
    }
}

/// Byte of the record of sub-block `sub` for the four slots of `quad`: four 6-bit scales, four 6-bit minima, and 16 bits
/// of `d` (even `sub`) or `dmin` (odd) of slot `sub / 2` of the quad.
fn record_at(sub: usize, quad: usize) -> usize {
    8 * (4 * sub + quad)
}

/// Adds `d`, `dmin` and the twelve bytes of 6-bit scales and minima of one row to the records `[sub-block][quad]`.
#[inline(always)]
fn add_k_scales(head: &[u8], row: usize, records: &mut [[u64; 4]; 8]) {
    let (quad, lane) = (slot_of_row(row) / 4, slot_of_row(row) % 4);
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(head.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    let [factors, a, b, c] = words;
    let (six, four, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x3030_3030);
    let scales = u64::from(a & six) | u64::from(c & four | a >> 2 & two) << 32;
    let mins = u64::from(b & six) | u64::from(c >> 4 & four | b >> 2 & two) << 32;
    for (sub, records) in records.iter_mut().enumerate() {
        let field = |bytes: u64| bytes >> (8 * sub) & 63;
        records[quad] |= field(scales) << (6 * lane) | field(mins) << (24 + 6 * lane);
    }
    records[2 * lane][quad] |= u64::from(factors & 0xffff) << 48;
    records[2 * lane + 1][quad] |= u64::from(factors >> 16) << 48;
}

/// The inverse of [`add_k_scales`] for one row.
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
    match format {
        Format::F32 | Format::F16 | Format::BF16 | Format::Q8_0 => {}
        _ => take_bits::<4>(0, codes, tiles, &mut nibbles),
    }
    match format {
        Format::Q5K => take_bits::<1>(4, high, tiles, &mut nibbles),
        Format::Q6K => take_bits::<2>(4, high, tiles, &mut nibbles),
        _ => {}
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
        Format::Q5K => {
            out.extend_from_slice(&unpack_k_scales(scales, row));
            out.extend((0..32).map(|i| (0..8).fold(0, |byte, sub| byte | (nibbles[32 * sub + i] >> 4) << sub)));
            let at = |i: usize| nibbles[i] & 15;
            out.extend((0..128).map(|i| at(i / 32 * 64 + i % 32) | at(i / 32 * 64 + i % 32 + 32) << 4));
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
        Format::Bnb4 => {
            for (s, codes) in nibbles[..tiles * TILE].chunks_exact(SEGMENT).enumerate() {
                out.extend_from_slice(&scales[scale_at(s, row)..][..2]);
                out.extend(codes.as_chunks::<2>().0.iter().map(|[even, odd]| even << 4 | odd));
            }
        }
        Format::Int4(group) => {
            for (g, codes) in nibbles[..tiles * TILE].chunks_exact(group.columns()).enumerate() {
                let scales = &scales[g * GROUP_BYTES..][..GROUP_BYTES];
                out.extend_from_slice(&scales[scale_at(0, row)..][..2]);
                out.push(scales[2 * ROWS + slot_of_row(row)]);
                out.extend(codes.as_chunks::<2>().0.iter().map(|[even, odd]| even | odd << 4));
            }
        }
        Format::F32 => {}
    }
}
