//! Filling an image from a checkpoint: on all cores, in pieces, in the order of the files.
//!
//! A piece is a few megabytes of one tensor, or a whole one where its scales lie apart. A thread reads it into a buffer of its
//! own and packs it into its place, or into a buffer that is copied to another processor's memory, so that no more than the
//! buffers of the threads is ever held beside the image.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::plan::{Change, Content, MatrixPlan, Place, Tables, WeightPlan};
use super::{Origin, Remote};
use crate::checkpoint::{Checkpoint, TensorInfo};
use crate::error::{Error, Result};
use crate::model::LoadProgress;
use crate::quant::int4::from_gptq;
use crate::quant::packed::{ROWS, pack_strip, strip_bytes};
use crate::quant::{AlignedBuffer, Format, Matrix, Packed, decode};

/// Bytes of a tensor that a thread reads at a time, about.
const PIECE: usize = 2 << 20;

/// A part of a place.
struct Piece<'a> {
    place: &'a Place,
    /// Its first row, counted from the place's first.
    first_row: usize,
    rows: usize,
    /// Where it lies in the image.
    range: Range<usize>,
}

/// Fills `image`, which is zeroed, with all weights of `plan`, on `threads` threads that end with it.
///
/// # Errors
/// A failing read, a cancelled `progress`, or memory that is not to be had.
pub(super) fn fill(
    image: &mut [u8],
    checkpoint: &Checkpoint,
    plan: &WeightPlan,
    progress: &LoadProgress,
    threads: usize,
) -> Result<()> {
    let mut tasks = Vec::new();
    let (mut rest, mut at) = (image, 0);
    for piece in pieces(plan) {
        let range = piece.range.clone();
        let outside = || Error::Internal(format!("{range:?} is beyond the {} bytes of the image", plan.bytes()));
        let (_, behind) = std::mem::take(&mut rest).split_at_mut_checked(range.start - at).ok_or_else(outside)?;
        let (out, behind) = behind.split_at_mut_checked(range.len()).ok_or_else(outside)?;
        (rest, at) = (behind, range.end);
        tasks.push((Packing::new(piece, checkpoint)?, out));
    }
    tasks.sort_by_key(|(packing, _)| packing.position());
    work_off(tasks, threads, |queue| {
        let mut buffer = Vec::new();
        while let Some((packing, out)) = queue.next() {
            packing.fill(checkpoint, &mut buffer, out)?;
            progress.advance(packing.source_bytes())?;
        }
        Ok(())
    })
}

/// Sends all weights of `plan` to `remote`, on up to `threads` threads that end with it. Beside the lanes it takes
/// [`WeightPlan::packing_bytes`].
///
/// # Errors
/// A failing read, a cancelled `progress`, memory that is not to be had, and those of `remote`.
pub fn send<R: Remote>(
    origin: &Origin,
    plan: &WeightPlan,
    remote: &R,
    progress: &LoadProgress,
    threads: usize,
) -> Result<()> {
    match origin {
        Origin::Files(checkpoint) => {
            let tasks = pieces(plan).map(|piece| Packing::new(piece, checkpoint)).collect::<Result<Vec<_>>>();
            let mut tasks = tasks?;
            tasks.sort_by_key(Packing::position);
            work_off(tasks, threads, |queue| {
                let (mut buffer, mut lane) = (Vec::new(), remote.lane()?);
                while let Some(packing) = queue.next() {
                    let Piece { place, range, .. } = &packing.piece;
                    remote.put(&mut lane, place, range.clone(), |out| packing.fill(checkpoint, &mut buffer, out))?;
                    progress.advance(packing.source_bytes())?;
                }
                remote.end(lane)
            })
        }
        Origin::Image(image) => work_off(pieces(plan).collect(), threads, |queue| {
            let mut lane = remote.lane()?;
            while let Some(Piece { place, range, .. }) = queue.next() {
                let outside = || Error::Internal(format!("{range:?} is beyond the {} bytes of the image", image.len()));
                let from = image.get(range.clone()).ok_or_else(outside)?;
                remote.put(&mut lane, place, range, |out| {
                    out.copy_from_slice(from);
                    Ok(())
                })?;
                progress.advance(0)?;
            }
            remote.end(lane)
        }),
    }
}

/// Tasks that several threads work off. None is left for anybody once one thread has failed.
struct Queue<T> {
    tasks: Mutex<std::vec::IntoIter<T>>,
    failed: AtomicBool,
}

impl<T> Queue<T> {
    fn next(&self) -> Option<T> {
        if self.failed.load(Ordering::Relaxed) {
            return None;
        }
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).next()
    }
}

/// Runs `work` on `threads` threads, which share `tasks`; on fewer where there are not so many.
fn work_off<T: Send>(tasks: Vec<T>, threads: usize, work: impl Fn(&Queue<T>) -> Result<()> + Sync) -> Result<()> {
    let threads = threads.max(1).min(tasks.len());
    let queue = Queue { tasks: Mutex::new(tasks.into_iter()), failed: AtomicBool::new(false) };
    on_threads(threads, "qm-load", &|| work(&queue).inspect_err(|_| queue.failed.store(true, Ordering::Relaxed)))
}

