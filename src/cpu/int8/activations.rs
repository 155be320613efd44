//! Activations as int8, a scale for every 32 columns, in panels.
//!
//! Rows that a kernel multiplies at the same time lie together: a panel has, tile by tile, the codes of each of its rows,
//! then their scales, offsets and sums. So a kernel needs one pointer and constant distances from it for all of them, and
//! the codes of a tile are the operand that AMX loads.

use std::marker::PhantomData;
use std::ops::Range;

use crate::cpu::isa::Isa;
use crate::cpu::kernels::kernel;
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

/// The memory of an [`Int8Rows`], which several tasks fill at the same time, each its own tiles.
#[derive(Clone, Copy)]
pub struct SharedInt8<'a> {
    words: *mut u32,
    len: usize,
    borrow: PhantomData<&'a mut [u32]>,
}

// SAFETY: the pointer is that of an exclusive borrow, and the callers of `quantize` touch separate tiles.
unsafe impl Send for SharedInt8<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedInt8<'_> {}

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
        SharedInt8 { words: self.words.as_mut_ptr(), len: self.words.len(), borrow: PhantomData }
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
    ///
    /// # Safety
    /// Nothing else touches these tiles of the row in the same round.
    ///
    /// # Panics
    /// When they are not all there, which is a defect.
    pub unsafe fn quantize(self, isa: Isa, group: RowGroup, row: usize, column: usize, values: &[f32]) {
        assert!(row < group.rows && column + values.len() <= group.cols, "row {row} has no such values");
        let place = Place::new(row, group.rows, group.cols / TILE, group.panel);
        let first = group.at / TILE * WORDS + place.panel + column / TILE * WORDS * place.rows;
        let end = first + values.len() / TILE * WORDS * place.rows;
        assert!(end <= self.len, "row {row} of {} has no place", group.rows);
        // SAFETY: it lies before `end`.
        let words = unsafe { self.words.add(first) };
        isa.quantize_tiles(values, Lane { words, rows: place.rows, lane: place.lane });
    }
}

/// A row's place in the tiles of a panel, from a tile on for as many as there are values, which belong to the holder.
#[derive(Clone, Copy)]
pub struct Lane {
    words: *mut u32,
    rows: usize,
    lane: usize,
}

kernel! {
    /// Quantises whole tiles to where `to` says. Values that are not finite make a scale NaN, which keeps the failure visible.
    quantize_tiles = quantize_body(values: &[f32], to: Lane)
}

#[inline(always)]
fn quantize_body<const FMA: bool>(values: &[f32], to: Lane) {
    for (tile, values) in values.as_chunks::<TILE>().0.iter().enumerate() {
        let (codes, scale, sums) = quantize_tile::<FMA>(values);
        let offset = scale * f32::from(sums[0] + sums[1]);
        let [low, high] = sums.map(|sum| u32::from(sum.cast_unsigned()));
        let others = [scale.to_bits(), offset.to_bits(), low | high << 16];
        let at = tile * WORDS * to.rows;
        // SAFETY: the holder of the lane has these words of each of its tiles for itself.
        unsafe {
            to.words.add(at + to.lane * CODES).cast::<[u8; TILE]>().write_unaligned(codes);
            for (i, word) in others.into_iter().enumerate() {
                to.words.add(at + (CODES + i) * to.rows + to.lane).write(word);
            }
        }
    }
}

/// The codes of a tile, its scale `max |x| / 127`, and the sums of its halves' codes.
#[inline(always)]
fn quantize_tile<const FMA: bool>(values: &[f32; TILE]) -> ([u8; TILE], f32, [i16; 2]) {
    /// Values that a step takes.
    const LANES: usize = 8;
    /// 1.5 * 2^23: in a sum with this, the lowest bits are the rounded value, ties to even.
    const ROUND: f32 = 12_582_912.0;
    let mut largest = [0f32; LANES];
    let mut total = [0f32; LANES];
    for eight in values.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            largest[lane] = largest[lane].max(eight[lane].abs());
            // `max` passes NaN over, a sum does not.
            total[lane] += eight[lane].abs();
        }
    }
    let largest = largest.iter().fold(0f32, |m, x| m.max(*x));
    let scale = if total.iter().sum::<f32>().is_finite() { largest / 127.0 } else { f32::NAN };
    let inverse = if scale > 0.0 { 127.0 / largest } else { 0.0 };
    let mut rounded = [0u8; TILE];
    for (rounded, x) in rounded.iter_mut().zip(values) {
        *rounded = (x * inverse + ROUND).to_bits() as u8;
    }
    let mut sums = [0i16; 2];
    for (sum, half) in sums.iter_mut().zip(rounded.as_chunks::<16>().0) {
        *sum = half.iter().map(|code| i16::from(code.cast_signed())).sum();
    }
    (rounded, scale, sums)
}

impl<'a> Panels<'a> {
    /// How many rows there are.
    #[inline]
    pub fn rows(&self) -> usize {
        self.rows
    }

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
