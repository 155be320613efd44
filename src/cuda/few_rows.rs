//! Experts of one format in steps of few rows, one of each stream: kernels that read an expert's weights once for up to
//! four of the rows that chose it.

use super::args::{Matrix, MoeArgs, QuantisedRow, TileMoeArgs, number};
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
    /// By format, of the first and of the second half.
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
        let by_format = |name| modules.int8_kernels(name, Modules::kernel);
        let halves = [by_format("moe_gate_up_few")?, by_format("moe_down_few")?];
        Ok(Self { halves, multiprocessors: device.multiprocessors.max(1) as usize })
    }

    /// How both halves of a layer, whose matrices are like `gate` and `down`, are launched for `count` rows, where
    /// blocks have room for what they keep of those.
    pub fn launches(&self, shape: &MoeShape, gate: &Matrix, down: &Matrix, count: usize) -> Option<[FewLaunch; 2]> {
        let pairs = [shape.width, shape.shared_width].map(|width| (width / STRIP).max(1));
        let first = self.launch(0, gate, row_blocks(shape, count, self.multiprocessors, pairs, [shape.hidden; 2]))?;
        let (pairs, widths) = ([(shape.hidden / STRIP / 2).max(1); 2], [shape.width, shape.shared_width]);
        let second = self.launch(1, down, row_blocks(shape, count, self.multiprocessors, pairs, widths))?;
        Some([first, second])
    }

    fn launch(&self, half: usize, matrix: &Matrix, row_blocks: usize) -> Option<FewLaunch> {
        let format = matrix.int8_format()?;
        let of_slot = WARPS * 2 * matrix.block_bytes(COLUMNS);
        let rows = row_blocks * ROW_PAIR_BYTES[half];
        let room = self.halves[half][format].shared_memory.checked_sub(rows)?;
        let slots = (room / of_slot.max(1)).min(MOST_SLOTS);
        (slots > 0).then(|| FewLaunch { format, slots, bytes: (slots * of_slot + rows).max(ITEM_BYTES) })
    }

    /// Queues both halves behind the choice of experts: the activations of `input`, which are normed rows, go to
    /// `args.row`, and what comes of them to `args.outputs`.
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

/// Blocks of columns of pairs of rows that one of `grid` blocks of a kernel keeps at most, where the matrices of a routed
/// and of the shared expert have so many pairs of strips, and columns.
fn row_blocks(shape: &MoeShape, count: usize, grid: usize, pairs: [usize; 2], columns: [usize; 2]) -> usize {
    let entries = count * shape.top_k;
    let routed = (entries + (ITEM_ROWS - 1) * shape.experts.min(entries)) / ITEM_ROWS;
    let shared = if shape.shared_width > 0 { count.div_ceil(ITEM_ROWS) } else { 0 };
    let blocks = [routed, shared].into_iter().zip(pairs).zip(columns).map(|((items, pairs), columns)| {
        let units = (items * pairs).div_ceil(grid);
        let spanned = if units == 0 { 0 } else { (units - 1).div_ceil(pairs) + 1 };
        spanned.min(items) * ITEM_ROWS / 2 * (columns / COLUMNS)
    });
    blocks.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs of rows of the items that have units `first .. end`, `pairs` of each item.
    fn kept(items: &[usize], pairs: usize, first: usize, end: usize) -> usize {
        if first == end {
            0
        } else {
            items[first / pairs..=(end - 1) / pairs].iter().map(|rows| rows.div_ceil(2)).sum()
        }
    }

    #[test]
    fn what_a_block_keeps_of_any_choice_fits_its_room() {
        let shape = MoeShape { hidden: 256, experts: 40, top_k: 3, width: 256, shared_width: 256, normalise: true };
        for (count, grid, pairs) in [(2, 132, 16), (9, 7, 16), (33, 4, 8), (64, 132, 48), (64, 1, 5)] {
            let most = row_blocks(&shape, count, grid, [pairs; 2], [COLUMNS; 2]);
            let cut = |rows: usize| (0..rows).step_by(ITEM_ROWS).map(move |first| (rows - first).min(ITEM_ROWS));
            let shared: Vec<usize> = cut(count).collect();
            // Each row chooses `top_k` neighbours: of few experts, or of many.
            for (step, experts) in [(1, 40), (3, 40), (0, 40), (1, 5), (7, 31)] {
                let mut rows = [0; 40];
                for row in 0..count {
                    (0..shape.top_k).for_each(|k| rows[(row * step + k) % experts] += 1);
                }
                let routed: Vec<usize> = rows.iter().flat_map(|rows| cut(*rows)).collect();
                for own in 0..grid {
                    let part = |items: &[usize], own: usize| {
                        let all = items.len() * pairs;
                        kept(items, pairs, all * own / grid, all * (own + 1) / grid)
                    };
                    let found = part(&routed, own) + part(&shared, grid - 1 - own);
                    assert!(
                        found <= most,
                        "{count} rows, block {own} of {grid}: {found} pairs of rows in place of {most}"
                    );
                }
            }
        }
    }
}
