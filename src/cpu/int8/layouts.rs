//! How each packed format is read: codes line by line, then the scales of a tile.
//!
//! Every format comes down to `weight = scale * (code + OFFSET) - min` with a scale and a minimum for each slot and tile;
//! Q6_K weighs the two halves of a tile besides.

use super::simd::Simd;
use crate::quant::packed::{LINE, ROWS};

/// What the bits of a code allow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Unsigned, up to 15.
    Four,
    /// Unsigned, up to 31.
    Five,
    /// Unsigned, up to 63, for -32 to 31, with an integer weight for each half of a tile.
    Six,
    /// Unsigned, up to [`Simd::UNSIGNED_MAX`].
    Unsigned,
    /// Signed.
    Signed,
}

/// The bytes of a block, by section.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    pub codes: &'a [[u8; LINE]],
    pub high: &'a [[u8; LINE]],
    pub scales: &'a [u8],
}

/// Scale and minimum of each slot.
pub type Scales<S> = [<S as Simd>::Floats; 2];

/// A packed format.
pub trait Layout<S: Simd>: Copy {
    /// The lines of one tile.
    type Lines<'a>: Copy;

    const KIND: Kind;
    /// What codes have to be added.
    const OFFSET: i32;
    /// Whether there are minima.
    const HAS_MIN: bool;
    /// Lines of codes in a tile.
    const CODE_LINES: usize;
    /// Lines of high bits in a tile.
    const HIGH_LINES: usize = 0;
    /// Whether decoded codes are unsigned bytes that need nothing but scales, offset and minimum: what AMX multiplies.
    const FOR_TILES: bool = matches!(Self::KIND, Kind::Four | Kind::Five | Kind::Unsigned);

    /// The lines of tile `tile`; `None` when the block is too short.
    fn lines<'a>(self, block: &Block<'a>, tile: usize) -> Option<Self::Lines<'a>>;
    /// Codes of columns `4 * I..` of a tile.
    fn line<const I: usize>(self, s: S, lines: Self::Lines<'_>) -> S::Bytes;
    /// What all tiles of a block share.
    fn factors(self, s: S, _block: &Block<'_>) -> Scales<S> {
        [s.float(0.0); 2]
    }
    /// Scales and minima of tile `tile`.
    fn scales(self, s: S, factors: Scales<S>, block: &Block<'_>, tile: usize) -> Scales<S>;
    /// Weights of both halves of tile `tile`, for [`Kind::Six`].
    fn weights(self, s: S, _block: &Block<'_>, _tile: usize) -> [S::Ints; 2] {
        [s.int(0); 2]
    }
}

/// Codes of columns `4 * I..` from lines of nibbles.
#[inline(always)]
fn nibbles<S: Simd, const I: usize>(s: S, lines: &[[u8; LINE]; 4]) -> S::Bytes {
    let line = &lines[I / 2];
    let line = if I < 4 { s.line(line) } else { s.rotated_line(line) };
    let line = if I.is_multiple_of(2) { line } else { s.right::<4>(line) };
    s.and(line, s.byte(15))
}

/// The `index`-th piece of a section of scales; zeros when it is too short.
#[inline(always)]
fn piece<const N: usize>(scales: &[u8], index: usize) -> &[u8; N] {
    scales.as_chunks::<N>().0.get(index).unwrap_or(&[0; N])
}

#[derive(Clone, Copy)]
pub struct Q4_0;

impl<S: Simd> Layout<S> for Q4_0 {
    type Lines<'a> = &'a [[u8; LINE]; 4];
    const KIND: Kind = Kind::Four;
    const OFFSET: i32 = -8;
    const HAS_MIN: bool = false;
    const CODE_LINES: usize = 4;

    #[inline(always)]
    fn lines<'a>(self, block: &Block<'a>, tile: usize) -> Option<Self::Lines<'a>> {
        block.codes.as_chunks::<4>().0.get(tile)
    }

    #[inline(always)]
    fn line<const I: usize>(self, s: S, lines: Self::Lines<'_>) -> S::Bytes {
        nibbles::<S, I>(s, lines)
    }

    #[inline(always)]
    fn scales(self, s: S, _factors: Scales<S>, block: &Block<'_>, tile: usize) -> Scales<S> {
        let d = s.halves(piece(block.scales, tile));
        [d, d]
    }
}

