//! One GGUF file: magic, version, metadata and the list of tensors.
//! Specification: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::HashSet;

use super::cursor::Cursor;
use super::metadata::Metadata;
use super::types::{self, GgmlType};
use crate::checkpoint::folder::DataFile;
use crate::error::Result;

/// The first four bytes of a GGUF file.
pub(in crate::checkpoint) const MAGIC: [u8; 4] = *b"GGUF";

/// Tensors of all parts of a file at most: 64 a layer for the most layers that a model may have.
pub(super) const MAX_TENSORS: u64 = 1 << 16;

/// Bytes of a tensor's name at most; the specification allows 64.
const MAX_NAME: u64 = 1 << 10;

/// Axes of a tensor at most: ggml's own limit.
const MAX_AXES: u32 = 4;

/// What one file says.
#[derive(Debug)]
pub(super) struct Header {
    pub metadata: Metadata,
    pub tensors: Vec<Entry>,
}

/// One tensor of the list, checked: it lies in the file, alone in its place, and its rows are whole blocks.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: String,
    /// Slowest axis first: the reverse of the file's order.
    pub shape: Vec<usize>,
    pub kind: &'static GgmlType,
    /// Offset in the file.
    pub offset: u64,
    pub bytes: u64,
}

/// Reads and checks the header of `file`.
///
/// # Errors
/// [`crate::Error::BadFile`] for anything the format forbids, [`crate::Error::Unsupported`] for version 1, big-endian
/// files and number types that this library does not know.
pub(super) fn read(file: &DataFile) -> Result<Header> {
    let mut cursor = Cursor::new(file);
    if cursor.array::<4>("the magic")? != MAGIC {
        return Err(file.bad("does not begin with GGUF"));
    }
    match cursor.u32("the version")? {
        2 | 3 => {}
        1 => return Err(file.unsupported("GGUF version 1; supported: 2 and 3, little-endian")),
        other if (1..=3).contains(&other.swap_bytes()) => {
            return Err(file.unsupported("a big-endian GGUF file; supported: version 2 and 3, little-endian"));
        }
        other => return Err(file.unsupported(format!("GGUF version {other}; supported: 2 and 3, little-endian"))),
    }
    let tensors = cursor.u64("the number of tensors")?;
    if tensors > MAX_TENSORS {
        return Err(file.bad(format!("tensor count is {tensors}, where at most {MAX_TENSORS} make sense")));
    }
    let pairs = cursor.u64("the number of metadata pairs")?;
    let metadata = Metadata::read(&mut cursor, pairs)?;
    let alignment = metadata.unsigned("general.alignment")?.unwrap_or(32);
    if !alignment.is_power_of_two() || !(8..=1 << 20).contains(&alignment) {
        return Err(metadata.bad("general.alignment", "a power of two from 8 to 1048576"));
    }
    let mut entries = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..tensors {
        let entry = read_entry(&mut cursor, alignment)?;
        if !names.insert(entry.name.clone()) {
            return Err(file.bad(format!("tensor {} is listed twice", entry.name)));
        }
        entries.push(entry);
    }
    place(file, &mut entries, cursor.position().next_multiple_of(alignment))?;
    Ok(Header { metadata, tensors: entries })
}

fn read_entry(cursor: &mut Cursor<'_>, alignment: u64) -> Result<Entry> {
    let file = cursor.file;
    let name = cursor.string(MAX_NAME, "a tensor's name")?;
    let axes = cursor.u32(&name)?;
    if !(1..=MAX_AXES).contains(&axes) {
        return Err(file.bad(format!("tensor {name} has {axes} axes, where 1 to {MAX_AXES} make sense")));
    }
    let sizes = (0..axes).map(|_| cursor.u64(&name)).collect::<Result<Vec<_>>>()?;
    let id = cursor.u32(&name)?;
    let offset = cursor.u64(&name)?;
    let supported = types::supported_names;
    let Some(kind) = types::by_id(id) else {
        return Err(file.unsupported(format!("tensor {name} of ggml type {id}; supported: {}", supported())));
    };
    let row = sizes.first().copied().unwrap_or(0);
    let elements = sizes.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|n| *n > 0);
    let bytes =
        elements.filter(|_| row.is_multiple_of(kind.block)).and_then(|n| (n / kind.block).checked_mul(kind.bytes));
    let shape = sizes.iter().rev().map(|&d| usize::try_from(d).ok()).collect::<Option<Vec<_>>>();
    let (Some(bytes), Some(shape)) = (bytes, shape) else {
        return Err(file.bad(format!(
            "tensor {name} of type {} has the sizes {sizes:?}: they must be positive and the first a multiple of {}",
            kind.name, kind.block
        )));
    };
    if !offset.is_multiple_of(alignment) {
        return Err(file.bad(format!("tensor {name} lies at offset {offset}, where a multiple of {alignment} must be")));
    }
    Ok(Entry { name, shape, kind, offset, bytes })
}

/// Turns offsets within the data into offsets within the file, after checking that the tensors lie in it side by side.
fn place(file: &DataFile, entries: &mut [Entry], data: u64) -> Result<()> {
    entries.sort_by_key(|e| e.offset);
    let mut free = data;
    for entry in entries.iter_mut() {
        let start = data.checked_add(entry.offset);
        let end = start.and_then(|s| s.checked_add(entry.bytes)).filter(|end| *end <= file.len());
        let (Some(start), Some(end)) = (start, end) else {
            return Err(file.bad(format!(
                "tensor {} of {} bytes at offset {} reaches past the end of the file, {} bytes: truncated",
                entry.name,
                entry.bytes,
                entry.offset,
                file.len()
            )));
        };
        if start < free {
            return Err(file.bad(format!("tensor {} overlaps the one before it", entry.name)));
        }
        entry.offset = start;
        free = end;
    }
    Ok(())
}
