//! The header of a cache file. Integers are little-endian.

use std::fs::File;
use std::path::Path;

use twox_hash::XxHash3_64;

use super::CHUNK;
use super::identity::Identity;
use crate::error::{Error, Result};
use crate::quant::LARGE_PAGE;

const MAGIC: [u8; 8] = *b"QMPACK\r\n";

/// Counts up with every change of this file's layout; that of the weights is in the identity.
const VERSION: u32 = 1;

/// Magic, checksum of all of the header behind these two, version, bytes of the identity, offset and bytes of the image.
const PREAMBLE: usize = 64;

/// Bytes of a header at most: checksums of 100 TB.
const MAX_HEADER: u64 = 256 << 20;

/// What stands before the image.
#[derive(Debug)]
pub(super) struct Header {
    identity: Vec<u8>,
    image_len: u64,
    /// Where the image begins: at a large page, so that the mapping can be one of large pages.
    pub image_offset: u64,
    /// One a chunk.
    pub checksums: Vec<u64>,
}

/// Opens the file at `path`, or answers `None` where there is none, or why it must not be used.
pub(super) fn open(path: &Path) -> Result<Option<File>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("cannot be opened: {e}")),
    };
    let metadata = file.metadata().map_err(|e| format!("cannot be opened: {e}"))?;
    if !metadata.is_file() {
        return Err("is no regular file".into());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if metadata.mode() & 0o022 != 0 {
            return Err(format!("can be written by other users (mode {:o})", metadata.mode() & 0o777));
        }
    }
    Ok(Some(file))
}

impl Header {
    /// The header of an image of `image_len` bytes, its checksums still missing.
    pub fn new(image_len: usize, identity: &Identity) -> Result<Self> {
        let identity =
            serde_json::to_vec(identity).map_err(|e| Error::Internal(format!("identity of a cache: {e}")))?;
        let len = PREAMBLE + identity.len() + 8 * image_len.div_ceil(CHUNK);
        let image_offset = len.next_multiple_of(LARGE_PAGE) as u64;
        Ok(Self { identity, image_len: image_len as u64, image_offset, checksums: Vec::new() })
    }

    /// Where chunk `chunk` of the image begins in the file.
    pub fn offset_of(&self, chunk: usize) -> u64 {
        self.image_offset + chunk as u64 * CHUNK as u64
    }

    /// The bytes of the file up to the image.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; PREAMBLE];
        bytes[16..20].copy_from_slice(&VERSION.to_le_bytes());
        for (i, value) in [self.identity.len() as u64, self.image_offset, self.image_len].into_iter().enumerate() {
            bytes[24 + 8 * i..32 + 8 * i].copy_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(&self.identity);
        self.checksums.iter().for_each(|checksum| bytes.extend_from_slice(&checksum.to_le_bytes()));
        bytes.resize(self.image_offset as usize, 0);
        let checksum = XxHash3_64::oneshot(&bytes[16..]);
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads and checks the header of `file`, and answers why the file is not the cache of `image_len` bytes that
    /// `expected` names.
    pub fn read(file: &File, expected: &Identity, image_len: usize) -> Result<Self, String> {
        let len = file.metadata().map_err(|e| e.to_string())?.len();
        if len < PREAMBLE as u64 {
            return Err(format!("is truncated: {len} bytes"));
        }
        let preamble = read(file, PREAMBLE)?;
        if preamble[..8] != MAGIC {
            return Err("does not begin as a pack cache does".into());
        }
        let version = u32::from_le_bytes([preamble[16], preamble[17], preamble[18], preamble[19]]);
        if version != VERSION {
            return Err(format!("is of version {version}, this library reads version {VERSION}"));
        }
        let [checksum, identity_len, image_offset, stated] = [8, 24, 32, 40].map(|at| integer(&preamble, at));
        if !(PREAMBLE as u64..=MAX_HEADER).contains(&image_offset) {
            return Err("is damaged in its header".into());
        }
        if image_offset > len {
            return Err(format!("is truncated: {len} bytes, where its header alone has {image_offset}"));
        }
        let bytes = read(file, image_offset as usize)?;
        if XxHash3_64::oneshot(&bytes[16..]) != checksum {
            return Err("is damaged in its header".into());
        }
        let rest = &bytes[PREAMBLE..];
        let identity_len = usize::try_from(identity_len).unwrap_or(usize::MAX);
        let Some((identity, rest)) = rest.split_at_checked(identity_len) else {
            return Err("has a header that contradicts itself".into());
        };
        let found: Identity = serde_json::from_slice(identity).map_err(|e| format!("has an identity that {e}"))?;
        if let Some(difference) = found.difference(expected) {
            return Err(format!("is stale: {difference}"));
        }
        let chunks = image_len.div_ceil(CHUNK);
        let Some(checksums) = rest.get(..8 * chunks).filter(|_| stated == image_len as u64) else {
            return Err(format!("holds {stated} bytes of weights, where {image_len} are expected"));
        };
        let expected = image_offset + stated;
        if len != expected {
            return Err(format!("has {len} bytes, where {expected} are expected: truncated or overwritten"));
        }
        let checksums = checksums.chunks_exact(8).map(|bytes| integer(bytes, 0)).collect();
        Ok(Self { identity: identity.to_vec(), image_len: stated, image_offset, checksums })
    }
}

fn integer(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

/// The first `len` bytes of `file`.
fn read(file: &File, len: usize) -> Result<Vec<u8>, String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|e| e.to_string())?;
    bytes.resize(len, 0);
    let mut file = file;
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(&mut bytes));
    read.map(|()| bytes).map_err(|e| format!("cannot be read: {e}"))
}
