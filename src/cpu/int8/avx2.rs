//! Integer kernels for AVX2: `vpmaddubsw` multiplies 32 unsigned codes with signed activations and adds pairs.
//!
//! A half line is eight slots of four columns; lane `i` of every vector is slot `i` of the half. Nibbles (at most 15)
//! add up in 16 bits over a whole tile (8 products of at most 2 * 15 * 127), six-bit codes over one line.

use std::arch::x86_64::*;

use super::activations::Int8Row;
use crate::quant::Format;
use crate::quant::packed::{LINE, ROWS, TILE, blocks, sections};

/// Bytes ahead of the codes in work that are asked for: the latency of memory at the rate of one core.
const PREFETCH: usize = 4096;

type Half = [u8; LINE / 2];
/// Sums of the two halves of a line for each row of activations.
type Sums<const G: usize> = [[__m256i; 2]; G];

/// Dot products of a strip's 16 rows, in slot order, with `G` rows of activations.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn strip<const G: usize>(format: Format, strip: &[u8], cols: usize, rows: [Int8Row<'_>; G]) -> [[f32; ROWS]; G] {
    let mut sums = [[_mm256_setzero_ps(); 2]; G];
    let mut rest = strip;
    for (first, tiles) in blocks(cols) {
        let Some(lengths) = sections(format, tiles) else { break };
        let (block, later) = rest.split_at(lengths.iter().sum());
        rest = later;
        let (codes, scales) = block.split_at(lengths[0]);
        let (high, scales) = scales.split_at(lengths[1]);
        let block = Block { codes: codes.as_chunks().0, high: high.as_chunks().0, scales, tiles };
        let first_tile = first / TILE;
        match format {
            Format::Q4K => q4_k(&block, first_tile, &rows, &mut sums),
            Format::Q4_0 => q4_0(&block, first_tile, &rows, &mut sums),
            Format::Q8_0 => q8_0(&block, first_tile, &rows, &mut sums),
            Format::Q6K => q6_k(&block, first_tile, &rows, &mut sums),
            _ => {}
        }
    }
    sums.map(|halves| {
        let mut out = [0.0; ROWS];
        for (half, out) in halves.iter().zip(out.chunks_exact_mut(8)) {
            // SAFETY: `out` is eight floats.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), *half) };
        }
        out
    })
}

struct Block<'a> {
    codes: &'a [Half],
    high: &'a [Half],
    scales: &'a [u8],
    tiles: usize,
}

