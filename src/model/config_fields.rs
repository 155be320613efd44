//! Typed access to a JSON object that remembers which fields were asked for, so that the rest can be reported.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// One object of a config. A field that is `null` counts as absent, as in transformers.
pub(super) struct Fields<'a> {
    path: &'a Path,
    prefix: String,
    object: &'a Map<String, Value>,
    seen: RefCell<BTreeSet<&'a str>>,
}

impl<'a> Fields<'a> {
    /// The fields of `object`, which messages call `prefix` + key.
    pub fn new(path: &'a Path, prefix: &str, object: &'a Map<String, Value>) -> Self {
        Self { path, prefix: prefix.to_string(), object, seen: RefCell::default() }
    }

    /// The file.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// The value of `key`, which counts as known from now on.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        let (key, value) = self.object.get_key_value(key)?;
        self.seen.borrow_mut().insert(key);
        Some(value).filter(|v| !v.is_null())
    }

    /// Names of all fields.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.object.keys().map(String::as_str)
    }

    /// Marks fields that change nothing as known.
    pub fn ignore(&self, keys: &[&str]) {
        for key in keys {
            self.get(key);
        }
    }

    /// Names of the fields that nobody asked for.
    pub fn unrecognised(&self) -> Vec<String> {
        let seen = self.seen.borrow();
        let unknown = self.object.keys().filter(|key| !seen.contains(key.as_str()));
        unknown.map(|key| format!("{}{key}", self.prefix)).collect()
    }

    /// An [`Error::BadFile`] that names file, field, value and what was expected.
    pub fn bad(&self, key: &str, expected: &str) -> Error {
        Error::bad_file(self.path, format!("field {}{key} is {}; expected {expected}", self.prefix, self.shown(key)))
    }

    /// An [`Error::Unsupported`] that names file, field, value and what is supported.
    pub fn unsupported(&self, key: &str, supported: &str) -> Error {
        let value = self.shown(key);
        Error::unsupported(self.path, format!("field {}{key} is {value}; supported: {supported}", self.prefix))
    }

    fn shown(&self, key: &str) -> String {
        let text = self.object.get(key).map_or("missing".to_string(), Value::to_string);
        match text.char_indices().nth(100) {
            Some((cut, _)) => format!("{}...", &text[..cut]),
            None => text,
        }
    }

    /// An integer within `range`.
    pub fn size(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size = value.as_u64().and_then(|v| usize::try_from(v).ok()).filter(|v| range.contains(v));
        size.map(Some).ok_or_else(|| self.bad(key, &format!("an integer from {} to {}", range.start(), range.end())))
    }

    /// An integer within `range` that must be there.
    pub fn require_size(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize> {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        self.size(key, range)?.ok_or_else(|| self.bad(key, &expected))
    }

    /// A finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().filter(|v| v.is_finite()).map(Some).ok_or_else(|| self.bad(key, "a number"))
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.bad(key, "true or false"))
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.bad(key, "a string"))
    }

    /// A list of integers.
    pub fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let item = |v: &Value| v.as_u64().and_then(|v| usize::try_from(v).ok());
        let list = value.as_array().and_then(|list| list.iter().map(item).collect());
        list.map(Some).ok_or_else(|| self.bad(key, "a list of integers"))
    }

    /// A list of strings.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        list.map(Some).ok_or_else(|| self.bad(key, "a list of strings"))
    }

    /// An object.
    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let object = value.as_object().ok_or_else(|| self.bad(key, "an object"))?;
        Ok(Some(Fields::new(self.path, &format!("{}{key}.", self.prefix), object)))
    }

    /// Refuses every value of `key` but `allowed`; an absent field passes.
    pub fn only(&self, key: &str, allowed: &Value) -> Result<()> {
        match self.get(key) {
            Some(value) if value != allowed => Err(self.unsupported(key, &allowed.to_string())),
            _ => Ok(()),
        }
    }
}
