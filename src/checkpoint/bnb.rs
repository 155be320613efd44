//! bitsandbytes 4-bit tensors: the side tensors that lie beside the codes, checked and read.
//!
//! Definition: `QuantState.as_dict` and `dequantize_4bit` in bitsandbytes/functional.py. Beside the codes `W` lie
//! `W.absmax`, `W.quant_map`, `W.quant_state.bitsandbytes__nf4` (or `fp4`; JSON bytes), and with double quantisation
//! `W.nested_absmax` and `W.nested_quant_map`.

use std::collections::HashMap;

use safetensors::Dtype;
use serde::Deserialize;

use super::folder::DataFile;
use super::safetensors::Entry;
use super::side::Piece;
use crate::error::Result;
use crate::quant::{AbsMax, FourBit, NestedAbsMax};

/// Bytes of a quantisation state at most; published ones take about 200.
const MAX_STATE: u64 = 1 << 16;

/// Most values of a 4-bit tensor: far above any matrix, and no product of it overflows.
const MAX_ELEMENTS: u64 = 1 << 40;

/// The side tensors of one weight, as found by name. Boxed, as files may list many weights with one of them each.
#[derive(Debug, Default, Clone)]
pub(super) struct SideTensors {
    absmax: Option<Box<Piece>>,
    quant_map: Option<Box<Piece>>,
    nested_absmax: Option<Box<Piece>>,
    nested_quant_map: Option<Box<Piece>>,
    state: Option<(Box<Piece>, &'static str)>,
}

/// Where the scales of one tensor lie, and what its quantisation state says. Every size fits every other.
#[derive(Debug)]
pub(super) struct Scales {
    shape: Vec<usize>,
    block_size: usize,
    absmax: Box<Piece>,
    quant_map: Box<Piece>,
    nested: Option<NestedScales>,
}

#[derive(Debug)]
struct NestedScales {
    absmax: Box<Piece>,
    quant_map: Box<Piece>,
    block_size: usize,
    offset: f32,
}

/// The JSON of `quant_state`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    quant_type: String,
    blocksize: u64,
    dtype: String,
    shape: Vec<u64>,
    nested_blocksize: Option<u64>,
    nested_dtype: Option<String>,
    nested_offset: Option<f64>,
}

/// Splits a name such as `W.absmax` into the weight's name and the kind of side tensor.
pub(super) fn side_of(name: &str) -> Option<(&str, &'static str)> {
    const SUFFIXES: [&str; 6] = [
        ".absmax",
        ".quant_map",
        ".nested_absmax",
        ".nested_quant_map",
        ".quant_state.bitsandbytes__nf4",
        ".quant_state.bitsandbytes__fp4",
    ];
    SUFFIXES.iter().find_map(|suffix| Some((name.strip_suffix(suffix)?, *suffix)))
}

/// Sorts a side tensor into those of its weight.
///
/// # Errors
/// [`crate::Error::BadFile`] when the weight already has one of the kind.
pub(super) fn collect(
    sides: &mut HashMap<String, SideTensors>,
    files: &[DataFile],
    file: usize,
    entry: Entry,
    weight: &str,
    suffix: &'static str,
) -> Result<()> {
    let side = sides.entry(weight.to_string()).or_default();
    let name = entry.name.clone();
    let piece = Box::new(Piece { file, entry });
    let before = match suffix {
        ".absmax" => side.absmax.replace(piece).is_some(),
        ".quant_map" => side.quant_map.replace(piece).is_some(),
        ".nested_absmax" => side.nested_absmax.replace(piece).is_some(),
        ".nested_quant_map" => side.nested_quant_map.replace(piece).is_some(),
        other => {
            let quant_type = if other.ends_with("nf4") { "nf4" } else { "fp4" };
            side.state.replace((piece, quant_type)).is_some()
        }
    };
    match (before, files.get(file)) {
        (true, Some(file)) => Err(file.bad(format!("tensor {name} is there twice"))),
        _ => Ok(()),
    }
}

