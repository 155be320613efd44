//! Activations as int8, a scale for every 32 columns.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::cpu::isa::Isa;
use crate::cpu::pool::SharedOutput;
use crate::quant::packed::TILE;

/// Activations, quantised: `x ≈ scale * code` with `scale = max |x| / 127` over each 32 of them.
#[derive(Default)]
pub struct Int8Rows {
    /// Four codes a word, the first in the lowest byte.
    codes: Vec<u32>,
    scales: Vec<f32>,
    /// The sums of a tile's halves, 16 bits each.
    sums: Vec<u32>,
    offsets: Vec<f32>,
}

/// One quantised row.
#[derive(Clone, Copy, Default)]
pub struct Int8Row<'a> {
    /// `[cols]`, as groups of four columns: what one instruction multiplies with a row's four bytes of a line.
    pub codes: &'a [[i8; 4]],
    /// `[cols / 32]`.
    pub scales: &'a [f32],
    /// Sums of the codes of each half tile (16 columns), `[cols / 32]`.
    pub sums: &'a [[i16; 2]],
    /// Scale times the sum of all codes of a tile, `[cols / 32]`: what a minimum is multiplied with.
    pub offsets: &'a [f32],
}

/// The memory of an [`Int8Rows`], which several tasks fill at the same time.
#[derive(Clone, Copy)]
pub struct SharedInt8<'a> {
    codes: &'a [AtomicU32],
    scales: SharedOutput<'a>,
    sums: &'a [AtomicU32],
    offsets: SharedOutput<'a>,
}

impl Int8Rows {
    /// Whether rows of `cols` columns can be quantised.
    pub fn takes(cols: usize) -> bool {
        cols.is_multiple_of(TILE)
    }

    /// Room for `len` values, to be filled by [`SharedInt8::quantize`]; what it holds is unspecified.
    pub fn share(&mut self, len: usize) -> SharedInt8<'_> {
        let tiles = len / TILE;
        self.codes.resize(tiles * TILE / 4, 0);
        self.scales.resize(tiles, 0.0);
        self.sums.resize(tiles, 0);
        self.offsets.resize(tiles, 0.0);
        SharedInt8 {
            codes: atomics(&mut self.codes),
            scales: SharedOutput::new(&mut self.scales),
            sums: atomics(&mut self.sums),
            offsets: SharedOutput::new(&mut self.offsets),
        }
    }

    /// The row of `cols` columns that starts at value `start`, a multiple of 32.
    #[inline]
    pub fn row(&self, start: usize, cols: usize) -> Int8Row<'_> {
        let tiles = start / TILE..(start + cols) / TILE;
        Int8Row {
            codes: fields(&self.codes[start / 4..(start + cols) / 4]),
            scales: &self.scales[tiles.clone()],
            sums: fields(&self.sums[tiles.clone()]),
            offsets: &self.offsets[tiles],
        }
    }
}

impl SharedInt8<'_> {
    /// Quantises `data`, whole tiles, to where value `at` begins.
    pub fn quantize(self, isa: Isa, at: usize, data: &[f32]) {
        for (tile, values) in (at / TILE..).zip(data.as_chunks::<TILE>().0) {
            let (mut codes, mut sums) = ([0; TILE / 4], [0; 2]);
            let scale = isa.quantize_tile(values, &mut codes, &mut sums);
            self.scales.set(tile, scale);
            self.offsets.set(tile, scale * f32::from(sums[0] + sums[1]));
            let [low, high] = sums.map(|sum| u32::from(sum.cast_unsigned()));
            self.sums[tile].store(low | high << 16, Ordering::Relaxed);
            for (word, codes) in self.codes[tile * TILE / 4..][..TILE / 4].iter().zip(codes) {
                word.store(codes, Ordering::Relaxed);
            }
        }
    }
}

fn atomics(words: &mut [u32]) -> &[AtomicU32] {
    let (pointer, len) = (words.as_mut_ptr().cast::<AtomicU32>(), words.len());
    // SAFETY: `AtomicU32` has the size, alignment and bit validity of `u32`, and the exclusive borrow is held as long.
    unsafe { std::slice::from_raw_parts(pointer, len) }
}

/// Words as the integers that they consist of.
#[cfg(target_endian = "little")]
fn fields<T: Field>(words: &[u32]) -> &[T] {
    const { assert!(size_of::<T>() == size_of::<u32>() && align_of::<T>() <= align_of::<u32>()) };
    // SAFETY: every bit pattern is a `Field`, whose size is a word's.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
}

/// Arrays of integers.
trait Field {}
impl Field for [i8; 4] {}
impl Field for [i16; 2] {}
