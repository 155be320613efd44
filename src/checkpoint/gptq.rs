//! GPTQ's files, which AutoRound writes, too: the tensors beside the codes, checked and read.
//!
//! A linear layer `L` with `in` inputs and `out` outputs is stored as `L.qweight` (I32 `[in / 8, out]`, eight codes a word
//! along the inputs, the first in the lowest bits), `L.qzeros` (I32 `[groups, out / 8]`, eight zeros a word along the
//! outputs), `L.scales` (`[groups, out]`) and, optionally, `L.g_idx` (I32 `[in]`, the group of each input). Definition:
//! `pack_block` and `dequantize_weight` of GPTQModel's torch layers. Files of the first version store each word of zeros less
//! [`ONES`] (`convert_gptq_v2_to_v1_format`): each zero less 1, and a zero of 0 borrows from the next one.

use std::collections::HashMap;

use half::{bf16, f16};
use safetensors::Dtype;

use super::allocate;
use super::folder::DataFile;
use super::quantization::Gptq;
use super::safetensors::Entry;
use super::side::Piece;
use crate::error::Result;
use crate::quant::{Format, Group, GroupScales};

/// Codes and zeros in a word.
const IN_WORD: usize = 8;

/// A word of eight ones.
const ONES: u32 = 0x1111_1111;

/// The side tensors of one layer, as found by name. Boxed, as files may list many layers with one of them each.
#[derive(Debug, Default, Clone)]
pub(super) struct SideTensors {
    qzeros: Option<Box<Piece>>,
    scales: Option<Box<Piece>>,
    g_idx: Option<Box<Piece>>,
}

/// Where the scales of one tensor lie. Every size fits every other.
#[derive(Debug)]
pub(super) struct Scales {
    rows: usize,
    cols: usize,
    /// Columns of a group.
    columns: usize,
    format: Format,
    qzeros: Box<Piece>,
    scales: Box<Piece>,
    g_idx: Option<Box<Piece>>,
    zeros_less_one: bool,
    /// The config says that columns are grouped in an order of their own.
    ordered: bool,
}

/// The layer whose codes the tensor called `name` holds.
pub(super) fn layer_of(name: &str) -> Option<&str> {
    name.strip_suffix(".qweight")
}

/// Splits a name such as `L.qzeros` into the layer's name and the kind of side tensor.
pub(super) fn side_of(name: &str) -> Option<(&str, &'static str)> {
    [".qzeros", ".scales", ".g_idx"].iter().find_map(|suffix| Some((name.strip_suffix(suffix)?, *suffix)))
}

/// Sorts a side tensor into those of its layer. Names within a file are unique.
///
/// # Errors
/// [`crate::Error::BadFile`] when the layer already has one of the kind, from another file.
pub(super) fn collect(
    sides: &mut HashMap<String, SideTensors>,
    file: &DataFile,
    number: usize,
    entry: Entry,
    layer: &str,
    suffix: &'static str,
) -> Result<()> {
    let side = sides.entry(layer.to_string()).or_default();
    let place = match suffix {
        ".qzeros" => &mut side.qzeros,
        ".scales" => &mut side.scales,
        _ => &mut side.g_idx,
    };
    let name = entry.name.clone();
    match place.replace(Box::new(Piece { file: number, entry })) {
        Some(_) => Err(file.bad(format!("tensor {name} is there twice"))),
        None => Ok(()),
    }
}

impl SideTensors {
    /// Checks that every shape follows from that of the codes and from the config.
    ///
    /// # Errors
    /// [`crate::Error::BadFile`] naming the tensor that is missing or does not fit; [`crate::Error::Unsupported`] for
    /// groups of a size that has no packed form.
    pub fn check(self, config: &Gptq, files: &[DataFile], file: &DataFile, codes: &Entry) -> Result<Scales> {
        let name = &codes.name;
        let layer = layer_of(name).unwrap_or(name);
        let missing = |what: &str| file.bad(format!("4-bit tensor {name} has no {layer}.{what}"));
        let qzeros = self.qzeros.ok_or_else(|| missing("qzeros"))?;
        let scales = self.scales.ok_or_else(|| missing("scales"))?;
        let (cols, rows) = match codes.shape[..] {
            [words, rows] if codes.dtype == Dtype::I32 && words > 0 && rows > 0 => (
                words.checked_mul(IN_WORD).ok_or_else(|| file.bad(format!("tensor {name}: its shape overflows")))?,
                rows,
            ),
            _ => {
                return Err(file.bad(format!(
                    "tensor {name} is {} of shape {:?}, where I32 [inputs / 8, outputs] must be",
                    codes.dtype, codes.shape
                )));
            }
        };
        if !rows.is_multiple_of(IN_WORD) {
            return Err(file.unsupported(format!("tensor {name} with {rows} outputs; supported: multiples of 8")));
        }
        let groups = scales.entry.shape.first().copied().unwrap_or(0);
        let columns = columns_of_group(config, file, name, cols, groups)?;
        let Some(group) = Group::dividing(columns) else {
            return Err(
                file.unsupported(format!("tensor {name} with groups of {columns} columns; supported: multiples of 32"))
            );
        };
        if !matches!(scales.entry.dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32) {
            return Err(file.unsupported(format!(
                "tensor {} of type {}; supported: F16, BF16, F32",
                scales.entry.name, scales.entry.dtype
            )));
        }
        has_shape(&scales, files, scales.entry.dtype, &[groups, rows])?;
        has_shape(&qzeros, files, Dtype::I32, &[groups, rows / IN_WORD])?;
        if let Some(g_idx) = &self.g_idx {
            has_shape(g_idx, files, Dtype::I32, &[cols])?;
        }
        let ordered = config.ordered && groups > 1 && self.g_idx.is_some();
        let (g_idx, zeros_less_one, format) = (self.g_idx, config.zeros_less_one, Format::Int4(group));
        Ok(Scales { rows, cols, columns, format, qzeros, scales, g_idx, zeros_less_one, ordered })
    }
}

