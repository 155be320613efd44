//! The weights on the device: the image that the processor's kernels have, in one piece, and what lies where in it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::args::{Expert, Matrix, format_number, number};
use super::memory::{DevicePtr, DeviceSlice};
use crate::error::{Error, Result};
use crate::model::{
    self, Content, FeedForwardWeights, Linear, MatrixPlan, MixerWeights, Place, Role, Store, SwiGlu, Tables,
};
use crate::quant::packed::strip_bytes;

/// All weights of a model.
pub type Weights = model::Weights<OnDevice>;
/// The weights of an attention layer.
pub type AttentionWeights = model::AttentionWeights<OnDevice>;
/// The weights of a Gated DeltaNet layer.
pub type DeltaWeights = model::DeltaWeights<OnDevice>;

/// Bytes of the codebook before a matrix of [`crate::quant::Format::Bnb4`].
const CODEBOOK_BYTES: usize = 16 * size_of::<f32>();

/// The bytes of a codebook.
type Codebook = [u8; CODEBOOK_BYTES];

/// What the host knows of the tables in front of matrices, which are on the device only.
#[derive(Default)]
pub struct KnownTables(Mutex<HashMap<usize, KnownTable>>);

/// What is known of one.
#[derive(Clone, Copy)]
enum KnownTable {
    Codebook(Codebook),
    /// Whether the columns stand in the usual order, though the file says that they may not.
    ColumnOrder {
        usual: bool,
    },
}

impl KnownTables {
    /// Looks at `bytes`, which are all of `place`.
    pub fn note(&self, place: &Place, bytes: &[u8]) {
        let Content::Matrix(plan) = place.content else { return };
        let known = match plan.tables {
            Tables::Codebook => bytes.first_chunk().copied().map(KnownTable::Codebook),
            Tables::ColumnOrder => {
                let order = bytes.as_chunks::<4>().0.iter().take(plan.cols).map(|column| u32::from_ne_bytes(*column));
                Some(KnownTable::ColumnOrder { usual: order.eq(0..number(plan.cols)) })
            }
            Tables::None | Tables::Scales { .. } => None,
        };
        if let Some(known) = known {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(place.range.start, known);
        }
    }

    fn get(&self, place: &Place) -> Option<KnownTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&place.range.start).copied()
    }
}

/// Device memory with an image.
pub struct OnDevice {
    device: DeviceSlice<u8>,
    tables: KnownTables,
    /// Codebooks of the matrices so far, and where the first of each lies.
    codebooks: RefCell<Vec<(Codebook, DevicePtr<f32>)>>,
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

    /// Bytes that reading both moves.
    pub fn bytes(&self) -> u64 {
        self.matrix.bytes + self.bias.map_or(0, |bias| 4 * bias.len() as u64)
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

impl MixerWeights<OnDevice> {
    /// The matrices that its input is multiplied with.
    pub fn projections(&self) -> Vec<&Weight> {
        match self {
            MixerWeights::Attention(own) => vec![&own.query.matrix, &own.key.matrix, &own.value.matrix],
            MixerWeights::DeltaNet(own) => own.inputs.matrices().chain(own.gates.matrices()).collect(),
        }
    }
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
        let read = match (plan.tables, self.tables.get(place)) {
            (Tables::None, _) | (Tables::ColumnOrder, Some(KnownTable::ColumnOrder { usual: true })) => 0,
            (Tables::Codebook, Some(KnownTable::Codebook(bytes))) => {
                matrix.codebook = self.codebook(bytes, table.cast().start());
                CODEBOOK_BYTES
            }
            (Tables::ColumnOrder, Some(KnownTable::ColumnOrder { usual: false })) => {
                matrix.order = table.cast().start();
                plan.cols * size_of::<u32>()
            }
            (Tables::Codebook | Tables::ColumnOrder, _) => {
                return Err(Error::Internal(format!("the tables of {role:?} passed unseen")));
            }
            (Tables::Scales { block_size, blocks }, _) => {
                let values: DeviceSlice<f32> = table.cast();
                (matrix.codebook, matrix.absmax) = (values.start(), values.at(16)?);
                matrix.block_size = number(block_size);
                CODEBOOK_BYTES + blocks * size_of::<f32>()
            }
        };
        Ok(Weight { matrix, bias: DevicePtr::NULL, bytes: (body.len() + read) as u64 })
    }
}

impl OnDevice {
    /// An image in `device`, of which `tables` are known.
    pub fn new(device: DeviceSlice<u8>, tables: KnownTables) -> Self {
        Self { device, tables, codebooks: RefCell::default() }
    }

    /// Where to find the codebook of `bytes` that a matrix has at `own`: in front of the first matrix with the same one, so
    /// that kernels know matrices that share theirs.
    fn codebook(&self, bytes: Codebook, own: DevicePtr<f32>) -> DevicePtr<f32> {
        let mut known = self.codebooks.borrow_mut();
        if let Some((_, first)) = known.iter().find(|(other, _)| *other == bytes) {
            return *first;
        }
        known.push((bytes, own));
        own
    }
}
