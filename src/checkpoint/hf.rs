//! Hugging Face directories: config.json beside one safetensors file, or several with an index.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use safetensors::Dtype;
use serde_json::{Map, Value};

use super::folder::{DataFile, Folder};
use super::list::{MAX_FILES, TensorList, known};
use super::names_hf::classify;
use super::role::Named;
use super::safetensors::{Entry, read_header};
use super::{Checkpoint, Config, Kind, TensorInfo, UnusedTensor, bnb, quantization};
use crate::error::{Error, Result};
use crate::quant::Format;

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Bytes of config.json at most. The largest published is 40 KB.
const MAX_CONFIG: u64 = 1 << 22;

/// Bytes of the index at most. A 512-expert model in 4 bits lists 450 thousand names: 50 MB.
const MAX_INDEX: u64 = 1 << 28;

/// Reads and checks the headers of a directory. `named` is the file in it by which the caller called it, if so.
///
/// # Errors
/// As [`Checkpoint::open`]; [`Error::BadFile`] when `named` is no file of the model.
pub(super) fn open(folder: Folder, named: Option<&str>) -> Result<Checkpoint> {
    let config_path = folder.path_of(CONFIG);
    let Some(config) = folder.read(CONFIG, MAX_CONFIG)? else {
        return Err(Error::Io {
            path: config_path,
            what: "cannot open".into(),
            cause: "no such file; a model is a Hugging Face directory (config.json beside safetensors) or a GGUF file"
                .into(),
        });
    };
    let fields: Map<String, Value> = serde_json::from_slice(&config)
        .map_err(|e| Error::bad_file(&config_path, format!("is no JSON object: {e}")))?;
    let four_bit = quantization::declares_four_bit(&config_path, &fields)?;

    let (files, mapped) = open_files(&folder, named)?;
    let list = read_tensors(&files, mapped, four_bit)?;
    Ok(Checkpoint {
        kind: Kind::HuggingFace,
        path: folder.path(),
        files,
        tensors: list.tensors,
        by_role: list.by_role,
        unused: list.unused,
        config: Config::Json { path: config_path, fields },
        folder,
    })
}

/// Tensor names of the index with the file each lies in; empty for a single file.
type WeightMap = HashMap<String, usize>;

fn open_files(folder: &Folder, named: Option<&str>) -> Result<(Vec<DataFile>, WeightMap)> {
    // An adapter beside the model, say, must not stand for it: what the caller named is what is loaded.
    let named = named.filter(|name| ![CONFIG, SINGLE].contains(name));
    let stranger = |name: &str| {
        let what = format!("is no file of the model: neither {CONFIG}, {SINGLE}, {INDEX} nor listed in the last");
        Error::bad_file(folder.path_of(name), what)
    };
    if named.is_none()
        && let Some(file) = folder.open(SINGLE)?
    {
        return Ok((vec![file], WeightMap::new()));
    }
    let index_path = folder.path_of(INDEX);
    let Some(index) = folder.read(INDEX, MAX_INDEX)? else {
        if let Some(name) = named {
            return Err(stranger(name));
        }
        return Err(Error::Io {
            path: folder.path(),
            what: "cannot open the weights".into(),
            cause: format!("neither {SINGLE} nor {INDEX} is there; other formats than safetensors are not read"),
        });
    };
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let Index { weight_map } =
        serde_json::from_slice(&index).map_err(|e| Error::bad_file(&index_path, format!("is no index: {e}")))?;
    let names: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
    if let Some(name) = named.filter(|name| *name != INDEX && !names.contains(name)) {
        return Err(stranger(name));
    }
    if names.len() > MAX_FILES {
        return Err(Error::bad_file(
            index_path,
            format!("weight_map names {} files, where at most {MAX_FILES} make sense", names.len()),
        ));
    }
    let mut files = Vec::with_capacity(names.len());
    let mut number = HashMap::new();
    for name in names {
        // Only plain names: an index must not lead out of its directory.
        if !name.ends_with(".safetensors") || name.contains(['/', '\\', ':']) {
            return Err(Error::bad_file(
                index_path,
                format!("weight_map names the file {name:?}, where the name of a safetensors file must be"),
            ));
        }
        let Some(file) = folder.open(name)? else {
            let what = format!("names {name}, which is not there: the download is incomplete");
            return Err(Error::bad_file(index_path, what));
        };
        number.insert(name, files.len());
        files.push(file);
    }
    let mapped = weight_map.iter().filter_map(|(tensor, file)| Some((tensor.clone(), *number.get(file.as_str())?)));
    Ok((files, mapped.collect()))
}

fn read_tensors(files: &[DataFile], mut mapped: WeightMap, four_bit: bool) -> Result<TensorList> {
    let mut sides = HashMap::new();
    let mut weights = Vec::new();
    for (number, file) in files.iter().enumerate() {
        for entry in read_header(file)? {
            if mapped.remove(&entry.name).is_some_and(|expected| expected != number) {
                return Err(file.bad(format!("tensor {} lies here, but the index says elsewhere", entry.name)));
            }
            match bnb::side_of(&entry.name).filter(|_| four_bit).map(|(w, kind)| (w.to_string(), kind)) {
                Some((weight, kind)) => bnb::collect(&mut sides, files, number, entry, &weight, kind)?,
                None => weights.push((number, entry)),
            }
        }
    }
    if let Some((name, file)) = mapped.iter().next()
        && let Some(file) = files.get(*file)
    {
        return Err(file.bad(format!("tensor {name} is not here, where the index says it is")));
    }
    let mut list = TensorList::default();
    for (number, entry) in weights {
        let Some(file) = files.get(number) else { continue };
        let side = sides.remove(&entry.name);
        let role = match known(file, &entry.name, classify(&entry.name))? {
            Named::Role(role) => role,
            Named::Unused(reason) => {
                let Entry { name, dtype, shape, bytes, .. } = entry;
                list.unused.push(UnusedTensor { name, reason, shape, type_name: dtype.to_string(), bytes });
                continue;
            }
        };
        let scales = side.map(|s| s.check(files, file, &entry)).transpose()?.map(Arc::new);
        let (format, shape) = match &scales {
            Some(scales) => (Format::Bnb4, scales.shape().to_vec()),
            None => (format_of(file, &entry)?, entry.shape),
        };
        let Entry { name, bytes, offset, .. } = entry;
        list.add(file, TensorInfo { name, role, shape, format, bytes, file: number, offset, scales })?;
    }
    match (sides.keys().next(), files.first()) {
        (Some(weight), Some(file)) => Err(file.bad(format!("4-bit scales of {weight} are there, the tensor is not"))),
        _ => Ok(list),
    }
}

fn format_of(file: &DataFile, entry: &Entry) -> Result<Format> {
    match entry.dtype {
        Dtype::F32 => Ok(Format::F32),
        Dtype::F16 => Ok(Format::F16),
        Dtype::BF16 => Ok(Format::BF16),
        other => Err(file.unsupported(format!(
            "tensor {} of type {other}; supported: F32, F16, BF16, and U8 with the side tensors of bitsandbytes 4-bit",
            entry.name
        ))),
    }
}
