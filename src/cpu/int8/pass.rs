//! Products of a strip with quantised rows, written once for every tier and format.
//!
//! Few rows read the packed lines straight into their products: one or two, or a panel where a tier has registers enough. For
//! more, a block of 256 columns is decoded once into a buffer that stays in the first-level cache, and panel after panel
//! passes over it.
//!
//! Everything here is inlined into the function that enables a tier's instructions; closures over vectors, as those of
//! `array::map`, would not be.

use std::ops::Range;

use super::activations::{CODES, Panels, WORDS, half_sums};
use super::layouts::{Block, Int4, Kind, Layout, Q4_0, Q4K, Q5K, Q6K, Q8_0, Scales, Table};
use super::simd::Simd;
use super::strips::Ahead;
use crate::cpu::kernels::{MOST_COUNTED, PREFETCH, for_count, prefetch};
use crate::quant::packed::{BLOCK, LINE, ROWS, TILE, sections};
use crate::quant::{Format, Packed};

/// Tiles of a whole block.
const TILES: usize = BLOCK / TILE;
/// Lines of a tile once each code has a byte: four columns each.
const LINES: usize = TILE / 4;

/// Rows of activations from which on a processor's tiles are faster than its vectors.
pub const ROWS_FOR_TILES: usize = 6;

/// Whether there are integer kernels for packed `format`.
pub fn serves(format: Format) -> bool {
    match format {
        Format::Q4_0 | Format::Q8_0 | Format::Q4K | Format::Q5K | Format::Q6K | Format::Bnb4 | Format::Int4(_) => true,
        Format::F32 | Format::F16 | Format::BF16 => false,
    }
}

/// As [`super::strips::project`], with the instructions of `s`; panels have up to `MOST` rows.
#[inline(always)]
pub fn project<S: Simd, const MOST: usize>(
    s: S,
    packed: &Packed,
    strips: Range<usize>,
    inputs: Panels<'_>,
    ahead: Ahead<'_>,
    out: &mut [[f32; ROWS]],
) {
    const { assert!(MOST <= MOST_COUNTED, "a panel has more rows than kernels are made for") };
    let strips = Strips { packed, strips, ahead };
    match packed.format() {
        Format::Q4_0 => each_strip::<_, _, MOST>(s, Q4_0, strips, inputs, out),
        Format::Q8_0 => each_strip::<_, _, MOST>(s, Q8_0, strips, inputs, out),
        Format::Q4K => each_strip::<_, _, MOST>(s, Q4K, strips, inputs, out),
        Format::Q5K => each_strip::<_, _, MOST>(s, Q5K, strips, inputs, out),
        Format::Q6K => each_strip::<_, _, MOST>(s, Q6K, strips, inputs, out),
        Format::Bnb4 => each_strip::<_, _, MOST>(s, Table::new(s, packed.codebook()), strips, inputs, out),
        Format::Int4(group) => {
            each_strip::<_, _, MOST>(s, Int4 { tiles: group.columns() / TILE }, strips, inputs, out);
        }
        Format::F32 | Format::F16 | Format::BF16 => {}
    }
}

/// Strips of a matrix that lie one behind the other.
struct Strips<'a> {
    packed: &'a Packed,
    strips: Range<usize>,
    ahead: Ahead<'a>,
}

#[inline(always)]
fn each_strip<S: Simd, L: Layout<S>, const MOST: usize>(
    s: S,
    layout: L,
    Strips { packed, strips, ahead }: Strips<'_>,
    inputs: Panels<'_>,
    out: &mut [[f32; ROWS]],
) {
    let (format, cols) = (packed.format(), packed.cols());
    for (i, (strip, out)) in strips.zip(out.chunks_exact_mut(inputs.rows().max(1))).enumerate() {
        let ahead = Ahead { run: ahead.run.saturating_sub(i * packed.strip_bytes()), ..ahead };
        rows::<_, _, MOST>(s, layout, &Strip { format, cols, data: packed.strip(strip), ahead }, inputs, out);
    }
}

struct Strip<'a> {
    format: Format,
    cols: usize,
    data: &'a [u8],
    ahead: Ahead<'a>,
}

/// A block and where it lies in its strip.
struct Part<'a> {
    block: Block<'a>,
    first_tile: usize,
    tiles: usize,
    /// First byte.
    start: usize,
    /// Bytes of each tile, on average.
    tile_bytes: usize,
}

