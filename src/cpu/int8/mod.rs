//! Matrix products with integer arithmetic: packed weights times activations quantised to int8.
//!
//! A strip of 16 rows is streamed once for up to four rows of activations. Per tile of 32 columns the dot products of
//! codes are exact in int32; the scales of weights and activations are applied in float32.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod strips;
#[cfg(test)]
mod tests;

pub use activations::{Int8Row, Int8Rows};
