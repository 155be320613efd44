//! Hugging Face directories: config.json beside one safetensors file, or several with an index.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use safetensors::Dtype;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::folder::{DataFile, Folder};
use super::list::{MAX_FILES, MAX_TENSORS, TensorList, known};
use super::names_hf::classify;
use super::quantization::Quantization;
use super::role::Named;
use super::safetensors::{Entry, read_header};
use super::{Checkpoint, Config, Kind, Scales, TensorInfo, UnusedTensor, bnb, gptq, quantization};
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
    let quantization = quantization::declared(&folder, &config_path, &fields)?;

    let (files, mapped) = open_files(&folder, named)?;
    let list = read_tensors(&files, mapped, &quantization)?;
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
    let Index { weight_map: Placement { names, mut tensors } } =
        serde_json::from_slice(&index).map_err(|e| Error::bad_file(&index_path, format!("is no index: {e}")))?;
    drop(index);
    if let Some(name) = named.filter(|name| *name != INDEX && !names.contains_key(*name)) {
        return Err(stranger(name));
    }
    let mut files = Vec::with_capacity(names.len());
    let mut by_name = vec![0; names.len()];
    for (name, number) in &names {
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
        if let Some(place) = by_name.get_mut(*number) {
            *place = files.len();
        }
        files.push(file);
    }
    for number in tensors.values_mut() {
        *number = by_name.get(*number).copied().unwrap_or(0);
    }
    Ok((files, tensors))
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: Placement,
}

/// The index's `weight_map`, each name of a file held once.
#[derive(Default)]
struct Placement {
    /// Names of files, numbered as they came.
    names: BTreeMap<String, usize>,
    /// Names of tensors, with the number of the file.
    tensors: WeightMap,
}

impl<'de> serde::Deserialize<'de> for Placement {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Placement;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensor names and file names")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Placement, A::Error> {
                let mut placement = Placement::default();
                while let Some((tensor, file)) = map.next_entry::<String, String>()? {
                    let next = placement.names.len();
                    let number = *placement.names.entry(file).or_insert(next);
                    placement.tensors.insert(tensor, number);
                    if placement.names.len() > MAX_FILES || placement.tensors.len() > MAX_TENSORS {
                        return Err(A::Error::custom(format!(
                            "weight_map names more than {MAX_FILES} files or {MAX_TENSORS} tensors"
                        )));
                    }
                }
                Ok(placement)
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

fn read_tensors(files: &[DataFile], mut mapped: WeightMap, quantization: &Quantization) -> Result<TensorList> {
    let (mut four_bit, mut groups) = (HashMap::new(), HashMap::new());
    let mut weights = Vec::new();
    let mut count = 0;
    for (number, file) in files.iter().enumerate() {
        let entries = read_header(file)?;
        count += entries.len();
        if count > MAX_TENSORS {
            return Err(file.bad(format!("more than {MAX_TENSORS} tensors with those of the other files")));
        }
        for entry in entries {
            if mapped.remove(&entry.name).is_some_and(|expected| expected != number) {
                return Err(file.bad(format!("tensor {} lies here, but the index says elsewhere", entry.name)));
            }
            let side = match quantization {
                Quantization::None => None,
                Quantization::FourBit => bnb::side_of(&entry.name),
                Quantization::Gptq(_) => gptq::side_of(&entry.name),
            };
            match (side.map(|(weight, kind)| (weight.to_string(), kind)), quantization) {
                (None, _) => weights.push((number, entry)),
                (Some((layer, kind)), Quantization::Gptq(_)) => {
                    gptq::collect(&mut groups, file, number, entry, &layer, kind)?;
                }
                (Some((weight, kind)), _) => bnb::collect(&mut four_bit, files, number, entry, &weight, kind)?,
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
        let codes = match quantization {
            Quantization::Gptq(config) => gptq::layer_of(&entry.name).map(|layer| (config, layer)),
            _ => None,
        };
        let sides = codes.map(|(config, layer)| (config, groups.remove(layer).unwrap_or_default()));
        let side = four_bit.remove(&entry.name);
        let role = match named(file, &entry.name, codes.map(|(_, layer)| layer))? {
            Named::Role(role) => role,
            Named::Unused(reason) => {
                let Entry { name, dtype, shape, bytes, .. } = entry;
                list.unused.push(UnusedTensor { name, reason, shape, type_name: dtype.to_string(), bytes });
                continue;
            }
        };
        let scales = match (side, sides) {
            (Some(side), _) => Some(Scales::FourBit(side.check(files, file, &entry)?)),
            (_, Some((config, sides))) => Some(Scales::Group(sides.check(config, files, file, &entry)?)),
            (None, None) => None,
        };
        let (format, shape) = match &scales {
            Some(Scales::FourBit(scales)) => (Format::Bnb4, scales.shape().to_vec()),
            Some(Scales::Group(scales)) => (scales.format(), scales.shape()),
            None => (format_of(file, &entry)?, entry.shape),
        };
        let scales = scales.map(Arc::new);
        let Entry { name, bytes, offset, .. } = entry;
        list.add(file, TensorInfo { name, role, shape, format, bytes, file: number, offset, scales })?;
    }
    let left = four_bit.keys().next().or(groups.keys().next());
    match (left, files.first()) {
        (Some(weight), Some(file)) => Err(file.bad(format!("4-bit scales of {weight} are there, the tensor is not"))),
        _ => Ok(list),
    }
}

/// What the tensor called `name`, which holds the codes of `layer` if of one, is for.
fn named(file: &DataFile, name: &str, layer: Option<&str>) -> Result<Named> {
    let named = match layer {
        Some(layer) => classify(&format!("{layer}.weight")),
        None => classify(name),
    };
    let undeclared = layer.is_none() && (gptq::layer_of(name).is_some() || gptq::side_of(name).is_some());
    if named.is_none() && undeclared {
        let what = format!("tensor {name} in GPTQ's packing, which no quantization_config declares");
        return Err(file.unsupported(what));
    }
    known(file, name, named)
}

fn format_of(file: &DataFile, entry: &Entry) -> Result<Format> {
    match entry.dtype {
        Dtype::F32 => Ok(Format::F32),
        Dtype::F16 => Ok(Format::F16),
        Dtype::BF16 => Ok(Format::BF16),
        other => Err(file.unsupported(format!(
            "tensor {} of type {other}; supported: F32, F16, BF16, and the codes of bitsandbytes 4-bit, GPTQ and AutoRound, where the config declares \
             them",
            entry.name
        ))),
    }
}
