//! A cache file while it is being written.
//!
//! Its writer holds a lock on it, which ends with the process: a file without one was left by a process that was killed.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::io;
use crate::error::{Error, Result};

const SUFFIX: &str = ".tmp";

/// Tells apart the files that one process writes at the same time.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A file that is removed unless it is finished.
pub(super) struct Temporary {
    file: File,
    path: PathBuf,
    finished: bool,
}

/// Makes `folder`, for this user alone, where there is none.
pub(super) fn make_folder(folder: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder).map_err(io(folder, "cannot make the folder"))
}

/// Removes the temporary files in `folder` that nobody writes any more. Whatever cannot be removed stays.
pub(super) fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !(name.starts_with('.') && name.contains(".qmpack.") && name.ends_with(SUFFIX)) {
            continue;
        }
        let path = entry.path();
        if OpenOptions::new().write(true).open(&path).is_ok_and(|file| lock(&file, false)) {
            let _ = fs::remove_file(&path);
        }
    }
}

impl Temporary {
    /// Creates a file beside the one that is to be `name`, readable and writable by this user alone.
    pub fn create(folder: &Path, name: &str) -> Result<Self> {
        for _ in 0..16 {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!(".{name}.{}-{number}{SUFFIX}", std::process::id()));
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let file = match options.open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(Error::io(&path, "cannot create", &e)),
            };
            let temporary = Self { file, path, finished: false };
            lock(&temporary.file, true);
            // Another process may have taken it for abandoned before it was locked.
            if temporary.path.exists() {
                return Ok(temporary);
            }
        }
        Err(Error::Internal(format!("no name is free for a temporary file in {}", folder.display())))
    }

    /// Reserves `bytes` on the disk.
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd;
            let len = libc::off_t::try_from(bytes).unwrap_or(libc::off_t::MAX);
            // SAFETY: the descriptor is open; the call touches no memory of ours.
            if unsafe { libc::fallocate(self.file.as_raw_fd(), 0, 0, len) } != 0 {
                let e = std::io::Error::last_os_error();
                // File systems that cannot reserve say so while writing.
                if e.raw_os_error() != Some(libc::EOPNOTSUPP) {
                    return Err(Error::io(&self.path, format!("cannot reserve {bytes} bytes"), &e));
                }
            }
        }
        self.file.set_len(bytes).map_err(io(&self.path, "cannot reserve"))
    }

    /// Writes `bytes` at `offset`. Callable from several threads at once.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        write_all_at(&self.file, bytes, offset).map_err(io(&self.path, "cannot write"))
    }

    /// Gives the file its name, in place of another of that name.
    pub fn finish(mut self, path: &Path) -> Result<()> {
        fs::rename(&self.path, path).map_err(io(path, "cannot rename the finished file"))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Takes the lock of `file`; waits for it where `wait`. Answers whether it is taken now.
#[cfg(unix)]
fn lock(file: &File, wait: bool) -> bool {
    use std::os::fd::AsRawFd;
    let operation = libc::LOCK_EX | if wait { 0 } else { libc::LOCK_NB };
    // SAFETY: the descriptor is open; the call touches no memory of ours.
    unsafe { libc::flock(file.as_raw_fd(), operation) == 0 }
}

#[cfg(not(unix))]
fn lock(_file: &File, wait: bool) -> bool {
    wait
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}