#[derive(Clone, Copy)]
pub struct Q8_0;

impl<S: Simd> Layout<S> for Q8_0 {
    type Lines<'a> = &'a [[u8; LINE]; 8];
    const KIND: Kind = Kind::Signed;
    const OFFSET: i32 = -S::SIGNED_OFFSET;
    const HAS_MIN: bool = false;
    const CODE_LINES: usize = 8;

    #[inline(always)]
    fn lines<'a>(self, block: &Block<'a>, tile: usize) -> Option<Self::Lines<'a>> {
        block.codes.as_chunks::<8>().0.get(tile)
    }

    #[inline(always)]
    fn line<const I: usize>(self, s: S, lines: Self::Lines<'_>) -> S::Bytes {
        if I < 4 { s.line(&lines[I]) } else { s.rotated_line(&lines[I]) }
    }

    #[inline(always)]
    fn scales(self, s: S, _factors: Scales<S>, block: &Block<'_>, tile: usize) -> Scales<S> {
        let d = s.halves(piece(block.scales, tile));
        [d, d]
    }
}

/// `d` and `dmin` of the 16 slots, which lie behind the fields of the records: `d` of slot `i` of a quad in that of sub-block
/// `2 i`, `dmin` in the next one's.
#[inline(always)]
fn k_factors<S: Simd>(s: S, block: &Block<'_>) -> Scales<S> {
    let records = block.scales.as_chunks::<8>().0;
    let mut factors = [[0; 2 * ROWS]; 2];
    if let Some(records) = records.first_chunk::<32>() {
        for slot in 0..ROWS {
            for (which, factors) in factors.iter_mut().enumerate() {
                let record = records[4 * (2 * (slot % 4) + which) + slot / 4];
                factors[2 * slot..2 * slot + 2].copy_from_slice(&record[6..]);
            }
        }
    }
    [s.halves(&factors[0]), s.halves(&factors[1])]
}

#[inline(always)]
fn k_scales<S: Simd>(s: S, factors: Scales<S>, block: &Block<'_>, tile: usize) -> Scales<S> {
    let [scale, min] = s.k_fields(piece(block.scales, tile));
    [s.mul(s.floats(scale), factors[0]), s.mul(s.floats(min), factors[1])]
}

#[derive(Clone, Copy)]
pub struct Q4K;

impl<S: Simd> Layout<S> for Q4K {
    type Lines<'a> = &'a [[u8; LINE]; 4];
    const KIND: Kind = Kind::Four;
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = true;
    const CODE_LINES: usize = 4;

    #[inline(always)]
    fn lines<'a>(self, block: &Block<'a>, tile: usize) -> Option<Self::Lines<'a>> {
        block.codes.as_chunks::<4>().0.get(tile)
    }

    #[inline(always)]
    fn line<const I: usize>(self, s: S, lines: Self::Lines<'_>) -> S::Bytes {
        nibbles::<S, I>(s, lines)
    }

    #[inline(always)]
    fn factors(self, s: S, block: &Block<'_>) -> Scales<S> {
        k_factors(s, block)
    }

    #[inline(always)]
    fn scales(self, s: S, factors: Scales<S>, block: &Block<'_>, tile: usize) -> Scales<S> {
        k_scales(s, factors, block, tile)
    }
}

#[derive(Clone, Copy)]
pub struct Q5K;

impl<S: Simd> Layout<S> for Q5K {
    type Lines<'a> = (&'a [[u8; LINE]; 4], &'a [u8; LINE]);
    const KIND: Kind = Kind::Five;
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = true;
    const CODE_LINES: usize = 4;
    const HIGH_LINES: usize = 1;

