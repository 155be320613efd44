//! The weights on the device: the same bytes as on the host, in one piece, and what lies where in them.

use std::cell::RefCell;
use std::ops::Range;

use super::args::{Expert, Matrix, format_number, number};
use super::memory::{DevicePtr, DeviceSlice};
use crate::error::{Error, Result};
use crate::model::{self, FeedForwardWeights, Linear, MatrixPlan, Place, Role, Store, SwiGlu, Tables, WeightBytes};
use crate::quant::packed::strip_bytes;

/// All weights of a model.
pub type Weights = model::Weights<OnDevice>;
/// The weights of an attention layer.
pub type AttentionWeights = model::AttentionWeights<OnDevice>;
/// The weights of a Gated DeltaNet layer.
pub type DeltaWeights = model::DeltaWeights<OnDevice>;

/// Bytes of the codebook before a matrix of [`crate::quant::Format::Bnb4`].
const CODEBOOK_BYTES: usize = 16 * size_of::<f32>();

/// Device memory with an image, and the same image on the host.
pub struct OnDevice {
    device: DeviceSlice<u8>,
    host: WeightBytes,
    /// Codebooks of the matrices so far, and where the first of each lies.
    codebooks: RefCell<Vec<([u8; CODEBOOK_BYTES], DevicePtr<f32>)>>,
}

/// A matrix, and the bytes that reading it moves.
#[derive(Clone, Copy)]
pub struct Weight {
    pub matrix: Matrix,
    pub bias: DevicePtr<f32>,
    pub bytes: u64,
}

impl Linear<OnDevice> {
    /// The matrix with its bias.
    pub fn weight(&self) -> Weight {
        Weight { bias: self.bias.map_or(DevicePtr::NULL, |bias| bias.start()), ..self.matrix }
    }
}

/// The SwiGLUs of a feed-forward half, as the kernels take them.
pub struct Experts {
    /// The routed experts, then the shared one or that of a dense layer.
    pub all: Vec<Expert>,
    pub bytes: ExpertBytes,
}

/// Bytes that reading experts moves.
#[derive(Clone, Copy)]
pub struct ExpertBytes {
    /// One routed expert; 0 in a dense layer.
    pub routed: u64,
    /// The shared expert, or a dense layer.
    pub shared: u64,
}

impl FeedForwardWeights<OnDevice> {
    /// The router's matrix, and that of the shared expert's gate.
    pub fn router(&self) -> [Option<&Weight>; 2] {
        match self {
            FeedForwardWeights::Moe(moe) => [Some(&moe.router), moe.shared.as_ref().map(|(_, gate)| gate)],
            FeedForwardWeights::Dense(_) => [None, None],
        }
    }

    /// Its SwiGLUs.
    pub fn experts(&self) -> Experts {
        let (routed, shared) = match self {
            FeedForwardWeights::Moe(moe) => (&moe.experts[..], moe.shared.as_ref().map(|(shared, _)| shared)),
            FeedForwardWeights::Dense(dense) => (&[][..], Some(dense)),
        };
        let expert = |s: &SwiGlu<OnDevice>| Expert { gate: s.gate.matrix, up: s.up.matrix, down: s.down.matrix };
        let bytes = |s: &SwiGlu<OnDevice>| s.gate.bytes + s.up.bytes + s.down.bytes;
        Experts {
            all: routed.iter().chain(shared).map(expert).collect(),
            bytes: ExpertBytes { routed: routed.first().map_or(0, bytes), shared: shared.map_or(0, bytes) },
        }
    }
}

impl Store for OnDevice {
    type Matrix = Weight;
    type Floats = DeviceSlice<f32>;
    type Block = ();

    fn floats(&self, place: &Place) -> Result<DeviceSlice<f32>> {
        Ok(self.device.part(place.range.start, place.range.len())?.cast())
    }

    fn block(&self, _range: Range<usize>) -> Result<()> {
        Ok(())
    }

    fn matrix(&self, role: Role, place: &Place, plan: &MatrixPlan) -> Result<Weight> {
        let whole = self.device.part(place.range.start, place.range.len())?;
        let overflow = || Error::Internal(format!("the tables of {role:?} are longer than its place"));
        let table_bytes = plan.table_bytes().filter(|len| *len <= whole.len()).ok_or_else(overflow)?;
        let body = whole.part(table_bytes, whole.len() - table_bytes)?;
        let table = whole.part(0, table_bytes)?;
        let strip = if plan.packed { strip_bytes(plan.format, plan.cols).ok_or_else(overflow)? } else { 0 };
        let mut matrix = Matrix {
            data: body.start(),
            rows: number(plan.rows),
            cols: number(plan.cols),
            format: format_number(plan.format),
            packed: plan.packed.into(),
            strip_bytes: number(strip),
            ..Matrix::NONE
        };
        match plan.tables {
            Tables::None => {}
            Tables::Codebook => matrix.codebook = self.codebook(place, table.cast().start()),
            Tables::ColumnOrder => {
                if !self.is_in_order(place, plan.cols) {
                    matrix.order = table.cast().start();
                }
            }
            Tables::Scales { block_size, .. } => {
                let values: DeviceSlice<f32> = table.cast();
                (matrix.codebook, matrix.absmax) = (values.start(), values.at(16)?);
                matrix.block_size = number(block_size);
            }
        }
        Ok(Weight { matrix, bias: DevicePtr::NULL, bytes: whole.len() as u64 })
    }
}

impl OnDevice {
    /// `host`, whose bytes are in `device`.
    pub fn new(device: DeviceSlice<u8>, host: WeightBytes) -> Self {
        Self { device, host, codebooks: RefCell::default() }
    }

    /// Where to find the codebook of the matrix at `place`, which has it at `own`: in front of the first matrix with the same
    /// one, so that kernels know matrices that share theirs.
    fn codebook(&self, place: &Place, own: DevicePtr<f32>) -> DevicePtr<f32> {
        let bytes = self.host.get(place.range.clone()).and_then(|bytes| bytes.first_chunk::<CODEBOOK_BYTES>());
        let Some(bytes) = bytes else { return own };
        let mut known = self.codebooks.borrow_mut();
        if let Some((_, first)) = known.iter().find(|(other, _)| other == bytes) {
            return *first;
        }
        known.push((*bytes, own));
        own
    }

    /// Whether the columns of the matrix at `place` stand in the usual order, though its file says that they may not.
    fn is_in_order(&self, place: &Place, cols: usize) -> bool {
        let table = self.host.get(place.range.clone()).unwrap_or_default().as_chunks::<4>().0;
        table.iter().take(cols).map(|bytes| u32::from_ne_bytes(*bytes)).eq(0..number(cols))
    }
}
