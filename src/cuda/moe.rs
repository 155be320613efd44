//! Feed-forward halves behind their router: choice of experts, SwiGLUs, weighted sum. A dense layer is a shared expert
//! without a gate and without others.

use std::sync::Arc;

use super::args::{
    CombineNormArgs, Expert, Forms, Int8Formats, Item, Matrix, MoeArgs, NormArgs, QuantisedRow, int8_formats, number,
};
use super::device::DeviceInfo;
use super::few_rows::{self, FewLaunch, FewRows};
use super::memory::{DevicePtr, DeviceSlice};
use super::module::{Kernel, Modules};
use super::one_row;
use super::stream::Stream;
use super::tiles::Tiles;
use crate::error::{Error, Result};

/// Rows of an expert that a block takes together at most, where a step has several rows.
const MOST_ROWS: usize = 8;

/// Columns of a row that a block of the weighted sum takes, four a thread. Where it norms the row it takes all of them, with whole
/// warps, of which a block has so many threads at most.
const COMBINED: usize = 512;
const WARP: usize = 32;
const MOST_THREADS: usize = 1024;

/// Routed experts, and experts that a row visits, that the kernels for a single row and for few take at most.
const ONE_ROW_EXPERTS: usize = 512;
const ONE_ROW_WARPS: usize = 16;
/// Blocks of weights that each of their warps keeps in shared memory at most.
const ONE_ROW_SLOTS: usize = 6;
/// What every width must be a multiple of there.
const ONE_ROW_COLUMNS: usize = one_row::COLUMNS;
/// Experts that each of the second half's warps compares.
const ONE_ROW_COMPARED: usize = 64;

pub struct Moe {
    route: Kernel,
    group: Kernel,
    /// For one row, and for groups of more.
    gate_up: [Kernel; 2],
    down: [Kernel; 2],
    combine: Kernel,
    /// The same, and the norm of the layer behind.
    combine_norm: Kernel,
    /// For one row, by format; they choose the experts by themselves.
    one_gate_up: Vec<Kernel>,
    one_down: Vec<Kernel>,
    /// For few rows.
    few: FewRows,
    /// For many rows.
    tiles: Arc<Tiles>,
    device: DeviceInfo,
    exact: bool,
}

/// What a layer's experts are.
#[derive(Clone, Copy)]
pub struct MoeLayer {
    pub shape: MoeShape,
    /// The routed experts, then the shared one or that of a dense layer.
    table: DeviceSlice<Expert>,
    /// The first routed expert, and how many bytes the next ones lie behind it; 0 where they are not alike.
    routed: Expert,
    spacing: u64,
    shared: Expert,
    /// The kernels for one row, where there are such.
    one: Option<[OneRowKernel; 2]>,
    /// Forms of the inputs of the first and the second half.
    gate_up: Forms,
    down: Forms,
    /// Formats of both halves, where all take int8, and each expert has its gate in that of the matrix beside it.
    int8: Option<[Int8Formats; 2]>,
    /// Rows of a group.
    item_rows: usize,
}

impl MoeLayer {
    /// Whether [`Moe::run`] takes `count` rows quantised.
    pub fn takes_quantised(&self, count: usize) -> bool {
        count > 1 && self.int8.is_some()
    }
}

/// A kernel of a layer's half for one row.
#[derive(Clone, Copy)]
struct OneRowKernel {
    /// Its number.
    format: usize,
    /// Blocks of weights that each of its warps keeps in shared memory.
    slots: usize,
    /// The shared memory of a block of threads.
    bytes: usize,
}

/// By which kernels a layer runs.
enum Way {
    /// A single row, by those for its formats.
    One([OneRowKernel; 2]),
    /// A single row, by those for anything.
    OneAny,
    /// Few rows, by those for its formats.
    Few([FewLaunch; 2]),
    /// Several rows that are quantised, with experts of these formats.
    Tiles([Int8Formats; 2]),
    /// Several rows, by those for anything.
    ManyAny,
}

/// The sizes of a layer.
#[derive(Clone, Copy)]
pub struct MoeShape {
    pub hidden: usize,
    /// 0 in a dense layer, as are the next two.
    pub experts: usize,
    pub top_k: usize,
    pub width: usize,
    /// Of the shared expert or the dense layer; 0 where there is neither.
    pub shared_width: usize,
    pub normalise: bool,
}

