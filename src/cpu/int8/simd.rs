//! What the integer kernels need of a processor: operations on lines of 64 bytes, four of each of 16 slots.

/// A processor's instructions. A value proves that they are there, so every operation is safe to call.
///
/// Sums of products are exact. Codes are unsigned where nothing else is said, activations signed.
pub trait Simd: Copy {
    /// Four bytes of each slot.
    type Bytes: Copy;
    /// Four activations, the same for each slot.
    type Splat: Copy;
    /// Sums of products with small codes, before they are [joined](Simd::join).
    type Pairs: Copy;
    /// A 32-bit integer for each slot.
    type Ints: Copy;
    /// A float for each slot.
    type Floats: Copy;

    /// Rows of activations that pass over packed lines together; more of them pass over decoded ones.
    const STRAIGHT_ROWS: usize = 2;
    /// How many lines of codes below 32 one value of [`Simd::Pairs`] takes; of codes below 16 it takes eight.
    const LINES_OF_FIVE_BITS: usize;
    /// The same for codes below 64.
    const LINES_OF_SIX_BITS: usize;
    /// What [`Simd::add_signed`] adds to each code.
    const SIGNED_OFFSET: i32;
    /// The largest code that [`Simd::add_unsigned`] takes.
    const UNSIGNED_MAX: u8;
    /// Whether the entries of a table are signed codes: where those cost nothing extra and have more steps.
    const SIGNED_TABLES: bool;

    fn line(self, bytes: &[u8; 64]) -> Self::Bytes;
    /// A line whose halves are swapped.
    fn rotated_line(self, bytes: &[u8; 64]) -> Self::Bytes;
    fn store_line(self, bytes: Self::Bytes, out: &mut [u8; 64]);
    /// Four activations, the first in the lowest byte.
    fn splat(self, activations: u32) -> Self::Splat;
    fn byte(self, byte: u8) -> Self::Bytes;
    fn and(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Shifts lanes of one or two bytes; what may have come from the next byte has to be masked.
    fn left<const N: i32>(self, a: Self::Bytes) -> Self::Bytes;
    /// As [`Simd::left`].
    fn right<const N: i32>(self, a: Self::Bytes) -> Self::Bytes;
    /// A table for [`Simd::look_up`].
    fn table(self, entries: &[u8; 16]) -> Self::Bytes;
    /// Entry of `table` for every code below 16.
    fn look_up(self, table: Self::Bytes, codes: Self::Bytes) -> Self::Bytes;

    fn no_pairs(self) -> Self::Pairs;
    /// Adds the products with small codes; [`Simd::LINES_OF_FIVE_BITS`] says how many may follow each other.
    fn add_small(self, pairs: Self::Pairs, codes: Self::Bytes, activations: Self::Splat) -> Self::Pairs;
    /// `sum + pairs`.
    fn join(self, sum: Self::Ints, pairs: Self::Pairs) -> Self::Ints;
    /// Weights of -128 to 127 for [`Simd::join_weighted`].
    fn weights(self, weights: Self::Ints) -> Self::Ints;
    /// `sum + pairs * weights`.
    fn join_weighted(self, sum: Self::Ints, pairs: Self::Pairs, weights: Self::Ints) -> Self::Ints;
    /// `sum - 32 * (sums[0] * weights[0] + sums[1] * weights[1])`.
    fn sub_weighted(self, sum: Self::Ints, sums: [i16; 2], weights: [Self::Ints; 2]) -> Self::Ints;
    /// Adds the products with codes of up to [`Simd::UNSIGNED_MAX`].
    fn add_unsigned(self, sum: Self::Ints, codes: Self::Bytes, activations: Self::Splat) -> Self::Ints;
    /// Adds the products with signed codes plus [`Simd::SIGNED_OFFSET`].
    fn add_signed(self, sum: Self::Ints, codes: Self::Bytes, activations: Self::Splat) -> Self::Ints;

    fn int(self, value: i32) -> Self::Ints;
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn load_ints(self, values: &[i32; 16]) -> Self::Ints;
    fn store_ints(self, values: Self::Ints, out: &mut [i32; 16]);
    fn signed_bytes(self, bytes: &[u8; 16]) -> Self::Ints;
    fn unsigned_bytes(self, bytes: &[u8; 16]) -> Self::Ints;
    /// The 6-bit scales and minima of four records of Q4_K or Q5_K.
    fn k_fields(self, records: &[u8; 32]) -> [Self::Ints; 2];

    fn float(self, value: f32) -> Self::Floats;
    fn floats(self, ints: Self::Ints) -> Self::Floats;
    /// 16 IEEE half-precision numbers.
    fn halves(self, bytes: &[u8; 32]) -> Self::Floats;
    fn load(self, values: &[f32; 16]) -> Self::Floats;
    fn store(self, values: Self::Floats, out: &mut [f32; 16]);
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `c - a * b`.
    fn mul_sub_from(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    /// Whether [`Simd::multiply_tiles`] can be called.
    const HAS_TILES: bool = false;

    /// Prepares for [`Simd::multiply_tiles`] with `rows` rows of activations, at most 16.
    fn shape_tiles(self, _rows: usize) {}

    /// `out[t][row][slot]` = the products of tile `t` of four, its lines unsigned codes, with the codes of tile `t` of
    /// four of a panel of `rows` rows.
    ///
    /// # Safety
    /// The last [`Simd::shape_tiles`] of this thread was with `rows`.
    unsafe fn multiply_tiles(
        self,
        _lines: &[[[u8; 64]; 8]; 4],
        _panel: &[u32],
        _rows: usize,
        out: &mut [[[i32; 16]; 16]; 4],
    ) {
        out.fill([[0; 16]; 16]);
    }
}
