//! `quantization_config` of a config.json: which quantised storage a checkpoint declares.

use std::path::Path;

use serde_json::{Map, Value};

use super::folder::Folder;
use crate::error::{Error, Result};

/// What this library reads of it.
const SUPPORTED: &str = "bitsandbytes with load_in_4bit and bnb_4bit_quant_type nf4 or fp4, and gptq and auto-round with 4 \
                         bits in GPTQ's packing";

/// Files beside config.json in which GPTQ's tools and AutoRound keep what it should say.
const OWN_FILES: [&str; 2] = ["quantize_config.json", "quantization_config.json"];

/// Bytes of such a file at most; overrides by layer make it as long as config.json.
const MAX_OWN_FILE: u64 = 1 << 22;

/// How a checkpoint says that its weights are quantised. Which of them are, their names tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Quantization {
    /// Not at all.
    None,
    /// bitsandbytes 4-bit.
    FourBit,
    /// GPTQ, or AutoRound in GPTQ's packing.
    Gptq(Gptq),
}

/// What the config says of GPTQ's packing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gptq {
    /// Columns that share a scale; `None`: a whole row.
    pub group_size: Option<usize>,
    /// Some layers may have groups of another size.
    pub varied: bool,
    /// Zeros are stored less 1: the first version of the format.
    pub zeros_less_one: bool,
    /// Columns were quantised in an order of their own (`desc_act`).
    pub ordered: bool,
}

/// Reads what the config, or a file beside it, declares.
///
/// # Errors
/// [`Error::Unsupported`] naming any other quantisation, [`Error::BadFile`] for fields of the wrong type, [`Error::Io`].
pub(super) fn declared(folder: &Folder, path: &Path, config: &Map<String, Value>) -> Result<Quantization> {
    let text = config.get("text_config").and_then(Value::as_object);
    let places = [(Some(config), ""), (text, "text_config.")];
    for (object, prefix) in places {
        let Some(object) = object else { continue };
        if object.get("compression_config").is_some_and(|v| !v.is_null()) {
            return Err(Error::unsupported(path, format!("field {prefix}compression_config; supported: {SUPPORTED}")));
        }
        match object.get("quantization_config") {
            None | Some(Value::Null) => {}
            Some(Value::Object(fields)) => {
                return Fields { path, prefix: format!("{prefix}quantization_config."), fields }.read();
            }
            Some(other) => {
                return Err(Error::bad_file(
                    path,
                    format!("field {prefix}quantization_config is {other}, where an object must be"),
                ));
            }
        }
    }
    for name in OWN_FILES {
        let Some(bytes) = folder.read(name, MAX_OWN_FILE)? else { continue };
        let path = folder.path_of(name);
        let fields: Map<String, Value> =
            serde_json::from_slice(&bytes).map_err(|e| Error::bad_file(&path, format!("is no JSON object: {e}")))?;
        return Fields { path: &path, prefix: String::new(), fields: &fields }.gptq().map(Quantization::Gptq);
    }
    Ok(Quantization::None)
}

