//! Activations as int8, a scale for every 32 columns, in panels.
//!
//! Rows that a kernel multiplies at the same time lie together: a panel has, tile by tile, the codes of each of its rows,
//! then their scales, offsets and sums. So a kernel needs one pointer and constant distances from it for all of them, and
//! the codes of a tile are the operand that AMX loads.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cpu::isa::Isa;
use crate::quant::packed::TILE;

/// Words of four codes that a row has in a tile.
pub const CODES: usize = TILE / 4;
/// Words of a row in a tile: its codes, its scale, its offset (the scale times the sum of the codes: what a minimum is
/// multiplied with) and the sums of the codes of both halves, 16 bits each.
pub const WORDS: usize = CODES + 3;

/// Quantised activations: `x ≈ scale * code` with `scale = max |x| / 127` over each 32 columns of a row.
#[derive(Default)]
pub struct Int8Rows {
    words: Vec<u32>,
}

/// Rows that some product takes as its inputs, all of them: they are cut into panels from the first on.
#[derive(Clone, Copy)]
pub struct RowGroup {
    /// Where their values start in the buffer that was quantised.
    pub at: usize,
    pub rows: usize,
    pub cols: usize,
    /// Rows of a panel: [`panel_rows`].
    pub panel: usize,
}

/// Rows of each panel but the last, which has what is left, where `rows` rows are cut into as few panels of up to `most`
/// rows as can be, as evenly as can be.
pub fn panel_rows(rows: usize, most: usize) -> usize {
    rows.div_ceil(rows.div_ceil(most).max(1)).max(1)
}

/// A group's rows, or some whole panels of them.
#[derive(Clone, Copy)]
pub struct Panels<'a> {
    words: &'a [u32],
    rows: usize,
    tiles: usize,
    panel: usize,
}

/// The memory of an [`Int8Rows`], which several tasks fill at the same time.
#[derive(Clone, Copy)]
pub struct SharedInt8<'a>(&'a [AtomicU32]);

/// Where a row lies among the panels of its group.
struct Place {
    /// First word of its panel.
    panel: usize,
    /// Rows of its panel.
    rows: usize,
    /// Which of them it is.
    lane: usize,
}

impl Place {
    fn new(row: usize, rows: usize, tiles: usize, panel: usize) -> Self {
        let first = row / panel * panel;
        Self { panel: first * tiles * WORDS, rows: panel.min(rows - first), lane: row - first }
    }

    /// The words of `tile`: its codes, and the three others one by one.
    fn words(&self, tile: usize) -> (Range<usize>, [usize; 3]) {
        let at = self.panel + tile * WORDS * self.rows;
        let codes = at + self.lane * CODES;
        (codes..codes + CODES, [0, 1, 2].map(|i| at + (CODES + i) * self.rows + self.lane))
    }
}

impl RowGroup {
    /// `rows` rows of `cols` columns from value `at` on, in panels of up to `most` rows.
    pub fn new(at: usize, rows: usize, cols: usize, most: usize) -> Self {
        Self { at, rows, cols, panel: panel_rows(rows, most) }
    }
}

impl Int8Rows {
    /// Whether rows of `cols` columns can be quantised.
    pub fn takes(cols: usize) -> bool {
        cols.is_multiple_of(TILE)
    }

    /// Room for `len` values, to be filled by [`SharedInt8::quantize`]; what it holds is unspecified.
    pub fn share(&mut self, len: usize) -> SharedInt8<'_> {
        self.words.resize(len / TILE * WORDS, 0);
        let (pointer, len) = (self.words.as_mut_ptr().cast::<AtomicU32>(), self.words.len());
        // SAFETY: `AtomicU32` has the size, alignment and bit validity of `u32`, and the exclusive borrow is held as long.
        SharedInt8(unsafe { std::slice::from_raw_parts(pointer, len) })
    }

    /// The rows of `group`.
    pub fn panels(&self, group: RowGroup) -> Panels<'_> {
        let tiles = group.cols / TILE;
        let first = group.at / TILE * WORDS;
        let words = self.words.get(first..first + group.rows * tiles * WORDS).unwrap_or_default();
        Panels { words, rows: group.rows, tiles, panel: group.panel }
    }
}