impl<'a> Strip<'a> {
    #[inline(always)]
    fn parts(&self) -> Parts<'a> {
        Parts { format: self.format, cols: self.cols, data: self.data, first: 0, start: 0 }
    }

    /// Asks for what lies [`PREFETCH`] bytes behind tile `tile` of `part` on the way that [`Ahead`] tells.
    #[inline(always)]
    fn prefetch<S: Simd, L: Layout<S>>(&self, part: &Part<'_>, tile: usize) {
        let at = part.start + tile * part.tile_bytes + PREFETCH;
        let (from, at) = if at < self.ahead.run { (self.data, at) } else { (self.ahead.next, at - self.ahead.run) };
        for line in 0..L::CODE_LINES + L::HIGH_LINES + 1 {
            prefetch(from.as_ptr(), at + line * LINE);
        }
    }
}

/// The blocks of a strip, in order.
struct Parts<'a> {
    format: Format,
    cols: usize,
    data: &'a [u8],
    /// First column of the next one.
    first: usize,
    /// Its first byte.
    start: usize,
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Part<'a>> {
        let tiles = (self.cols - self.first).min(BLOCK) / TILE;
        if tiles == 0 {
            return None;
        }
        let lengths = sections(self.format, tiles)?;
        let len = lengths.iter().sum::<usize>();
        let block = self.data.get(self.start..self.start + len)?;
        let (codes, rest) = block.split_at_checked(lengths[0])?;
        let (high, scales) = rest.split_at_checked(lengths[1])?;
        let block = Block { codes: codes.as_chunks().0, high: high.as_chunks().0, scales };
        let part = Part { block, first_tile: self.first / TILE, tiles, start: self.start, tile_bytes: len / tiles };
        (self.first, self.start) = (self.first + tiles * TILE, self.start + len);
        Some(part)
    }
}

#[inline(always)]
fn rows<S: Simd, L: Layout<S>, const MOST: usize>(
    s: S,
    layout: L,
    strip: &Strip<'_>,
    inputs: Panels<'_>,
    out: &mut [[f32; ROWS]],
) {
    let tiled = S::HAS_TILES && L::FOR_TILES;
    if out.len() <= if tiled { ROWS_FOR_TILES - 1 } else { S::STRAIGHT_ROWS.min(MOST) } {
        if let Some((rows, panel)) = inputs.each().next() {
            for_count!(rows, MOST, G => straight::<S, L, G>(s, layout, strip, panel, out));
        }
        return;
    }
    let mut decoded = Decoded {
        lines: [[[0; LINE]; LINES]; TILES],
        scales: [[[0.0; ROWS]; 2]; TILES],
        weights: [[[0; ROWS]; 2]; TILES],
    };
    out.fill([0.0; ROWS]);
    let mut shaped = 0;
    for part in strip.parts() {
        decode(s, layout, strip, &part, &mut decoded);
        let mut rest = &mut out[..];
        for (rows, panel) in inputs.each() {
            let Some((out, later)) = rest.split_at_mut_checked(rows) else { return };
            rest = later;
            if tiled && rows >= ROWS_FOR_TILES && part.tiles == TILES {
                if rows != shaped {
                    s.shape_tiles(rows);
                    shaped = rows;
                }
                // SAFETY: they are shaped for these rows.
                unsafe { by_tiles::<S, L>(s, &decoded, &part, rows, panel, out) };
            } else {
                for_count!(rows, MOST, G => over_decoded::<S, L, G>(s, &decoded, &part, panel, out));
            }
        }
    }
}

/// `G` rows over the packed lines.
#[inline(always)]
fn straight<S: Simd, L: Layout<S>, const G: usize>(
    s: S,
    layout: L,
    strip: &Strip<'_>,
    panel: &[u32],
    out: &mut [[f32; ROWS]],
) {
    let mut sums = [s.float(0.0); G];
    for part in strip.parts() {
        let factors = layout.factors(s, &part.block);
        let Some(columns) = Columns::<G>::new(panel, part.first_tile, part.tiles) else { return };
        for tile in 0..part.tiles {
            strip.prefetch::<S, L>(&part, tile);
            let Some(lines) = layout.lines(&part.block, tile) else { return };
            let weights = layout.weights(s, &part.block, tile);
            let columns = columns.tile(tile);
            let dots = dots::<S, L, G>(s, &Packing { layout, lines }, columns, weights);
            let scales = layout.scales(s, factors, &part.block, tile);
            add::<S, L, G>(s, dots, scales, columns, &mut sums);
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        s.store(*sums, out);
    }
}

/// A panel's tiles of one block.
#[derive(Clone, Copy)]
struct Columns<'a, const G: usize>(&'a [[[u32; G]; WORDS]]);

impl<'a, const G: usize> Columns<'a, G> {
    /// `tiles` tiles from tile `first`: the one place where lengths are checked.
    #[inline(always)]
    fn new(panel: &'a [u32], first: usize, tiles: usize) -> Option<Self> {
        panel.as_chunks::<G>().0.as_chunks().0.get(first..first + tiles).map(Self)
    }

    #[inline(always)]
    fn tile(self, tile: usize) -> Tile<'a, G> {
        Tile(&self.0[tile])
    }
}

