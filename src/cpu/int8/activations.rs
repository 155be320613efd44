//! Activations as int8, a scale for every 32 columns.

use crate::quant::packed::TILE;

/// Activations, quantised: `x ≈ scale * code` with `scale = max |x| / 127` over each 32 of them.
#[derive(Default)]
pub struct Int8Rows {
    codes: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<[i16; 2]>,
}

/// One quantised row.
#[derive(Clone, Copy)]
pub struct Int8Row<'a> {
    /// `[cols]`, as groups of four columns: what one instruction multiplies with a row's four bytes of a line.
    pub codes: &'a [[i8; 4]],
    /// `[cols / 32]`.
    pub scales: &'a [f32],
    /// Sums of the codes of each half tile (16 columns), `[cols / 32]`.
    pub sums: &'a [[i16; 2]],
}

impl Int8Rows {
    /// Whether rows of `cols` columns can be quantised.
    pub fn takes(cols: usize) -> bool {
        cols.is_multiple_of(TILE)
    }

    /// Quantises `data`, rows of any number of columns that it [takes](Self::takes).
    pub fn quantize(&mut self, data: &[f32]) {
        self.codes.clear();
        self.scales.clear();
        self.sums.clear();
        for tile in data.as_chunks::<TILE>().0 {
            let largest = tile.iter().fold(0f32, |m, x| m.max(x.abs()));
            // `max` passes NaN over; the sum does not, and a scale that is NaN keeps the row's failure visible.
            let failed = !tile.iter().map(|x| x.abs()).sum::<f32>().is_finite();
            let scale = if failed { f32::NAN } else { largest / 127.0 };
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let codes = tile.map(|x| (x * inverse).round_ties_even() as i8);
            let sum = |half: &[i8]| half.iter().map(|c| i16::from(*c)).sum();
            self.sums.push([sum(&codes[..16]), sum(&codes[16..])]);
            self.scales.push(scale);
            self.codes.extend_from_slice(&codes);
        }
    }

    /// The row of `cols` columns that starts at value `start`, a multiple of 32.
    pub fn row(&self, start: usize, cols: usize) -> Int8Row<'_> {
        let tiles = start / TILE..(start + cols) / TILE;
        Int8Row {
            codes: self.codes[start..start + cols].as_chunks::<4>().0,
            scales: &self.scales[tiles.clone()],
            sums: &self.sums[tiles],
        }
    }
}
