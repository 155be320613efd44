//! Files made by hand, to be broken in one place at a time.

use std::path::PathBuf;

use qwen3moe::checkpoint::{Checkpoint, Source};
use qwen3moe::error::{Error, Result};
use qwen3moe::model::{ConfigReport, check_shapes, read_config};
use qwen3moe::quant::Format;
use serde_json::{Value, json};

/// The files of a golden checkpoint, by name, without the logits.
pub fn golden(case: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(case);
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("logits.npy"))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Replaces the contents of the file `name`, or adds it.
pub fn put(files: &mut Vec<(String, Vec<u8>)>, name: &str, contents: Vec<u8>) {
    files.retain(|f| f.0 != name);
    files.push((name.to_string(), contents));
}

/// The contents of the file `name`.
pub fn get(files: &[(String, Vec<u8>)], name: &str) -> Vec<u8> {
    files.iter().find(|f| f.0 == name).unwrap().1.clone()
}

pub fn source(files: Vec<(String, Vec<u8>)>) -> Source {
    Source::Memory(files.into())
}

/// Everything that a load does with headers: open, sizes, shapes, text, the scales of 4-bit tensors.
pub fn read_all(files: Vec<(String, Vec<u8>)>) -> Result<ConfigReport> {
    let checkpoint = Checkpoint::open(&source(files))?;
    let report = read_config(&checkpoint)?;
    check_shapes(&checkpoint, &report.spec)?;
    checkpoint.text_files()?;
    for tensor in checkpoint.tensors().iter().filter(|t| t.scale_bytes() > 0) {
        match tensor.format {
            Format::Bnb4 => drop(checkpoint.four_bit(tensor)?),
            _ => drop(checkpoint.group_scales(tensor)?),
        }
    }
    Ok(report)
}

/// Asserts that `files` are refused as broken (`BadFile`) or as unsupported, with all of `words` in the message.
#[track_caller]
pub fn refused(files: Vec<(String, Vec<u8>)>, words: &[&str]) {
    let error = match read_all(files) {
        Err(error @ (Error::BadFile { .. } | Error::Unsupported { .. } | Error::Io { .. })) => error.to_string(),
        Err(other) => panic!("the wrong kind of error: {other}"),
        Ok(_) => panic!("accepted, where an error with {words:?} was expected"),
    };
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

/// A safetensors file as its tensors, in the order of offsets.
pub struct Tensors(pub Vec<(String, String, Vec<u64>, Vec<u8>)>);

impl Tensors {
    pub fn parse(file: &[u8]) -> Self {
        let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let object: Value = serde_json::from_slice(&file[8..8 + header]).unwrap();
        let data = &file[8 + header..];
        let mut tensors = Vec::new();
        for (name, info) in object.as_object().unwrap() {
            if name == "__metadata__" {
                continue;
            }
            let number = |v: &Value| v.as_u64().unwrap();
            let shape = info["shape"].as_array().unwrap().iter().map(number).collect();
            let (start, end) = (number(&info["data_offsets"][0]) as usize, number(&info["data_offsets"][1]) as usize);
            tensors
                .push((start, (name.clone(), info["dtype"].as_str().unwrap().into(), shape, data[start..end].into())));
        }
        tensors.sort_by_key(|t| t.0);
        Self(tensors.into_iter().map(|t| t.1).collect())
    }

    pub fn find(&mut self, name: &str) -> &mut (String, String, Vec<u64>, Vec<u8>) {
        self.0.iter_mut().find(|t| t.0 == name).unwrap()
    }

    pub fn write(&self) -> Vec<u8> {
        let mut header = serde_json::Map::new();
        let mut data = Vec::new();
        for (name, dtype, shape, bytes) in &self.0 {
            let start = data.len();
            data.extend(bytes);
            header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}));
        }
        safetensors(&Value::Object(header).to_string(), &data)
    }
}

/// A safetensors file with this header, whatever it says.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Writes GGUF files, right or wrong.
#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    pub pairs: Vec<(Vec<u8>, Vec<u8>)>,
    pub tensors: Vec<(String, Vec<u64>, u32, u64)>,
    pub tensor_count: Option<u64>,
    pub pair_count: Option<u64>,
    pub data: usize,
}

impl Gguf {
    /// A file with what every GGUF of these architectures has, and one tensor.
    pub fn new() -> Self {
        let mut file =
            Self { version: 3, pairs: vec![], tensors: vec![], tensor_count: None, pair_count: None, data: 64 };
        file.pair("general.architecture", string("qwen3moe"));
        file.pair("qwen3moe.block_count", u32_value(1));
        file.tensors.push(("token_embd.weight".into(), vec![4, 4], 0, 0));
        file
    }

    pub fn pair(&mut self, key: &str, value: Vec<u8>) -> &mut Self {
        self.pairs.push((key.as_bytes().to_vec(), value));
        self
    }

    pub fn write(&self) -> Vec<(String, Vec<u8>)> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.pair_count.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            out.extend((key.len() as u64).to_le_bytes());
            out.extend(key);
            out.extend(value);
        }
        for (name, sizes, kind, offset) in &self.tensors {
            out.extend((name.len() as u64).to_le_bytes());
            out.extend(name.as_bytes());
            out.extend((sizes.len() as u32).to_le_bytes());
            sizes.iter().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.resize(out.len() + self.data, 0);
        vec![("model.gguf".into(), out)]
    }
}

/// A metadata value: the type's number and the bytes behind it.
pub fn value(kind: u32, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), bytes].concat()
}

pub fn u32_value(number: u32) -> Vec<u8> {
    value(4, &number.to_le_bytes())
}

pub fn string(text: &str) -> Vec<u8> {
    value(8, &[&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat())
}

/// An array that claims `count` items of type `kind` and holds `bytes`.
pub fn array(kind: u32, count: u64, bytes: &[u8]) -> Vec<u8> {
    value(9, &[&kind.to_le_bytes(), &count.to_le_bytes()[..], bytes].concat())
}