    #[inline(always)]
    fn lines<'a>(self, block: &Block<'a>, tile: usize) -> Option<Self::Lines<'a>> {
        Some((block.codes.as_chunks::<4>().0.get(tile)?, block.high.get(tile)?))
    }

    /// The single bits of columns `4 I..` are bit `I` of each byte.
    #[inline(always)]
    fn line<const I: usize>(self, s: S, (lines, bits): Self::Lines<'_>) -> S::Bytes {
        let bits = s.line(bits);
        let bits = match I {
            0 => s.left::<4>(bits),
            1 => s.left::<3>(bits),
            2 => s.left::<2>(bits),
            3 => s.left::<1>(bits),
            4 => bits,
            5 => s.right::<1>(bits),
            6 => s.right::<2>(bits),
            _ => s.right::<3>(bits),
        };
        s.or(nibbles::<S, I>(s, lines), s.and(bits, s.byte(0x10)))
    }

    #[inline(always)]
    fn factors(self, s: S, block: &Block<'_>) -> Scales<S> {
        k_factors(s, block)
    }

    #[inline(always)]
    fn scales(self, s: S, factors: Scales<S>, block: &Block<'_>, tile: usize) -> Scales<S> {
        k_scales(s, factors, block, tile)
    }
}

#[derive(Clone, Copy)]
pub struct Q6K;

impl<S: Simd> Layout<S> for Q6K {
    type Lines<'a> = (&'a [[u8; LINE]; 4], &'a [[u8; LINE]; 2]);
    const KIND: Kind = Kind::Six;
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = false;
    const CODE_LINES: usize = 4;
    const HIGH_LINES: usize = 2;

    #[inline(always)]
    fn lines<'a>(self, block: &Block<'a>, tile: usize) -> Option<Self::Lines<'a>> {
        Some((block.codes.as_chunks::<4>().0.get(tile)?, block.high.as_chunks::<2>().0.get(tile)?))
    }

    /// The upper pairs of bits of columns `16 h + 4 i..` are pair `i` of each byte of line `h`.
    #[inline(always)]
    fn line<const I: usize>(self, s: S, (lines, crumbs): Self::Lines<'_>) -> S::Bytes {
        let crumbs = if I < 4 { s.line(&crumbs[0]) } else { s.rotated_line(&crumbs[1]) };
        let crumbs = match I % 4 {
            0 => s.left::<4>(crumbs),
            1 => s.left::<2>(crumbs),
            2 => crumbs,
            _ => s.right::<2>(crumbs),
        };
        s.or(nibbles::<S, I>(s, lines), s.and(crumbs, s.byte(0x30)))
    }

    /// `d` lies behind the 16 signed bytes of every half tile.
    #[inline(always)]
    fn factors(self, s: S, block: &Block<'_>) -> Scales<S> {
        let d = s.halves(block.scales.last_chunk().unwrap_or(&[0; 2 * ROWS]));
        [d, d]
    }

    #[inline(always)]
    fn scales(self, _s: S, factors: Scales<S>, _block: &Block<'_>, _tile: usize) -> Scales<S> {
        factors
    }

    #[inline(always)]
    fn weights(self, s: S, block: &Block<'_>, tile: usize) -> [S::Ints; 2] {
        let [first, second] = [2 * tile, 2 * tile + 1];
        [s.weights(s.signed_bytes(piece(block.scales, first))), s.weights(s.signed_bytes(piece(block.scales, second)))]
    }
}

/// Codes with a scale and a zero point for each group of `tiles` tiles.
#[derive(Clone, Copy)]
pub struct Int4 {
    pub tiles: usize,
}

impl<S: Simd> Layout<S> for Int4 {
    type Lines<'a> = &'a [[u8; LINE]; 4];
    const KIND: Kind = Kind::Four;
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = true;
    const CODE_LINES: usize = 4;

