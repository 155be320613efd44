//! `qm synth`: a random model of a published model's shape, for measuring a machine before downloading the real one.

mod fill;
mod gguf;
mod shape;
mod vocabulary;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use clap::Args;
use indicatif::HumanBytes;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;

use crate::failure::{Failure, Outcome};
use crate::gguf::Kind;
use crate::{interrupt, progress};
use fill::Normals;
use shape::{Fill, Preset, Tensor};

/// Bytes that one thread draws and writes at a time, about.
const CHUNK_BYTES: u64 = 4 << 20;

/// Arguments of `qm synth`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Whose shape the model gets
    #[arg(long, value_enum)]
    preset: Preset,
    /// Layers, where they shall be fewer or more than the preset's
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    layers: Option<u32>,
    /// Routed experts of a layer, where they shall be fewer
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    experts: Option<u32>,
    /// Tokens of the vocabulary, where they shall be fewer
    #[arg(long, value_parser = clap::value_parser!(u32).range(512..))]
    vocab: Option<u32>,
    /// Storage type of the matrices
    #[arg(long = "type", value_enum, default_value = "q4_k")]
    kind: Kind,
    /// The same seed gives the same file
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The GGUF file to write
    #[arg(long)]
    out: PathBuf,
    /// Replace the file where it exists
    #[arg(long)]
    force: bool,
}

pub fn run(arguments: &Arguments) -> Outcome {
    let mut shape = arguments.preset.shape();
    shape.layers = arguments.layers.unwrap_or(shape.layers);
    if let Some(experts) = arguments.experts {
        shape.experts = experts;
        shape.top_k = shape.top_k.min(experts);
    }
    if let Some(vocab) = arguments.vocab.filter(|&v| v < shape.vocab) {
        shape.vocab = vocab;
        shape.specials_at = shape.specials_at.min(vocab - 3);
    }
    let out = arguments.out.as_path();
    if !arguments.force && out.exists() {
        return Err(Failure::new(format!("{}: exists; --force replaces it", out.display())));
    }
    let tensors = shape::tensors(&shape, arguments.kind);
    let start = Instant::now();
    let layout = gguf::layout(&shape, arguments.kind, &tensors);
    let unfinished = Unfinished::create(out)?;
    unfinished.reserve(layout.file_bytes)?;
    let failed = |error: &io::Error| unfinished.failure("cannot write", error);
    unfinished.file.write_all_at(&layout.head, 0).map_err(|e| failed(&e))?;
    write_tensors(&unfinished, &tensors, &layout.offsets, arguments.seed, layout.file_bytes)?;
    unfinished.file.sync_all().map_err(|e| failed(&e))?;
    unfinished.finish(out)?;
    let seconds = start.elapsed().as_secs_f64();
    writeln!(
        io::stdout(),
        "{}: {}, {} tensors, {:.1} s ({}/s)",
        out.display(),
        HumanBytes(layout.file_bytes),
        tensors.len(),
        seconds,
        HumanBytes((layout.file_bytes as f64 / seconds) as u64),
    )?;
    Ok(())
}

/// Part of a tensor: whole blocks, drawn from a generator of its own so that the file does not depend on the threads.
struct Chunk<'a> {
    tensor: &'a Tensor,
    stream: u64,
    offset: u64,
    bytes: u64,
}

fn chunks<'a>(tensors: &'a [Tensor], offsets: &[u64]) -> Vec<Chunk<'a>> {
    let mut list = Vec::new();
    for (tensor, &start) in tensors.iter().zip(offsets) {
        let block = tensor.kind.block_bytes();
        let step = (CHUNK_BYTES / block) * block;
        let parts = (0..tensor.bytes()).step_by(step as usize);
        for at in parts {
            let bytes = step.min(tensor.bytes() - at);
            list.push(Chunk { tensor, stream: list.len() as u64, offset: start + at, bytes });
        }
    }
    list
}

/// Draws and writes every tensor, on all cores: the disk shall be what limits.
fn write_tensors(unfinished: &Unfinished, tensors: &[Tensor], offsets: &[u64], seed: u64, total: u64) -> Outcome {
    let chunks = chunks(tensors, offsets);
    let normals = Normals::new();
    let bar = progress::bytes("writing", total);
    let next = AtomicUsize::new(0);
    let worker = || -> Outcome {
        let mut buffer = vec![0u8; CHUNK_BYTES as usize];
        while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
            if interrupt::requested() {
                return Err(Failure::Interrupted);
            }
            let out = &mut buffer[..chunk.bytes as usize];
            draw(chunk, seed, &normals, out);
            let written = unfinished.file.write_all_at(out, chunk.offset);
            if let Err(error) = written {
                next.store(chunks.len(), Ordering::Relaxed);
                return Err(unfinished.failure("cannot write", &error));
            }
            bar.inc(chunk.bytes);
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let join = |w: std::thread::ScopedJoinHandle<'_, Outcome>| {
            w.join().unwrap_or_else(|_| Err(Failure::new("internal error: a writer failed")))
        };
        workers.into_iter().map(join).collect()
    });
    bar.finish_and_clear();
    outcomes.into_iter().collect()
}

fn draw(chunk: &Chunk<'_>, seed: u64, normals: &Normals, out: &mut [u8]) {
    // `seed_from_u64` spreads the bits, so that neighbouring chunks have unrelated generators.
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ chunk.stream);
    match chunk.tensor.fill {
        Fill::Weight => {
            let inputs = chunk.tensor.dims.first().copied().unwrap_or(1).max(1);
            fill::fill_weights(chunk.tensor.kind, (inputs as f32).sqrt().recip(), normals, &mut random, out);
        }
        Fill::Between(low, high) => fill::fill_between(low, high, &mut random, out),
    }
}

/// A file under a temporary name beside its place; removed unless it was finished.
struct Unfinished {
    file: File,
    path: PathBuf,
}

impl Unfinished {
    fn create(out: &Path) -> Outcome<Self> {
        let mut name =
            out.file_name().ok_or_else(|| Failure::new(format!("{}: not a file name", out.display())))?.to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let path = out.with_file_name(name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(error) => Err(Failure::new(format!("{}: cannot create: {error}", path.display()))),
        }
    }

    fn failure(&self, what: &str, error: &io::Error) -> Failure {
        Failure::new(format!("{}: {what}: {error}", self.path.display()))
    }

    /// Takes the room on the disk at once, so that a full disk is known before anything is written.
    fn reserve(&self, bytes: u64) -> Outcome {
        let length = libc::off_t::try_from(bytes).map_err(|_| Failure::new("the model is too large for a file"))?;
        // SAFETY: the descriptor is open for as long as `self.file` lives; no memory is passed.
        if unsafe { libc::fallocate(self.file.as_raw_fd(), 0, 0, length) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
            return self.file.set_len(bytes).map_err(|e| self.failure("cannot extend", &e));
        }
        Err(self.failure(&format!("cannot reserve {}", HumanBytes(bytes)), &error))
    }

    fn finish(self, out: &Path) -> Outcome {
        fs::rename(&self.path, out).map_err(|e| self.failure(&format!("cannot rename to {}", out.display()), &e))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After `finish` the name is gone and this does nothing; a failure to clean up has nobody to tell.
        let _ = fs::remove_file(&self.path);
    }
}