/// The columns of each of `groups` groups.
fn columns_of_group(config: &Gptq, file: &DataFile, name: &str, cols: usize, groups: usize) -> Result<usize> {
    let wanted = config.group_size.unwrap_or(cols);
    if groups == 1 {
        return Ok(cols);
    }
    if cols.div_ceil(wanted) == groups {
        if cols.is_multiple_of(wanted) {
            return Ok(wanted);
        }
        let what = format!("tensor {name}: {cols} inputs in groups of {wanted}; supported: groups of equal size");
        return Err(file.unsupported(what));
    }
    // A layer that the config names may have groups of another size.
    if config.varied && groups > 0 && cols.is_multiple_of(groups) {
        return Ok(cols / groups);
    }
    Err(file.bad(format!(
        "tensor {name}: {groups} groups of scales for {cols} inputs, where quantization_config.group_size is {wanted}"
    )))
}

fn has_shape(piece: &Piece, files: &[DataFile], dtype: Dtype, shape: &[usize]) -> Result<()> {
    let Entry { name, dtype: found, shape: found_shape, .. } = &piece.entry;
    if *found == dtype && found_shape == shape {
        return Ok(());
    }
    let file = piece.file(files)?;
    Err(file
        .bad(format!("tensor {name} is {found} of shape {found_shape:?}, where {dtype} of shape {shape:?} must be")))
}

impl Scales {
    /// The weight's logical shape.
    pub fn shape(&self) -> Vec<usize> {
        vec![self.rows, self.cols]
    }

    /// The weight's format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of the side tensors.
    pub fn bytes(&self) -> u64 {
        self.qzeros.entry.bytes + self.scales.entry.bytes + self.g_idx.as_ref().map_or(0, |g| g.entry.bytes)
    }

    /// Whether the config says that columns are grouped in an order of their own.
    pub fn has_column_order(&self) -> bool {
        self.ordered
    }

    /// Reads the scales and zeros.
    ///
    /// # Errors
    /// As [`super::Checkpoint::group_scales`].
    pub fn read(&self, files: &[DataFile]) -> Result<GroupScales> {
        Ok(GroupScales {
            columns: self.columns,
            scales: self.read_scales(files)?,
            zeros: self.read_zeros(files)?,
            groups: self.g_idx.as_ref().map(|g_idx| self.read_groups(g_idx, files)).transpose()?.flatten(),
        })
    }

    fn read_scales(&self, files: &[DataFile]) -> Result<Vec<f16>> {
        let (bytes, entry) = (self.scales.read(files)?, &self.scales.entry);
        let mut scales = allocate::list(bytes.len() as u64 / 2, &entry.name)?;
        match entry.dtype {
            Dtype::F32 => {
                let values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
                scales.extend(values.map(|value| (value, f16::from_f32(value))));
            }
            Dtype::BF16 => {
                let values = bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32());
                scales.extend(values.map(|value| (value, f16::from_f32(value))));
            }
            _ => {
                let values = bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b));
                scales.extend(values.map(|value| (value.to_f32(), value)));
            }
        }
        let file = self.scales.file(files)?;
        if let Some(i) = scales.iter().position(|(value, _)| !value.is_finite()) {
            return Err(file.bad(format!("{}: value {i} is not finite", entry.name)));
        }
        if let Some(i) = scales.iter().position(|(value, half)| half.to_f32() != *value) {
            let value = scales[i].0;
            return Err(file.unsupported(format!("{}: value {i} is {value}; supported: values of F16", entry.name)));
        }
        Ok(scales.into_iter().map(|(_, half)| half).collect())
    }

    fn read_zeros(&self, files: &[DataFile]) -> Result<Vec<u8>> {
        let words = self.qzeros.read(files)?;
        let mut zeros = allocate::list(words.len() as u64 * 2, &self.qzeros.entry.name)?;
        let ones = if self.zeros_less_one { ONES } else { 0 };
        for word in words.as_chunks::<4>().0 {
            let pairs = u32::from_le_bytes(*word).wrapping_add(ones).to_le_bytes();
            zeros.extend(pairs.iter().flat_map(|pair| [pair & 15, pair >> 4]));
        }
        Ok(zeros)
    }

    /// The group of each column, `None` where they stand in order.
    fn read_groups(&self, g_idx: &Piece, files: &[DataFile]) -> Result<Option<Vec<u32>>> {
        let (bytes, name, file) = (g_idx.read(files)?, &g_idx.entry.name, g_idx.file(files)?);
        let count = self.cols / self.columns;
        let mut sizes = vec![0usize; count];
        let mut groups = allocate::list(self.cols as u64, name)?;
        for (column, value) in bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).enumerate() {
            match usize::try_from(value).ok().and_then(|group| sizes.get_mut(group)) {
                Some(size) => *size += 1,
                None => {
                    let what = format!("{name}: column {column} is in group {value}, where there are {count} groups");
                    return Err(file.bad(what));
                }
            }
            groups.push(value.cast_unsigned());
        }
        if let Some(group) = sizes.iter().position(|size| *size != self.columns) {
            return Err(file.unsupported(format!(
                "{name}: group {group} has {} columns; supported: groups of {} columns each",
                sizes[group], self.columns
            )));
        }
        let in_order = groups.iter().enumerate().all(|(column, group)| column / self.columns == *group as usize);
        if !in_order && !self.ordered {
            return Err(file.unsupported(format!(
                "{name}: columns are grouped in an order of their own, where the config does not set desc_act"
            )));
        }
        Ok((!in_order).then_some(groups))
    }
}