impl MoeShape {
    /// Groups that a step of `count` rows can have, at most: a group is up to `item_rows` rows of one expert.
    pub fn items(&self, count: usize, item_rows: usize) -> usize {
        let (entries, shared) = (count.saturating_mul(self.top_k), usize::from(self.shared_width > 0));
        match count {
            1 => self.top_k + shared,
            _ => entries.min(self.experts + entries / item_rows) + count.div_ceil(item_rows) * shared,
        }
    }

    /// The routed experts, and the shared one or that of a dense layer where there is one.
    pub fn swiglus(&self) -> usize {
        self.experts + usize::from(self.shared_width > 0)
    }

    /// Experts that a row visits.
    fn chosen(&self) -> usize {
        self.top_k + usize::from(self.shared_width > 0)
    }

    /// Strips of the first half's matrices that a single row is multiplied with, a gate and an up matrix together.
    fn one_row_strips(&self) -> usize {
        self.top_k * self.width.div_ceil(16) + self.shared_width.div_ceil(16)
    }

    /// Activations of a step of `count` rows.
    fn activations(&self, count: usize) -> usize {
        count * (self.top_k * self.width + self.shared_width)
    }

    fn widest(&self) -> usize {
        self.width.max(self.shared_width)
    }
}

/// Activations that a layer works with.
#[derive(Clone, Copy)]
pub struct MoeWork {
    /// Residual stream `[rows, hidden]`.
    pub x: DeviceSlice<f32>,
    /// The same, normed, for several rows.
    pub normed: DeviceSlice<f32>,
    /// `[rows, experts]`.
    pub logits: DeviceSlice<f32>,
    /// `[rows]`, before the sigmoid.
    pub shared_gate: Option<DeviceSlice<f32>>,
    pub shares: DeviceSlice<f32>,
    pub entry_rows: DeviceSlice<u32>,
    pub entry_of: DeviceSlice<u32>,
    pub items: DeviceSlice<Item>,
    pub item_count: DeviceSlice<u32>,
    pub activations: DeviceSlice<f32>,
    pub outputs: DeviceSlice<f32>,
    /// What the activations of a single row are quantised to, and what other kernels leave quantised.
    pub row: QuantisedRow,
}

impl Moe {
    pub fn new(modules: &Modules, device: &DeviceInfo, tiles: Arc<Tiles>, exact: bool) -> Result<Self> {
        let kernel = |name| modules.kernel(name);
        let by_format = |name| modules.int8_kernels(name, Modules::kernel_beside_others);
        Ok(Self {
            route: kernel("moe_route")?,
            group: kernel("moe_group")?,
            gate_up: [kernel("moe_gate_up_1")?, kernel("moe_gate_up_many")?],
            down: [kernel("moe_down_1")?, kernel("moe_down_many")?],
            combine: kernel("moe_combine")?,
            combine_norm: kernel("moe_combine_norm")?,
            one_gate_up: by_format("moe_gate_up_1")?,
            one_down: by_format("moe_down_1")?,
            few: FewRows::new(modules, device)?,
            tiles,
            device: device.clone(),
            exact,
        })
    }

    /// A layer of `experts`, which are those of `table`.
    ///
    /// # Errors
    /// [`Error::NoDevice`] for a device with too little shared memory for rows of `shape`.
    pub fn layer(&self, shape: MoeShape, experts: &[Expert], table: DeviceSlice<Expert>) -> Result<MoeLayer> {
        let gate_up = Forms::of(experts.iter().flat_map(|e| [&e.gate, &e.up]), self.exact);
        let down = Forms::of(experts.iter().map(|e| &e.down), self.exact);
        let fits = |which: usize, first: usize, second: usize| {
            first <= self.gate_up[which].shared_memory && second <= self.down[which].shared_memory
        };
        let fits_one = fits(0, gate_up.bytes(1, shape.hidden), any_row(&shape, down).1);
        let int8 = formats_on_tensor_cores(experts).filter(|_| !self.exact);
        // Several rows that are quantised are those of tiles.
        let fits_many = |rows: &usize| {
            let [first, second] = [shape.hidden, shape.widest()].map(|cols| Forms::FLOATS_ONLY.bytes(*rows, cols));
            int8.is_some() || fits(1, first, second)
        };
        let item_rows = [MOST_ROWS, 4, 2].into_iter().find(fits_many).filter(|_| fits_one);
        let item_rows = item_rows.ok_or_else(|| {
            let (ordinal, name, most) = (self.device.ordinal, &self.device.name, self.device.shared_memory);
            Error::NoDevice(format!(
                "CUDA device {ordinal} ({name}) has {most} bytes of shared memory a block, too few for rows of {} and {} \
                 values",
                shape.hidden,
                shape.widest()
            ))
        })?;
        let (routed, shared) = experts.split_at(shape.experts.min(experts.len()));
        let first = routed.first().copied().unwrap_or(Expert::NONE);
        let spacing = routed.get(1).map_or(0, |second| second.gate.data.address() - first.gate.data.address());
        let alike = routed.iter().zip(0..).all(|(expert, i)| expert.is_moved(&first, i * spacing));
        let shared = shared.first().copied().unwrap_or(Expert::NONE);
        let spacing = if alike { spacing } else { 0 };
        let one = self.one_row(&shape, experts).filter(|_| spacing > 0);
        Ok(MoeLayer { shape, table, routed: first, spacing, shared, one, gate_up, down, int8, item_rows })
    }

