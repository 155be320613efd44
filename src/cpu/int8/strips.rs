//! One strip against any number of quantised rows, by the kernels of the tier at hand.

use std::ops::Range;

use super::Panels;
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

    /// Rows of a [panel](Panels) of activations at most: so many sums stay in the tier's registers.
    pub fn panel_rows(self) -> usize {
        match self {
            Isa::Portable => 1,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) | Isa::AvxVnni(_) => avx2::PANEL,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) | Isa::Amx(_) => avx512::PANEL,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => neon::PANEL,
        }
    }
}

/// What is read after some strips: it is asked for while they are in work.
#[derive(Clone, Copy)]
pub struct Ahead<'a> {
    /// Bytes from the first strip's start that are read in their order: the strips' own, and those right behind them.
    pub run: usize,
    /// What is read after them.
    pub next: &'a [u8],
}

/// `out[s][i][slot] = packed[row of slot in strip s] · inputs[i]` for each of `strips` and each `i`.
pub fn project(
    isa: Isa,
    packed: &Packed,
    strips: Range<usize>,
    inputs: Panels<'_>,
    ahead: Ahead<'_>,
    out: &mut [[f32; ROWS]],
) {
    match isa {
        // No integer kernel: nobody calls this.
        Isa::Portable => {
            let _ = (packed, strips, inputs, ahead);
            out.fill([f32::NAN; ROWS]);
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(proof) => avx2::project(proof, packed, strips, inputs, ahead, out),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni(proof) => avx2::project_vnni(proof, packed, strips, inputs, ahead, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(proof) => avx512::project(proof, packed, strips, inputs, ahead, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(proof) => avx512::project_tiles(proof, packed, strips, inputs, ahead, out),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(proof) => neon::project(proof, packed, strips, inputs, ahead, out),
    }
}