/// Runs `work` on `threads` threads and waits for them. The first error is answered; a panic goes on in the caller.
///
/// # Errors
/// Those of `work`; [`Error::Internal`] when no thread can be started.
pub(in crate::model) fn on_threads(threads: usize, name: &str, work: &(impl Fn() -> Result<()> + Sync)) -> Result<()> {
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for i in 0..threads {
            let thread = std::thread::Builder::new().name(format!("{name}-{i}")).spawn_scoped(scope, work);
            match thread {
                Ok(thread) => running.push(thread),
                // Those that run do the work of all.
                Err(_) if i > 0 => break,
                Err(e) => return Err(Error::Internal(format!("cannot start a thread: {e}"))),
            }
        }
        let outcomes = running.into_iter().map(|thread| thread.join());
        let outcomes: Vec<_> = outcomes.map(|o| o.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect();
        outcomes.into_iter().collect()
    })
}

/// The pieces of all places, in the order of the image.
fn pieces(plan: &WeightPlan) -> impl Iterator<Item = Piece<'_>> {
    plan.places().iter().flat_map(|place| {
        let (rows, step) = place.steps();
        let (start, end) = (place.range.start, place.range.end);
        (0..rows).step_by(step.rows).enumerate().map(move |(index, first_row)| {
            let now = step.rows.min(rows - first_row);
            let from = start.saturating_add(index.saturating_mul(step.bytes)).min(end);
            let to = if now < step.rows { end } else { from.saturating_add(step.bytes).min(end) };
            Piece { place, first_row, rows: now, range: from..to }
        })
    })
}

/// Bytes of the pieces of `plan`, the largest first.
pub(super) fn piece_sizes(plan: &WeightPlan) -> Vec<usize> {
    let mut sizes: Vec<usize> = pieces(plan).map(|piece| piece.range.len()).collect();
    sizes.sort_unstable_by_key(|&size| std::cmp::Reverse(size));
    sizes
}

/// Rows of a tensor that make a piece, and the bytes they take in the image.
struct Step {
    rows: usize,
    bytes: usize,
}

impl Place {
    /// The rows of the place, and how they are cut.
    fn steps(&self) -> (usize, Step) {
        let whole = |rows: usize| (rows, Step { rows: rows.max(1), bytes: self.range.len() });
        let Content::Matrix(matrix) = self.content else { return whole(1) };
        let row = matrix.format.bytes_for(matrix.cols as u64).unwrap_or(0) as usize;
        if is_read_whole(matrix.format) || row == 0 {
            return whole(matrix.rows);
        }
        let strips = (PIECE / ROWS / row).max(1);
        let rows = strips * ROWS;
        let bytes = match strip_bytes(matrix.format, matrix.cols).filter(|_| matrix.packed) {
            Some(strip) => strips * strip,
            None => rows * row,
        };
        (matrix.rows, Step { rows, bytes })
    }
}

/// Whether a matrix of `format` is read as a whole: its scales lie elsewhere than its codes.
fn is_read_whole(format: Format) -> bool {
    matches!(format, Format::Bnb4 | Format::Int4(_))
}

/// A piece and the tensor that fills it.
struct Packing<'a> {
    piece: Piece<'a>,
    tensor: &'a TensorInfo,
}

impl<'a> Packing<'a> {
    fn new(piece: Piece<'a>, checkpoint: &'a Checkpoint) -> Result<Self> {
        let outside = || Error::Internal(format!("no tensor {} for {:?}", piece.place.tensor, piece.place.role));
        let tensor = checkpoint.tensors().get(piece.place.tensor).ok_or_else(outside)?;
        Ok(Self { piece, tensor })
    }

    /// The first of the tensor's rows that the piece has.
    fn first_row(&self) -> usize {
        self.piece.place.first_row + self.piece.first_row
    }

    /// Where it is read: what the pieces are sorted by.
    fn position(&self) -> (usize, u64, usize) {
        (self.tensor.file, self.tensor.offset, self.first_row())
    }

    /// Bytes of the tensor that the piece reads.
    fn source_bytes(&self) -> u64 {
        match self.piece.place.content {
            Content::Matrix(matrix) if !is_read_whole(matrix.format) => {
                matrix.format.bytes_for((self.piece.rows * matrix.cols) as u64).unwrap_or(0)
            }
            _ => self.tensor.bytes,
        }
    }

    /// Packs the piece into `out`, which is zeroed and as long as its range.
    fn fill(&self, checkpoint: &Checkpoint, buffer: &mut Vec<u8>, out: &mut [u8]) -> Result<()> {
        match self.piece.place.content {
            Content::Floats(change) => self.fill_floats(change, checkpoint, out),
            Content::Matrix(matrix) if is_read_whole(matrix.format) => self.fill_whole(matrix, checkpoint, out),
            Content::Matrix(matrix) => self.fill_rows(matrix, checkpoint, buffer, out),
        }
    }

