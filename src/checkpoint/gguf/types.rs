//! The number types of ggml: `GGML_QUANT_SIZES` in gguf-py's constants.py.

use crate::quant::Format;

/// One ggml type.
#[derive(Debug)]
pub(super) struct GgmlType {
    pub id: u32,
    pub name: &'static str,
    /// Values in a block.
    pub block: u64,
    /// Bytes of a block.
    pub bytes: u64,
    /// How `quant` knows it; `None` where it does not.
    pub format: Option<Format>,
}

const fn known(id: u32, name: &'static str, block: u64, bytes: u64) -> GgmlType {
    GgmlType { id, name, block, bytes, format: None }
}

const fn supported(id: u32, format: Format) -> GgmlType {
    let (block, bytes) = (format.block_elements() as u64, format.block_bytes() as u64);
    GgmlType { id, name: format.name(), block, bytes, format: Some(format) }
}

/// Every type. One that `quant` learns moves from `known` to `supported`.
const TYPES: [GgmlType; 34] = [
    supported(0, Format::F32),
    supported(1, Format::F16),
    supported(2, Format::Q4_0),
    known(3, "Q4_1", 32, 20),
    known(6, "Q5_0", 32, 22),
    known(7, "Q5_1", 32, 24),
    supported(8, Format::Q8_0),
    known(9, "Q8_1", 32, 40),
    known(10, "Q2_K", 256, 84),
    known(11, "Q3_K", 256, 110),
    supported(12, Format::Q4K),
    supported(13, Format::Q5K),
    supported(14, Format::Q6K),
    known(15, "Q8_K", 256, 292),
    known(16, "IQ2_XXS", 256, 66),
    known(17, "IQ2_XS", 256, 74),
    known(18, "IQ3_XXS", 256, 98),
    known(19, "IQ1_S", 256, 50),
    known(20, "IQ4_NL", 32, 18),
    known(21, "IQ3_S", 256, 110),
    known(22, "IQ2_S", 256, 82),
    known(23, "IQ4_XS", 256, 136),
    known(24, "I8", 1, 1),
    known(25, "I16", 1, 2),
    known(26, "I32", 1, 4),
    known(27, "I64", 1, 8),
    known(28, "F64", 1, 8),
    known(29, "IQ1_M", 256, 56),
    supported(30, Format::BF16),
    known(34, "TQ1_0", 256, 54),
    known(35, "TQ2_0", 256, 66),
    known(39, "MXFP4", 32, 17),
    known(40, "NVFP4", 64, 36),
    known(41, "Q1_0", 128, 18),
];

/// The type with number `id`.
pub(super) fn by_id(id: u32) -> Option<&'static GgmlType> {
    TYPES.iter().find(|t| t.id == id)
}

/// The names of the supported types, for messages.
pub(super) fn supported_names() -> String {
    let names: Vec<&str> = TYPES.iter().filter(|t| t.format.is_some()).map(|t| t.name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_reference() {
        // GGML_QUANT_SIZES of gguf 0.19.0, the types that `quant` sizes itself.
        for (id, block, bytes) in
            [(0, 1, 4), (1, 1, 2), (2, 32, 18), (8, 32, 34), (12, 256, 144), (13, 256, 176), (14, 256, 210), (30, 1, 2)]
        {
            let found = by_id(id).unwrap();
            assert_eq!((found.block, found.bytes), (block, bytes), "{}", found.name);
        }
    }
}
