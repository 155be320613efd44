//! Where the parts of a head lie in the projections of a step.

use crate::model::{DeltaSpec, HeadOrder};

/// The projections of a step, as the file's matrices give them.
pub struct Projected<'a> {
    pub spec: &'a DeltaSpec,
    /// Queries, keys and values: the flat order of heads, or everything of a key head together.
    pub qkv: Rows<'a>,
    /// Output gates.
    pub z: Rows<'a>,
    /// `qkv` and `z` are one buffer, by key head `[q, k, v r times, z r times]`.
    pub interleaved: bool,
    /// Write strengths.
    pub b: Rows<'a>,
    /// Decay inputs.
    pub a: Rows<'a>,
    /// `b` and `a` are one buffer, by key head `[b r, a r]`.
    pub interleaved_gates: bool,
}

/// Rows of `width` values.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub data: &'a [f32],
    pub width: usize,
}

impl<'a> Rows<'a> {
    fn part(self, row: usize, at: usize, len: usize) -> &'a [f32] {
        &self.data[row * self.width + at..][..len]
    }
}

/// Number `index` of the value heads that key head `key_head` serves.
pub fn value_head(spec: &DeltaSpec, key_head: usize, index: usize) -> usize {
    match spec.head_order {
        HeadOrder::Grouped => key_head * ratio(spec) + index,
        HeadOrder::Tiled => key_head + index * spec.key_heads,
    }
}

/// Value heads that a key head serves.
pub fn ratio(spec: &DeltaSpec) -> usize {
    spec.value_heads / spec.key_heads
}

/// First channel and number of channels of each part of key head `key_head` in the flat order of the convolution: its query,
/// its key, its values.
pub fn channels(spec: &DeltaSpec, key_head: usize) -> impl Iterator<Item = (usize, usize)> {
    let (keys, key_dim, value_dim) = (spec.keys(), spec.key_dim, spec.value_dim);
    let values = (0..ratio(spec)).map(move |i| (2 * keys + value_head(spec, key_head, i) * value_dim, value_dim));
    [(key_head * key_dim, key_dim), (keys + key_head * key_dim, key_dim)].into_iter().chain(values)
}

impl<'a> Projected<'a> {
    /// Values of everything of a key head where that lies together.
    fn together(&self) -> usize {
        2 * self.spec.key_dim + 2 * ratio(self.spec) * self.spec.value_dim
    }

    /// Puts the inputs of the convolution of key head `key_head` in `row` into `out`, in the order of [`channels`].
    pub fn conv_inputs(&self, row: usize, key_head: usize, out: &mut [f32]) {
        if self.interleaved {
            out.copy_from_slice(self.qkv.part(row, key_head * self.together(), out.len()));
            return;
        }
        let mut rest = out;
        for (first, len) in channels(self.spec, key_head) {
            let (part, later) = rest.split_at_mut(len);
            part.copy_from_slice(self.qkv.part(row, first, len));
            rest = later;
        }
    }

    /// Output gates of value head `index` of key head `key_head` in `row`.
    pub fn z(&self, row: usize, key_head: usize, index: usize) -> &'a [f32] {
        let spec = self.spec;
        let at = match self.interleaved {
            true => {
                let values = key_head * self.together() + 2 * spec.key_dim + ratio(spec) * spec.value_dim;
                values + index * spec.value_dim
            }
            false => value_head(spec, key_head, index) * spec.value_dim,
        };
        self.z.part(row, at, spec.value_dim)
    }

    /// Write strength and decay input of value head `index` of key head `key_head` in `row`, before their activations.
    pub fn gates(&self, row: usize, key_head: usize, index: usize) -> (f32, f32) {
        let (b, a) = (&self.b.data[row * self.b.width..], &self.a.data[row * self.a.width..]);
        if self.interleaved_gates {
            let ratio = ratio(self.spec);
            let at = key_head * 2 * ratio + index;
            (b[at], a[at + ratio])
        } else {
            let head = value_head(self.spec, key_head, index);
            (b[head], a[head])
        }
    }
}