#[target_feature(enable = "avx2")]
fn load(half: &Half) -> __m256i {
    // SAFETY: `half` is 32 bytes.
    unsafe { _mm256_loadu_si256(half.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn load_quarter(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: `bytes` is 16 bytes.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn prefetch(half: &Half) {
    _mm_prefetch::<_MM_HINT_T0>(half.as_ptr().wrapping_add(PREFETCH).cast());
}

/// Four activations in every lane.
#[target_feature(enable = "avx2")]
fn broadcast(codes: [i8; 4]) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes(codes.map(i8::cast_unsigned)))
}

/// Two 16-bit values in every lane.
#[target_feature(enable = "avx2")]
fn broadcast_pair(pair: [i16; 2]) -> __m256i {
    _mm256_set1_epi32(i32::from(pair[0].cast_unsigned()) | i32::from(pair[1]) << 16)
}

/// The f16 scales of both halves, `at` bytes into `scales`.
#[target_feature(enable = "avx2,f16c")]
fn half_scales(scales: &[u8], at: usize) -> [__m256; 2] {
    match scales[at..].as_chunks::<16>().0 {
        [low, high, ..] => [_mm256_cvtph_ps(load_quarter(low)), _mm256_cvtph_ps(load_quarter(high))],
        _ => [_mm256_setzero_ps(); 2],
    }
}

/// Sums over one tile of 4-bit codes, as pairs of 16-bit numbers.
#[target_feature(enable = "avx2")]
fn nibbles<const G: usize>(codes: &[Half], tile: usize, column: usize, rows: &[Int8Row<'_>; G]) -> Sums<G> {
    let mask = _mm256_set1_epi8(15);
    let mut sums = [[_mm256_setzero_si256(); 2]; G];
    let Some(codes) = codes[8 * tile..].first_chunk::<8>() else { return sums };
    for line in 0..4 {
        for half in 0..2 {
            let codes = &codes[2 * line + (half ^ (line / 2))];
            if half == 0 {
                prefetch(codes);
            }
            let codes = load(codes);
            let low = _mm256_and_si256(codes, mask);
            let high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask);
            for g in 0..G {
                let low = _mm256_maddubs_epi16(low, broadcast(rows[g].codes[column + 2 * line]));
                let high = _mm256_maddubs_epi16(high, broadcast(rows[g].codes[column + 2 * line + 1]));
                sums[g][half] = _mm256_add_epi16(sums[g][half], _mm256_add_epi16(low, high));
            }
        }
    }
    sums
}

#[target_feature(enable = "avx2,fma,f16c")]
fn q4_k<const G: usize>(block: &Block<'_>, first_tile: usize, rows: &[Int8Row<'_>; G], sums: &mut [[__m256; 2]; G]) {
    let ones = _mm256_set1_epi16(1);
    let mask = _mm256_set1_epi32(63);
    let shifts = _mm256_setr_epi32(0, 6, 12, 18, 0, 6, 12, 18);
    // A record a 128-bit lane: its low 24 bits, and the 24 bits above them, into each of four words.
    let low = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3));
    let middle = _mm256_broadcastsi128_si256(_mm_setr_epi8(3, 4, 5, 6, 3, 4, 5, 6, 3, 4, 5, 6, 3, 4, 5, 6));
    let (records, _) = block.scales.as_chunks::<8>();
    let mut factors = [[0u16; ROWS]; 2];
    for slot in 0..ROWS {
        for (which, factors) in factors.iter_mut().enumerate() {
            let record = records[4 * (2 * (slot % 4) + which) + slot / 4];
            factors[slot] = u16::from_le_bytes([record[6], record[7]]);
        }
    }
    let [d, dmin] = factors.map(|f| {
        let mut bytes = [0; 32];
        for (b, f) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(f) {
            *b = f.to_le_bytes();
        }
        half_scales(&bytes, 0)
    });
    for tile in 0..block.tiles {
        let at = first_tile + tile;
        let dots = nibbles(block.codes, tile, 8 * at, rows);
        let [pair0, pair1, ..] = block.scales[32 * tile..].as_chunks::<16>().0 else {
            return;
        };
        for (half, pair) in [pair0, pair1].into_iter().enumerate() {
            let records = _mm256_permute4x64_epi64::<0b01_01_00_00>(_mm256_castsi128_si256(load_quarter(pair)));
            let field = |shuffle| {
                let words = _mm256_srlv_epi32(_mm256_shuffle_epi8(records, shuffle), shifts);
                _mm256_cvtepi32_ps(_mm256_and_si256(words, mask))
            };
            let scale = _mm256_mul_ps(field(low), d[half]);
            let min = _mm256_mul_ps(field(middle), dmin[half]);
            for g in 0..G {
                let activation = rows[g].scales[at];
                let [first, second] = rows[g].sums[at];
                let offset = activation * (f32::from(first) + f32::from(second));
                let dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(dots[g][half], ones));
                let sum = _mm256_fnmadd_ps(min, _mm256_set1_ps(offset), sums[g][half]);
                sums[g][half] = _mm256_fmadd_ps(_mm256_mul_ps(dot, _mm256_set1_ps(activation)), scale, sum);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn q4_0<const G: usize>(block: &Block<'_>, first_tile: usize, rows: &[Int8Row<'_>; G], sums: &mut [[__m256; 2]; G]) {
    let ones = _mm256_set1_epi16(1);
    for tile in 0..block.tiles {
        let at = first_tile + tile;
        let dots = nibbles(block.codes, tile, 8 * at, rows);
        let scales = half_scales(block.scales, 2 * ROWS * tile);
        for g in 0..G {
            let [first, second] = rows[g].sums[at];
            let offset = _mm256_set1_epi32(8 * (i32::from(first) + i32::from(second)));
            for half in 0..2 {
                let dot = _mm256_sub_epi32(_mm256_madd_epi16(dots[g][half], ones), offset);
                add(&mut sums[g][half], dot, scales[half], rows[g].scales[at]);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn q8_0<const G: usize>(block: &Block<'_>, first_tile: usize, rows: &[Int8Row<'_>; G], sums: &mut [[__m256; 2]; G]) {
    let ones = _mm256_set1_epi16(1);
    for tile in 0..block.tiles {
        let at = first_tile + tile;
        let scales = half_scales(block.scales, 2 * ROWS * tile);
        let mut dots = [[_mm256_setzero_si256(); 2]; G];
        let Some(codes) = block.codes[16 * tile..].first_chunk::<16>() else { return };
        for line in 0..8 {
            for half in 0..2 {
                let codes = &codes[2 * line + (half ^ (line / 4))];
                if half == 0 {
                    prefetch(codes);
                }
                // Both operands signed: the sign goes to the activations. -128 becomes an unsigned 128.
                let codes = load(codes);
                let magnitude = _mm256_abs_epi8(codes);
                for g in 0..G {
                    let signed = _mm256_sign_epi8(broadcast(rows[g].codes[8 * at + line]), codes);
                    let pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, signed), ones);
                    dots[g][half] = _mm256_add_epi32(dots[g][half], pairs);
                }
            }
        }
        for g in 0..G {
            for half in 0..2 {
                add(&mut sums[g][half], dots[g][half], scales[half], rows[g].scales[at]);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn q6_k<const G: usize>(block: &Block<'_>, first_tile: usize, rows: &[Int8Row<'_>; G], sums: &mut [[__m256; 2]; G]) {
    let nibble = _mm256_set1_epi8(15);
    let upper = _mm256_set1_epi8(0x30);
    let lower_word = _mm256_set1_epi32(0xffff);
    let d = half_scales(block.scales, 2 * ROWS * block.tiles);
    for tile in 0..block.tiles {
        let at = first_tile + tile;
        let (Some(codes), Some(high), Some(scales)) = (
            block.codes[8 * tile..].first_chunk::<8>(),
            block.high[4 * tile..].first_chunk::<4>(),
            block.scales[32 * tile..].first_chunk::<32>().map(|s| s.as_chunks::<8>().0),
        ) else {
            return;
        };
        prefetch(&high[0]);
        prefetch(&high[2]);
        let mut dots = [[_mm256_setzero_si256(); 2]; G];
        for half in 0..2 {
            // int8 scales of both sub-blocks of 16 columns, as 16-bit numbers in 32-bit lanes.
            let scale = |sub: usize| {
                let bytes = _mm_set_epi64x(0, i64::from_le_bytes(scales[2 * sub + half]));
                _mm256_cvtepi8_epi32(bytes)
            };
            let subs = [scale(0), scale(1)];
            let both = _mm256_or_si256(_mm256_and_si256(subs[0], lower_word), _mm256_slli_epi32(subs[1], 16));
            for g in 0..G {
                let offset = _mm256_madd_epi16(both, broadcast_pair(rows[g].sums[at]));
                dots[g][half] = _mm256_sub_epi32(dots[g][half], _mm256_slli_epi32(offset, 5));
            }
            for line in 0..4 {
                let sub = line / 2;
                let codes = &codes[2 * line + (half ^ sub)];
                if half == 0 {
                    prefetch(codes);
                }
                let codes = load(codes);
                let crumbs = load(&high[2 * sub + (half ^ sub)]);
                let [crumbs_low, crumbs_high] = if line % 2 == 0 {
                    [_mm256_slli_epi16(crumbs, 4), _mm256_slli_epi16(crumbs, 2)]
                } else {
                    [crumbs, _mm256_srli_epi16(crumbs, 2)]
                };
                let low = _mm256_or_si256(_mm256_and_si256(codes, nibble), _mm256_and_si256(crumbs_low, upper));
                let high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble);
                let high = _mm256_or_si256(high, _mm256_and_si256(crumbs_high, upper));
                let scale = subs[sub];
                let scale = _mm256_or_si256(_mm256_and_si256(scale, lower_word), _mm256_slli_epi32(scale, 16));
                for g in 0..G {
                    let low = _mm256_maddubs_epi16(low, broadcast(rows[g].codes[8 * at + 2 * line]));
                    let high = _mm256_maddubs_epi16(high, broadcast(rows[g].codes[8 * at + 2 * line + 1]));
                    let scaled = _mm256_madd_epi16(_mm256_add_epi16(low, high), scale);
                    dots[g][half] = _mm256_add_epi32(dots[g][half], scaled);
                }
            }
        }
        for g in 0..G {
            for half in 0..2 {
                add(&mut sums[g][half], dots[g][half], d[half], rows[g].scales[at]);
            }
        }
    }
}

/// `sum += dot * scale * activation`.
#[target_feature(enable = "avx2,fma")]
fn add(sum: &mut __m256, dot: __m256i, scale: __m256, activation: f32) {
    let dot = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), _mm256_set1_ps(activation));
    *sum = _mm256_fmadd_ps(dot, scale, *sum);
}
