//! The header of a safetensors file: <https://github.com/huggingface/safetensors#format>.
//!
//! The crate `safetensors` gives the number types; its own reader wants the whole file in memory, does not bound what it
//! allocates and does not say which tensor is wrong, so the list is read and checked here.

use safetensors::Dtype;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::allocate;
use super::folder::DataFile;
use super::list::MAX_TENSORS;
use crate::error::Result;

/// Bytes of the header at most: the format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// Axes of a tensor at most; vision tensors have five.
const MAX_AXES: usize = 8;

/// One tensor of the header, checked: it lies in the file, alone in its place, and its bytes fit its shape.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Offset in the file.
    pub offset: u64,
    pub bytes: u64,
}

/// Reads and checks the header, in the order of offsets.
///
/// # Errors
/// [`crate::Error::BadFile`] for anything the format forbids: a header longer than the file, data that overlap, leave
/// holes or end anywhere but at the end of the file, sizes that do not follow from the shape.
pub(super) fn read_header(file: &DataFile) -> Result<Vec<Entry>> {
    let mut prefix = [0; 8];
    if file.len() < 8 {
        return Err(file.bad(format!("{} bytes are too few for a safetensors file", file.len())));
    }
    file.read(0, &mut prefix)?;
    let header = u64::from_le_bytes(prefix);
    if header > MAX_HEADER || header > file.len() - 8 {
        return Err(file.bad(format!(
            "safetensors header of {header} bytes in a file of {}; at most {MAX_HEADER} are allowed: truncated or no \
             safetensors file",
            file.len()
        )));
    }
    let mut json = allocate::zeroed(header, "a safetensors header")?;
    file.read(8, &mut json)?;
    let List(mut raw) =
        serde_json::from_slice(&json).map_err(|e| file.bad(format!("safetensors header is not as it must be: {e}")))?;
    check(file, &mut raw, file.len() - 8 - header)?;
    let start = 8 + header;
    let entry = |(name, info): (String, RawInfo)| Entry {
        name,
        dtype: info.dtype,
        offset: start + info.data_offsets.0 as u64,
        bytes: (info.data_offsets.1 - info.data_offsets.0) as u64,
        shape: info.shape.0,
    };
    Ok(raw.into_iter().map(entry).collect())
}

fn check(file: &DataFile, raw: &mut [(String, RawInfo)], data: u64) -> Result<()> {
    raw.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some(pair) = raw.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(file.bad(format!("tensor {} is listed twice", pair[0].0)));
    }
    raw.sort_by_key(|(_, info)| info.data_offsets);
    let mut at = 0;
    for (name, info) in raw.iter() {
        let (start, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        if start != at || end < start {
            return Err(file.bad(format!(
                "tensor {name} lies at bytes {start}..{end} of the data, where byte {at} is the next free one: the \
                 tensors overlap or leave holes"
            )));
        }
        if end > data {
            return Err(file.bad(format!("tensor {name} ends at byte {end} of {data} bytes of data: truncated")));
        }
        let bits = info.shape.0.iter().try_fold(info.dtype.bitsize() as u64, |bits, &d| bits.checked_mul(d as u64));
        if bits != (end - start).checked_mul(8) {
            return Err(file.bad(format!(
                "tensor {name} of type {} and shape {:?} does not take the {} bytes that the header gives it",
                info.dtype,
                info.shape.0,
                end - start
            )));
        }
        at = end;
    }
    if at != data {
        return Err(file.bad(format!("the tensors take {at} bytes of {data} bytes of data")));
    }
    Ok(())
}

/// An entry as the header spells it.
#[derive(serde::Deserialize)]
struct RawInfo {
    dtype: Dtype,
    shape: Axes,
    data_offsets: (usize, usize),
}

/// A shape of [`MAX_AXES`] axes at most.
struct Axes(Vec<usize>);

impl<'de> serde::Deserialize<'de> for Axes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Axes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "a shape of at most {MAX_AXES} axes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Axes, A::Error> {
                let mut axes = Vec::with_capacity(4);
                while let Some(size) = sequence.next_element()? {
                    if axes.len() == MAX_AXES {
                        return Err(A::Error::invalid_length(MAX_AXES + 1, &self));
                    }
                    axes.push(size);
                }
                Ok(Axes(axes))
            }
        }
        deserializer.deserialize_seq(Sizes)
    }
}

/// The header as a list, so that a name that stands twice is seen.
struct List(Vec<(String, RawInfo)>);

impl<'de> serde::Deserialize<'de> for List {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = List;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<List, A::Error> {
                let mut list = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else if list.len() == MAX_TENSORS {
                        return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                    } else {
                        list.push((name, map.next_value()?));
                    }
                }
                Ok(List(list))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
