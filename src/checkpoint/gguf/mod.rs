//! GGUF files, version 2 and 3, little-endian, whole or split.

mod cursor;
mod header;
mod metadata;
mod types;

pub(super) use header::MAGIC;
pub use metadata::{Metadata, Value};

use std::path::Path;

use super::folder::{DataFile, Folder};
use super::list::{MAX_FILES, TensorList, known};
use super::names_gguf::classify;
use super::role::Named;
use super::{Checkpoint, Config, Kind, TensorInfo, UnusedTensor};
use crate::error::{Error, Result};
use header::Header;

/// Reads and checks the headers of the file `name` in `folder`, and of its other parts where it is split.
pub(super) fn open(folder: Folder, name: &str) -> Result<Checkpoint> {
    let path = folder.path_of(name);
    let Some(first) = folder.open(name)? else {
        return Err(Error::Io { path, what: "cannot open".into(), cause: "no such file".into() });
    };
    let header = header::read(&first)?;
    let parts = parts_of(&first, &header.metadata, name)?;
    let trunk = trunk_blocks(&header.metadata)?;
    let mut list = TensorList::default();
    let mut tensors = header.tensors.len() as u64;
    let metadata = header.metadata;
    add(&mut list, &first, 0, header.tensors, trunk)?;
    let mut files = vec![first];
    for (number, part) in parts.iter().enumerate() {
        let Some(file) = folder.open(part)? else {
            let what = format!("is split into {} files, and {part} is not there", parts.len() + 1);
            return Err(Error::bad_file(path, what));
        };
        let Header { metadata: own, tensors: entries } = header::read(&file)?;
        for (key, expected) in [("split.no", number as u64 + 1), ("split.count", parts.len() as u64 + 1)] {
            if own.unsigned(key)? != Some(expected) {
                return Err(own.bad(key, &format!("{expected}, as the file's name says")));
            }
        }
        tensors += entries.len() as u64;
        if tensors > header::MAX_TENSORS {
            let most = header::MAX_TENSORS;
            return Err(file.bad(format!("more than {most} tensors with those of the other parts")));
        }
        add(&mut list, &file, files.len(), entries, trunk)?;
        files.push(file);
    }
    if metadata.unsigned("split.tensors.count")?.is_some_and(|count| count != tensors) {
        return Err(metadata.bad("split.tensors.count", &format!("{tensors}, the tensors that the files list")));
    }
    Ok(Checkpoint {
        kind: Kind::Gguf,
        path,
        files,
        tensors: list.tensors,
        by_role: list.by_role,
        unused: list.unused,
        config: Config::Gguf(metadata),
        folder,
    })
}

/// Whether `path` is a regular file that begins as GGUF files do.
pub(super) fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    path.is_file() && DataFile::open(path).and_then(|f| f.read(0, &mut magic)).is_ok() && magic == MAGIC
}

/// Blocks of the trunk: all, less those of the multi-token-prediction head behind them.
fn trunk_blocks(metadata: &Metadata) -> Result<u32> {
    let arch = metadata.string("general.architecture")?;
    let arch = arch.ok_or_else(|| metadata.bad("general.architecture", "a string"))?;
    let key = |name: &str| format!("{arch}.{name}");
    let (all, mtp) = (key("block_count"), key("nextn_predict_layers"));
    let blocks = metadata.unsigned(&all)?.ok_or_else(|| metadata.bad(&all, "the number of blocks"))?;
    let behind = metadata.unsigned(&mtp)?.unwrap_or(0);
    let trunk = blocks.checked_sub(behind).filter(|n| *n > 0).and_then(|n| u32::try_from(n).ok());
    trunk.ok_or_else(|| metadata.bad(&mtp, &format!("less than {blocks}, the number of all blocks")))
}

/// Names of the other parts of a split file, given its first.
fn parts_of(file: &DataFile, metadata: &Metadata, name: &str) -> Result<Vec<String>> {
    let count = metadata.unsigned("split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok(Vec::new());
    }
    if count > MAX_FILES as u64 {
        return Err(metadata.bad("split.count", &format!("at most {MAX_FILES}")));
    }
    let part = metadata.unsigned("split.no")?.ok_or_else(|| metadata.bad("split.no", "the number of this part"))?;
    let suffix = |number: u64| format!("-{number:05}-of-{count:05}.gguf");
    let Some(stem) = name.strip_suffix(suffix(part.saturating_add(1)).as_str()) else {
        return Err(file.bad(format!(
            "is part {part} (counted from 0) of {count}, so its name must end with {}",
            suffix(part.saturating_add(1))
        )));
    };
    if part != 0 {
        return Err(file.bad(format!("is not the first part of the model: open {stem}{}", suffix(1))));
    }
    Ok((2..=count).map(|number| format!("{stem}{}", suffix(number))).collect())
}

fn add(list: &mut TensorList, file: &DataFile, number: usize, entries: Vec<header::Entry>, trunk: u32) -> Result<()> {
    for header::Entry { name, shape, kind, offset, bytes } in entries {
        let named = classify(&name, trunk);
        if named.is_none() && name.contains(".nextn.") {
            return Err(file.bad(format!(
                "tensor {name} belongs to a multi-token-prediction block, but the trunk has {trunk} blocks by \
                 block_count and nextn_predict_layers"
            )));
        }
        match known(file, &name, named)? {
            Named::Unused(reason) => {
                list.unused.push(UnusedTensor { name, reason, shape, type_name: kind.name.to_string(), bytes });
            }
            Named::Role(role) => {
                let Some(format) = kind.format else {
                    return Err(file.unsupported(format!(
                        "tensor {name} of type {}; supported: {}",
                        kind.name,
                        types::supported_names()
                    )));
                };
                list.add(file, TensorInfo { name, role, shape, format, bytes, file: number, offset, scales: None })?;
            }
        }
    }
    Ok(())
}
