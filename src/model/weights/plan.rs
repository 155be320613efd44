//! Which weight lies where in a model's image: the one block of memory, or one file, that holds all weights.
//!
//! The plan follows from the headers of the checkpoint and the spec alone. Loading fills the places it names, a pack cache
//! holds the image as it is, and the memory that a load takes is the sum of it.

use std::collections::HashMap;
use std::ops::Range;

use super::load::piece_sizes;
use crate::checkpoint::{Checkpoint, DeltaTensor, ExpertPart, Kind, LayerTensor, Role, TensorInfo};
use crate::error::{Error, Result};
use crate::model::{Family, FeedForward, Mixer, ModelSpec};
use crate::quant::{Format, Weight};

/// What every place begins at a multiple of: a line of the packed form, twice.
const ALIGNMENT: usize = 128;

/// Places of all weights in the image.
#[derive(Debug)]
pub struct WeightPlan {
    places: Vec<Place>,
    by_role: HashMap<Role, usize>,
    bytes: usize,
}

/// The place of one weight.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Which weight it is; experts stand one by one, however the file holds them.
    pub role: Role,
    /// What is there.
    pub content: Content,
    /// Where it is in the image.
    pub range: Range<usize>,
    /// Bytes that it adds to the image: `range`, and the room left free before it or behind it.
    pub taken: usize,
    /// The tensor it comes from, by its index in the checkpoint's list.
    pub tensor: usize,
    /// The first of the tensor's rows, where a tensor holds several weights.
    pub first_row: usize,
}

/// What lies at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// A matrix, packed or as stored.
    Matrix(MatrixPlan),
    /// A vector (or a few) of float32.
    Floats(Change),
}

/// How a matrix lies at its place: its tables, then its strips or rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatrixPlan {
    /// Its storage type.
    pub format: Format,
    /// Number of outputs.
    pub rows: usize,
    /// Number of inputs.
    pub cols: usize,
    /// In strips of 16 rows; otherwise as stored.
    pub packed: bool,
    /// What lies before the strips or rows.
    pub tables: Tables,
}

/// What some matrices need beside their strips or rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tables {
    /// Nothing.
    None,
    /// What each code stands for: 16 float32.
    Codebook,
    /// Which column of the weight each packed column is: u32 each.
    ColumnOrder,
    /// The same, and the absmax of each of `blocks` blocks of `block_size` values of the flat matrix: float32 each.
    Scales {
        /// Values that share an absmax.
        block_size: usize,
        /// Number of absmaxes.
        blocks: usize,
    },
}

impl MatrixPlan {
    /// Bytes before the strips or rows; `None` where they overflow.
    pub fn table_bytes(&self) -> Option<usize> {
        let values = match self.tables {
            Tables::None => 0,
            Tables::Codebook => 16,
            Tables::ColumnOrder => self.cols,
            Tables::Scales { blocks, .. } => blocks.checked_add(16)?,
        };
        values.checked_mul(4)?.checked_next_multiple_of(ALIGNMENT)
    }
}

/// What is done to a vector while it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// Nothing but the conversion to float32.
    None,
    /// Norms that a file stores less 1 become ready to multiply.
    PlusOne,
    /// `A_log` becomes the decay `-exp(A_log)`.
    NegExp,
    /// `[rows, cols]` becomes `[cols, rows]`.
    Transposed {
        /// Columns as stored.
        cols: usize,
    },
}

impl WeightPlan {
    /// What an expert begins at a multiple of, and is followed by another, so that it can be moved or pinned by itself.
    pub const PAGE: usize = 4096;

    /// Plans the image of a checkpoint whose shapes were checked by [`super::super::check_shapes`].
    ///
    /// # Errors
    /// [`Error::BadFile`] for a tensor that is missing, [`Error::Unsupported`] for one of a type that its place cannot
    /// hold, [`Error::OutOfHostMemory`] for sizes beyond all memory.
    pub fn new(checkpoint: &Checkpoint, spec: &ModelSpec) -> Result<Self> {
        let mut planner = Planner { checkpoint, spec, places: Vec::new(), end: 0 };
        planner.matrix(Role::Embedding)?;
        if !spec.tied_head {
            planner.matrix(Role::Head)?;
        }
        planner.norm(Role::FinalNorm)?;
        for index in 0..spec.layers.len() {
            planner.layer(index)?;
        }
        let Planner { places, end, .. } = planner;
        let by_role = places.iter().enumerate().map(|(i, place)| (place.role, i)).collect();
        Ok(Self { places, by_role, bytes: end })
    }

