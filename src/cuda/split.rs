//! Into how many parts products divide their columns among the blocks of a cluster, or the warps of a block, where blocks would
//! leave most of the device idle: see `kernels/tiles/products_few.cu`.

/// Warps of a block.
const WARPS: usize = 8;
/// Rows of a weight that a warp takes.
const STRIP: usize = 16;
/// Rows of the input that stages hold are so many or a multiple.
const ROWS: usize = 8;
/// Bytes of 256 columns of a row of the input: its codes, and what keeps reads of eight rows apart; its scales.
const ROW_BYTES: usize = 256 + 32 + 8 * 8;
/// Stages that a block uses, at most.
const MOST_STAGES: usize = 4;
/// What a block costs beside its steps, in steps.
const BLOCK_COST: usize = 1;
/// Bytes of the sums of a strip with eight rows of the input.
const SUM_BYTES: usize = 512;

/// Products with the same rows of input.
pub struct Shape<'a> {
    /// Rows of each weight.
    pub weights: &'a [usize],
    /// Bytes of 16 rows by 256 columns, of the weight that has most.
    pub weight_bytes: usize,
    /// Blocks of 256 columns.
    pub chunks: usize,
    /// Rows of the input that a block takes, and blocks that have the same rows of a weight.
    pub rows: usize,
    pub inputs: usize,
}

/// What blocks have.
pub struct Room {
    pub multiprocessors: usize,
    /// Shared memory of a block that is alone on its multiprocessor, and of one of two.
    pub whole: usize,
    pub half: usize,
    /// Parts are blocks of a cluster, not warps of a block.
    pub clusters: bool,
}

/// A launch.
#[derive(Debug, PartialEq, Eq)]
pub struct Split {
    /// Parts of the columns. One is no split.
    pub parts: usize,
    /// Blocks that have the same rows of the input.
    pub blocks: usize,
    /// Blocks of a cluster.
    pub cluster: usize,
    /// Shared memory of a block: for its stages, and in all.
    pub room: usize,
    pub shared: usize,
}

impl Split {
    /// The number of parts with which rounds of blocks are soonest done, the least of them where several are.
    pub fn of(shape: &Shape, room: &Room) -> Self {
        let blocks = groups(shape, WARPS);
        let whole = Self { parts: 1, blocks, cluster: 1, room: room.half, shared: room.half };
        let split = [2, 4, 8].into_iter().filter_map(|parts| Self::into(parts, shape, room));
        split.fold(whole, |best, other| if other.time(shape, room) < best.time(shape, room) { other } else { best })
    }

    /// `None` where blocks have no room for that: two stages, so that copies go on beside products, or one for all columns.
    fn into(parts: usize, shape: &Shape, room: &Room) -> Option<Self> {
        let steps = shape.chunks.div_ceil(parts);
        let mut ways =
            (steps.min(2)..=steps.min(MOST_STAGES)).rev().map(|stages| Self::with(parts, stages, shape, room.clusters));
        // Blocks of a cluster are neighbours, of which several may not find a multiprocessor each.
        let alone = |own: &Self| !room.clusters && own.blocks * shape.inputs <= room.multiprocessors;
        ways.find(|own| own.shared <= if alone(own) { room.whole } else { room.half })
    }

    /// With so many parts, and `stages` stages of a step each.
    pub(super) fn with(parts: usize, stages: usize, shape: &Shape, clusters: bool) -> Self {
        let rows = shape.rows.next_multiple_of(ROWS);
        let (cluster, inside) = if clusters { (parts, 1) } else { (1, parts) };
        let room = stages * (inside * rows * ROW_BYTES + WARPS * shape.weight_bytes);
        // Sums that come from other blocks have room of their own.
        let sums = if clusters { WARPS * rows / ROWS * SUM_BYTES } else { 0 };
        Self { parts, blocks: groups(shape, WARPS / inside) * cluster, cluster, room, shared: room + sums }
    }

    /// In steps of a block.
    fn time(&self, shape: &Shape, room: &Room) -> usize {
        let rounds = (self.blocks * shape.inputs).div_ceil(2 * room.multiprocessors.max(1));
        rounds * (shape.chunks.div_ceil(self.parts) + BLOCK_COST)
    }
}

/// Groups of so many strips that the weights have.
fn groups(shape: &Shape, strips: usize) -> usize {
    shape.weights.iter().map(|rows| rows.div_ceil(strips * STRIP)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(clusters: bool, weights: &[usize], cols: usize, count: usize, rows: usize) -> (usize, usize, usize) {
        let room = Room { multiprocessors: 132, whole: 232_192, half: 112 << 10, clusters };
        let shape = Shape {
            weights,
            weight_bytes: 2304,
            chunks: cols.div_ceil(256),
            rows: rows.min(count),
            inputs: count.div_ceil(rows),
        };
        let split = Split::of(&shape, &room);
        assert_eq!(split.cluster, if clusters { split.parts } else { 1 });
        (split.parts, split.blocks, split.shared)
    }

    #[test]
    fn few_blocks_are_split_into_as_many_as_fill_the_device() {
        // Output and input projections of a layer, for 8, 32 and 512 rows; those of eight where no kernel has them as its columns.
        let inputs = [8192, 4096, 64];
        assert_eq!(split(false, &[2048], 4096, 8, 32), (8, 128, 2 * 40_960));
        assert_eq!(split(false, &[2048], 4096, 32, 32), (8, 128, 2 * 108_544));
        assert_eq!(split(false, &inputs, 2048, 8, 32), (2, 193, 4 * 24_064));
        assert_eq!(split(false, &inputs, 2048, 32, 32), (2, 193, 2 * 40_960));
        // In clusters a block has the activations of its own columns only, and room for sums.
        assert_eq!(split(true, &[2048], 4096, 8, 32), (8, 128, 2 * 21_248 + 4096));
        assert_eq!(split(true, &[2048], 4096, 32, 32), (8, 128, 2 * 29_696 + 16_384));
        assert_eq!(split(true, &inputs, 2048, 8, 32), (2, 194, 4 * 21_248 + 4096));
        assert_eq!(split(true, &inputs, 2048, 32, 32), (2, 194, 3 * 29_696 + 16_384));
        for clusters in [false, true] {
            assert_eq!(split(clusters, &[2048], 4096, 512, 32), (1, 16, 112 << 10));
            assert_eq!(split(clusters, &inputs, 2048, 512, 64), (1, 97, 112 << 10));
            // A head fills the device as it is, and one block of columns cannot be split.
            assert_eq!(split(clusters, &[151_936], 2048, 8, 32).0, 1);
            assert_eq!(split(clusters, &[2048], 256, 8, 32).0, 1);
        }
    }
}