    /// The kernels for a single row, where the matrices of each half have one format.
    fn one_row(&self, shape: &MoeShape, experts: &[Expert]) -> Option<[OneRowKernel; 2]> {
        let widths = [shape.hidden, shape.width, shape.shared_width];
        let usual = shape.experts <= ONE_ROW_EXPERTS.min(ONE_ROW_COMPARED * shape.chosen())
            && shape.top_k >= 1
            && shape.top_k < ONE_ROW_WARPS
            && shape.chosen() <= ONE_ROW_WARPS
            && widths.iter().all(|width| width.is_multiple_of(ONE_ROW_COLUMNS));
        if self.exact || !usual {
            return None;
        }
        let first = experts.first()?;
        let (gate_up, down) = (first.gate.int8_format()?, first.down.int8_format()?);
        let alike = |e: &Expert| {
            e.gate.is_read_with(&first.gate) && e.up.is_read_with(&first.gate) && e.down.is_read_with(&first.down)
        };
        if !experts.iter().all(alike) {
            return None;
        }
        let kernel = |of: &[Kernel], format: usize, matrix: &Matrix, warps: usize, wanted: usize, row: usize| {
            let bytes = matrix.block_bytes(ONE_ROW_COLUMNS) * warps;
            let room = of[format].shared_memory.checked_sub(row)?;
            let slots =
                one_row::slots(one_row::room(&of[format]), bytes, 1, ONE_ROW_SLOTS, wanted).min(room / bytes.max(1));
            (slots > 0).then_some(OneRowKernel { format, slots, bytes: slots * bytes + row })
        };
        let blocks = shape.hidden / ONE_ROW_COLUMNS;
        let (across, sets) = one_row::shares(blocks, one_row::WARPS);
        let pairs = shape.one_row_strips().div_ceil(self.device.multiprocessors.max(1) as usize);
        let wanted = (2 * pairs).div_ceil(sets) * blocks.div_ceil(across);
        // The input of the first half; of the second one those of all experts, with factors for halves of tiles.
        let row = Forms::INT8_ONLY.bytes(1, shape.hidden).next_multiple_of(16);
        let rows = shape.chosen() * shape.widest() / 2 * 3;
        Some([
            kernel(&self.one_gate_up, gate_up, &first.gate, one_row::WARPS, wanted, row)?,
            kernel(&self.one_down, down, &first.down, shape.chosen(), shape.widest() / ONE_ROW_COLUMNS, rows)?,
        ])
    }

    /// Whether [`Moe::run`] norms `count` rows of `shape` for the layer behind.
    pub fn norms_behind(shape: &MoeShape, count: usize) -> bool {
        let threads = shape.hidden / 4;
        count > 1 && shape.hidden.is_multiple_of(4 * WARP) && threads <= MOST_THREADS && shape.chosen() <= threads
    }

