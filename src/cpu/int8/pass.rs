//! Products of a strip with quantised rows, written once for every tier and format.
//!
//! One or two rows read the packed lines straight into their products. For more, a block of 256 columns is decoded once
//! into a buffer that stays in the first-level cache, and groups of rows pass over it.
//!
//! Everything here is inlined into the function that enables a tier's instructions; closures over vectors, as those of
//! `array::map`, would not be.

use super::activations::Int8Row;
use super::layouts::{Block, Int4, Kind, Layout, Q4_0, Q4K, Q5K, Q6K, Q8_0, Scales, Table};
use super::simd::Simd;
use crate::quant::packed::{BLOCK, LINE, ROWS, TILE, blocks, sections};
use crate::quant::{Format, Packed};

/// Bytes ahead of the codes in work that are asked for: the latency of memory at the rate of one core.
const PREFETCH: usize = 4096;

/// Tiles of a whole block.
const TILES: usize = BLOCK / TILE;
/// Lines of a tile once each code has a byte: four columns each.
const LINES: usize = TILE / 4;

/// Rows of activations from which on a processor's tiles are faster than its vectors.
pub const ROWS_FOR_TILES: usize = 6;
/// Rows of activations that a processor's tiles take.
const TILE_ROWS: usize = 16;

/// Whether there are integer kernels for packed `format`.
pub fn serves(format: Format) -> bool {
    match format {
        Format::Q4_0 | Format::Q8_0 | Format::Q4K | Format::Q5K | Format::Q6K | Format::Bnb4 | Format::Int4(_) => true,
        Format::F32 | Format::F16 | Format::BF16 => false,
    }
}

/// As [`super::strips::project`], with the instructions of `s`; `G` rows share each decoded line.
#[inline(always)]
pub fn project<'a, S: Simd, const G: usize>(
    s: S,
    packed: &Packed,
    strip: usize,
    row: impl Fn(usize) -> Int8Row<'a>,
    out: &mut [[f32; ROWS]],
) {
    let strip = Strip { format: packed.format(), cols: packed.cols(), data: packed.strip(strip) };
    match strip.format {
        Format::Q4_0 => rows::<_, _, G>(s, Q4_0, &strip, row, out),
        Format::Q8_0 => rows::<_, _, G>(s, Q8_0, &strip, row, out),
        Format::Q4K => rows::<_, _, G>(s, Q4K, &strip, row, out),
        Format::Q5K => rows::<_, _, G>(s, Q5K, &strip, row, out),
        Format::Q6K => rows::<_, _, G>(s, Q6K, &strip, row, out),
        Format::Bnb4 => rows::<_, _, G>(s, Table::new(s, packed.codebook()), &strip, row, out),
        Format::Int4(group) => rows::<_, _, G>(s, Int4 { tiles: group.columns() / TILE }, &strip, row, out),
        Format::F32 | Format::F16 | Format::BF16 => {}
    }
}

struct Strip<'a> {
    format: Format,
    cols: usize,
    data: &'a [u8],
}

impl<'a> Strip<'a> {
    /// First tile, number of tiles and bytes of each block.
    #[inline(always)]
    fn blocks(&self) -> impl Iterator<Item = (usize, usize, Block<'a>)> {
        let (format, mut rest) = (self.format, self.data);
        blocks(self.cols).map_while(move |(first, tiles)| {
            let lengths = sections(format, tiles)?;
            let (block, later) = rest.split_at_checked(lengths.iter().sum())?;
            rest = later;
            let (codes, scales) = block.split_at_checked(lengths[0])?;
            let (high, scales) = scales.split_at_checked(lengths[1])?;
            Some((first / TILE, tiles, Block { codes: codes.as_chunks().0, high: high.as_chunks().0, scales }))
        })
    }
}

#[inline(always)]
fn rows<'a, S: Simd, L: Layout<S>, const G: usize>(
    s: S,
    layout: L,
    strip: &Strip<'_>,
    row: impl Fn(usize) -> Int8Row<'a>,
    out: &mut [[f32; ROWS]],
) {
    match out {
        [] => {}
        [_] => straight::<_, _, 1>(s, layout, strip, row, out),
        [_, _] => straight::<_, _, 2>(s, layout, strip, row, out),
        _ => decoded::<_, _, G>(s, layout, strip, row, out),
    }
}

