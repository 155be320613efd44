//! The key-value section of a GGUF file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::cursor::Cursor;
use crate::checkpoint::allocate;
use crate::error::{Error, Result};

/// One value. Integers of every width are held in 64 bits, both floats as `f64`.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any of the unsigned integers.
    Unsigned(u64),
    /// Any of the signed integers.
    Signed(i64),
    /// float32 or float64.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// An array of integers; those above `i64::MAX` are refused.
    Integers(Vec<i64>),
    /// An array of floats.
    Floats(Vec<f64>),
    /// An array of booleans.
    Bools(Vec<bool>),
    /// An array of strings.
    Strings(Vec<String>),
    /// An array that nothing here reads: long, or of strings, and no list of the tokenizer. Only its length is kept.
    Skipped(u64),
}

/// The metadata of a GGUF file.
#[derive(Debug, Clone)]
pub struct Metadata {
    path: PathBuf,
    values: HashMap<String, Value>,
}

/// Keys at most; files with chat templates and imatrix notes have about 60.
const MAX_KEYS: u64 = 1 << 12;

/// Bytes of a key at most, by the specification.
const MAX_KEY: u64 = (1 << 16) - 1;

/// Bytes of a text at most; the longest are chat templates.
const MAX_TEXT: u64 = 1 << 22;

/// The arrays that are kept whatever their length: those of the tokenizer.
const LISTS: [&str; 3] = ["tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"];

/// Items of them at most: four times those of the largest published vocabulary.
const MAX_ITEMS: u64 = 1 << 20;

/// Bytes of one of their strings at most.
const MAX_ITEM: u64 = 1 << 16;

/// Items of the other arrays that are kept at most: they have one a layer.
const MAX_SHORT: u64 = 1 << 11;

const STRING: u32 = 8;
const ARRAY: u32 = 9;

impl Metadata {
    /// Reads `count` pairs.
    pub(super) fn read(cursor: &mut Cursor<'_>, count: u64) -> Result<Self> {
        if count > MAX_KEYS {
            return Err(cursor.file.bad(format!("metadata count is {count}, where at most {MAX_KEYS} make sense")));
        }
        let mut values = HashMap::new();
        for _ in 0..count {
            let key = cursor.string(MAX_KEY, "a metadata key")?;
            let value = read_value(cursor, &key)?;
            if values.insert(key.clone(), value).is_some() {
                return Err(cursor.file.bad(format!("metadata key {key} is there twice")));
            }
        }
        Ok(Self { path: cursor.file.path().to_path_buf(), values })
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Every key, sorted.
    pub fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = self.values.keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    /// An [`Error::BadFile`] that names `key`, its value and what was expected.
    pub fn bad(&self, key: &str, expected: &str) -> Error {
        let found = self.values.get(key).map_or("missing".to_string(), Value::to_string);
        Error::bad_file(&self.path, format!("metadata {key} is {found}; expected {expected}"))
    }

    /// An [`Error::Unsupported`] that names `key`, its value and what is supported.
    pub fn unsupported(&self, key: &str, supported: &str) -> Error {
        let found = self.values.get(key).map_or("missing".to_string(), Value::to_string);
        Error::unsupported(&self.path, format!("metadata {key} is {found}; supported: {supported}"))
    }

    /// An integer that is not negative, of whatever width.
    ///
    /// # Errors
    /// [`Error::BadFile`] when the key has another type.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(v)) => Ok(Some(*v)),
            Some(Value::Signed(v)) if *v >= 0 => Ok(Some(v.unsigned_abs())),
            Some(_) => Err(self.bad(key, "an integer, not negative")),
        }
    }

    /// A float.
    ///
    /// # Errors
    /// [`Error::BadFile`] when the key has another type or is not finite.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(v)) if v.is_finite() => Ok(Some(*v)),
            Some(_) => Err(self.bad(key, "a finite float")),
        }
    }

    /// A boolean.
    ///
    /// # Errors
    /// [`Error::BadFile`] when the key has another type.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(_) => Err(self.bad(key, "a boolean")),
        }
    }

    /// A string.
    ///
    /// # Errors
    /// [`Error::BadFile`] when the key has another type.
    pub fn string(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(v)) => Ok(Some(v)),
            Some(_) => Err(self.bad(key, "a string")),
        }
    }

    /// An array of integers.
    ///
    /// # Errors
    /// [`Error::BadFile`] when the key has another type.
    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integers(v)) => Ok(Some(v)),
            Some(_) => Err(self.bad(key, "an array of integers")),
        }
    }

    /// An array of strings.
    ///
    /// # Errors
    /// [`Error::BadFile`] when the key has another type.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Strings(v)) => Ok(Some(v)),
            Some(_) => Err(self.bad(key, "an array of strings")),
        }
    }
}

/// Short, for messages: of long texts and arrays only the size.
impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Unsigned(v) => write!(f, "{v}"),
            Value::Signed(v) => write!(f, "{v}"),
            Value::Float(v) => write!(f, "{v}"),
            Value::Bool(v) => write!(f, "{v}"),
            Value::String(v) if v.len() <= 64 => write!(f, "{v:?}"),
            Value::String(v) => write!(f, "a string of {} bytes", v.len()),
            Value::Integers(v) if v.len() <= 8 => write!(f, "{v:?}"),
            Value::Integers(v) => write!(f, "an array of {} integers", v.len()),
            Value::Floats(v) => write!(f, "an array of {} floats", v.len()),
            Value::Bools(v) => write!(f, "an array of {} booleans", v.len()),
            Value::Strings(v) => write!(f, "an array of {} strings", v.len()),
            Value::Skipped(items) => write!(f, "an array of {items} items"),
        }
    }
}

fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value> {
    let kind = cursor.u32(key)?;
    match kind {
        STRING => return cursor.string(MAX_TEXT, key).map(Value::String),
        ARRAY => return read_array(cursor, key),
        _ => {}
    }
    let file = cursor.file;
    let Some(size) = size_of(kind) else {
        return Err(file.bad(format!("metadata {key} has the type {kind}, which GGUF does not have")));
    };
    let scalar = decode(kind, cursor.take(size, key)?);
    scalar.map_err(|what| file.bad(format!("metadata {key} {what}")))
}

/// Bytes of a number or boolean; `None` for a type that is none.
fn size_of(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// A number or boolean of `size_of(kind)` bytes, or what is wrong with it.
fn decode(kind: u32, bytes: &[u8]) -> Result<Value, String> {
    let mut wide = [0; 8];
    wide.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    let [b0, b1, b2, b3, ..] = wide;
    Ok(match kind {
        0 => Value::Unsigned(u64::from(b0)),
        1 => Value::Signed(i64::from(i8::from_le_bytes([b0]))),
        2 => Value::Unsigned(u64::from(u16::from_le_bytes([b0, b1]))),
        3 => Value::Signed(i64::from(i16::from_le_bytes([b0, b1]))),
        4 => Value::Unsigned(u64::from(u32::from_le_bytes([b0, b1, b2, b3]))),
        5 => Value::Signed(i64::from(i32::from_le_bytes([b0, b1, b2, b3]))),
        6 => Value::Float(f64::from(f32::from_le_bytes([b0, b1, b2, b3]))),
        7 if b0 <= 1 => Value::Bool(b0 == 1),
        7 => return Err(format!("is the boolean {b0}, where 0 or 1 must be")),
        10 => Value::Unsigned(u64::from_le_bytes(wide)),
        11 => Value::Signed(i64::from_le_bytes(wide)),
        12 => Value::Float(f64::from_le_bytes(wide)),
        other => return Err(format!("has the type {other}, which GGUF does not have")),
    })
}

fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Value> {
    let (file, kind) = (cursor.file, cursor.u32(key)?);
    let size = match (kind, size_of(kind)) {
        (_, Some(size)) => size,
        // The length of a string.
        (STRING, None) => 8,
        (ARRAY, None) => return Err(file.unsupported(format!("metadata {key} is an array of arrays"))),
        (other, None) => {
            return Err(file.bad(format!("metadata {key} has items of type {other}, which GGUF does not have")));
        }
    };
    let count = cursor.count(size, key)?;
    let list = LISTS.contains(&key);
    if list && count > MAX_ITEMS {
        return Err(file.bad(format!("metadata {key} has {count} items, where at most {MAX_ITEMS} make sense")));
    }
    match kind {
        STRING if list => {
            let mut strings = allocate::list(count, key)?;
            for _ in 0..count {
                strings.push(cursor.string(MAX_ITEM, key)?);
            }
            Ok(Value::Strings(strings))
        }
        STRING => {
            for _ in 0..count {
                let len = cursor.u64(key)?;
                cursor.skip(len, key)?;
            }
            Ok(Value::Skipped(count))
        }
        _ if list || count <= MAX_SHORT => {
            let bytes = cursor.take(count * size, key)?;
            let items = bytes.chunks_exact(size as usize).map(|item| decode(kind, item));
            scalars(kind, count, items, key)?.map_err(|what| file.bad(format!("metadata {key} {what}")))
        }
        _ => cursor.skip(count * size, key).map(|()| Value::Skipped(count)),
    }
}

/// The array of `count` decoded scalars of type `kind`; inside, what is wrong with an item.
fn scalars(
    kind: u32,
    count: u64,
    items: impl Iterator<Item = Result<Value, String>>,
    key: &str,
) -> Result<Result<Value, String>> {
    let (mut floats, mut bools, mut integers) = (Vec::new(), Vec::new(), Vec::new());
    match kind {
        6 | 12 => floats = allocate::list(count, key)?,
        7 => bools = allocate::list(count, key)?,
        _ => integers = allocate::list(count, key)?,
    }
    for item in items {
        match item {
            Ok(Value::Float(v)) => floats.push(v),
            Ok(Value::Bool(v)) => bools.push(v),
            Ok(Value::Signed(v)) => integers.push(v),
            Ok(Value::Unsigned(v)) => match i64::try_from(v) {
                Ok(v) => integers.push(v),
                Err(_) => return Ok(Err(format!("holds {v}, which is absurdly large"))),
            },
            Ok(other) => return Err(Error::Internal(format!("metadata {key}: an item is {other}"))),
            Err(what) => return Ok(Err(what)),
        }
    }
    Ok(Ok(match kind {
        6 | 12 => Value::Floats(floats),
        7 => Value::Bools(bools),
        _ => Value::Integers(integers),
    }))
}
