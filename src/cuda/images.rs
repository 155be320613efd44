//! The compiled kernels, which the build script embeds. Where it found no compiler there are none.

/// A fat binary, where the driver may read it.
pub type Image = Aligned<[u8]>;

/// Begins at a multiple of what a fat binary's header wants.
#[repr(C, align(16))]
pub struct Aligned<T: ?Sized>(pub T);

include!(concat!(env!("OUT_DIR"), "/kernels/images.rs"));
