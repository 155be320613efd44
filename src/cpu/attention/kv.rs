//! Keys and values of all sequences.

use half::f16;

use crate::cpu::isa::Isa;
use crate::cpu::kernels;
use crate::cpu::memory::zeroed;
use crate::error::{Error, Result};
use crate::model::{Batch, LoadProgress, Mixer, ModelSpec};
use crate::state::{KvFormat, StateLayout};

/// Bytes that memory hands over together.
const LINE: usize = 64;

/// Keys and values of all sequences, for every attention layer.
pub struct KvCache {
    format: KvFormat,
    /// One a trunk layer; `None` for layers without attention.
    layers: Vec<Option<KvLayer>>,
}

/// Keys and values of one layer: `[pages, kv_heads, page_tokens, head_dim]`.
pub struct KvLayer {
    page_tokens: usize,
    kv_heads: usize,
    head_dim: usize,
    format: KvFormat,
    keys: Store,
    values: Store,
}

/// Numbers in one of the formats.
enum Store {
    F32(Vec<f32>),
    F16(Vec<f16>),
    /// Value `i` is `codes[i] * scales[i / KvFormat::BLOCK]`.
    Q8_0 {
        codes: Vec<i8>,
        scales: Vec<f16>,
    },
}

impl Store {
    /// `heads` times `head_dim` zeros.
    fn new(heads: usize, head_dim: usize, format: KvFormat) -> Result<Self> {
        let what = "KV cache";
        Ok(match format {
            KvFormat::F32 => Store::F32(zeroed(heads, head_dim, what)?),
            KvFormat::F16 => Store::F16(zeroed(heads, head_dim, what)?),
            KvFormat::Q8_0 => Store::Q8_0 {
                codes: zeroed(heads, head_dim, what)?,
                scales: zeroed(heads, head_dim / KvFormat::BLOCK, what)?,
            },
        })
    }

    /// Writes one head of one position.
    fn write(&mut self, isa: Isa, at: usize, values: &[f32]) {
        match self {
            Store::F32(store) => store[at..at + values.len()].copy_from_slice(values),
            Store::F16(store) => isa.f32_to_f16(values, &mut store[at..at + values.len()]),
            Store::Q8_0 { codes, scales } => {
                let blocks = at / KvFormat::BLOCK..(at + values.len()) / KvFormat::BLOCK;
                isa.f32_to_q8_0(values, &mut codes[at..at + values.len()], &mut scales[blocks]);
            }
        }
    }

    /// `len` values from `at`, whole heads.
    fn rows(&self, at: usize, len: usize) -> Rows<'_> {
        match self {
            Store::F32(store) => Rows::F32(&store[at..at + len]),
            Store::F16(store) => Rows::F16(&store[at..at + len]),
            Store::Q8_0 { codes, scales } => {
                let blocks = at / KvFormat::BLOCK..(at + len) / KvFormat::BLOCK;
                Rows::Q8_0 { codes: &codes[at..at + len], scales: &scales[blocks] }
            }
        }
    }
}

impl KvCache {
    /// Memory for every page of `layout`.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`], [`Error::Cancelled`] between two layers, [`Error::InvalidArgument`] for a format that
    /// does not take the model's heads.
    pub fn new(spec: &ModelSpec, layout: &StateLayout, format: KvFormat, progress: &LoadProgress) -> Result<Self> {
        let (kv_heads, head_dim) = (spec.attention.kv_heads, spec.attention.head_dim);
        if spec.attention_layers() > 0 && !format.takes(head_dim) {
            return Err(Error::InvalidArgument(format!("heads of {head_dim} channels cannot be stored as {format}")));
        }
        let heads = layout.pages.checked_mul(layout.page_tokens).and_then(|n| n.checked_mul(kv_heads));
        let heads = heads.ok_or_else(|| Error::OutOfHostMemory { what: "KV cache".into(), bytes: u64::MAX })?;
        let layer = || -> Result<KvLayer> {
            progress.advance(0)?;
            let (keys, values) = (Store::new(heads, head_dim, format)?, Store::new(heads, head_dim, format)?);
            Ok(KvLayer { page_tokens: layout.page_tokens, kv_heads, head_dim, format, keys, values })
        };
        let layers = spec.layers.iter().map(|l| (l.mixer == Mixer::Attention).then(layer).transpose());
        Ok(Self { format, layers: layers.collect::<Result<_>>()? })
    }

    /// Random keys and values for the first `positions` of `pages`, in every layer.
    pub fn invent(&mut self, isa: Isa, pages: &[u32], positions: usize) {
        for layer in self.layers.iter_mut().flatten() {
            layer.invent(isa, pages, positions);
        }
    }

    /// How keys and values are stored.
    pub fn format(&self) -> KvFormat {
        self.format
    }

    /// The cache of trunk layer `layer`.
    pub fn layer_mut(&mut self, layer: usize) -> Result<&mut KvLayer> {
        let found = self.layers.get_mut(layer).and_then(Option::as_mut);
        found.ok_or_else(|| Error::Internal(format!("layer {layer} has no KV cache")))
    }
}

/// Keys or values as they are stored.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Q8_0 { codes: &'a [i8], scales: &'a [f16] },
}

