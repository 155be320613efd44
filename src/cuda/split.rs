//! Into how many parts products divide their columns among the warps of a block, where blocks would leave most of the device
//! idle: see `kernels/tiles/products_few.cu`.

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
}

/// A launch.
#[derive(Debug, PartialEq, Eq)]
pub struct Split {
    /// Parts of the columns. One is no split.
    pub parts: usize,
    /// Blocks that have the same rows of the input.
    pub groups: usize,
    /// Shared memory of a block.
    pub shared: usize,
}

impl Split {
    /// The number of parts with which rounds of blocks are soonest done, the least of them where several are.
    pub fn of(shape: &Shape, room: &Room) -> Self {
        let whole = Self { parts: 1, groups: groups(shape, 1), shared: room.half };
        let split = [2, 4, 8].into_iter().filter_map(|parts| Self::into(parts, shape, room));
        split.fold(whole, |best, other| if other.time(shape, room) < best.time(shape, room) { other } else { best })
    }

    /// `None` where blocks have no room for that: two stages, so that copies go on beside products, or one for all columns.
    fn into(parts: usize, shape: &Shape, room: &Room) -> Option<Self> {
        let groups = groups(shape, parts);
        let alone = groups * shape.inputs <= room.multiprocessors;
        let stage = parts * shape.rows.next_multiple_of(ROWS) * ROW_BYTES + WARPS * shape.weight_bytes;
        let steps = shape.chunks.div_ceil(parts);
        let stages = steps.min(MOST_STAGES).min(if alone { room.whole } else { room.half } / stage);
        (stages >= steps.min(2)).then_some(Self { parts, groups, shared: stages * stage })
    }

    /// In steps of a block.
    fn time(&self, shape: &Shape, room: &Room) -> usize {
        let rounds = (self.groups * shape.inputs).div_ceil(2 * room.multiprocessors.max(1));
        rounds * (shape.chunks.div_ceil(self.parts) + BLOCK_COST)
    }
}

/// Blocks of `WARPS / parts` strips that the weights have.
fn groups(shape: &Shape, parts: usize) -> usize {
    shape.weights.iter().map(|rows| rows.div_ceil(WARPS / parts * STRIP)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { multiprocessors: 132, whole: 232_192, half: 112 << 10 };

    fn split(weights: &[usize], cols: usize, count: usize, rows: usize) -> (usize, usize, usize) {
        let shape = Shape {
            weights,
            weight_bytes: 2304,
            chunks: cols.div_ceil(256),
            rows: rows.min(count),
            inputs: count.div_ceil(rows),
        };
        let split = Split::of(&shape, &ROOM);
        (split.parts, split.groups, split.shared)
    }

    #[test]
    fn few_blocks_are_split_into_as_many_as_fill_the_device() {
        // Output and input projections of a layer, for 8, 32 and 512 rows; those of eight where no kernel has them as its columns.
        assert_eq!(split(&[2048], 4096, 8, 32), (8, 128, 2 * 40_960));
        assert_eq!(split(&[2048], 4096, 32, 32), (8, 128, 2 * 108_544));
        assert_eq!(split(&[2048], 4096, 512, 32), (1, 16, 112 << 10));
        assert_eq!(split(&[8192, 4096, 64], 2048, 8, 32), (2, 193, 4 * 24_064));
        assert_eq!(split(&[8192, 4096, 64], 2048, 32, 32), (2, 193, 2 * 40_960));
        assert_eq!(split(&[8192, 4096, 64], 2048, 512, 64), (1, 97, 112 << 10));
        // A head fills the device as it is, and one block of columns cannot be split.
        assert_eq!(split(&[151_936], 2048, 8, 32).0, 1);
        assert_eq!(split(&[2048], 256, 8, 32).0, 1);
    }
}
