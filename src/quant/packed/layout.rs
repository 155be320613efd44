//! Where a code lies in a tile.
//!
//! A tile is 16 rows by 32 columns, in 64-byte lines that hold four bytes of every row: the operand shape of VPDPBUSD,
//! AMX, `dp4a` and `mma`. Rows stand in the order 0, 8, 1, 9, …, 7, 15 (a [slot](slot_of_row) each), which is the order
//! that an `mma` fragment's registers want; the lines of a tile's second half are rotated by 32 bytes, so that a warp
//! reads them without bank conflicts. A processor with 32-byte registers sees two half lines of eight slots.

/// Rows of a strip.
pub const ROWS: usize = 16;
/// Columns of a tile.
pub const TILE: usize = 32;
/// Columns of a block.
pub const BLOCK: usize = 256;
/// Bytes of a line: four of each row.
pub const LINE: usize = 64;

/// Codes of up to one block: `[row][column]`.
pub type Codes = [[u8; BLOCK]; ROWS];

/// The slot at which `row` stands in a line.
pub const fn slot_of_row(row: usize) -> usize {
    2 * (row % 8) + row / 8
}

/// The row that stands at `slot`.
pub const fn row_of_slot(slot: usize) -> usize {
    slot / 2 + 8 * (slot % 2)
}

/// Byte within a line where the four bytes of `row` begin; `second_half` for the rotated lines of a tile.
pub const fn place(row: usize, second_half: bool) -> usize {
    (4 * slot_of_row(row) + if second_half { LINE / 2 } else { 0 }) % LINE
}

/// Reads the first `tiles` tiles of fields of `BITS` (4, 2 or 1) bits, in lines of `32 / BITS` columns: byte `b`, field `f` of
/// a row's four bytes is column `b + 4 f`. A line of single bits spans the whole tile and is not rotated. The fields are
/// or-ed into `codes`, `skip` bits up.
pub fn take_bits<const BITS: usize>(skip: usize, data: &[u8], tiles: usize, codes: &mut Codes) {
    let mask = (1u8 << BITS) - 1;
    for (line, data) in data.chunks_exact(LINE).take(tiles * BITS).enumerate() {
        let first = line * (32 / BITS);
        let rotated = BITS > 1 && first % TILE >= TILE / 2;
        for (row, codes) in codes.iter_mut().enumerate() {
            let bytes = &data[place(row, rotated)..][..4];
            for (i, code) in codes[first..first + 32 / BITS].iter_mut().enumerate() {
                *code |= ((bytes[i % 4] >> (BITS * (i / 4))) & mask) << skip;
            }
        }
    }
}

/// Byte of an 8-bit code: eight lines a tile, four columns each.
pub const fn byte_at(row: usize, column: usize) -> usize {
    (column / 4) * LINE + place(row, column % TILE >= TILE / 2) + column % 4
}

/// Byte of a 16-bit value: sixteen lines a tile, two columns each.
pub const fn half_at(row: usize, column: usize) -> usize {
    (column / 2) * LINE + place(row, column % TILE >= TILE / 2) + 2 * (column % 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The inverse of [`take_bits`]: puts the bits above `skip` of every code of the first `tiles` tiles into `out`.
    fn put_bits<const BITS: usize>(skip: usize, codes: &Codes, tiles: usize, out: &mut [u8]) {
        let mask = (1u8 << BITS) - 1;
        for (line, out) in out.chunks_exact_mut(LINE).take(tiles * BITS).enumerate() {
            let first = line * (32 / BITS);
            let rotated = BITS > 1 && first % TILE >= TILE / 2;
            for (row, codes) in codes.iter().enumerate() {
                let mut word = 0u32;
                for (field, four) in codes[first..first + 32 / BITS].as_chunks::<4>().0.iter().enumerate() {
                    let fields = four.map(|code| (code >> skip) & mask);
                    word |= u32::from_le_bytes(fields) << (BITS * field);
                }
                out[place(row, rotated)..][..4].copy_from_slice(&word.to_le_bytes());
            }
        }
    }

    #[test]
    fn every_code_of_a_block_has_its_own_bits_and_comes_back() {
        let mut codes: Codes = [[0; BLOCK]; ROWS];
        for (row, codes) in codes.iter_mut().enumerate() {
            for (column, code) in codes.iter_mut().enumerate() {
                *code = ((row * 31 + column * 7) % 251) as u8;
            }
        }
        for tiles in [1, 3, 8] {
            comes_back::<4>(0, &codes, tiles);
            comes_back::<4>(4, &codes, tiles);
            comes_back::<2>(4, &codes, tiles);
            comes_back::<1>(4, &codes, tiles);
        }
    }

    fn comes_back<const BITS: usize>(skip: usize, codes: &Codes, tiles: usize) {
        let mut data = vec![0; tiles * BITS * LINE];
        put_bits::<BITS>(skip, codes, tiles, &mut data);
        let mut back: Codes = [[0; BLOCK]; ROWS];
        take_bits::<BITS>(skip, &data, tiles, &mut back);
        let mask = ((1u8 << BITS) - 1) << skip;
        for (codes, back) in codes.iter().zip(&back) {
            let expected: Vec<u8> = codes[..tiles * TILE].iter().map(|c| c & mask).collect();
            assert_eq!(&back[..tiles * TILE], expected);
        }
    }

    #[test]
    fn bytes_and_halves_of_a_block_do_not_overlap() {
        let mut bytes = vec![false; ROWS * BLOCK];
        let mut halves = vec![false; ROWS * BLOCK];
        for row in 0..ROWS {
            for column in 0..BLOCK {
                assert!(!std::mem::replace(&mut bytes[byte_at(row, column)], true));
                assert!(half_at(row, column).is_multiple_of(2));
                assert!(!std::mem::replace(&mut halves[half_at(row, column) / 2], true));
            }
        }
    }
}
