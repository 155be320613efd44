//! bitsandbytes' 4-bit formats: `quantize_4bit`, `create_dynamic_map` and `QuantState.as_dict` in its functional.py.

use serde_json::json;

/// Values that share a scale.
const BLOCK: usize = 64;
/// Scales that share a scale, where they are quantised once more.
const NESTED_BLOCK: usize = 256;

const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Twelfths.
const FP4: [f32; 16] = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0, -0.0, -0.0625, -8.0, -12.0, -4.0, -6.0, -2.0, -3.0];

/// A tensor that lies beside the codes, or the codes themselves.
pub struct Part {
    /// Behind the weight's name.
    pub suffix: String,
    pub is_float: bool,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// The tensors that hold `values` of shape `shape`.
pub fn encode(fp4: bool, nested: bool, shape: &[usize], values: &[f32]) -> Vec<Part> {
    let table = if fp4 { FP4.map(|twelfths| twelfths / 12.0) } else { NF4 };
    let absmax: Vec<f32> = values.chunks(BLOCK).map(|block| block.iter().fold(0f32, |m, x| m.max(x.abs()))).collect();
    let mut state = json!({
        "quant_type": if fp4 { "fp4" } else { "nf4" },
        "blocksize": BLOCK,
        "dtype": "bfloat16",
        "shape": shape,
    });
    let mut parts = Vec::new();
    if nested {
        let offset = (absmax.iter().map(|x| f64::from(*x)).sum::<f64>() / absmax.len().max(1) as f64) as f32;
        let centred: Vec<f32> = absmax.iter().map(|x| x - offset).collect();
        let scales: Vec<f32> =
            centred.chunks(NESTED_BLOCK).map(|block| block.iter().fold(0f32, |m, x| m.max(x.abs()))).collect();
        let map = dynamic_map();
        let codes = centred.iter().enumerate().map(|(i, x)| nearest(&map, *x, scales[i / NESTED_BLOCK])).collect();
        parts.push(bytes(".absmax", vec![absmax.len()], codes));
        parts.push(floats(".nested_absmax", &scales));
        parts.push(floats(".nested_quant_map", &map));
        state["nested_blocksize"] = NESTED_BLOCK.into();
        state["nested_dtype"] = "float32".into();
        state["nested_offset"] = offset.into();
    } else {
        parts.push(floats(".absmax", &absmax));
    }
    parts.push(floats(".quant_map", &table));
    let state_name = format!(".quant_state.bitsandbytes__{}", if fp4 { "fp4" } else { "nf4" });
    let state = state.to_string().into_bytes();
    parts.push(bytes(&state_name, vec![state.len()], state));
    let codes: Vec<u8> = values.iter().enumerate().map(|(i, x)| nearest(&table, *x, absmax[i / BLOCK])).collect();
    // The high nibble comes first.
    let pairs: Vec<u8> = codes.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)).collect();
    parts.push(bytes("", vec![pairs.len(), 1], pairs));
    parts
}

fn floats(suffix: &str, values: &[f32]) -> Part {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    Part { suffix: suffix.to_owned(), is_float: true, shape: vec![values.len()], bytes }
}

fn bytes(suffix: &str, shape: Vec<usize>, bytes: Vec<u8>) -> Part {
    Part { suffix: suffix.to_owned(), is_float: false, shape, bytes }
}

/// The code of the entry of `table` that comes nearest to `value / scale`.
fn nearest(table: &[f32], value: f32, scale: f32) -> u8 {
    let wanted = if scale == 0.0 { 0.0 } else { value / scale };
    let distance = |code: &usize| (table[*code] - wanted).abs();
    (0..table.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0) as u8
}

/// `create_dynamic_map()`: the middles of 2^i even steps from a tenth to one, for each of seven powers of ten.
fn dynamic_map() -> Vec<f32> {
    let mut map = vec![0.0, 1.0];
    for i in 0..7 {
        let (steps, power) = (1 << i, 10f64.powi(i - 6));
        for step in 0..steps {
            let middle = 0.1 + 0.9 * (f64::from(step) + 0.5) / f64::from(steps);
            map.extend([(power * middle) as f32, (-power * middle) as f32]);
        }
    }
    map.sort_by(f32::total_cmp);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_of_scales_has_256_entries_between_minus_one_and_one() {
        let map = dynamic_map();
        assert_eq!(map.len(), 256);
        // bitsandbytes.functional.create_dynamic_map()[[0, 1, 127, 128, 254, 255]]
        let expected = [-0.992_968_75, -0.978_906_2, 0.0, 5.5e-7, 0.992_968_75, 1.0];
        for (at, expected) in [0, 1, 127, 128, 254, 255].into_iter().zip(expected) {
            assert!((map[at] - expected).abs() < 1e-7, "{at}: {}", map[at]);
        }
    }
}
