//! Named files on disk or in memory behind one interface: opened once, read at positions from any thread.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Source, allocate};
use crate::error::{Error, Result};

/// A set of named files.
#[derive(Debug, Clone)]
pub(super) enum Folder {
    /// A directory.
    Disk(PathBuf),
    /// Files compiled into the program.
    Embedded(&'static [(&'static str, &'static [u8])]),
    /// Files held in memory.
    Memory(Arc<[(String, Vec<u8>)]>),
}

/// An open file of known length.
#[derive(Debug)]
pub(super) struct DataFile {
    path: PathBuf,
    len: u64,
    body: Body,
}

/// What tells a file from a later version of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// Name without its folder.
    pub name: String,
    /// Bytes.
    pub length: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub modified: u64,
}

#[derive(Debug)]
enum Body {
    Disk(File),
    Embedded(&'static [u8]),
    Memory(Arc<[(String, Vec<u8>)]>, usize),
}

impl Folder {
    /// The in-memory folder of `source`, or `None` where it is a path.
    pub fn in_memory(source: &Source) -> Option<Self> {
        match source {
            Source::Path(_) => None,
            Source::Embedded(files) => Some(Folder::Embedded(files)),
            Source::Memory(files) => Some(Folder::Memory(Arc::clone(files))),
        }
    }

    /// The path by which messages call the folder.
    pub fn path(&self) -> PathBuf {
        match self {
            Folder::Disk(path) => path.clone(),
            Folder::Embedded(_) => PathBuf::from("(embedded)"),
            Folder::Memory(_) => PathBuf::from("(memory)"),
        }
    }

    /// The path by which messages call the file `name`.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The first file in memory whose name ends with `suffix`; a folder on disk has none.
    pub fn in_memory_name(&self, suffix: &str) -> Option<String> {
        match self {
            Folder::Disk(_) => None,
            Folder::Embedded(files) => files.iter().map(|f| f.0).find(|n| n.ends_with(suffix)).map(str::to_string),
            Folder::Memory(files) => files.iter().map(|f| &f.0).find(|n| n.ends_with(suffix)).cloned(),
        }
    }

    /// Opens `name`, or answers `None` where there is no such file.
    ///
    /// # Errors
    /// [`Error::Io`] when it is there and cannot be opened, [`Error::BadFile`] when it is no regular file.
    pub fn open(&self, name: &str) -> Result<Option<DataFile>> {
        let path = self.path_of(name);
        match self {
            Folder::Disk(_) => match std::fs::metadata(&path) {
                Ok(_) => DataFile::open(&path).map(Some),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(Error::io(path, "cannot open", &e)),
            },
            Folder::Embedded(files) => {
                let found = files.iter().find(|f| f.0 == name);
                Ok(found.map(|f| DataFile { path, len: f.1.len() as u64, body: Body::Embedded(f.1) }))
            }
            Folder::Memory(files) => {
                let found = files.iter().position(|f| f.0 == name);
                let open = |i: usize| DataFile {
                    path,
                    len: files[i].1.len() as u64,
                    body: Body::Memory(Arc::clone(files), i),
                };
                Ok(found.map(open))
            }
        }
    }

    /// The whole of `name`, or `None` where there is no such file.
    ///
    /// # Errors
    /// As [`Folder::open`]; [`Error::BadFile`] when the file is larger than `limit` bytes.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        if file.len > limit {
            return Err(file.bad(format!("{} bytes, where at most {limit} make sense", file.len)));
        }
        let mut bytes = allocate::zeroed(file.len, name)?;
        file.read(0, &mut bytes)?;
        Ok(Some(bytes))
    }
}

impl DataFile {
    /// Opens a regular file on disk.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::BadFile`] for anything that is no regular file: opening a pipe would wait for a writer.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e: &std::io::Error| Error::io(path, "cannot open", e);
        if !std::fs::metadata(path).map_err(|e| io(&e))?.is_file() {
            return Err(Error::bad_file(path, "is no regular file"));
        }
        let file = File::open(path).map_err(|e| io(&e))?;
        let len = file.metadata().map_err(|e| io(&e))?.len();
        Ok(Self { path: path.to_path_buf(), len, body: Body::Disk(file) })
    }

    /// The path by which messages call the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in the file when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// What tells the file from a later version of it; `None` for files in memory.
    pub fn stamp(&self) -> Option<FileStamp> {
        let Body::Disk(file) = &self.body else { return None };
        let modified = file.metadata().ok()?.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(FileStamp {
            name: self.path.file_name()?.to_string_lossy().into_owned(),
            length: self.len,
            modified: u64::try_from(modified.as_nanos()).ok()?,
        })
    }

    /// An [`Error::BadFile`] of this file.
    pub fn bad(&self, what: impl Into<String>) -> Error {
        Error::bad_file(&self.path, what)
    }

    /// An [`Error::Unsupported`] of this file.
    pub fn unsupported(&self, what: impl Into<String>) -> Error {
        Error::unsupported(&self.path, what)
    }

    /// Fills `out` from `offset` on. Callable from several threads at once.
    ///
    /// # Errors
    /// [`Error::BadFile`] when the file ends before `out` is full, [`Error::Io`] when the system refuses.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let len = out.len();
        let short = || self.bad(format!("ends before byte {}: truncated", offset.saturating_add(len as u64)));
        let memory = match &self.body {
            Body::Disk(file) => {
                return read_exact_at(file, offset, out).map_err(|e| match e.kind() {
                    std::io::ErrorKind::UnexpectedEof => short(),
                    _ => Error::io(&self.path, format!("cannot read {len} bytes at offset {offset}"), &e),
                });
            }
            Body::Embedded(bytes) => *bytes,
            Body::Memory(files, index) => files[*index].1.as_slice(),
        };
        let start = usize::try_from(offset).map_err(|_| short())?;
        let end = start.checked_add(len).ok_or_else(short)?;
        out.copy_from_slice(memory.get(start..end).ok_or_else(short)?);
        Ok(())
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> std::io::Result<()> {
    while !out.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, out, offset)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        out = &mut out[read..];
        offset += read as u64;
    }
    Ok(())
}
