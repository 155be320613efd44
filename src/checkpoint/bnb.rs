//! bitsandbytes 4-bit tensors: the side tensors that lie beside the codes, checked and read.

/// Where the scales of one tensor lie, and what its quantisation state says.
#[derive(Debug)]
pub(super) struct Scales {}

impl Scales {
    /// Bytes of the side tensors.
    pub fn bytes(&self) -> u64 {
        0
    }
}
