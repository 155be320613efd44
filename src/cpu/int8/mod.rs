//! Matrix products with integer arithmetic: packed weights times activations quantised to int8.
//!
//! Per tile of 32 columns the dot products of codes are exact in int32; the scales of weights and activations are applied in
//! float32. The kernels are written once, in `pass`, over the formats' `layouts` and the instructions of a tier (`simd`).

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
mod bench;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod layouts;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod pass;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod simd;
pub mod strips;
#[cfg(test)]
mod tests;

pub use activations::{Int8Rows, Panels, RowGroup, SharedInt8, panel_rows};
pub use strips::Ahead;
