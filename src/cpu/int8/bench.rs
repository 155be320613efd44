//! Rates of the kernels on this machine: `cargo test --release --lib kernel_rates -- --ignored --nocapture`.
//!
//! For each tier and format: a weight that fits the second-level cache by one core, a large one by one core and by all, with
//! one row of activations (gigabytes of weights a second) and with several (products a cycle and core).

use std::hint::black_box;
use std::time::Instant;

use super::tests::Random;
use super::{Ahead, Int8Rows, RowGroup, strips};
use crate::cpu::isa::Isa;
use crate::cpu::testing::tiers;
use crate::quant::packed::ROWS;
use crate::quant::{AlignedBuffer, Format, Group, Packed};

const COLS: usize = 2048;
const FORMATS: [Format; 7] =
    [Format::Q4K, Format::Bnb4, Format::Int4(Group::Of128), Format::Q4_0, Format::Q5K, Format::Q6K, Format::Q8_0];

/// Cycles a second, by a chain of multiplications that takes three cycles each.
fn clock() -> f64 {
    let steps = 20_000_000u64;
    let best = (0..5).map(|_| {
        let start = Instant::now();
        let mut x = 1u64;
        for _ in 0..steps / 8 {
            for _ in 0..8 {
                x = multiply(x);
            }
        }
        black_box(x);
        start.elapsed().as_secs_f64()
    });
    3.0 * steps as f64 / best.fold(f64::INFINITY, f64::min)
}

/// A multiplication that the compiler cannot merge with the next.
#[inline(always)]
fn multiply(mut x: u64) -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: one multiplication of a register.
    unsafe {
        std::arch::asm!("imul {x}, {x}", x = inout(reg) x, options(nomem, nostack));
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        x = black_box(x.wrapping_mul(x));
    }
    x
}

/// A weight of about `bytes` bytes whose strips repeat.
fn weight(format: Format, bytes: usize) -> Packed {
    let matrix = Random(1).matrix(format, 64, COLS);
    let small = Packed::pack(&matrix).unwrap().unwrap();
    let copies = bytes.div_ceil(small.data().len()).max(1);
    let mut data = AlignedBuffer::zeroed(copies * small.data().len(), "bench").unwrap();
    #[cfg(target_os = "linux")]
    // SAFETY: advice on memory that is ours.
    unsafe {
        libc::madvise(data.as_mut_ptr().cast(), data.len(), libc::MADV_HUGEPAGE);
    }
    data.chunks_exact_mut(small.data().len()).for_each(|chunk| chunk.copy_from_slice(small.data()));
    Packed::from_parts(format, 64 * copies, COLS, small.tables().clone(), data.into()).unwrap()
}

fn group(isa: Isa, rows: usize) -> RowGroup {
    RowGroup::new(0, rows, COLS, isa.panel_rows())
}

fn activations(isa: Isa, n: usize) -> Int8Rows {
    let mut random = Random(2);
    let values: Vec<f32> = (0..n * COLS).map(|_| random.unit()).collect();
    let mut rows = Int8Rows::default();
    let shared = rows.share(values.len());
    for (row, values) in values.chunks_exact(COLS).enumerate() {
        // SAFETY: no other thread.
        unsafe { shared.quantize(isa, group(isa, n), row, 0, values) };
    }
    rows
}

/// Seconds of the fastest of several passes over the strips `strips` of `weight`.
fn seconds(isa: Isa, weight: &Packed, strips: std::ops::Range<usize>, n: usize, budget: f64) -> f64 {
    let rows = activations(isa, n);
    let mut out = vec![[0f32; ROWS]; n];
    let ahead = Ahead { run: usize::MAX, next: &[] };
    let (mut best, start) = (f64::INFINITY, Instant::now());
    while start.elapsed().as_secs_f64() < budget {
        let pass = Instant::now();
        for strip in strips.clone() {
            strips::project(isa, weight, strip..strip + 1, rows.panels(group(isa, n)), ahead, &mut out);
            black_box(&mut out);
        }
        best = best.min(pass.elapsed().as_secs_f64());
    }
    best
}

#[test]
#[ignore = "measures; run it alone, in release"]
fn kernel_rates() {
    let clock = clock();
    let cores = std::thread::available_parallelism().unwrap().get();
    println!("{:.2} GHz, {cores} cores; GB/s of weights with 1 row, products a cycle with more", clock / 1e9);
    let large = std::env::var("QM_BENCH_MB").ok().and_then(|mb| mb.parse().ok()).unwrap_or(192usize) << 20;
    let only = std::env::var("QM_BENCH_FORMAT").unwrap_or_default();
    for format in FORMATS.into_iter().filter(|f| f.name().contains(&only)) {
        let (small, large) = (weight(format, 200 << 10), weight(format, large));
        for isa in tiers().into_iter().filter(|isa| isa.has_integer_kernel(format)) {
            let strips = |w: &Packed| w.rows() / ROWS;
            let cache = seconds(isa, &small, 0..strips(&small), 1, 0.1);
            let memory = seconds(isa, &large, 0..strips(&large), 1, 0.2);
            let per_core = strips(&large) / cores;
            let all = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..cores)
                    .map(|core| {
                        let part = per_core * core..per_core * (core + 1);
                        let large = &large;
                        scope.spawn(move || seconds(isa, large, part, 1, 0.3))
                    })
                    .collect();
                threads.into_iter().map(|t| t.join().unwrap()).fold(0f64, f64::max)
            });
            let rate = |w: &Packed, seconds: f64| w.data().len() as f64 / seconds / 1e9;
            let many: Vec<String> = [2, 4, 10, 16, 64]
                .into_iter()
                .map(|n| {
                    let products = (small.rows() * COLS * n) as f64;
                    format!("{n}: {:.1}", products / seconds(isa, &small, 0..strips(&small), n, 0.1) / clock)
                })
                .collect();
            let together = std::thread::scope(|scope| {
                let small = &small;
                let run = || seconds(isa, small, 0..strips(small), 10, 0.3);
                let threads: Vec<_> = (0..cores).map(|_| scope.spawn(run)).collect();
                threads.into_iter().map(|t| t.join().unwrap()).fold(0f64, f64::max)
            });
            let together = (small.rows() * COLS * 10) as f64 / together / 1e9;
            println!(
                "{:9} {:8} cache {:5.1} ({:4.1} B/cycle), memory {:5.1}, all cores {:6.1}; rows {}; \
                 10 on all cores: {together:.0} G products a second and core",
                format.name(),
                isa.name(),
                rate(&small, cache),
                small.data().len() as f64 / cache / clock,
                rate(&large, memory),
                rate(&large, all),
                many.join(", ")
            );
        }
    }
}
