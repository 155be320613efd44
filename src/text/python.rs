//! Values written as Python writes them: `str()`, `repr()` and `json.dumps()`, which templates were made for.

use std::io;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter};

/// `str(value)`. Undefined is empty, as in Jinja.
pub(super) fn str(value: &Value) -> String {
    match value.kind() {
        ValueKind::String | ValueKind::Undefined => value.to_string(),
        _ => repr(value),
    }
}

fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(number) => float(number),
            Err(_) => value.to_string(),
        },
        ValueKind::String => quote(value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            let items: Vec<String> = value.try_iter().into_iter().flatten().map(|item| repr(&item)).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Map => {
            let keys = value.try_iter().into_iter().flatten();
            let items: Vec<String> = keys
                .map(|key| format!("{}: {}", repr(&key), repr(&value.get_item(&key).unwrap_or_default())))
                .collect();
            format!("{{{}}}", items.join(", "))
        }
        _ => value.to_string(),
    }
}

fn quote(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7F => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// `repr(float)`: the shortest digits that read back the same, an exponent below 1e-4 and from 1e16 on.
fn float(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "nan"
        } else if number > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .into();
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{number:?}"),
    }
}

/// The filter `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)` of `transformers`: no
/// escaping of HTML, `", "` and `": "` between items. A text of more than `limit` bytes is an error.
pub(super) fn tojson(value: &Value, options: Kwargs, limit: u64) -> Result<Value, Error> {
    let ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let indent = options.get::<Option<usize>>("indent")?;
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson of an undefined value"));
    }
    if indent.is_some_and(|indent| indent > 64) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson with an indent of more than 64"));
    }
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        None => (if indent.is_some() { "," } else { ", " }.into(), ": ".into()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson takes two separators")),
    };

    let failed = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, format!("tojson: {e}"));
    let mut json = serde_json::to_value(value).map_err(failed)?;
    if sort_keys {
        json.sort_all_objects();
    }
    let formatter = Dumps { item, key, indent, ensure_ascii, depth: 0, empty: true };
    let mut out = Limited { bytes: Vec::new(), left: limit };
    json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter)).map_err(failed)?;
    let text = String::from_utf8(out.bytes).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    Ok(Value::from(text))
}

/// Takes no more than `left` bytes.
struct Limited {
    bytes: Vec<u8>,
    left: u64,
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| io::Error::other("longer than a chat can need"))?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The layout of `json.dumps`.
struct Dumps {
    item: String,
    key: String,
    indent: Option<usize>,
    ensure_ascii: bool,
    depth: usize,
    /// The container that was opened last has no items yet.
    empty: bool,
}

impl Dumps {
    fn line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        match self.indent {
            Some(indent) => write!(writer, "\n{:1$}", "", indent * self.depth),
            None => Ok(()),
        }
    }

    fn open<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !std::mem::take(&mut self.empty) {
            self.line(writer)?;
        }
        writer.write_all(bracket)
    }

    fn next<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.empty = false;
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.line(writer)
    }
}

impl Formatter for Dumps {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if !self.ensure_ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for unit in fragment.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => writer.write_all(&[byte])?,
                _ => write!(writer, "\\u{unit:04x}")?,
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        serde_json::ser::CompactFormatter.write_char_escape(writer, escape)
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_print_as_in_python() {
        let value: serde_json::Value =
            serde_json::from_str(r#"{"a": [1, 2.5, null, true, "it's", "q\"", 1e16, 1e-7, 100.0], "b": {}}"#).unwrap();
        let expected = r#"{'a': [1, 2.5, None, True, "it's", 'q"', 1e+16, 1e-07, 100.0], 'b': {}}"#;
        assert_eq!(str(&Value::from_serialize(&value)), expected);
        assert_eq!(str(&Value::from("plain")), "plain");
        assert_eq!(str(&Value::UNDEFINED), "");
    }

    #[test]
    fn json_is_laid_out_as_in_python() {
        let value: serde_json::Value =
            serde_json::from_str(r#"{"b": [1, 2.5, 1e16, {}, []], "a": "é <&> \u0001\n🙂"}"#).unwrap();
        let value = Value::from_serialize(&value);
        let dumps =
            |options: &[(&str, Value)]| tojson(&value, options.iter().cloned().collect(), 1 << 20).unwrap().to_string();
        assert_eq!(dumps(&[]), r#"{"b": [1, 2.5, 1e+16, {}, []], "a": "é <&> \u0001\n🙂"}"#);
        assert_eq!(
            dumps(&[("ensure_ascii", Value::from(true)), ("sort_keys", Value::from(true))]),
            r#"{"a": "\u00e9 <&> \u0001\n\ud83d\ude42", "b": [1, 2.5, 1e+16, {}, []]}"#
        );
        assert_eq!(
            dumps(&[("indent", Value::from(2))]),
            "{\n  \"b\": [\n    1,\n    2.5,\n    1e+16,\n    {},\n    []\n  ],\n  \"a\": \"é <&> \\u0001\\n🙂\"\n}"
        );
        assert_eq!(
            dumps(&[("separators", Value::from(vec![",", ":"]))]),
            r#"{"b":[1,2.5,1e+16,{},[]],"a":"é <&> \u0001\n🙂"}"#
        );
    }
}