    fn fill_rows(
        &self,
        matrix: MatrixPlan,
        checkpoint: &Checkpoint,
        buffer: &mut Vec<u8>,
        out: &mut [u8],
    ) -> Result<()> {
        let row = matrix.format.bytes_for(matrix.cols as u64).unwrap_or(0) as usize;
        let offset = self.first_row() as u64 * row as u64;
        if !matrix.packed {
            return checkpoint.read(self.tensor, offset, out);
        }
        let source = at_least(buffer, self.piece.rows * row, &self.tensor.name)?;
        checkpoint.read(self.tensor, offset, source)?;
        let strip_len = strip_bytes(matrix.format, matrix.cols).unwrap_or(0).max(1);
        for (source, strip) in source.chunks(ROWS * row).zip(out.chunks_exact_mut(strip_len)) {
            let mut rows = [[].as_slice(); ROWS];
            let mut count = 0;
            for (place, row) in rows.iter_mut().zip(source.chunks_exact(row)) {
                *place = row;
                count += 1;
            }
            pack_strip(matrix.format, matrix.cols, &rows[..count], strip);
        }
        Ok(())
    }

    fn fill_whole(&self, matrix: MatrixPlan, checkpoint: &Checkpoint, out: &mut [u8]) -> Result<()> {
        let MatrixPlan { rows, cols, .. } = matrix;
        let short = || Error::Internal(format!("the place of {} is too short", self.tensor.name));
        let (tables, body) = matrix.table_bytes().and_then(|len| out.split_at_mut_checked(len)).ok_or_else(short)?;
        if let Format::Int4(_) = matrix.format {
            let scales = checkpoint.group_scales(self.tensor)?;
            let source = from_gptq(rows, cols, &read_whole(self.tensor, checkpoint)?, &scales)?;
            let beside = Packed::pack_into(&source, body)?;
            let order = beside.column_order.as_deref();
            for (column, out) in tables.as_chunks_mut::<4>().0.iter_mut().take(cols).enumerate() {
                *out = order.map_or(column as u32, |order| order[column]).to_ne_bytes();
            }
            return Ok(());
        }
        let scales = checkpoint.four_bit(self.tensor)?;
        if !matrix.packed {
            let blocks = if let Tables::Scales { blocks, .. } = matrix.tables { blocks } else { 0 };
            put_floats(tables, scales.table.into_iter().chain((0..blocks).map(|block| scales.absmax.get(block))));
            return checkpoint.read(self.tensor, 0, body);
        }
        let codes = read_whole(self.tensor, checkpoint)?.into();
        let beside = Packed::pack_into(&Matrix::four_bit(rows, cols, codes, scales)?, body)?;
        put_floats(tables, beside.codebook.into_iter().flat_map(|codebook| *codebook));
        Ok(())
    }

    fn fill_floats(&self, change: Change, checkpoint: &Checkpoint, out: &mut [u8]) -> Result<()> {
        let bytes = read_whole(self.tensor, checkpoint)?;
        let mut values = Vec::new();
        let count = out.len() / 4;
        let refused = |_| Error::OutOfHostMemory { what: self.tensor.name.clone(), bytes: 4 * count as u64 };
        values.try_reserve_exact(count).map_err(refused)?;
        values.resize(count, 0.0);
        decode(self.tensor.format, &bytes, &mut values);
        match change {
            Change::None => put_floats(out, values.into_iter()),
            Change::PlusOne => put_floats(out, values.into_iter().map(|w| w + 1.0)),
            Change::NegExp => put_floats(out, values.into_iter().map(|a| -a.exp())),
            Change::Transposed { cols } => {
                let column = |col| values.iter().skip(col).step_by(cols.max(1)).copied();
                put_floats(out, (0..cols).flat_map(column));
            }
        }
        Ok(())
    }
}

/// All bytes of `tensor`.
fn read_whole(tensor: &TensorInfo, checkpoint: &Checkpoint) -> Result<AlignedBuffer> {
    let len = usize::try_from(tensor.bytes).unwrap_or(usize::MAX);
    let mut codes = AlignedBuffer::zeroed(len, &tensor.name)?;
    checkpoint.read(tensor, 0, &mut codes)?;
    Ok(codes)
}

/// Puts `values` where they will be read as float32.
fn put_floats(out: &mut [u8], values: impl Iterator<Item = f32>) {
    for (out, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *out = value.to_ne_bytes();
    }
}

/// The first `len` bytes of `buffer`, grown where it is shorter; what they hold is unspecified.
fn at_least<'a>(buffer: &'a mut Vec<u8>, len: usize, what: &str) -> Result<&'a mut [u8]> {
    if buffer.len() < len {
        let refused = |_| Error::OutOfHostMemory { what: what.to_string(), bytes: len as u64 };
        buffer.try_reserve_exact(len - buffer.len()).map_err(refused)?;
        buffer.resize(len, 0);
    }
    Ok(&mut buffer[..len])
}