/// `G` rows over the packed lines.
#[inline(always)]
fn straight<'a, S: Simd, L: Layout<S>, const G: usize>(
    s: S,
    layout: L,
    strip: &Strip<'_>,
    row: impl Fn(usize) -> Int8Row<'a>,
    out: &mut [[f32; ROWS]],
) {
    let mut sums = [s.float(0.0); G];
    for (first, tiles, block) in strip.blocks() {
        let factors = layout.factors(s, &block);
        let Some(columns) = columns::<G>(&row, first, tiles) else { return };
        for tile in 0..tiles {
            prefetch::<S, L>(s, &block, tile);
            let Some(lines) = layout.lines(&block, tile) else { return };
            let weights = layout.weights(s, &block, tile);
            let dots = dots::<S, L, G>(s, &Packing { layout, lines }, &columns, tile, weights);
            let scales = layout.scales(s, factors, &block, tile);
            add::<S, L, G>(s, dots, scales, &columns, tile, &mut sums);
        }
    }
    for g in 0..G {
        s.store(sums[g], &mut out[g]);
    }
}

/// Asks for the lines and scales that lie [`PREFETCH`] bytes behind those of tile `tile`.
#[inline(always)]
fn prefetch<S: Simd, L: Layout<S>>(s: S, block: &Block<'_>, tile: usize) {
    let lines = block.codes.get(L::CODE_LINES * tile..L::CODE_LINES * (tile + 1)).unwrap_or_default();
    lines.iter().for_each(|line| s.prefetch(line, PREFETCH));
    let per_tile = block.high.len() * L::CODE_LINES / block.codes.len().max(1);
    let lines = block.high.get(per_tile * tile..per_tile * (tile + 1)).unwrap_or_default();
    lines.iter().for_each(|line| s.prefetch(line, PREFETCH));
    s.prefetch(block.scales.get(tile * 2 * ROWS..).unwrap_or_default(), PREFETCH);
}

/// A row of activations, cut to the tiles of one block.
#[derive(Clone, Copy)]
struct Columns<'a> {
    codes: &'a [[[i8; 4]; LINES]],
    sums: &'a [[i16; 2]],
    scales: &'a [f32],
    offsets: &'a [f32],
}

impl<'a> Columns<'a> {
    /// `tiles` tiles from tile `first`: the one place where lengths are checked.
    #[inline(always)]
    fn new(row: &Int8Row<'a>, first: usize, tiles: usize) -> Option<Self> {
        let range = first..first + tiles;
        Some(Self {
            codes: row.codes.as_chunks().0.get(range.clone())?,
            sums: row.sums.get(range.clone())?,
            scales: row.scales.get(range.clone())?,
            offsets: row.offsets.get(range)?,
        })
    }

    /// The sum of the codes of a tile.
    #[inline(always)]
    fn sum(&self, tile: usize) -> i32 {
        let [first, second] = self.sums[tile];
        i32::from(first) + i32::from(second)
    }
}