impl SideTensors {
    /// Reads the quantisation state and checks that every size follows from it. `codes` are the weight's own bytes.
    ///
    /// # Errors
    /// [`crate::Error::BadFile`] naming the tensor that is missing or does not fit, [`crate::Error::Io`].
    pub fn check(self, files: &[DataFile], file: &DataFile, codes: &Entry) -> Result<Scales> {
        let weight = &codes.name;
        let missing = |what: &str| file.bad(format!("4-bit tensor {weight} has no {weight}.{what}"));
        let (state, quant_type) = self.state.ok_or_else(|| missing("quant_state.bitsandbytes__nf4 (or fp4)"))?;
        let state = read_state(&state, files, quant_type)?;
        let absmax = self.absmax.ok_or_else(|| missing("absmax"))?;
        let quant_map = self.quant_map.ok_or_else(|| missing("quant_map"))?;
        let elements = state.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|n| *n <= MAX_ELEMENTS);
        let Some(elements) = elements else {
            return Err(file.bad(format!("{weight}: shape {:?} in its quant_state is absurd", state.shape)));
        };
        if codes.dtype != Dtype::U8 || codes.bytes != elements.div_ceil(2) {
            return Err(file.bad(format!(
                "{weight}: {} bytes of {}, where shape {:?} in its quant_state takes {} bytes of U8",
                codes.bytes,
                codes.dtype,
                state.shape,
                elements.div_ceil(2)
            )));
        }
        let blocks = elements.div_ceil(state.blocksize);
        quant_map.expect(files, Dtype::F32, 16)?;
        let nested = match (self.nested_absmax, self.nested_quant_map, state.nested_blocksize, state.nested_offset) {
            (None, None, None, None) => {
                absmax.expect(files, Dtype::F32, blocks)?;
                None
            }
            (Some(nested_absmax), Some(map), Some(size), Some(offset)) => {
                absmax.expect(files, Dtype::U8, blocks)?;
                nested_absmax.expect(files, Dtype::F32, blocks.div_ceil(size))?;
                map.expect(files, Dtype::F32, 256)?;
                let offset = offset as f32;
                if !offset.is_finite() {
                    return Err(file.bad(format!("{weight}: nested_offset in its quant_state is no finite float32")));
                }
                Some(NestedScales { absmax: nested_absmax, quant_map: map, block_size: size as usize, offset })
            }
            _ => {
                return Err(file.bad(format!(
                    "{weight}: double quantisation takes nested_absmax, nested_quant_map and, in the quant_state, \
                     nested_blocksize and nested_offset; only some of them are there"
                )));
            }
        };
        let shape = state.shape.iter().map(|&d| d as usize).collect();
        Ok(Scales { shape, block_size: state.blocksize as usize, absmax, quant_map, nested })
    }
}

/// Reads the quantisation state that `piece` holds.
fn read_state(piece: &Piece, files: &[DataFile], quant_type: &str) -> Result<State> {
    let (file, name) = (piece.file(files)?, &piece.entry.name);
    if piece.entry.dtype != Dtype::U8 || piece.entry.bytes > MAX_STATE {
        return Err(file.bad(format!(
            "{name}: {} bytes of {}, where at most {MAX_STATE} bytes of U8 make sense",
            piece.entry.bytes, piece.entry.dtype
        )));
    }
    let mut json = vec![0; piece.entry.bytes as usize];
    file.read(piece.entry.offset, &mut json)?;
    parse_state(&json, quant_type).map_err(|what| file.bad(format!("{name}: {what}")))
}

/// Parses the JSON of a quantisation state and checks each field by itself.
fn parse_state(json: &[u8], quant_type: &str) -> Result<State, String> {
    let state: State = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    if state.quant_type != quant_type {
        return Err(format!("quant_type is '{}', the tensor's name says '{quant_type}'", state.quant_type));
    }
    if !["float32", "float16", "bfloat16"].contains(&state.dtype.as_str()) {
        return Err(format!("dtype is '{}'; float32, float16 and bfloat16 make sense", state.dtype));
    }
    if state.nested_dtype.as_deref().is_some_and(|d| d != "float32") {
        return Err(format!("nested_dtype is {:?}; float32 is supported", state.nested_dtype));
    }
    for (field, size) in [("blocksize", Some(state.blocksize)), ("nested_blocksize", state.nested_blocksize)] {
        if size.is_some_and(|s| !s.is_power_of_two() || !(32..=4096).contains(&s)) {
            return Err(format!("{field} is {}; a power of two from 32 to 4096 makes sense", size.unwrap_or(0)));
        }
    }
    Ok(state)
}

impl Scales {
    /// The weight's logical shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Values that share an absmax.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Bytes of the side tensors.
    pub fn bytes(&self) -> u64 {
        let nested = self.nested.as_ref().map_or(0, |n| n.absmax.entry.bytes + n.quant_map.entry.bytes);
        self.absmax.entry.bytes + self.quant_map.entry.bytes + nested
    }

    /// Reads the table and the scales.
    ///
    /// # Errors
    /// [`crate::Error::Io`], [`crate::Error::BadFile`] when a value is not finite, out of memory.
    pub fn read(&self, files: &[DataFile]) -> Result<FourBit> {
        let mut table = [0.0; 16];
        fill(&mut table, &self.quant_map.read_floats(files)?);
        let absmax = match &self.nested {
            None => {
                self.absmax.read_floats(files)?;
                AbsMax::Plain(self.absmax.read(files)?)
            }
            Some(nested) => {
                let mut map = Box::new([0.0; 256]);
                fill(map.as_mut_slice(), &nested.quant_map.read_floats(files)?);
                AbsMax::Nested(NestedAbsMax {
                    codes: self.absmax.read(files)?,
                    map,
                    absmax: nested.absmax.read_floats(files)?,
                    block_size: nested.block_size,
                    offset: nested.offset,
                })
            }
        };
        Ok(FourBit { table, block_size: self.block_size, absmax })
    }
}

fn fill(out: &mut [f32], values: &[f32]) {
    out.iter_mut().zip(values).for_each(|(o, v)| *o = *v);
}
