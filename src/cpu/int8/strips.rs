//! One strip against any number of quantised rows, by the kernel of the processor at hand.

use super::Int8Row;
use crate::cpu::kernels::Isa;
use crate::quant::packed::ROWS;
use crate::quant::{Format, Packed};

/// Whether there are integer kernels for packed `format`.
pub fn serve(format: Format) -> bool {
    matches!(format, Format::Q8_0 | Format::Q4_0 | Format::Q4K | Format::Q6K)
}

impl Isa {
    /// Whether this processor has integer kernels; where not, the float kernels serve.
    pub fn has_integer_kernels(self) -> bool {
        self != Isa::Portable
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
        Isa::Avx2(_) => {
            use super::avx2;
            let (format, bytes, cols) = (packed.format(), packed.strip(strip), packed.cols());
            let (groups, rest) = out.as_chunks_mut::<4>();
            let done = 4 * groups.len();
            for (g, out) in groups.iter_mut().enumerate() {
                // SAFETY: `Isa::Avx2` proves that the processor has AVX2, FMA and F16C.
                *out = unsafe { avx2::strip(format, bytes, cols, std::array::from_fn(|i| row(4 * g + i))) };
            }
            for (i, out) in rest.iter_mut().enumerate() {
                // SAFETY: as above.
                [*out] = unsafe { avx2::strip(format, bytes, cols, [row(done + i)]) };
            }
        }
    }
}
