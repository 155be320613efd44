//! Kernels against plain references: random inputs, odd sizes, outputs that are poisoned before.

mod attention;
mod delta_net;
mod embed;
mod experts;
mod products;
mod routing;
mod sample;
mod tiles;

use half::{bf16, f16};

use super::args::{self, INT8_FORMATS, format_number};
use super::memory::{DevicePtr, Plain};
use super::module::Kernel;
use super::testing::{Buffer, Gpu};
use crate::quant::{AbsMax, AlignedBuffer, Format, FourBit, Matrix, Packed, Weight};

/// Pseudo-random values in -1..1 (xorshift32).
fn values(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_769).wrapping_add(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// A weight of random codes and harmless scales, packed where its shape can be.
fn weight(format: Format, rows: usize, cols: usize, seed: u32) -> Weight {
    let random = values(seed, rows * cols);
    let code = |i: usize| (random[i % random.len()] * 8_388_608.0) as i32 as u8;
    let scale = |i: usize| f16::from_f32(0.02 + 0.01 * random[i * 7 % random.len()]).to_le_bytes();
    if format == Format::Bnb4 {
        return four_bit(std::array::from_fn(|i| (i as f32 - 7.3) / 8.7), rows, cols, seed);
    }
    let (block, len) = (format.block_bytes(), format.bytes_for((rows * cols) as u64).unwrap() as usize);
    let mut data: Vec<u8> = (0..len).map(code).collect();
    for (i, block) in data.chunks_exact_mut(block).enumerate() {
        match format {
            Format::F32 => block.copy_from_slice(&random[i].to_le_bytes()),
            Format::F16 => block.copy_from_slice(&f16::from_f32(random[i]).to_le_bytes()),
            Format::BF16 => block.copy_from_slice(&bf16::from_f32(random[i]).to_le_bytes()),
            Format::Q8_0 | Format::Q4_0 => block[..2].copy_from_slice(&scale(i)),
            Format::Q4K | Format::Q5K => {
                block[..2].copy_from_slice(&scale(i));
                block[2..4].copy_from_slice(&scale(i + 1));
            }
            Format::Q6K => block[208..].copy_from_slice(&scale(i)),
            Format::Int4(_) => {
                block[..2].copy_from_slice(&scale(i));
                block[2] %= 17;
            }
            Format::Bnb4 => {}
        }
    }
    let matrix = Matrix::new(format, rows, cols, bytes(&data)).unwrap();
    Weight::new(matrix).unwrap()
}

/// The same of [`Format::Bnb4`] with codebook `table`.
fn four_bit(table: [f32; 16], rows: usize, cols: usize, seed: u32) -> Weight {
    let random = values(seed, rows * cols);
    let code = |i: usize| (random[i % random.len()] * 8_388_608.0) as i32 as u8;
    let codes: Vec<u8> = (0..(rows * cols).div_ceil(2)).map(code).collect();
    let absmax = (0..(rows * cols).div_ceil(64)).flat_map(|i| (0.5 + 0.4 * random[i % random.len()]).to_le_bytes());
    let absmax = AbsMax::Plain(bytes(&absmax.collect::<Vec<u8>>()));
    let scales = FourBit { table, block_size: 64, absmax };
    Weight::new(Matrix::four_bit(rows, cols, bytes(&codes), scales).unwrap()).unwrap()
}

fn bytes(data: &[u8]) -> crate::quant::Bytes {
    let mut buffer = AlignedBuffer::zeroed(data.len(), "a test").unwrap();
    buffer.copy_from_slice(data);
    buffer.into()
}

/// A device, and memory that lives as long as the test.
struct Bench {
    gpu: Gpu,
    kept: Vec<Buffer<u8>>,
}

impl Bench {
    /// `None` without a device.
    fn open() -> Option<Self> {
        Some(Self { gpu: Gpu::open()?, kept: Vec::new() })
    }

    /// `values` in device memory.
    fn put<T: Plain>(&mut self, values: &[T]) -> DevicePtr<T> {
        // SAFETY: plain values are bytes without padding.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
        self.kept.push(self.gpu.upload(bytes));
        self.kept[self.kept.len() - 1].slice.cast().start()
    }

    /// `len` poisoned values.
    fn room<T: Plain>(&mut self, len: usize) -> Buffer<T> {
        self.gpu.poisoned(len)
    }

    /// `weight` in device memory, as the kernels see it.
    fn matrix(&mut self, weight: &Weight) -> args::Matrix {
        let mut matrix = args::Matrix { rows: weight.rows() as u32, cols: weight.cols() as u32, ..args::Matrix::NONE };
        match weight {
            Weight::Packed(packed) => {
                matrix.data = self.put(packed.data());
                matrix.format = format_number(packed.format());
                matrix.packed = 1;
                matrix.strip_bytes = (packed.data().len() / packed.rows().div_ceil(16)) as u32;
                if let Some(book) = packed.tables().codebook.as_deref() {
                    matrix.codebook = self.put(book);
                }
                if let Some(order) = packed.column_order() {
                    matrix.order = self.put(order);
                }
            }
            Weight::Stored(stored) => {
                matrix.data = self.put(stored.data());
                matrix.format = format_number(stored.format());
                if let Some(FourBit { table, block_size, absmax: AbsMax::Plain(absmax) }) = stored.scales() {
                    matrix.codebook = self.put(table);
                    let absmax: Vec<f32> =
                        absmax.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                    matrix.absmax = self.put(&absmax);
                    matrix.block_size = *block_size as u32;
                }
            }
        }
        matrix
    }

    /// Kernel `name`.
    fn kernel(&self, name: &str) -> Kernel {
        self.gpu.modules.kernel(name).unwrap()
    }

    /// The kernel `name` of a format that takes int8.
    fn int8_kernel(&self, name: &str, format: Format) -> Kernel {
        let (_, of_format) = INT8_FORMATS.iter().find(|(own, _)| *own == format).unwrap();
        self.kernel(&format!("{name}_{of_format}"))
    }

    /// Launches `kernel` with its argument struct and waits for it. False where the device has no such shared memory, which
    /// the host never asks for there; says so.
    fn run<T: Plain>(&self, kernel: &Kernel, grid: [usize; 3], block: usize, shared: usize, args: T) -> bool {
        self.run_clusters(kernel, (1, false), grid, block, shared, args)
    }

    /// The same in clusters of `cluster` blocks, or a recording of that.
    fn run_clusters<T: Plain>(
        &self,
        kernel: &Kernel,
        (cluster, recorded): (usize, bool),
        grid: [usize; 3],
        block: usize,
        shared: usize,
        args: T,
    ) -> bool {
        if shared > kernel.shared_memory {
            println!("skipped: {} with {shared} bytes of shared memory, of {}", kernel.name, kernel.shared_memory);
            return false;
        }
        let launch = kernel.launch(grid.map(|n| n as u32), [block as u32, 1, 1]).shared(shared as u32);
        let launch = launch.cluster(cluster as u32).arg(args);
        let stream = &self.gpu.stream;
        if recorded {
            stream.begin_recording().unwrap();
        }
        // SAFETY: every test hands its kernel's own struct, of memory that it keeps.
        unsafe { launch.queue(stream) }.unwrap();
        let graph = recorded.then(|| stream.end_recording().unwrap());
        graph.iter().for_each(|graph| stream.replay(graph).unwrap());
        stream.wait().unwrap();
        true
    }
}

/// The values of a weight, `[rows][cols]`.
fn decoded(weight: &Weight) -> Vec<Vec<f32>> {
    let row = |row| {
        let mut out = vec![f32::NAN; weight.cols()];
        weight.decode_row(row, &mut out);
        out
    };
    (0..weight.rows()).map(row).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// What `x` becomes as int8 with a scale for every 32 values.
fn quantised(x: &[f32]) -> Vec<f32> {
    let tile = |tile: &[f32]| {
        let largest = tile.iter().fold(0f32, |m, x| m.max(x.abs()));
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        tile.iter().map(|x| (x * inverse).round_ties_even() * (largest / 127.0)).collect::<Vec<f32>>()
    };
    x.chunks(32).flat_map(tile).collect()
}

/// The values of a row that a kernel has quantised, with a factor and a sum for every `group` of them; checks the sums.
fn unquantised(codes: &[u8], factors: &[f32], group: usize) -> Vec<f32> {
    let value = |(codes, factors): (&[u8], &[f32])| {
        let (scale, sum) = (factors[0], codes.iter().map(|code| i32::from(*code as i8)).sum::<i32>());
        assert_eq!(factors[1], scale * sum as f32);
        codes.iter().map(|code| scale * f32::from(*code as i8)).collect::<Vec<f32>>()
    };
    codes.chunks(group).zip(factors.chunks(2)).flat_map(value).collect()
}

/// Checks that `codes` and `factors`, a tile of 32 each, are what `floats` are quantised to.
fn assert_quantised(codes: &[u8], factors: &[f32], floats: &[f32], what: &str) {
    let rounded: Vec<f64> = quantised(floats).into_iter().map(f64::from).collect();
    assert_close(&unquantised(codes, factors, 32), &rounded, 1e-6, &format!("{what}, quantised"));
}

/// `x / sqrt(mean(x²) + eps) * weight`.
fn rms_norm(x: &[f32], weight: &[f32], eps: f64) -> Vec<f32> {
    let scale = 1.0 / (dot(x, x) / x.len() as f64 + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| (f64::from(*x) * scale * f64::from(*w)) as f32).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// Fails unless every value is within `tolerance` of the largest expected one.
fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-30, |m: f64, e| m.max(e.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*f) - e).abs() / largest;
        assert!(error < tolerance, "{what}, value {i}: {f} for {e}, {error:e}");
    }
}

/// The packed weight of a group int4 matrix whose columns stand in another order.
fn in_other_order(rows: usize, cols: usize, seed: u32) -> Weight {
    let Weight::Packed(packed) = weight(Format::Int4(crate::quant::Group::Of64), rows, cols, seed) else {
        unreachable!("group int4 always is packed");
    };
    let mut tables = packed.tables().clone();
    tables.column_order = Some((0..cols as u32).map(|i| (i * 31 + 5) % cols as u32).collect());
    Weight::Packed(Packed::from_parts(packed.format(), rows, cols, tables, bytes(packed.data())).unwrap())
}
