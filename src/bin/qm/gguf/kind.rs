//! Storage types of tensors in GGUF files.

/// A ggml storage type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Kind {
    #[value(name = "f32")]
    F32,
    #[value(name = "f16")]
    F16,
    #[value(name = "bf16")]
    BF16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
    #[value(name = "q4_k")]
    Q4K,
    #[value(name = "q5_k")]
    Q5K,
    #[value(name = "q6_k")]
    Q6K,
}

impl Kind {
    /// The name that GGUF tools show.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::F32 => "F32",
            Kind::F16 => "F16",
            Kind::BF16 => "BF16",
            Kind::Q8_0 => "Q8_0",
            Kind::Q4_0 => "Q4_0",
            Kind::Q4K => "Q4_K",
            Kind::Q5K => "Q5_K",
            Kind::Q6K => "Q6_K",
        }
    }

    /// Number of the type in a GGUF tensor entry (`enum ggml_type`).
    pub const fn ggml_type(self) -> u32 {
        match self {
            Kind::F32 => 0,
            Kind::F16 => 1,
            Kind::Q4_0 => 2,
            Kind::Q8_0 => 8,
            Kind::Q4K => 12,
            Kind::Q5K => 13,
            Kind::Q6K => 14,
            Kind::BF16 => 30,
        }
    }

    /// `general.file_type` of a file whose matrices mostly have this type (`enum llama_ftype`).
    pub const fn file_type(self) -> u32 {
        match self {
            Kind::F32 => 0,
            Kind::F16 => 1,
            Kind::Q4_0 => 2,
            Kind::Q8_0 => 7,
            Kind::Q4K => 15,
            Kind::Q5K => 17,
            Kind::Q6K => 18,
            Kind::BF16 => 32,
        }
    }

    pub const fn block_elements(self) -> u64 {
        match self {
            Kind::F32 | Kind::F16 | Kind::BF16 => 1,
            Kind::Q8_0 | Kind::Q4_0 => 32,
            Kind::Q4K | Kind::Q5K | Kind::Q6K => 256,
        }
    }

    pub const fn block_bytes(self) -> u64 {
        match self {
            Kind::F32 => 4,
            Kind::F16 | Kind::BF16 => 2,
            Kind::Q8_0 => 34,
            Kind::Q4_0 => 18,
            Kind::Q4K => 144,
            Kind::Q5K => 176,
            Kind::Q6K => 210,
        }
    }
    /// Bytes of `elements` values, which are whole blocks.
    pub const fn bytes(self, elements: u64) -> u64 {
        elements / self.block_elements() * self.block_bytes()
    }
}
