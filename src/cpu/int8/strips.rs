//! One strip against any number of quantised rows, by the kernels of the tier at hand.

use super::Int8Row;
#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::pass;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::cpu::isa::Isa;
use crate::quant::packed::ROWS;
use crate::quant::{Format, Packed};

impl Isa {
    /// Whether this tier has an integer kernel for packed `format`; where not, the float kernels serve.
    pub fn has_integer_kernel(self, format: Format) -> bool {
        match self {
            Isa::Portable => {
                let _ = format;
                false
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) | Isa::AvxVnni(_) | Isa::Avx512(_) | Isa::Amx(_) => pass::serves(format),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => pass::serves(format),
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
        // No integer kernel: nobody calls this.
        Isa::Portable => {
            let _ = (packed, strip, row);
            out.fill([f32::NAN; ROWS]);
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(proof) => avx2::project(proof, packed, strip, row, out),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni(proof) => avx2::project_vnni(proof, packed, strip, row, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(proof) => avx512::project(proof, packed, strip, row, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(proof) => avx512::project_tiles(proof, packed, strip, row, out),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(proof) => neon::project(proof, packed, strip, row, out),
    }
}
