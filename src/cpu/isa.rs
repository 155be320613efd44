//! Which instructions the kernels use: a tier, chosen when a model is loaded.
//!
//! One binary holds every tier of its architecture. To add one: a variant here with its [detection](Isa::available) and
//! name, an arm in `kernels::kernel!` for the float kernels, and a module in `int8` whose integer kernels
//! `int8::strips` calls. The tests of both run every tier that the processor has.

use crate::error::{Error, Result};

/// The variable that forces a tier by [name](Isa::name).
pub const VARIABLE: &str = "QM_CPU_ISA";

/// A tier: which copy of the kernels runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Any processor.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Detected),
    /// The same with AVX-VNNI: products of bytes summed in 32 bits by one instruction.
    #[cfg(target_arch = "x86_64")]
    AvxVnni(Detected),
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512(Detected),
    /// The same with AMX tiles of int8, for products of many rows.
    #[cfg(target_arch = "x86_64")]
    Amx(Detected),
    /// AArch64 with the dot product instructions.
    #[cfg(target_arch = "aarch64")]
    Neon(Detected),
}

/// Proof that [`Isa::available`] found what a tier needs: nothing else can make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detected(());

impl Isa {
    /// The names of all tiers of this architecture.
    #[cfg(test)]
    pub const NAMES: &[&str] = if cfg!(target_arch = "aarch64") {
        &["portable", "neon"]
    } else {
        &["portable", "avx2", "avx-vnni", "amx", "avx512"]
    };

    /// Every tier that this processor can run, the best one last. Where the processor has AMX, this asks the kernel once
    /// for the process's permission to use its tiles; a refusal leaves the tier out and changes nothing else.
    pub fn available() -> Vec<Self> {
        let tiers = Self::without_tiles();
        #[cfg(target_arch = "x86_64")]
        if let Some((Isa::Avx512(_), others)) = tiers.split_last()
            && amx::is_usable()
        {
            return [others, &[Isa::Amx(Detected(())), tiers[others.len()]]].concat();
        }
        tiers
    }

    /// The tiers for which nothing has to be asked. The best of them is the best of all: where both were measured, prompts
    /// were read 1.2 to 1.5 times faster with AVX-512 than with AMX, since scales for every 32 columns leave little work to
    /// tiles.
    fn without_tiles() -> Vec<Self> {
        let mut tiers = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            tiers.push(Isa::Avx2(Detected(())));
            if is_x86_feature_detected!("avxvnni") {
                tiers.push(Isa::AvxVnni(Detected(())));
            }
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            if avx512 {
                tiers.push(Isa::Avx512(Detected(())));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            tiers.push(Isa::Neon(Detected(())));
        }
        tiers
    }

    /// The tier to run: the one that the environment variable `QM_CPU_ISA` names, else the best one.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the names that are possible, when the variable holds another one.
    pub fn choose() -> Result<Self> {
        match std::env::var_os(VARIABLE) {
            Some(name) => Self::named(&name.to_string_lossy()),
            None => Ok(Self::best()),
        }
    }

    fn best() -> Self {
        Self::without_tiles().pop().unwrap_or(Isa::Portable)
    }

    /// The tier of that name, the best one for an empty name. Not inlined, because the compiler then looks at the length
    /// of a variable that is not there, harmlessly, but memory checkers report it.
    #[inline(never)]
    fn named(wanted: &str) -> Result<Self> {
        if wanted.is_empty() {
            return Ok(Self::best());
        }
        let tiers = Self::available();
        tiers.iter().copied().find(|isa| isa.name() == wanted).ok_or_else(|| {
            let names: Vec<_> = tiers.iter().map(|isa| isa.name()).collect();
            Error::InvalidArgument(format!("{VARIABLE} is {wanted:?}, this processor has {}", names.join(", ")))
        })
    }

    /// The name in `QM_CPU_ISA`, the log and `qm_build_info`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni(_) => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Amx(_) => "amx",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => "neon",
        }
    }
}

/// Whether a process may use AMX: the processor, the operating system and, on Linux, a permission for the process
/// (Linux' Documentation/arch/x86/xstate.rst).
#[cfg(target_arch = "x86_64")]
mod amx {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    /// The state components of tile configuration and tile data.
    const TILES: u64 = 0b11 << 17;

    pub fn is_usable() -> bool {
        if __cpuid(0).eax < 7 {
            return false;
        }
        let bits = __cpuid_count(7, 0).edx;
        let (tile, int8) = (bits & 1 << 24 != 0, bits & 1 << 25 != 0);
        tile && int8 && enabled() & TILES == TILES && permitted()
    }

    /// XCR0: the state that the operating system saves.
    fn enabled() -> u64 {
        #[target_feature(enable = "xsave")]
        fn read() -> u64 {
            // SAFETY: the operating system allows XGETBV: `enabled` saw OSXSAVE.
            unsafe { std::arch::x86_64::_xgetbv(0) }
        }
        if __cpuid(1).ecx & 1 << 27 == 0 {
            return 0;
        }
        // SAFETY: OSXSAVE is only set where XSAVE is.
        unsafe { read() }
    }

    /// Asks for the permission. Once given it stays with the process; until a thread uses tiles nothing else changes,
    /// but the system then refuses signal stacks that have no room for them.
    #[cfg(target_os = "linux")]
    fn permitted() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: the call takes two numbers and touches no memory of ours; an old kernel answers with an error.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }

    #[cfg(not(target_os = "linux"))]
    fn permitted() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_of_this_processor_can_be_forced_and_the_best_is_the_default() {
        let tiers = Isa::available();
        for isa in &tiers {
            assert_eq!(Isa::named(isa.name()).unwrap(), *isa);
        }
        assert_eq!(Isa::best(), *tiers.last().unwrap());
        assert_eq!(Isa::named("").unwrap(), *tiers.last().unwrap());
    }

    #[test]
    fn an_unknown_tier_is_an_error_that_names_those_there_are() {
        for name in ["sse9", "AVX2 ", "portable,avx2", "\u{fffd}"] {
            let message = Isa::named(name).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("portable"), "{message}");
        }
    }

    #[test]
    fn asking_twice_finds_the_same() {
        assert_eq!(Isa::available(), Isa::available());
    }
}
