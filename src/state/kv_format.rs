//! How keys and values are stored.

/// Number format of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvFormat {
    /// IEEE half precision.
    #[default]
    F16,
    /// Signed bytes with a half-precision scale for every [`KvFormat::BLOCK`] channels of a head, as GGUF's Q8_0: 8.5 bits
    /// a value.
    Q8_0,
    /// IEEE single precision.
    F32,
}

impl KvFormat {
    /// Channels that share a scale in [`KvFormat::Q8_0`].
    pub const BLOCK: usize = 32;

    /// Whether heads of `head_dim` channels can be stored.
    pub fn takes(self, head_dim: usize) -> bool {
        self != KvFormat::Q8_0 || head_dim.is_multiple_of(Self::BLOCK)
    }

    /// Bytes of `head_dim` channels, which the format [takes](Self::takes).
    pub fn head_bytes(self, head_dim: usize) -> usize {
        match self {
            KvFormat::F16 => 2 * head_dim,
            KvFormat::Q8_0 => head_dim + 2 * (head_dim / Self::BLOCK),
            KvFormat::F32 => 4 * head_dim,
        }
    }

    /// The name as people write it.
    pub const fn name(self) -> &'static str {
        match self {
            KvFormat::F16 => "f16",
            KvFormat::Q8_0 => "q8_0",
            KvFormat::F32 => "f32",
        }
    }
}

impl std::fmt::Display for KvFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for KvFormat {
    type Err = String;

    /// The format with this [name](Self::name).
    fn from_str(text: &str) -> Result<Self, String> {
        let known = [KvFormat::F16, KvFormat::Q8_0, KvFormat::F32];
        let found = known.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| format!("{text:?} is no format of the KV cache, expected f16, q8_0 or f32"))
    }
}