    /// Every place, in the order of the image.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The place of `role`, where the model has that weight.
    pub fn place(&self, role: Role) -> Option<&Place> {
        self.by_role.get(&role).and_then(|&i| self.places.get(i))
    }

    /// Bytes of the image.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of the pieces that the image is packed in, the largest first. No two threads pack the same one.
    pub fn piece_sizes(&self) -> Vec<usize> {
        piece_sizes(self)
    }

    /// Bytes that `threads` threads hold at most while they pack: what they read, and what they make of it on the way.
    pub fn packing_bytes(&self, threads: usize) -> usize {
        self.piece_sizes().iter().take(threads).fold(0, |sum: usize, size| sum.saturating_add(size.saturating_mul(3)))
    }
}

struct Planner<'a> {
    checkpoint: &'a Checkpoint,
    spec: &'a ModelSpec,
    places: Vec<Place>,
    /// Where the next place may begin.
    end: usize,
}

impl Planner<'_> {
    fn layer(&mut self, index: usize) -> Result<()> {
        let layer = self.spec.layers[index];
        let role = |tensor| Role::Layer(index as u32, tensor);
        self.norm(role(LayerTensor::InputNorm))?;
        match layer.mixer {
            Mixer::Attention => self.attention(role)?,
            Mixer::DeltaNet => self.delta(role)?,
        }
        self.norm(role(LayerTensor::PostAttentionNorm))?;
        match layer.feed_forward {
            FeedForward::Moe => self.moe(role),
            FeedForward::Dense => self.swiglu(|part| role(LayerTensor::Dense(part))),
        }
    }

    fn attention(&mut self, role: impl Fn(LayerTensor) -> Role) -> Result<()> {
        use LayerTensor as T;
        for (matrix, bias) in
            [(T::Query, T::QueryBias), (T::Key, T::KeyBias), (T::Value, T::ValueBias), (T::Output, T::OutputBias)]
        {
            self.matrix(role(matrix))?;
            if self.has(role(bias)) {
                self.floats(role(bias), Change::None)?;
            }
        }
        self.norm(role(T::QueryNorm))?;
        self.norm(role(T::KeyNorm))
    }

    fn delta(&mut self, role: impl Fn(LayerTensor) -> Role) -> Result<()> {
        use DeltaTensor as D;
        let role = |tensor| role(LayerTensor::Delta(tensor));
        for (one, two) in [(D::QkvzInterleaved, [D::Qkv, D::Z]), (D::BaInterleaved, [D::B, D::A])] {
            if self.has(role(one)) {
                self.matrix(role(one))?;
            } else {
                two.into_iter().try_for_each(|tensor| self.matrix(role(tensor)))?;
            }
        }
        let kernel = self.spec.delta.as_ref().map_or(1, |delta| delta.conv_kernel);
        self.floats(role(D::Conv), Change::Transposed { cols: kernel })?;
        if self.has(role(D::NegExpA)) {
            self.floats(role(D::NegExpA), Change::None)?;
        } else {
            self.floats(role(D::ALog), Change::NegExp)?;
        }
        self.floats(role(D::DtBias), Change::None)?;
        self.floats(role(D::Norm), Change::None)?;
        self.matrix(role(D::Out))
    }

    fn moe(&mut self, role: impl Fn(LayerTensor) -> Role) -> Result<()> {
        use LayerTensor as T;
        let spec = self.spec.moe.as_ref().ok_or_else(|| Error::Internal("an expert layer without experts".into()))?;
        self.matrix(role(T::Router))?;
        if spec.shared_width > 0 {
            self.matrix(role(T::SharedExpertGate))?;
            self.swiglu(|part| role(T::SharedExpert(part)))?;
        }
        for expert in 0..spec.experts {
            let rows = |part| if part == ExpertPart::Down { self.spec.hidden } else { spec.width };
            let cols = |part| if part == ExpertPart::Down { spec.width } else { self.spec.hidden };
            self.align(WeightPlan::PAGE)?;
            for part in [ExpertPart::Gate, ExpertPart::Up, ExpertPart::Down] {
                let own = role(T::Expert(expert as u32, part));
                let (shape, fused) = ([rows(part), cols(part)], role(T::Experts(part)));
                let both = role(T::ExpertsGateUp);
                match part {
                    ExpertPart::Gate if self.has(both) => self.part(own, both, 2 * expert * spec.width, shape)?,
                    ExpertPart::Up if self.has(both) => self.part(own, both, (2 * expert + 1) * spec.width, shape)?,
                    _ if self.has(fused) => self.part(own, fused, expert * rows(part), shape)?,
                    _ => self.matrix(own)?,
                }
            }
            self.align(WeightPlan::PAGE)?;
        }
        Ok(())
    }

    /// Three matrices that begin and end at pages.
    fn swiglu(&mut self, role: impl Fn(ExpertPart) -> Role) -> Result<()> {
        self.align(WeightPlan::PAGE)?;
        for part in [ExpertPart::Gate, ExpertPart::Up, ExpertPart::Down] {
            self.matrix(role(part))?;
        }
        self.align(WeightPlan::PAGE)
    }

    fn has(&self, role: Role) -> bool {
        self.checkpoint.tensor(role).is_some()
    }

    /// A matrix that is a tensor of its own.
    fn matrix(&mut self, role: Role) -> Result<()> {
        let shape = match self.checkpoint.require(role)?.shape[..] {
            [cols] => [1, cols],
            [rows, cols] => [rows, cols],
            ref other => return Err(Error::Internal(format!("{role:?} is no matrix: {other:?}"))),
        };
        self.part(role, role, 0, shape)
    }

    /// A matrix that is `shape[0]` rows of the tensor `of`.
    fn part(&mut self, role: Role, of: Role, first_row: usize, shape: [usize; 2]) -> Result<()> {
        let tensor = self.checkpoint.require(of)?;
        let [rows, cols] = shape;
        let format = tensor.format;
        let packed_bytes = if tensor.can_be_packed() { Weight::packed_bytes(format, rows, cols) } else { None };
        let packed = packed_bytes.is_some();
        let tables = match (tensor.block_size(), packed) {
            (None, _) if tensor.has_column_order() => Tables::ColumnOrder,
            (None, _) => Tables::None,
            (Some(_), true) => Tables::Codebook,
            (Some(block_size), false) => Tables::Scales { block_size, blocks: (rows * cols).div_ceil(block_size) },
        };
        let matrix = MatrixPlan { format, rows, cols, packed, tables };
        let body = packed_bytes.or_else(|| stored_bytes(format, rows, cols));
        let body = body.and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = body.and_then(|body| matrix.table_bytes()?.checked_add(body));
        self.add(role, of, first_row, Content::Matrix(matrix), bytes.ok_or_else(|| too_large(tensor))?)
    }

    fn floats(&mut self, role: Role, change: Change) -> Result<()> {
        let tensor = self.checkpoint.require(role)?;
        let bytes = tensor.elements().checked_mul(4).and_then(|bytes| usize::try_from(bytes).ok());
        if !matches!(tensor.format, Format::F32 | Format::F16 | Format::BF16) {
            let what = format!("tensor {}: a vector of type {}", tensor.name, tensor.format);
            return Err(Error::unsupported(self.checkpoint.file_path(tensor), what));
        }
        self.add(role, role, 0, Content::Floats(change), bytes.ok_or_else(|| too_large(tensor))?)
    }

    /// A norm's weights. Hybrid families store `w - 1` in Hugging Face files; GGUF never does.
    fn norm(&mut self, role: Role) -> Result<()> {
        let less_one = self.checkpoint.kind() == Kind::HuggingFace && self.spec.family != Family::Qwen3Moe;
        self.floats(role, if less_one { Change::PlusOne } else { Change::None })
    }

    fn add(&mut self, role: Role, of: Role, first_row: usize, content: Content, bytes: usize) -> Result<()> {
        let (tensor, info) = self.checkpoint.require_indexed(of)?;
        let before = self.end;
        let range = before.checked_next_multiple_of(ALIGNMENT).and_then(|start| Some(start..start.checked_add(bytes)?));
        let range = range.ok_or_else(|| too_large(info))?;
        self.end = range.end;
        self.places.push(Place { role, content, taken: range.end - before, range, tensor, first_row });
        Ok(())
    }

    /// Moves the next place to a multiple of `alignment`; the room counts to the place before.
    fn align(&mut self, alignment: usize) -> Result<()> {
        let end = self.end.checked_next_multiple_of(alignment);
        let end = end.ok_or_else(|| Error::OutOfHostMemory { what: "the weights".into(), bytes: u64::MAX })?;
        if let Some(last) = self.places.last_mut() {
            last.taken += end - self.end;
        }
        self.end = end;
        Ok(())
    }
}

/// Bytes of a matrix as stored. The codes of [`Format::Bnb4`] are half bytes.
fn stored_bytes(format: Format, rows: usize, cols: usize) -> Option<u64> {
    let elements = (rows as u64).checked_mul(cols as u64)?;
    if format == Format::Bnb4 { Some(elements.div_ceil(2)) } else { format.bytes_for(elements) }
}

fn too_large(tensor: &TensorInfo) -> Error {
    Error::OutOfHostMemory { what: tensor.name.clone(), bytes: u64::MAX }
}
