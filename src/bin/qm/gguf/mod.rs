//! The head of a GGUF file, version 3: metadata and the list of tensors.
//! Definition: github.com/ggml-org/ggml, docs/gguf.md.

mod kind;

pub use kind::Kind;

/// Tensors begin at multiples of this (`general.alignment`, whose default this is).
const ALIGNMENT: u64 = 32;

/// One tensor of the list.
pub struct Entry {
    pub name: String,
    /// Axes, fastest first, as GGUF counts them.
    pub dims: Vec<u64>,
    pub kind: Kind,
}

impl Entry {
    pub fn bytes(&self) -> u64 {
        self.kind.bytes(self.dims.iter().product())
    }
}

/// Where each tensor lies, and everything before the first of them.
pub struct Layout {
    pub head: Vec<u8>,
    /// Offset of each tensor from the start of the file.
    pub offsets: Vec<u64>,
    pub file_bytes: u64,
}

impl Layout {
    pub fn new(metadata: &Metadata, tensors: &[Entry]) -> Self {
        let mut head = Vec::new();
        head.extend(b"GGUF");
        head.extend(3u32.to_le_bytes());
        head.extend((tensors.len() as u64).to_le_bytes());
        head.extend(metadata.count.to_le_bytes());
        head.extend(&metadata.bytes);
        let mut relative = Vec::with_capacity(tensors.len());
        let mut end = 0u64;
        for tensor in tensors {
            let offset = end.next_multiple_of(ALIGNMENT);
            put_string(&mut head, &tensor.name);
            head.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|d| head.extend(d.to_le_bytes()));
            head.extend(tensor.kind.ggml_type().to_le_bytes());
            head.extend(offset.to_le_bytes());
            relative.push(offset);
            end = offset + tensor.bytes();
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
        let start = head.len() as u64;
        Self { head, offsets: relative.iter().map(|o| start + o).collect(), file_bytes: start + end }
    }
}

/// Key-value pairs in their encoded form.
#[derive(Default)]
pub struct Metadata {
    bytes: Vec<u8>,
    count: u64,
}

fn put_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// Type numbers of `enum gguf_metadata_value_type`.
mod value_type {
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
}

impl Metadata {
    fn key(&mut self, key: &str, value_type: u32) {
        put_string(&mut self.bytes, key);
        self.bytes.extend(value_type.to_le_bytes());
        self.count += 1;
    }

    pub fn u32(&mut self, key: &str, value: u32) {
        self.key(key, value_type::U32);
        self.bytes.extend(value.to_le_bytes());
    }

    pub fn f32(&mut self, key: &str, value: f32) {
        self.key(key, value_type::F32);
        self.bytes.extend(value.to_le_bytes());
    }

    pub fn bool(&mut self, key: &str, value: bool) {
        self.key(key, value_type::BOOL);
        self.bytes.push(u8::from(value));
    }

    pub fn string(&mut self, key: &str, value: &str) {
        self.key(key, value_type::STRING);
        put_string(&mut self.bytes, value);
    }

    fn array(&mut self, key: &str, element_type: u32, len: usize) {
        self.key(key, value_type::ARRAY);
        self.bytes.extend(element_type.to_le_bytes());
        self.bytes.extend((len as u64).to_le_bytes());
    }

    pub fn i32s(&mut self, key: &str, values: &[i32]) {
        self.array(key, value_type::I32, values.len());
        values.iter().for_each(|v| self.bytes.extend(v.to_le_bytes()));
    }

    pub fn strings(&mut self, key: &str, values: &[String]) {
        self.array(key, value_type::STRING, values.len());
        values.iter().for_each(|v| put_string(&mut self.bytes, v));
    }
}
