//! Which library this is.

use std::ffi::{CString, c_char};
use std::sync::OnceLock;

use crate::engine::{Isa, built_with};

/// The version of the binary interface. It changes only when programs must be compiled again; the library's file name
/// (`libqwen3moe.so.0`) carries it.
pub const QM_ABI_VERSION: u32 = 0;

/// A part of the crate's version, which Cargo gives as a text.
const fn number(text: &str) -> u32 {
    match u32::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => panic!("a part of the version is not a number"),
    }
}

const VERSION_NUMBER: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) * 1_000_000
    + number(env!("CARGO_PKG_VERSION_MINOR")) * 1_000
    + number(env!("CARGO_PKG_VERSION_PATCH"));

/// The version of the library that is running, such as "0.1.0". Static: do not free it.
#[unsafe(no_mangle)]
pub extern "C" fn qm_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The version of the library that is running, as major * 1000000 + minor * 1000 + patch: QM_VERSION_NUMBER is that of
/// the header.
#[unsafe(no_mangle)]
pub extern "C" fn qm_version_number() -> u32 {
    VERSION_NUMBER
}

/// QM_ABI_VERSION of the library that is running. A program that loads the library by itself should compare.
#[unsafe(no_mangle)]
pub extern "C" fn qm_abi_version() -> u32 {
    QM_ABI_VERSION
}

/// How the library was built and what it found, as a JSON object:
///
/// - "version" (text), "abi" (number), "target" (text), "profile" (text);
/// - "features": a list of the parts that were compiled in: "cpu", "cuda";
/// - "cuda": the CUDA version that it was built with, such as "13.0", or null;
/// - "cuda_architectures": a list of the architectures that it has code for;
/// - "instruction_sets": a list of those extensions of this machine's processor that it knows;
/// - "cpu_isas": a list of the kernels' tiers that this processor can run, the best one last: "portable", "avx2",
///   "avx-vnni", "avx512", "amx" or "neon";
/// - "cpu_isa": the tier that a load takes: the best, or the one that the environment variable QM_CPU_ISA names; null if
///   that is none of the list, and every load then fails with QM_ERR_INVALID_ARGUMENT.
///
/// Later versions may add keys. Static: do not free it.
#[unsafe(no_mangle)]
pub extern "C" fn qm_build_info() -> *const c_char {
    static TEXT: OnceLock<CString> = OnceLock::new();
    TEXT.get_or_init(|| CString::new(build_info().to_string()).unwrap_or_default()).as_ptr()
}

fn build_info() -> serde_json::Value {
    let cuda = built_with();
    let version = cuda.map(|((major, minor), _)| format!("{major}.{minor}"));
    serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "abi": QM_ABI_VERSION,
        "target": env!("QM_TARGET"),
        "profile": env!("QM_PROFILE"),
        "features": if cuda.is_some() { vec!["cpu", "cuda"] } else { vec!["cpu"] },
        "cuda": version,
        "cuda_architectures": cuda.map_or(&[][..], |(_, architectures)| architectures),
        "instruction_sets": instruction_sets(),
        "cpu_isas": Isa::available().into_iter().map(Isa::name).collect::<Vec<_>>(),
        "cpu_isa": Isa::choose().ok().map(Isa::name),
    })
}

#[cfg(target_arch = "x86_64")]
fn instruction_sets() -> Vec<&'static str> {
    let known = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
        ("avxvnni", is_x86_feature_detected!("avxvnni")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    known.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect()
}

#[cfg(target_arch = "aarch64")]
fn instruction_sets() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected;
    let known = [
        ("neon", is_aarch64_feature_detected!("neon")),
        ("dotprod", is_aarch64_feature_detected!("dotprod")),
        ("fp16", is_aarch64_feature_detected!("fp16")),
    ];
    known.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn instruction_sets() -> Vec<&'static str> {
    Vec::new()
}
