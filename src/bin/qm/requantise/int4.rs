//! GPTQ's 4-bit integers, which AutoRound writes too (`auto_round:auto_gptq`): `QuantLinear.pack` in GPTQModel.

use half::f16;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::huggingface::Stored;

/// `quantization_config` of such a directory.
pub fn config(group: usize, symmetric: bool) -> Value {
    json!({
        "quant_method": "gptq",
        "bits": 4,
        "group_size": group,
        "sym": symmetric,
        "desc_act": false,
        "lm_head": false,
        "checkpoint_format": "gptq",
    })
}

/// The tensors that hold `values`, rows of `cols`; a row that is shorter than a group is one of its own. Nothing where rows
/// are no whole groups, or too few to be packed.
pub fn encode(name: &str, group: usize, symmetric: bool, cols: usize, values: &[f32]) -> Option<Vec<Stored>> {
    let (module, rows, group) = (name.strip_suffix(".weight")?, values.len() / cols.max(1), group.min(cols));
    if group == 0 || !cols.is_multiple_of(group) || !rows.is_multiple_of(8) || rows == 0 {
        return None;
    }
    let groups = cols / group;
    // Both are `[groups, rows]`: the input runs down, as in all of these tensors.
    let (mut scales, mut zeros) = (vec![f16::ZERO; groups * rows], vec![0u32; groups * rows]);
    let mut codes = vec![0u32; cols * rows];
    for (row, values) in values.chunks_exact(cols).enumerate() {
        for (g, values) in values.chunks_exact(group).enumerate() {
            let (scale, zero) = scale_and_zero(values, symmetric);
            scales[g * rows + row] = scale;
            zeros[g * rows + row] = zero;
            for (i, value) in values.iter().enumerate() {
                let scale = scale.to_f32();
                let code = if scale == 0.0 { 0.0 } else { (value / scale).round() } + zero as f32;
                codes[(g * group + i) * rows + row] = code.clamp(0.0, 15.0) as u32;
            }
        }
    }
    // Eight codes a word, down the input; eight zeros a word, along the output. A stored zero is one less.
    let word = |codes: &mut dyn Iterator<Item = u32>| codes.enumerate().fold(0, |word, (i, c)| word | c << (4 * i));
    let qweight = (0..cols / 8 * rows).map(|at| {
        let (eight, row) = (at / rows, at % rows);
        word(&mut (0..8).map(|i| codes[(8 * eight + i) * rows + row]))
    });
    let qzeros = zeros.chunks_exact(8).map(|eight| word(&mut eight.iter().map(|zero| (zero - 1) & 15)));
    let words = |words: &mut dyn Iterator<Item = u32>| words.flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
    let stored = |part: &str, dtype, shape, bytes| Stored { name: format!("{module}.{part}"), dtype, shape, bytes };
    Some(vec![
        stored("qweight", Dtype::I32, vec![cols / 8, rows], words(&mut { qweight })),
        stored("qzeros", Dtype::I32, vec![groups, rows / 8], words(&mut { qzeros })),
        stored("scales", Dtype::F16, vec![groups, rows], scales.iter().flat_map(|s| s.to_le_bytes()).collect()),
        stored("g_idx", Dtype::I32, vec![cols], words(&mut (0..cols).map(|i| (i / group) as u32))),
    ])
}

/// The scale and the zero point (1 to 16) under which the codes 0 to 15 reach from the least to the largest value.
fn scale_and_zero(values: &[f32], symmetric: bool) -> (f16, u32) {
    if symmetric {
        let largest = values.iter().fold(0f32, |most, x| most.max(x.abs()));
        return (f16::from_f32(largest / 7.5), 8);
    }
    let least = values.iter().fold(0f32, |least, x| least.min(*x));
    let most = values.iter().fold(0f32, |most, x| most.max(*x));
    let scale = f16::from_f32((most - least) / 15.0);
    let zero = if scale == f16::ZERO { 8.0 } else { (-least / scale.to_f32()).round().clamp(1.0, 15.0) };
    (scale, zero as u32)
}