    /// `x += sum of share * expert(norm(x))` for `count` rows. A single row is normed here; several are in `row` where the
    /// layer [`MoeLayer::takes_quantised`], and otherwise in `normed`. Then `behind` of the new rows, where
    /// [`Moe::norms_behind`]. The experts that each row chose are left in `choices`, `[rows, top_k]`.
    ///
    /// # Errors
    /// [`Error::Internal`] for memory that is too small.
    pub fn run(
        &self,
        stream: &Stream,
        count: usize,
        layer: &MoeLayer,
        (norm, eps): (DeviceSlice<f32>, f32),
        (work, choices): (&MoeWork, DeviceSlice<u32>),
        behind: Option<NormArgs>,
    ) -> Result<()> {
        let (shape, way) = (&layer.shape, self.way(layer, count));
        let args = self.args(&way, count, layer, (norm, eps), (work, choices))?;
        let widest = shape.widest();
        let (items, values) = (args.max_items as usize, shape.activations(count));
        let queue = |kernel: &Kernel, grid: [usize; 2], block: usize, shared: usize| {
            let launch = kernel.launch([number(grid[0]), number(grid[1]), 1], [number(block), 1, 1]);
            // SAFETY: the kernel's argument, of sizes that were checked.
            unsafe { launch.shared(number(shared)).arg(args).queue(stream) }
        };
        let (gate_up_strips, down_strips) = (widest.div_ceil(16), shape.hidden.div_ceil(16));
        let choose = || queue(&self.route, [count, 1], 256, 0);
        let group = || queue(&self.group, [1, 1], 1024, 8 * (shape.experts + 1));
        match way {
            Way::One([gate_up, down]) => {
                let grid = shape.one_row_strips().min(self.device.multiprocessors as usize);
                queue(&self.one_gate_up[gate_up.format], [grid, 1], 32 * one_row::WARPS, gate_up.bytes)?;
                return queue(&self.one_down[down.format], [down_strips, 1], 32 * shape.chosen(), down.bytes);
            }
            Way::OneAny => {
                choose()?;
                queue(&self.gate_up[0], [gate_up_strips, items], 256, layer.gate_up.bytes(1, shape.hidden))?;
                let (warps, bytes) = any_row(shape, layer.down);
                return queue(&self.down[0], [down_strips, 1], 32 * warps, bytes);
            }
            Way::Few(launches) => {
                choose()?;
                self.few.run(stream, launches, work.row, args)?;
            }
            Way::Tiles(formats) => {
                choose()?;
                group()?;
                self.tiles.experts(stream, args, formats, work.activations, values, (widest, shape.hidden))?;
            }
            Way::ManyAny => {
                choose()?;
                group()?;
                let [first, second] =
                    [shape.hidden, widest].map(|cols| Forms::FLOATS_ONLY.bytes(layer.item_rows, cols));
                queue(&self.gate_up[1], [gate_up_strips, items], 256, first)?;
                queue(&self.down[1], [down_strips, items], 256, second)?;
            }
        }
        if let Some(behind) = behind {
            let alike = (behind.width as usize, behind.count as usize) == (shape.hidden, count);
            if !alike || !Self::norms_behind(shape, count) {
                let (width, rows, hidden) = (behind.width, behind.count, shape.hidden);
                return Err(Error::Internal(format!("a norm of {rows} rows of {width} behind {count} of {hidden}")));
            }
            let launch = self.combine_norm.launch([number(count), 1, 1], [number(shape.hidden / 4), 1, 1]).spread();
            // SAFETY: the kernel's argument, of sizes that were checked; the norm's memory holds as many rows.
            return unsafe { launch.arg(CombineNormArgs { moe: args, norm: behind }).queue(stream) };
        }
        let grid = [number(count), number(shape.hidden.div_ceil(COMBINED)), 1];
        let launch = self.combine.launch(grid, [number(COMBINED / 4), 1, 1]).spread();
        // SAFETY: as above.
        unsafe { launch.arg(args).queue(stream) }
    }

    fn way(&self, layer: &MoeLayer, count: usize) -> Way {
        if count == 1 {
            return layer.one.map_or(Way::OneAny, Way::One);
        }
        let Some(formats) = layer.int8 else { return Way::ManyAny };
        let few = layer.one.is_some() && few_rows::ROWS.contains(&count);
        let launches = || self.few.launches(&layer.shape, &layer.routed.gate, &layer.routed.down, count);
        few.then(launches).flatten().map_or(Way::Tiles(formats), Way::Few)
    }