/// A tile of a panel.
#[derive(Clone, Copy)]
struct Tile<'a, const G: usize>(&'a [[u32; G]; WORDS]);

impl<const G: usize> Tile<'_, G> {
    /// Columns `4 * line..` of row `g`.
    #[inline(always)]
    fn codes(self, g: usize, line: usize) -> u32 {
        self.0.as_flattened()[g * CODES + line]
    }

    #[inline(always)]
    fn scale(self, g: usize) -> f32 {
        f32::from_bits(self.0[CODES][g])
    }

    #[inline(always)]
    fn offset(self, g: usize) -> f32 {
        f32::from_bits(self.0[CODES + 1][g])
    }

    #[inline(always)]
    fn sums(self, g: usize) -> [i16; 2] {
        half_sums(self.0[CODES + 2][g])
    }

    /// The sum of all codes of row `g`.
    #[inline(always)]
    fn sum(self, g: usize) -> i32 {
        let [first, second] = self.sums(g);
        i32::from(first) + i32::from(second)
    }
}

/// Where the codes of a tile come from, four columns a line.
trait Lines<S: Simd> {
    fn line<const I: usize>(&self, s: S) -> S::Bytes;
}

/// A tile of the packed form.
struct Packing<'a, S: Simd, L: Layout<S>> {
    layout: L,
    lines: L::Lines<'a>,
}

impl<S: Simd, L: Layout<S>> Lines<S> for Packing<'_, S, L> {
    #[inline(always)]
    fn line<const I: usize>(&self, s: S) -> S::Bytes {
        self.layout.line::<I>(s, self.lines)
    }
}

impl<S: Simd> Lines<S> for [[u8; LINE]; LINES] {
    #[inline(always)]
    fn line<const I: usize>(&self, s: S) -> S::Bytes {
        s.line(&self[I])
    }
}