impl SharedInt8<'_> {
    /// Quantises `values`, whole tiles, to where column `column` of row `row` of `group` begins.
    pub fn quantize(self, isa: Isa, group: RowGroup, row: usize, column: usize, values: &[f32]) {
        let place = Place::new(row, group.rows, group.cols / TILE, group.panel);
        let all = &self.0[group.at / TILE * WORDS..];
        for (tile, values) in (column / TILE..).zip(values.as_chunks::<TILE>().0) {
            let (mut codes, mut sums) = ([0; CODES], [0; 2]);
            let scale = isa.quantize_tile(values, &mut codes, &mut sums);
            let offset = scale * f32::from(sums[0] + sums[1]);
            let [low, high] = sums.map(|sum| u32::from(sum.cast_unsigned()));
            let (code_words, others) = place.words(tile);
            for (word, codes) in all[code_words].iter().zip(codes) {
                word.store(codes, Ordering::Relaxed);
            }
            for (at, word) in others.into_iter().zip([scale.to_bits(), offset.to_bits(), low | high << 16]) {
                all[at].store(word, Ordering::Relaxed);
            }
        }
    }
}

impl<'a> Panels<'a> {
    /// The words of each panel, with its number of rows.
    #[inline(always)]
    pub fn each(self) -> impl Iterator<Item = (usize, &'a [u32])> {
        let row = self.tiles * WORDS;
        self.words.chunks(self.panel * row).map(move |words| (words.len() / row, words))
    }

    /// Rows `rows`, which start with a panel, and end with one or with the last row.
    pub fn range(self, rows: Range<usize>) -> Self {
        let row = self.tiles * WORDS;
        Self { words: &self.words[rows.start * row..rows.end * row], rows: rows.len(), ..self }
    }

    /// The rows `picked` in panels of their own of up to `most` rows, in memory `to`.
    pub fn gather<'b>(self, picked: &[u32], most: usize, to: &'b mut Vec<u32>) -> Panels<'b> {
        let (rows, panel) = (picked.len(), panel_rows(picked.len(), most));
        let len = rows * self.tiles * WORDS;
        if to.len() < len {
            to.resize(len, 0);
        }
        let words = &mut to[..len];
        for (row, from) in picked.iter().enumerate() {
            let from = Place::new(*from as usize, self.rows, self.tiles, self.panel);
            let place = Place::new(row, rows, self.tiles, panel);
            for tile in 0..self.tiles {
                let ((from_codes, from_others), (codes, others)) = (from.words(tile), place.words(tile));
                words[codes].copy_from_slice(&self.words[from_codes]);
                others.into_iter().zip(from_others).for_each(|(to, from)| words[to] = self.words[from]);
            }
        }
        Panels { words, rows, tiles: self.tiles, panel }
    }

    /// Codes, scale, offset and half sums of tile `tile` of row `row`.
    #[cfg(test)]
    pub fn tile(&self, row: usize, tile: usize) -> ([i8; TILE], f32, f32, [i16; 2]) {
        let place = Place::new(row, self.rows, self.tiles, self.panel);
        let (codes, [scale, offset, sums]) = place.words(tile);
        let mut bytes = [0; TILE];
        for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&self.words[codes]) {
            *bytes = word.to_le_bytes().map(u8::cast_signed);
        }
        let [scale, offset] = [scale, offset].map(|at| f32::from_bits(self.words[at]));
        (bytes, scale, offset, half_sums(self.words[sums]))
    }
}

/// Both sums of a word.
#[inline(always)]
pub fn half_sums(word: u32) -> [i16; 2] {
    [word as u16, (word >> 16) as u16].map(u16::cast_signed)
}
