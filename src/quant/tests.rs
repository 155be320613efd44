//! The reference decoders against gguf-py's, on random blocks, and bitsandbytes' layout on blocks made by hand.

use super::*;

/// `tests/goldens/blocks.json`: written by `tests/goldens/blocks.py` with gguf-py's `dequantize`.
const BLOCKS: &str = include_str!("../../tests/goldens/blocks.json");

fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => u32::from(c - b'A'),
        b'a'..=b'z' => u32::from(c - b'a') + 26,
        b'0'..=b'9' => u32::from(c - b'0') + 52,
        b'+' => 62,
        _ => 63,
    };
    let symbols: Vec<u8> = text.bytes().filter(|c| *c != b'=').collect();
    let bits = symbols.chunks(4).flat_map(|four| {
        let word = four.iter().fold(0, |word, c| (word << 6) | digit(*c)) << (6 * (4 - four.len()));
        word.to_be_bytes()[1..four.len()].to_vec()
    });
    bits.collect()
}

#[test]
fn every_block_format_decodes_to_gguf_pys_values_bit_for_bit() {
    let cases: serde_json::Value = serde_json::from_str(BLOCKS).unwrap();
    for case in cases.as_array().unwrap() {
        let name = case["format"].as_str().unwrap();
        let format = Format::ALL.into_iter().find(|f| f.name() == name).unwrap();
        let blocks = base64(case["blocks"].as_str().unwrap());
        let expected: Vec<f32> = base64(case["values"].as_str().unwrap())
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        let mut found = vec![f32::NAN; expected.len()];
        decode(format, &blocks, &mut found);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&expected), "{name}");
    }
}

fn buffer(bytes: &[u8]) -> Bytes {
    let mut buffer = AlignedBuffer::zeroed(bytes.len(), "test").unwrap();
    buffer.copy_from_slice(bytes);
    buffer.into()
}

#[test]
fn four_bit_codes_are_high_nibble_first_in_blocks_of_the_flat_tensor() {
    let table = std::array::from_fn(|i| i as f32);
    let absmax = AbsMax::Plain(buffer(&[2f32.to_le_bytes(), 10f32.to_le_bytes()].concat()));
    let scales = FourBit { table, block_size: 4, absmax };
    let matrix = Matrix::four_bit(2, 3, buffer(&[0x12, 0x34, 0x56]), scales).unwrap();
    let mut row = [f32::NAN; 3];
    matrix.decode_row(0, &mut row);
    assert_eq!(row, [2.0, 4.0, 6.0]);
    matrix.decode_row(1, &mut row);
    assert_eq!(row, [8.0, 50.0, 60.0], "the second block begins inside the second row");
}

#[test]
fn nested_absmax_is_map_times_nested_absmax_plus_offset() {
    let mut map = Box::new([0f32; 256]);
    map[3] = 0.5;
    map[200] = -0.25;
    let nested = NestedAbsMax { codes: buffer(&[3, 200]), map, absmax: vec![4.0, 8.0], block_size: 1, offset: 1.0 };
    let table = std::array::from_fn(|i| i as f32);
    let scales = FourBit { table, block_size: 2, absmax: AbsMax::Nested(nested) };
    let matrix = Matrix::four_bit(1, 4, buffer(&[0x11, 0x11]), scales).unwrap();
    let mut row = [f32::NAN; 4];
    matrix.decode_row(0, &mut row);
    assert_eq!(row, [3.0, 3.0, -1.0, -1.0]);
}

#[test]
fn a_view_shares_rows_and_refuses_what_it_cannot_share() {
    let bytes: Vec<u8> = (0..6u32).flat_map(|v| (v as f32).to_le_bytes()).collect();
    let matrix = Matrix::new(Format::F32, 3, 2, buffer(&bytes)).unwrap();
    let mut row = [f32::NAN; 2];
    matrix.view(1..3).unwrap().decode_row(1, &mut row);
    assert_eq!(row, [4.0, 5.0]);
    assert!(matrix.view(2..4).is_err());
    let scales = FourBit { table: [0.0; 16], block_size: 64, absmax: AbsMax::Plain(buffer(&1f32.to_le_bytes())) };
    assert!(Matrix::four_bit(2, 2, buffer(&[0, 0]), scales).unwrap().view(0..1).is_err());
}

#[test]
fn a_matrix_whose_bytes_do_not_fit_its_shape_is_refused() {
    assert!(Matrix::new(Format::Q4K, 1, 128, buffer(&[0; 72])).is_err(), "half a block");
    assert!(Matrix::new(Format::F16, 2, 3, buffer(&[0; 11])).is_err());
    assert_eq!(Format::Q8_0.bytes_for(u64::MAX - 31), None);
}