struct Fields<'a> {
    path: &'a Path,
    prefix: String,
    fields: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn get(&self, field: &str) -> &Value {
        self.fields.get(field).unwrap_or(&Value::Null)
    }

    fn refused(&self, field: &str, value: &Value) -> Error {
        Error::unsupported(self.path, format!("field {}{field} is {value}; supported: {SUPPORTED}", self.prefix))
    }

    /// Refuses a field that is there and none of `allowed`.
    fn allow(&self, field: &str, allowed: &[Value]) -> Result<()> {
        match self.get(field) {
            Value::Null => Ok(()),
            value if allowed.contains(value) => Ok(()),
            value => Err(self.refused(field, value)),
        }
    }

    fn read(&self) -> Result<Quantization> {
        match self.get("quant_method") {
            Value::Null => self.four_bit().map(|()| Quantization::FourBit),
            Value::String(method) => match method.as_str() {
                "bitsandbytes" => self.four_bit().map(|()| Quantization::FourBit),
                "gptq" | "auto-round" | "intel/auto-round" => self.gptq().map(Quantization::Gptq),
                _ => Err(self.refused("quant_method", self.get("quant_method"))),
            },
            other => Err(self.refused("quant_method", other)),
        }
    }

    fn four_bit(&self) -> Result<()> {
        if self.get("load_in_8bit") == &Value::Bool(true) || self.get("load_in_4bit") != &Value::Bool(true) {
            return Err(self.refused("load_in_4bit", self.get("load_in_4bit")));
        }
        // The tensors say which of the two they are; the field must only be one of them.
        self.allow("bnb_4bit_quant_type", &["nf4".into(), "fp4".into()])?;
        self.allow("bnb_4bit_quant_storage", &["uint8".into()])
    }

    fn gptq(&self) -> Result<Gptq> {
        self.allow("quant_method", &["gptq".into(), "auto-round".into(), "intel/auto-round".into()])?;
        if self.get("bits") != &Value::from(4) {
            return Err(self.refused("bits", self.get("bits")));
        }
        self.allow("data_type", &["int".into()])?;
        self.allow("act_bits", &[16.into(), 32.into()])?;
        self.allow("pack_dtype", &["int32".into()])?;
        self.allow("is_marlin_format", &[false.into()])?;
        let overrides = ["dynamic", "extra_config"].map(|field| self.overrides(field));
        let [dynamic, extra] = overrides;
        let ordered = match self.get("desc_act") {
            Value::Null => false,
            Value::Bool(ordered) => *ordered,
            other => return Err(self.wrong("desc_act", other, "true or false")),
        };
        let (group_size, varied) = (self.group_size()?, dynamic? | extra?);
        Ok(Gptq { group_size, varied, zeros_less_one: self.zeros_less_one()?, ordered })
    }

    fn wrong(&self, field: &str, value: &Value, expected: &str) -> Error {
        let what = format!("field {}{field} is {value}, where {expected} must be", self.prefix);
        Error::bad_file(self.path, what)
    }

    fn group_size(&self) -> Result<Option<usize>> {
        match self.get("group_size") {
            // The default of both tools.
            Value::Null => Ok(Some(128)),
            value if value == &Value::from(-1) => Ok(None),
            value => match value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0) {
                Some(size) => Ok(Some(size)),
                None => Err(self.wrong("group_size", value, "-1 or a number of columns")),
            },
        }
    }

    /// Whether zeros are stored less 1: GPTQ's first version does so, and AutoRound in the packing named after AutoGPTQ
    /// (`GPTQ_FORMAT` and `GPTQ_FORMAT_NO_ZP` in auto_round/inference/backend.py).
    fn zeros_less_one(&self) -> Result<bool> {
        let is_auto_round = self.get("quant_method").as_str().is_some_and(|method| method.ends_with("auto-round"));
        let field = match (is_auto_round, self.get("checkpoint_format")) {
            (true, _) => "packing_format",
            (false, Value::Null) => "format",
            (false, _) => "checkpoint_format",
        };
        match (is_auto_round, self.get(field)) {
            (_, Value::Null) => Ok(true),
            (true, Value::String(packing))
                if ["auto_round:auto_gptq", "auto_round:gptq"].contains(&packing.as_str()) =>
            {
                Ok(true)
            }
            (true, Value::String(packing)) if packing == "auto_round:gptqmodel" => Ok(false),
            (false, Value::String(version)) if version == "gptq" => Ok(true),
            (false, Value::String(version)) if version == "gptq_v2" => Ok(false),
            (_, other) => Err(self.refused(field, other)),
        }
    }

    /// Whether layers have settings of their own. They may stay in 16 bits, which the names of their tensors tell, or have
    /// groups of another size, which follows from their shapes.
    fn overrides(&self, field: &str) -> Result<bool> {
        let layers = match self.get(field) {
            Value::Null => return Ok(false),
            Value::Object(layers) => layers,
            other => return Err(self.wrong(field, other, "an object")),
        };
        for (layer, settings) in layers {
            let bits = settings.get("bits").unwrap_or(&Value::Null);
            if !(bits.is_null() || bits == 4 || bits.as_u64().is_some_and(|bits| bits >= 16)) {
                return Err(self.refused(&format!("{field}.{layer}.bits"), bits));
            }
        }
        Ok(!layers.is_empty())
    }
}