    /// What all kernels of `count` rows are told.
    fn args(
        &self,
        way: &Way,
        count: usize,
        layer: &MoeLayer,
        (norm, eps): (DeviceSlice<f32>, f32),
        (work, choices): (&MoeWork, DeviceSlice<u32>),
    ) -> Result<MoeArgs> {
        let (one, shape) = (count == 1, &layer.shape);
        let (entries, shared) = (count * shape.top_k, usize::from(shape.shared_width > 0));
        let values = shape.activations(count);
        let item_rows = match way {
            Way::One(_) | Way::OneAny => 1,
            Way::Few(_) | Way::Tiles(_) => self.tiles.rows,
            Way::ManyAny => layer.item_rows,
        };
        let items = shape.items(count, item_rows);
        let few = matches!(way, Way::Few(_));
        let row = match few {
            // Where there would be floats, their codes and factors.
            true => QuantisedRow {
                codes: work.activations.part(0, values / 4)?.cast().start(),
                factors: work.activations.part(values / 4, values / 8)?.start(),
            },
            false => work.row,
        };
        let slots = match way {
            Way::One(kernels) => kernels.map(|kernel| kernel.slots),
            Way::Few(launches) => launches.map(|launch| launch.slots),
            _ => [0, 0],
        };
        Ok(MoeArgs {
            routed: layer.routed,
            shared: layer.shared,
            spacing: layer.spacing,
            table: layer.table.holding(shape.swiglus(), "experts")?,
            logits: work.logits.holding(count * shape.experts, "logits of the router")?,
            shared_gate: match work.shared_gate {
                Some(gate) => gate.holding(count, "gates of the shared expert")?,
                None => DevicePtr::NULL,
            },
            input: if one { work.x } else { work.normed }.holding(count * shape.hidden, "inputs of experts")?,
            norm: if one { norm.holding(shape.hidden, "the weights of a norm")? } else { DevicePtr::NULL },
            x: work.x.holding(count * shape.hidden, "the residual stream")?,
            choices: choices.holding(entries, "chosen experts")?,
            shares: work.shares.holding(entries, "shares of experts")?,
            entry_rows: work.entry_rows.holding(entries + count * shared, "rows of entries")?,
            entry_of: match few {
                true => DevicePtr::NULL,
                false => work.entry_of.holding(entries, "entries of rows")?,
            },
            items: work.items.holding(items, "groups of entries")?,
            item_count: work.item_count.holding(1, "the number of groups")?,
            activations: work.activations.holding(values, "activations of experts")?,
            outputs: match one {
                true => DevicePtr::NULL,
                false => work.outputs.holding((entries + count * shared) * shape.hidden, "outputs of experts")?,
            },
            eps,
            experts: number(shape.experts),
            top_k: number(shape.top_k),
            width: number(shape.width),
            shared_width: number(shape.shared_width),
            hidden: number(shape.hidden),
            count: number(count),
            normalise: shape.normalise.into(),
            max_items: number(items),
            gate_up_forms: if one { layer.gate_up } else { Forms::FLOATS_ONLY }.bits(),
            down_forms: if one { layer.down } else { Forms::FLOATS_ONLY }.bits(),
            item_rows: number(item_rows),
            row,
            gate_up_slots: number(slots[0]),
            down_slots: number(slots[1]),
        })
    }
}

/// Formats of both halves, where all of `experts` take int8. A block has a gate and the matrix beside it, and knows one format.
fn formats_on_tensor_cores(experts: &[Expert]) -> Option<[Int8Formats; 2]> {
    let pairs = experts.iter().all(|expert| expert.gate.format == expert.up.format);
    let formats = |of: fn(&Expert) -> &Matrix| int8_formats(experts.iter().map(of));
    formats(|expert| &expert.up).filter(|_| pairs)?;
    Some([formats(|expert| &expert.gate)?, formats(|expert| &expert.down)?])
}

/// Warps of a block of the second half of a single row for anything, and its shared memory: the activations of an expert for
/// each.
fn any_row(shape: &MoeShape, down: Forms) -> (usize, usize) {
    let warps = (shape.top_k + 1).min(16);
    (warps, warps * down.bytes(1, shape.widest()).next_multiple_of(16))
}

#[cfg(test)]
mod tests {
    use super::super::args::{INT8_FORMATS, format_number};
    use super::*;
    use crate::quant::Format;

    fn expert(formats: [Format; 3]) -> Expert {
        let [gate, up, down] =
            formats.map(|format| Matrix { format: format_number(format), packed: 1, ..Matrix::NONE });
        Expert { gate, up, down }
    }

    #[test]
    fn experts_run_on_tensor_cores_where_all_take_int8_and_gates_have_the_format_beside_them() {
        let usual = expert([Format::Q4K, Format::Q4K, Format::Q6K]);
        let shared = expert([Format::Q8_0; 3]);
        let found = formats_on_tensor_cores(&[usual, usual, shared]).unwrap();
        let named: [Vec<Format>; 2] =
            found.map(|formats| (0..formats.len()).filter(|i| formats[*i]).map(|i| INT8_FORMATS[i].0).collect());
        assert_eq!(named, [vec![Format::Q8_0, Format::Q4K], vec![Format::Q8_0, Format::Q6K]]);
        for other in
            [[Format::Q4K, Format::Q5K, Format::Q6K], [Format::BF16; 3], [Format::Q4K, Format::Q4K, Format::F16]]
        {
            assert!(formats_on_tensor_cores(&[usual, expert(other)]).is_none(), "{other:?}");
        }
    }
}
