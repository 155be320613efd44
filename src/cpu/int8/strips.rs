//! One strip against any number of quantised rows, by the kernel of the processor at hand.

use super::Int8Row;
use crate::cpu::isa::Isa;
use crate::quant::packed::ROWS;
use crate::quant::{Format, Packed};

/// Rows of activations that one pass over a strip serves.
const GROUP: usize = 4;

/// Whether there are integer kernels for packed `format`.
pub fn serve(format: Format) -> bool {
    matches!(format, Format::Q8_0 | Format::Q4_0 | Format::Q4K | Format::Q6K)
}

impl Isa {
    /// Whether this processor has integer kernels; where not, the float kernels serve.
    pub fn has_integer_kernels(self) -> bool {
        match self {
            Isa::Portable => false,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) | Isa::AvxVnni(_) | Isa::Avx512(_) | Isa::Amx(_) => true,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => false,
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
    match isa {
        Isa::Portable => {}
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(_) | Isa::AvxVnni(_) | Isa::Avx512(_) | Isa::Amx(_) => {
            fn pass<const G: usize>(packed: &Packed, strip: usize, rows: [Int8Row<'_>; G]) -> [[f32; ROWS]; G] {
                // SAFETY: the `Detected` of the arm we are in proves that the processor has AVX2, FMA and F16C.
                unsafe { super::avx2::strip(packed.format(), packed.strip(strip), packed.cols(), rows) }
            }
            // A pass decodes the strip once for all its rows, so what is left over takes one pass, too.
            for (g, out) in out.chunks_mut(GROUP).enumerate() {
                let row = |i: usize| row(GROUP * g + i);
                match out {
                    [a, b, c, d] => [*a, *b, *c, *d] = pass(packed, strip, [row(0), row(1), row(2), row(3)]),
                    [a, b, c] => [*a, *b, *c] = pass(packed, strip, [row(0), row(1), row(2)]),
                    [a, b] => [*a, *b] = pass(packed, strip, [row(0), row(1)]),
                    [a] => [*a] = pass(packed, strip, [row(0)]),
                    _ => {}
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(_) => {}
    }
}
