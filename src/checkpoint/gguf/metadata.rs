//! The key-value section of a GGUF file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::cursor::Cursor;
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
}

/// The metadata of a GGUF file.
#[derive(Debug, Clone)]
pub struct Metadata {
    path: PathBuf,
    values: HashMap<String, Value>,
}

/// Keys at most; files with chat templates and imatrix notes have about 60.
const MAX_KEYS: u64 = 1 << 16;

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
            let key = cursor.string("a metadata key")?;
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
        }
    }
}

fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value> {
    match cursor.u32(key)? {
        STRING => cursor.string(key).map(Value::String),
        ARRAY => read_array(cursor, key),
        scalar => read_scalar(cursor, key, scalar),
    }
}

fn read_scalar(cursor: &mut Cursor<'_>, key: &str, kind: u32) -> Result<Value> {
    Ok(match kind {
        0 => Value::Unsigned(u64::from(cursor.array::<1>(key)?[0])),
        1 => Value::Signed(i64::from(i8::from_le_bytes(cursor.array(key)?))),
        2 => Value::Unsigned(u64::from(u16::from_le_bytes(cursor.array(key)?))),
        3 => Value::Signed(i64::from(i16::from_le_bytes(cursor.array(key)?))),
        4 => Value::Unsigned(u64::from(cursor.u32(key)?)),
        5 => Value::Signed(i64::from(i32::from_le_bytes(cursor.array(key)?))),
        6 => Value::Float(f64::from(f32::from_le_bytes(cursor.array(key)?))),
        7 => match cursor.array::<1>(key)?[0] {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            other => {
                return Err(cursor.file.bad(format!("metadata {key} is the boolean {other}, where 0 or 1 must be")));
            }
        },
        10 => Value::Unsigned(cursor.u64(key)?),
        11 => Value::Signed(i64::from_le_bytes(cursor.array(key)?)),
        12 => Value::Float(f64::from_le_bytes(cursor.array(key)?)),
        other => return Err(cursor.file.bad(format!("metadata {key} has the type {other}, which GGUF does not have"))),
    })
}

fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Value> {
    let kind = cursor.u32(key)?;
    let least = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        STRING | 10..=12 => 8,
        ARRAY => return Err(cursor.file.unsupported(format!("metadata {key} is an array of arrays"))),
        other => {
            return Err(cursor.file.bad(format!("metadata {key} has items of type {other}, which GGUF does not have")));
        }
    };
    let count = cursor.count(least, key)?;
    match kind {
        STRING => (0..count).map(|_| cursor.string(key)).collect::<Result<_>>().map(Value::Strings),
        6 | 12 => {
            let float = |v| if let Value::Float(v) = v { v } else { f64::NAN };
            (0..count).map(|_| read_scalar(cursor, key, kind).map(float)).collect::<Result<_>>().map(Value::Floats)
        }
        7 => {
            let flag = |v| v == Value::Bool(true);
            (0..count).map(|_| read_scalar(cursor, key, kind).map(flag)).collect::<Result<_>>().map(Value::Bools)
        }
        _ => (0..count).map(|_| read_integer(cursor, key, kind)).collect::<Result<_>>().map(Value::Integers),
    }
}

fn read_integer(cursor: &mut Cursor<'_>, key: &str, kind: u32) -> Result<i64> {
    match read_scalar(cursor, key, kind)? {
        Value::Signed(v) => Ok(v),
        Value::Unsigned(v) => {
            i64::try_from(v).map_err(|_| cursor.file.bad(format!("metadata {key} holds {v}, which is absurdly large")))
        }
        _ => Err(Error::Internal(format!("metadata {key}: type {kind} is no integer"))),
    }
}
