//! One strip against any number of quantised rows, by the kernel of the processor at hand.

use super::Int8Row;
use crate::cpu::isa::Isa;
use crate::quant::packed::ROWS;
use crate::quant::{Format, Packed};

/// Rows of activations that one pass over a strip serves.
const GROUP: usize = 4;

impl Isa {
    /// Whether this processor has an integer kernel for packed `format`; where not, the float kernels serve.
    pub fn has_integer_kernel(self, format: Format) -> bool {
        match (self, format) {
            (Isa::Portable, _) => false,
            #[cfg(target_arch = "aarch64")]
            (Isa::Neon(_), Format::Q5K | Format::Int4(_)) => true,
            (_, Format::Q8_0 | Format::Q4_0 | Format::Q4K | Format::Q6K) => true,
            _ => false,
        }
    }
}

/// `out[i][slot] = packed[row of slot in strip] · row(i)` for each `i`.
pub fn project<'a>(
    isa: Isa,
    packed: &Packed,
    strip: usize,
    row: impl Fn(usize) -> Int8Row<'a>,
    out: &mut [[f32; ROWS]],
) {
    let pass = Pass { isa, packed, strip };
    // A pass decodes the strip once for all its rows, so what is left over takes one pass, too.
    for (g, out) in out.chunks_mut(GROUP).enumerate() {
        let row = |i: usize| row(GROUP * g + i);
        match out {
            [a, b, c, d] => [*a, *b, *c, *d] = pass.of([row(0), row(1), row(2), row(3)]),
            [a, b, c] => [*a, *b, *c] = pass.of([row(0), row(1), row(2)]),
            [a, b] => [*a, *b] = pass.of([row(0), row(1)]),
            [a] => [*a] = pass.of([row(0)]),
            _ => {}
        }
    }
}

/// One strip, for a few rows of activations at a time.
struct Pass<'a> {
    isa: Isa,
    packed: &'a Packed,
    strip: usize,
}

impl Pass<'_> {
    #[inline]
    fn of<const G: usize>(&self, rows: [Int8Row<'_>; G]) -> [[f32; ROWS]; G] {
        let (format, strip, cols) = (self.packed.format(), self.packed.strip(self.strip), self.packed.cols());
        match self.isa {
            // No integer kernel: nobody calls this.
            Isa::Portable => [[f32::NAN; ROWS]; G],
            // SAFETY: the `Detected` of each of them proves that the processor has AVX2, FMA and F16C.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) | Isa::AvxVnni(_) | Isa::Avx512(_) | Isa::Amx(_) => unsafe {
                super::avx2::strip(format, strip, cols, rows)
            },
            // SAFETY: `Detected` proves that the processor has the dot product extension.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => unsafe { super::neon::strip(format, strip, cols, rows) },
        }
    }
}
