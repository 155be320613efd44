//! The pack cache: a model's image in one file, mapped by the next load instead of packing the weights again.
//!
//! ```text
//! header    preamble of 64 bytes, identity (JSON), one checksum a chunk, zeros up to a large page
//! image     as WeightPlan lays it out
//! ```
//!
//! A cache is used only if it proves to be whole: its header carries a checksum of itself and one of each chunk of the
//! image, every byte of the file is under one of them, and what the header says must follow from the checkpoint at hand.
//! The file is written under a temporary name and renamed, so that no other load ever sees half of one. It is not flushed
//! to the disk first: what a lost power supply leaves is found by the checksums like any other damage.
//!
//! A mapped file is memory that others can take away: who truncates it while a model uses it ends the process with
//! SIGBUS. Replacing it (as a new pack does) or deleting it is harmless, since the mapping keeps the old file.

mod file;
mod identity;
mod temporary;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use memmap2::{Mmap, MmapOptions};
use twox_hash::XxHash3_64;

use super::weights::{WeightPlan, on_threads};
use super::{LoadProgress, ModelSpec};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::quant::Bytes;
use file::Header;
use identity::Identity;
use temporary::Temporary;

/// Bytes of the image under one checksum: whole large pages, in which a file system that can keeps what is written at once.
const CHUNK: usize = 4 << 20;

/// The cache file of one checkpoint in one folder, there or not.
#[derive(Debug)]
pub struct PackCache {
    folder: PathBuf,
    name: String,
    identity: Identity,
    image_bytes: usize,
}

/// What was found at the place of a cache.
#[derive(Debug)]
pub enum Found {
    /// A whole and fitting image, mapped.
    Image(Bytes),
    /// No file.
    Nothing,
    /// A file that must not be used, and why not.
    Unusable(String),
}

impl PackCache {
    /// The cache in `folder` of the checkpoint that `plan` was made from; `None` where the checkpoint is no file, so that
    /// nothing tells whether it is still the same.
    pub fn new(folder: &Path, checkpoint: &Checkpoint, spec: &ModelSpec, plan: &WeightPlan) -> Option<Self> {
        let (name, identity) = identity::of(checkpoint, spec, plan)?;
        Some(Self { folder: folder.to_path_buf(), name, identity, image_bytes: plan.bytes() })
    }

    /// The file's path.
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Maps the file and checks every byte of it, on `threads` threads.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; what is wrong with the file is no error.
    pub fn open(&self, progress: &LoadProgress, threads: usize) -> Result<Found> {
        let unusable = |why: String| Ok(Found::Unusable(why));
        let file = match file::open(&self.path()) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(Found::Nothing),
            Err(why) => return unusable(why),
        };
        let header = match Header::read(&file, &self.identity, self.image_bytes) {
            Ok(header) => header,
            Err(why) => return unusable(why),
        };
        // SAFETY: the mapping is read-only, and the file is never written after it got its name. That nobody else
        // truncates or writes it cannot be ensured, only said: see the module.
        let map = unsafe { MmapOptions::new().offset(header.image_offset).len(self.image_bytes).map(&file) };
        let map = match map {
            Ok(map) => map,
            Err(e) => return unusable(format!("cannot be mapped: {e}")),
        };
        progress.restart(map.len() as u64);
        match verify(&map, &header.checksums, progress, threads)? {
            None => Ok(Found::Image(map.into())),
            Some(chunk) => unusable(format!("is damaged in the {CHUNK} bytes from {}", header.offset_of(chunk))),
        }
    }

    /// Writes `image` in place of what is there, on `threads` threads. Temporary files that dead processes left in the
    /// folder are removed; the folder is made where it does not exist.
    ///
    /// # Errors
    /// [`Error::Io`], for a full disk before anything is written where the file system can tell; [`Error::Cancelled`].
    /// Either leaves nothing behind.
    pub fn store(&self, image: &[u8], progress: &LoadProgress, threads: usize) -> Result<()> {
        temporary::make_folder(&self.folder)?;
        temporary::remove_abandoned(&self.folder);
        let mut header = Header::new(image.len(), &self.identity)?;
        let temporary = Temporary::create(&self.folder, &self.name)?;
        temporary.reserve(header.image_offset + image.len() as u64)?;
        let checksums: Vec<AtomicU64> = image.chunks(CHUNK).map(|_| AtomicU64::new(0)).collect();
        let next = AtomicUsize::new(0);
        on_threads(threads, "qm-store", &|| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let (Some(chunk), Some(checksum)) = (image.chunks(CHUNK).nth(index), checksums.get(index)) else {
                    return Ok(());
                };
                checksum.store(XxHash3_64::oneshot(chunk), Ordering::Relaxed);
                let written = temporary.write(header.offset_of(index), chunk);
                written.and_then(|()| progress.advance(chunk.len() as u64)).inspect_err(|_| {
                    next.store(checksums.len(), Ordering::Relaxed);
                })?;
            }
        })?;
        header.checksums = checksums.into_iter().map(AtomicU64::into_inner).collect();
        temporary.write(0, &header.encode())?;
        temporary.finish(&self.path())
    }
}

/// Checks the chunks of `map`; answers the first that is damaged of those that were seen to be.
///
/// The pages are brought in by the threads that check them, a chunk at a time: in large pages where the file system keeps
/// such, and read ahead by whole chunks where they are not in memory yet.
fn verify(map: &Mmap, checksums: &[u64], progress: &LoadProgress, threads: usize) -> Result<Option<usize>> {
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    let (next, damaged) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    on_threads(threads, "qm-map", &|| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (Some(chunk), Some(checksum)) = (map.chunks(CHUNK).nth(index), checksums.get(index)) else {
                return Ok(());
            };
            let whole = populate(map, index * CHUNK, chunk.len()) && XxHash3_64::oneshot(chunk) == *checksum;
            if !whole {
                damaged.fetch_min(index, Ordering::Relaxed);
                next.store(checksums.len(), Ordering::Relaxed);
            }
            progress.advance(chunk.len() as u64)?;
        }
    })?;
    Ok(Some(damaged.into_inner()).filter(|&index| index != usize::MAX))
}

/// Brings a range into memory; `false` where it cannot be read, which a look at it would answer with a signal. Systems
/// that do not know the request bring it in at that look.
#[cfg(target_os = "linux")]
fn populate(map: &Mmap, start: usize, len: usize) -> bool {
    match map.advise_range(memmap2::Advice::PopulateRead, start, len) {
        Ok(()) => true,
        Err(e) => !matches!(e.raw_os_error(), Some(libc::EFAULT | libc::EHWPOISON | libc::EIO)),
    }
}

#[cfg(not(target_os = "linux"))]
fn populate(_map: &Mmap, _start: usize, _len: usize) -> bool {
    true
}

/// A system error of `path`.
fn io(path: &Path, what: &str) -> impl Fn(std::io::Error) -> Error {
    move |e| Error::io(path, what, &e)
}