/// Repeats a block for each line of a tile, whose number is a constant in it.
macro_rules! each_line {
    ($I:ident, $body:block) => {
        each_line!(@ $I, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $I:ident, $body:block, $($n:literal)*) => {
        $({
            const $I: usize = $n;
            $body
        })*
    };
}

/// Dot products of one tile's codes with `G` rows, offsets and weights of half tiles included.
#[inline(always)]
fn dots<S: Simd, L: Layout<S>, const G: usize>(
    s: S,
    lines: &impl Lines<S>,
    columns: Tile<'_, G>,
    weights: [S::Ints; 2],
) -> [S::Ints; G] {
    let mut sums = [s.int(0); G];
    let mut pairs = [s.no_pairs(); G];
    let joined_after = match L::KIND {
        Kind::Four => LINES,
        Kind::Five => S::LINES_OF_FIVE_BITS,
        Kind::Six => S::LINES_OF_SIX_BITS,
        Kind::Unsigned | Kind::Signed => LINES,
    };
    each_line!(I, {
        let codes = lines.line::<I>(s);
        for g in 0..G {
            let activations = s.splat(columns.codes(g, I));
            match L::KIND {
                Kind::Four | Kind::Five | Kind::Six => pairs[g] = s.add_small(pairs[g], codes, activations),
                Kind::Unsigned => sums[g] = s.add_unsigned(sums[g], codes, activations),
                Kind::Signed => sums[g] = s.add_signed(sums[g], codes, activations),
            }
        }
        if (I + 1).is_multiple_of(joined_after) {
            for g in 0..G {
                match L::KIND {
                    Kind::Four | Kind::Five => sums[g] = s.join(sums[g], pairs[g]),
                    Kind::Six => sums[g] = s.join_weighted(sums[g], pairs[g], weights[I / 4]),
                    Kind::Unsigned | Kind::Signed => {}
                }
                pairs[g] = s.no_pairs();
            }
        }
    });
    for (g, sum) in sums.iter_mut().enumerate() {
        if L::KIND == Kind::Six {
            *sum = s.sub_weighted(*sum, columns.sums(g), weights);
        } else if L::OFFSET != 0 {
            *sum = s.add_ints(*sum, s.int(L::OFFSET * columns.sum(g)));
        }
    }
    sums
}

/// Scales the dot products of one tile and adds them to the sums.
#[inline(always)]
fn add<S: Simd, L: Layout<S>, const G: usize>(
    s: S,
    dots: [S::Ints; G],
    [scale, min]: Scales<S>,
    columns: Tile<'_, G>,
    sums: &mut [S::Floats; G],
) {
    for g in 0..G {
        let dot = s.mul(s.floats(dots[g]), s.float(columns.scale(g)));
        if L::HAS_MIN {
            sums[g] = s.mul_sub_from(min, s.float(columns.offset(g)), sums[g]);
        }
        sums[g] = s.mul_add(dot, scale, sums[g]);
    }
}

/// A block with a byte for each code.
struct Decoded {
    lines: [[[u8; LINE]; LINES]; TILES],
    scales: [[[f32; ROWS]; 2]; TILES],
    weights: [[[i32; ROWS]; 2]; TILES],
}

impl Decoded {
    #[inline(always)]
    fn scales<S: Simd>(&self, s: S, tile: usize) -> Scales<S> {
        [s.load(&self.scales[tile][0]), s.load(&self.scales[tile][1])]
    }
}

/// A panel over a whole decoded block, with the processor's tiles.
///
/// # Safety
/// The last [`Simd::shape_tiles`] of this thread was with `rows`.
#[inline(always)]
unsafe fn by_tiles<S: Simd, L: Layout<S>>(
    s: S,
    decoded: &Decoded,
    part: &Part<'_>,
    rows: usize,
    panel: &[u32],
    out: &mut [[f32; ROWS]],
) {
    let stride = WORDS * rows;
    let Some(panel) = panel.get(part.first_tile * stride..(part.first_tile + TILES) * stride) else { return };
    let mut dots = [[[0i32; ROWS]; ROWS]; 4];
    for (quarter, lines) in decoded.lines.as_chunks::<4>().0.iter().enumerate() {
        let panel = &panel[4 * quarter * stride..][..4 * stride];
        // SAFETY: the caller shaped the tiles for these rows.
        unsafe { s.multiply_tiles(lines, panel, rows, &mut dots) };
        for (i, out) in out.iter_mut().enumerate().take(rows) {
            let mut sum = s.load(out);
            for (t, dots) in dots.iter().enumerate() {
                let words = &panel[t * stride + CODES * rows..][..3 * rows];
                let mut dot = s.load_ints(&dots[i]);
                if L::OFFSET != 0 {
                    let [first, second] = half_sums(words[2 * rows + i]);
                    dot = s.add_ints(dot, s.int(L::OFFSET * (i32::from(first) + i32::from(second))));
                }
                let [scale, min] = decoded.scales(s, 4 * quarter + t);
                if L::HAS_MIN {
                    sum = s.mul_sub_from(min, s.float(f32::from_bits(words[rows + i])), sum);
                }
                sum = s.mul_add(s.mul(s.floats(dot), s.float(f32::from_bits(words[i]))), scale, sum);
            }
            s.store(sum, out);
        }
    }
}

#[inline(always)]
fn decode<S: Simd, L: Layout<S>>(s: S, layout: L, strip: &Strip<'_>, part: &Part<'_>, out: &mut Decoded) {
    let block = &part.block;
    let factors = layout.factors(s, block);
    for tile in 0..part.tiles.min(TILES) {
        strip.prefetch::<S, L>(part, tile);
        let Some(lines) = layout.lines(block, tile) else { return };
        each_line!(I, { s.store_line(layout.line::<I>(s, lines), &mut out.lines[tile][I]) });
        let [scale, min] = layout.scales(s, factors, block, tile);
        s.store(scale, &mut out.scales[tile][0]);
        s.store(min, &mut out.scales[tile][1]);
        if L::KIND == Kind::Six {
            let [first, second] = layout.weights(s, block, tile);
            s.store_ints(first, &mut out.weights[tile][0]);
            s.store_ints(second, &mut out.weights[tile][1]);
        }
    }
}

#[inline(always)]
fn over_decoded<S: Simd, L: Layout<S>, const G: usize>(
    s: S,
    decoded: &Decoded,
    part: &Part<'_>,
    panel: &[u32],
    out: &mut [[f32; ROWS]],
) {
    let Some(columns) = Columns::<G>::new(panel, part.first_tile, part.tiles.min(TILES)) else { return };
    let Some(out) = out.first_chunk_mut::<G>() else { return };
    let mut sums = [s.float(0.0); G];
    for (sum, out) in sums.iter_mut().zip(&*out) {
        *sum = s.load(out);
    }
    // The next panel's part of the block follows at a distance that no processor foresees.
    let next = panel.as_ptr_range().end.cast::<u8>().wrapping_add(4 * WORDS * G * part.first_tile);
    for tile in 0..part.tiles.min(TILES) {
        for line in 0..(4 * WORDS * G).div_ceil(LINE) {
            prefetch(next, 4 * WORDS * G * tile + line * LINE);
        }
        let weights = match L::KIND {
            Kind::Six => [s.load_ints(&decoded.weights[tile][0]), s.load_ints(&decoded.weights[tile][1])],
            _ => [s.int(0); 2],
        };
        let columns = columns.tile(tile);
        let dots = dots::<S, L, G>(s, &decoded.lines[tile], columns, weights);
        add::<S, L, G>(s, dots, decoded.scales(s, tile), columns, &mut sums);
    }
    for g in 0..G {
        s.store(sums[g], &mut out[g]);
    }
}