    #[inline(always)]
    fn lines<'a>(self, block: &Block<'a>, tile: usize) -> Option<Self::Lines<'a>> {
        block.codes.as_chunks::<4>().0.get(tile)
    }

    #[inline(always)]
    fn line<const I: usize>(self, s: S, lines: Self::Lines<'_>) -> S::Bytes {
        nibbles::<S, I>(s, lines)
    }

    #[inline(always)]
    fn scales(self, s: S, _factors: Scales<S>, block: &Block<'_>, tile: usize) -> Scales<S> {
        let group: &[u8; 3 * ROWS] = piece(block.scales, tile / self.tiles.max(1));
        let (scale, zero) = (piece(group, 0), group.last_chunk().unwrap_or(&[0; ROWS]));
        let scale = s.halves(scale);
        [scale, s.mul(scale, s.floats(s.unsigned_bytes(zero)))]
    }
}

/// Codes into a table of 16 values, with an f16 scale for 64 columns. The values are rounded to steps of a byte:
/// `value = (entry - zero) / steps`.
#[derive(Clone, Copy)]
pub struct Table<S: Simd> {
    entries: S::Bytes,
    inverse: S::Floats,
    zero: S::Floats,
}

/// Steps and zero of a table of bytes for values in -1..1. Against NF4's values, as often as they occur in normally
/// distributed weights, these round best: 0.33 % of their root mean square for entries up to 255, 0.72 % for up to 127.
const fn steps(largest: u8) -> (f32, f32) {
    if largest == 255 { (124.15, 124.25) } else { (62.56, 62.76) }
}

/// The bytes for `values`, and the value of one step.
#[inline(always)]
pub fn table_entries(values: &[f32; 16], largest: u8) -> ([u8; 16], f32) {
    let maximum = values.iter().fold(0f32, |m, x| if x.abs() > m { x.abs() } else { m });
    let (steps, zero) = steps(largest);
    let factor = if maximum > 0.0 { steps / maximum } else { 0.0 };
    // A conversion to `u8` rounds towards zero, and every sum is positive.
    (values.map(|x| (x * factor + (zero + 0.5)) as u8), maximum / steps)
}

impl<S: Simd> Table<S> {
    #[inline(always)]
    pub fn new(s: S, values: &[f32; 16]) -> Self {
        let (largest, shift) = if S::SIGNED_TABLES { (255, 128) } else { (S::UNSIGNED_MAX, 0) };
        let (entries, step) = table_entries(values, largest);
        let entries = s.table(&entries.map(|entry| entry.wrapping_sub(shift)));
        Self { entries, inverse: s.float(step), zero: s.float(steps(largest).1 - f32::from(shift)) }
    }
}

impl<S: Simd> Layout<S> for Table<S> {
    type Lines<'a> = &'a [[u8; LINE]; 4];
    const KIND: Kind = if S::SIGNED_TABLES { Kind::Signed } else { Kind::Unsigned };
    const OFFSET: i32 = if S::SIGNED_TABLES { -S::SIGNED_OFFSET } else { 0 };
    const HAS_MIN: bool = true;
    const CODE_LINES: usize = 4;

    #[inline(always)]
    fn lines<'a>(self, block: &Block<'a>, tile: usize) -> Option<Self::Lines<'a>> {
        block.codes.as_chunks::<4>().0.get(tile)
    }

    #[inline(always)]
    fn line<const I: usize>(self, s: S, lines: Self::Lines<'_>) -> S::Bytes {
        s.look_up(self.entries, nibbles::<S, I>(s, lines))
    }

    #[inline(always)]
    fn scales(self, s: S, _factors: Scales<S>, block: &Block<'_>, tile: usize) -> Scales<S> {
        let scale = s.mul(s.halves(piece(block.scales, tile / 2)), self.inverse);
        [scale, s.mul(scale, self.zero)]
    }
}