impl<'a> Rows<'a> {
    /// The values as float32, converted into `buffer` where they are not.
    pub fn floats(self, isa: Isa, buffer: &'a mut [f32]) -> &'a [f32] {
        match self {
            Rows::F32(rows) => rows,
            Rows::F16(rows) => {
                isa.f16_to_f32(rows, &mut buffer[..rows.len()]);
                &buffer[..rows.len()]
            }
            Rows::Q8_0 { codes, scales } => {
                isa.q8_0_to_f32(codes, scales, &mut buffer[..codes.len()]);
                &buffer[..codes.len()]
            }
        }
    }

    /// The values as they are if an instruction can load them as float32, else converted into `buffer`.
    pub fn loadable(self, isa: Isa, buffer: &'a mut [f32]) -> Loadable<'a> {
        match self {
            Rows::F16(rows) => Loadable::F16(rows),
            other => Loadable::F32(other.floats(isa, buffer)),
        }
    }

    /// Asks for parts `first..first + taken` of `parts` equal ones ahead of their use.
    #[inline(always)]
    pub fn prefetch_part(self, first: usize, taken: usize, parts: usize) {
        match self {
            Rows::F32(rows) => prefetch(rows, first, taken, parts),
            Rows::F16(rows) => prefetch(rows, first, taken, parts),
            Rows::Q8_0 { codes, scales } => {
                prefetch(codes, first, taken, parts);
                prefetch(scales, first, taken, parts);
            }
        }
    }
}

/// Keys or values that an instruction can load as float32.
#[derive(Debug, Clone, Copy)]
pub enum Loadable<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

#[inline(always)]
fn prefetch<T>(values: &[T], first: usize, taken: usize, parts: usize) {
    let bytes = size_of_val(values);
    let lines = (first * bytes / parts).next_multiple_of(LINE)..(first + taken) * bytes / parts;
    for line in lines.step_by(LINE) {
        kernels::prefetch(values.as_ptr().cast(), line);
    }
}

/// Positions whose keys (then values) are worked on together: with 256 channels in float32 they fill half of the smallest
/// first-level cache.
pub const POSITIONS: usize = 32;

/// Consecutive positions of one page and one KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub page: u32,
    pub kv_head: usize,
    /// First position, from the page's start.
    pub first: usize,
    /// Positions.
    pub count: usize,
}

impl Span {
    /// Its parts of up to [`POSITIONS`].
    pub fn parts(self) -> impl Iterator<Item = Span> {
        std::iter::successors((self.count > 0).then(|| self.first_part()), move |part| self.part_after(*part))
    }

    /// The first part; empty where the span is.
    pub fn first_part(self) -> Span {
        Span { count: self.count.min(POSITIONS), ..self }
    }

    /// The part behind `part`, if there is one.
    pub fn part_after(self, part: Span) -> Option<Span> {
        let first = part.first + part.count;
        let count = (self.first + self.count).checked_sub(first).filter(|left| *left > 0)?.min(POSITIONS);
        Some(Span { first, count, ..self })
    }
}

impl KvLayer {
    /// Positions of a page.
    pub fn page_tokens(&self) -> usize {
        self.page_tokens
    }

    /// Bytes that the keys and values of one position occupy.
    pub fn bytes_per_position(&self) -> u64 {
        (2 * self.kv_heads * self.format.head_bytes(self.head_dim)) as u64
    }

    fn at(&self, page: u32, kv_head: usize, position: usize) -> usize {
        ((page as usize * self.kv_heads + kv_head) * self.page_tokens + position) * self.head_dim
    }

    /// Keys of `span`, `[count, head_dim]`.
    pub fn keys(&self, span: Span) -> Rows<'_> {
        self.keys.rows(self.at(span.page, span.kv_head, span.first), span.count * self.head_dim)
    }

    /// Values of `span`, `[count, head_dim]`.
    pub fn values(&self, span: Span) -> Rows<'_> {
        self.values.rows(self.at(span.page, span.kv_head, span.first), span.count * self.head_dim)
    }

    fn invent(&mut self, isa: Isa, pages: &[u32], positions: usize) {
        // A linear congruential generator (Numerical Recipes); values from -1 to 1, as normalised heads have.
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let noise: Vec<f32> = (0..self.page_tokens * self.head_dim).map(|_| random()).collect();
        for position in 0..positions {
            let Some(&page) = pages.get(position / self.page_tokens) else { return };
            for head in 0..self.kv_heads {
                let at = self.at(page, head, position % self.page_tokens);
                let from = (position * 7 + head) % self.page_tokens * self.head_dim;
                self.keys.write(isa, at, &noise[from..from + self.head_dim]);
                self.values.write(isa, at, &noise[from..from + self.head_dim]);
            }
        }
    }

    /// Writes the rows' keys and values, `[rows, kv_heads, head_dim]`, to the pages of their sequences.
    pub fn append(&mut self, isa: Isa, batch: &Batch<'_>, keys: &[f32], values: &[f32]) {
        let width = self.kv_heads * self.head_dim;
        for s in &batch.sequences {
            for (position, row) in (s.position..).zip(s.rows.clone()) {
                let page = s.memory.pages[position / self.page_tokens];
                for head in 0..self.kv_heads {
                    let at = self.at(page, head, position % self.page_tokens);
                    let from = row * width + head * self.head_dim;
                    self.keys.write(isa, at, &keys[from..from + self.head_dim]);
                    self.values.write(isa, at, &values[from..from + self.head_dim]);
                }
            }
        }
    }
}

#[cfg(test)]
impl KvLayer {
    /// One layer of `pages` pages, all zero.
    pub fn for_tests(pages: usize, page_tokens: usize, kv_heads: usize, head_dim: usize, format: KvFormat) -> Self {
        let store = || Store::new(pages * page_tokens * kv_heads, head_dim, format).unwrap();
        Self { page_tokens, kv_heads, head_dim, format, keys: store(), values: store() }
    }
}