/// The columns of `G` rows in one block.
#[inline(always)]
fn columns<'a, const G: usize>(
    row: impl Fn(usize) -> Int8Row<'a>,
    first: usize,
    tiles: usize,
) -> Option<[Columns<'a>; G]> {
    let mut columns = [Columns { codes: &[], sums: &[], scales: &[], offsets: &[] }; G];
    for (g, columns) in columns.iter_mut().enumerate() {
        *columns = Columns::new(&row(g), first, tiles)?;
    }
    Some(columns)
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
    columns: &[Columns<'_>; G],
    tile: usize,
    weights: [S::Ints; 2],
) -> [S::Ints; G] {
    let mut activations = [&[[0; 4]; LINES]; G];
    for g in 0..G {
        activations[g] = &columns[g].codes[tile];
    }
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
            let activations = s.splat(activations[g][I]);
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
    for g in 0..G {
        if L::KIND == Kind::Six {
            sums[g] = s.sub_weighted(sums[g], columns[g].sums[tile], weights);
        } else if L::OFFSET != 0 {
            sums[g] = s.add_ints(sums[g], s.int(L::OFFSET * columns[g].sum(tile)));
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
    columns: &[Columns<'_>; G],
    tile: usize,
    sums: &mut [S::Floats; G],
) {
    for g in 0..G {
        let dot = s.mul(s.floats(dots[g]), s.float(columns[g].scales[tile]));
        if L::HAS_MIN {
            sums[g] = s.mul_sub_from(min, s.float(columns[g].offsets[tile]), sums[g]);
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

/// Any number of rows, `G` at a time, over decoded blocks.
#[inline(always)]
fn decoded<'a, S: Simd, L: Layout<S>, const G: usize>(
    s: S,
    layout: L,
    strip: &Strip<'_>,
    row: impl Fn(usize) -> Int8Row<'a>,
    out: &mut [[f32; ROWS]],
) {
    let mut decoded = Decoded {
        lines: [[[0; LINE]; LINES]; TILES],
        scales: [[[0.0; ROWS]; 2]; TILES],
        weights: [[[0; ROWS]; 2]; TILES],
    };
    out.fill([0.0; ROWS]);
    for (first, tiles, block) in strip.blocks() {
        decode(s, layout, &block, tiles, &mut decoded);
        let mut done = 0;
        let tiled = match L::KIND {
            Kind::Four | Kind::Five | Kind::Unsigned => S::HAS_TILES && tiles == TILES,
            Kind::Six | Kind::Signed => false,
        };
        for out in out.chunks_mut(if tiled { TILE_ROWS } else { G }) {
            if tiled && out.len() >= ROWS_FOR_TILES {
                by_tiles::<S, L>(s, &decoded, first, |i| row(done + i), out);
                done += out.len();
                continue;
            }
            let mut rest = out;
            while !rest.is_empty() {
                // Powers of two below `G` serve what is left over.
                let now = if rest.len() >= G { G } else { 1 << rest.len().ilog2() };
                let (group, later) = rest.split_at_mut(now);
                rest = later;
                let row = |i: usize| row(done + i);
                match now {
                    1 => over_decoded::<S, L, 1>(s, &decoded, first, tiles, row, group),
                    2 => over_decoded::<S, L, 2>(s, &decoded, first, tiles, row, group),
                    4 if G > 4 => over_decoded::<S, L, 4>(s, &decoded, first, tiles, row, group),
                    _ => over_decoded::<S, L, G>(s, &decoded, first, tiles, row, group),
                }
                done += now;
            }
        }
    }
}

/// Up to 16 rows over a whole decoded block, with the processor's tiles.
#[inline(always)]
fn by_tiles<'a, S: Simd, L: Layout<S>>(
    s: S,
    decoded: &Decoded,
    first: usize,
    row: impl Fn(usize) -> Int8Row<'a>,
    out: &mut [[f32; ROWS]],
) {
    let mut activations = [[[0i8; 4]; BLOCK / 4]; TILE_ROWS];
    for (i, to) in activations.iter_mut().enumerate().take(out.len()) {
        let Some(from) = row(i).codes.get(first * LINES..).and_then(|codes| codes.first_chunk()) else { return };
        *to = *from;
    }
    let Some(columns) = columns::<TILE_ROWS>(|i| row(i.min(out.len() - 1)), first, TILES) else { return };
    let mut dots = [[[0i32; ROWS]; TILE_ROWS]; 4];
    for (quarter, tiles) in decoded.lines.as_chunks::<4>().0.iter().enumerate() {
        s.multiply_tiles(tiles, &activations, 4 * quarter, &mut dots);
        for (i, out) in out.iter_mut().enumerate() {
            let columns = [columns[i]];
            let mut sums = [s.load(out)];
            for (t, dots) in dots.iter().enumerate() {
                let tile = 4 * quarter + t;
                let mut dot = s.load_ints(&dots[i]);
                if L::OFFSET != 0 {
                    dot = s.add_ints(dot, s.int(L::OFFSET * columns[0].sum(tile)));
                }
                add::<S, L, 1>(s, [dot], decoded.scales(s, tile), &columns, tile, &mut sums);
            }
            s.store(sums[0], out);
        }
    }
}

#[inline(always)]
fn decode<S: Simd, L: Layout<S>>(s: S, layout: L, block: &Block<'_>, tiles: usize, out: &mut Decoded) {
    let factors = layout.factors(s, block);
    for tile in 0..tiles.min(TILES) {
        prefetch::<S, L>(s, block, tile);
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
fn over_decoded<'a, S: Simd, L: Layout<S>, const G: usize>(
    s: S,
    decoded: &Decoded,
    first: usize,
    tiles: usize,
    row: impl Fn(usize) -> Int8Row<'a>,
    out: &mut [[f32; ROWS]],
) {
    let tiles = tiles.min(TILES);
    let Some(columns) = columns::<G>(row, first, tiles) else { return };
    let mut sums = [s.float(0.0); G];
    for g in 0..G {
        sums[g] = s.load(&out[g]);
    }
    for tile in 0..tiles {
        let weights = match L::KIND {
            Kind::Six => [s.load_ints(&decoded.weights[tile][0]), s.load_ints(&decoded.weights[tile][1])],
            _ => [s.int(0); 2],
        };
        let dots = dots::<S, L, G>(s, &decoded.lines[tile], &columns, tile, weights);
        add::<S, L, G>(s, dots, decoded.scales(s, tile), &columns, tile, &mut sums);
    }
    for g in 0..G {
        s.store(sums[g], &mut out[g]);
    }
}
