//! `quantization_config` of a config.json: which quantised storage a checkpoint declares.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// What this library reads of it.
const SUPPORTED: &str = "bitsandbytes with load_in_4bit and bnb_4bit_quant_type nf4 or fp4";

/// Whether the config declares bitsandbytes 4-bit storage.
///
/// # Errors
/// [`Error::Unsupported`] naming any other quantisation, [`Error::BadFile`] for fields of the wrong type.
pub(super) fn declares_four_bit(path: &Path, config: &Map<String, Value>) -> Result<bool> {
    let text = config.get("text_config").and_then(Value::as_object);
    let places = [(Some(config), ""), (text, "text_config.")];
    for (object, prefix) in places {
        let Some(object) = object else { continue };
        if object.get("compression_config").is_some_and(|v| !v.is_null()) {
            return Err(Error::unsupported(path, format!("field {prefix}compression_config; supported: {SUPPORTED}")));
        }
        match object.get("quantization_config") {
            None | Some(Value::Null) => {}
            Some(Value::Object(fields)) => return four_bit(path, prefix, fields).map(|()| true),
            Some(other) => {
                return Err(Error::bad_file(
                    path,
                    format!("field {prefix}quantization_config is {other}, where an object must be"),
                ));
            }
        }
    }
    Ok(false)
}

fn four_bit(path: &Path, prefix: &str, fields: &Map<String, Value>) -> Result<()> {
    let refuse = |field: &str, value: &Value| {
        Err(Error::unsupported(
            path,
            format!("field {prefix}quantization_config.{field} is {value}; supported: {SUPPORTED}"),
        ))
    };
    let get = |field: &str| fields.get(field).unwrap_or(&Value::Null);
    let method = get("quant_method");
    if !(method.is_null() || method == "bitsandbytes") {
        return refuse("quant_method", method);
    }
    if get("load_in_8bit") == &Value::Bool(true) || get("load_in_4bit") != &Value::Bool(true) {
        return refuse("load_in_4bit", get("load_in_4bit"));
    }
    // The tensors say which of the two they are; the field must only be one of them.
    let quant_type = get("bnb_4bit_quant_type");
    if !(quant_type.is_null() || quant_type == "nf4" || quant_type == "fp4") {
        return refuse("bnb_4bit_quant_type", quant_type);
    }
    let storage = get("bnb_4bit_quant_storage");
    if !(storage.is_null() || storage == "uint8") {
        return refuse("bnb_4bit_quant_storage", storage);
    }
    Ok(())
}
