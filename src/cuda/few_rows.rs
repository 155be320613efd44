//! Experts of one format in steps of few rows, one of each stream: kernels that read an expert's weights once for up to four of the
//! rows that chose it.

use super::args::{INT8_FORMATS, Matrix, MoeArgs, QuantisedRow, TileMoeArgs, number};
use super::device::DeviceInfo;
use super::module::{Kernel, Modules};
use super::moe::MoeShape;
use super::stream::Stream;
use crate::error::Result;

/// Rows of a step.
pub const ROWS: std::ops::RangeInclusive<usize> = 2..=64;
/// Warps of a block (`kernels/moe/few.cuh`).
const WARPS: usize = 12;
/// Pairs of blocks of weights that each of them keeps in shared memory at most.
const MOST_SLOTS: usize = 2;
/// Columns of a block of weights, and rows of a strip.
const COLUMNS: usize = 256;
const STRIP: usize = 16;
/// Rows of an item (`kernels/moe/items.cuh`), and bytes of what finds the items.
const ITEM_ROWS: usize = 4;
const ITEM_BYTES: usize = 6272;
/// Bytes of a block of columns of two rows, whose factors are those of tiles or of halves.
const ROW_PAIR_BYTES: [usize; 2] = [640, 768];

pub struct FewRows {
    /// One for each of [`INT8_FORMATS`], of the first and of the second half.
    halves: [Vec<Kernel>; 2],
    multiprocessors: usize,
}

/// A launch of one of them.
#[derive(Clone, Copy)]
pub struct FewLaunch {
    format: usize,
    /// Pairs of blocks of weights that each warp keeps in shared memory.
    pub slots: usize,
    bytes: usize,
}

impl FewRows {
    pub fn new(modules: &Modules, device: &DeviceInfo) -> Result<Self> {
        let each_format = |name: &str| -> Result<Vec<Kernel>> {
            INT8_FORMATS.iter().map(|(_, format)| modules.kernel(&format!("{name}_few_{format}"))).collect()
        };
        let halves = [each_format("moe_gate_up")?, each_format("moe_down")?];
        Ok(Self { halves, multiprocessors: device.multiprocessors.max(1) as usize })
    }

    /// How both halves of a layer, whose matrices are like `gate` and `down`, are launched for `count` rows, where blocks have
    /// room for what they keep of them.
    pub fn launches(&self, shape: &MoeShape, gate: &Matrix, down: &Matrix, count: usize) -> Option<[FewLaunch; 2]> {
        let pairs = [shape.width, shape.shared_width].map(|width| (width / STRIP).max(1));
        let first = self.launch(0, gate, self.row_blocks(shape, count, pairs, [shape.hidden; 2]))?;
        let pairs = [(shape.hidden / STRIP / 2).max(1); 2];
        let second = self.launch(1, down, self.row_blocks(shape, count, pairs, [shape.width, shape.shared_width]))?;
        Some([first, second])
    }

    /// Blocks of columns of pairs of rows that a block of the kernel keeps at most, where the matrices of routed and of shared experts
    /// have so many pairs of strips and columns.
    fn row_blocks(&self, shape: &MoeShape, count: usize, pairs: [usize; 2], columns: [usize; 2]) -> usize {
        let entries = count * shape.top_k;
        let routed = (entries + (ITEM_ROWS - 1) * shape.experts.min(entries)) / ITEM_ROWS;
        let shared = if shape.shared_width > 0 { count.div_ceil(ITEM_ROWS) } else { 0 };
        let blocks = [routed, shared].into_iter().zip(pairs).zip(columns).map(|((items, pairs), columns)| {
            let units = (items * pairs).div_ceil(self.multiprocessors);
            let spanned = if units == 0 { 0 } else { (units - 1).div_ceil(pairs) + 1 };
            spanned.min(items) * ITEM_ROWS / 2 * (columns / COLUMNS)
        });
        blocks.sum()
    }

    fn launch(&self, half: usize, matrix: &Matrix, row_blocks: usize) -> Option<FewLaunch> {
        let format = matrix.int8_format()?;
        let of_slot = WARPS * 2 * matrix.block_bytes(COLUMNS);
        let rows = row_blocks * ROW_PAIR_BYTES[half];
        let room = self.halves[half][format].shared_memory.checked_sub(rows)?;
        let slots = (room / of_slot.max(1)).min(MOST_SLOTS);
        (slots > 0).then(|| FewLaunch { format, slots, bytes: (slots * of_slot + rows).max(ITEM_BYTES) })
    }

    /// Queues both halves behind the choice of experts: activations of `input`, the normed rows, to `args.row`, then `args.outputs`.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn run(&self, stream: &Stream, launches: [FewLaunch; 2], input: QuantisedRow, args: MoeArgs) -> Result<()> {
        let launch = |half: usize| {
            let FewLaunch { format, bytes, .. } = launches[half];
            let grid = [number(self.multiprocessors), 1, 1];
            self.halves[half][format].launch(grid, [number(32 * WARPS), 1, 1]).shared(number(bytes))
        };
        let first = TileMoeArgs { moe: args, codes: input.codes, factors: input.factors, room: 0, unused: 0 };
        // SAFETY: the kernels' arguments, of sizes that the caller checked.
        unsafe { launch(0).arg(first).queue(stream)? };
        // SAFETY: as above.
        unsafe { launch(1).arg(args).queue(stream) }
    }
}
