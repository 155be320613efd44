//! Chunks of stored keys and values, as float32 in registers.

use half::f16;

/// Values that are loaded together.
pub const CHUNK: usize = 8;

/// Numbers that an instruction turns into float32.
pub trait Stored: Copy {
    /// How many there are.
    fn len(self) -> usize;

    /// Values `CHUNK * chunk..CHUNK * (chunk + 1)`.
    fn load<const FMA: bool>(self, chunk: usize) -> [f32; CHUNK];
}

impl Stored for &[f32] {
    #[inline(always)]
    fn len(self) -> usize {
        <[f32]>::len(self)
    }

    #[inline(always)]
    fn load<const FMA: bool>(self, chunk: usize) -> [f32; CHUNK] {
        self.as_chunks().0[chunk]
    }
}

/// IEEE half precision.
#[derive(Clone, Copy)]
pub struct Half<'a>(pub &'a [f16]);

impl Stored for Half<'_> {
    #[inline(always)]
    fn len(self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn load<const FMA: bool>(self, chunk: usize) -> [f32; CHUNK] {
        floats::<FMA>(&self.0.as_chunks().0[chunk])
    }
}

/// Eight halves as floats.
#[inline(always)]
pub fn floats<const FMA: bool>(halves: &[f16; CHUNK]) -> [f32; CHUNK] {
    #[cfg(target_arch = "x86_64")]
    if FMA {
        use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
        let mut out = [0f32; CHUNK];
        // SAFETY: the copies with FMA are chosen where the processor has F16C too; both arrays hold eight values.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast()))) };
        return out;
    }
    halves.map(f16::to_f32)
}
