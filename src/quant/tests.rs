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

fn pseudo_random(seed: u32) -> impl FnMut() -> u32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        state >> 16
    }
}

/// A random bitsandbytes matrix whose absmaxes span 2^-20 to 1.
fn random_four_bit(rows: usize, cols: usize, block_size: usize) -> Matrix {
    let mut random = pseudo_random(3);
    let codes: Vec<u8> = (0..rows * cols / 2).map(|_| random() as u8).collect();
    let absmax = (0..(rows * cols).div_ceil(block_size))
        .flat_map(|_| (2f32.powi(-((random() % 20) as i32)) * (1.0 + random() as f32 / 65536.0)).to_le_bytes());
    let absmax = AbsMax::Plain(buffer(&absmax.collect::<Vec<u8>>()));
    let table = std::array::from_fn(|i| (i as f32 - 7.3) / 8.0);
    Matrix::four_bit(rows, cols, buffer(&codes), FourBit { table, block_size, absmax }).unwrap()
}

#[test]
fn packed_four_bit_rounds_only_the_absmax_and_to_half_precision() {
    for (rows, cols, block_size) in [(16, 256, 64), (33, 320, 64), (5, 64, 4096), (20, 192, 128)] {
        let matrix = random_four_bit(rows, cols, block_size);
        let packed = Packed::pack(&matrix).unwrap().unwrap();
        let (mut stored, mut found) = (vec![f32::NAN; cols], vec![f32::NAN; cols]);
        for row in 0..rows {
            matrix.decode_row(row, &mut stored);
            packed.decode_row(row, &mut found);
            for (stored, found) in stored.iter().zip(&found) {
                assert!((stored - found).abs() <= stored.abs() * (2f32.powi(-11) + 1e-7), "{found} for {stored}");
            }
        }
    }
}

#[test]
fn packed_four_bit_with_absmaxes_of_half_precision_decodes_bit_for_bit() {
    let mut random = pseudo_random(5);
    let absmax: Vec<u8> =
        (0..32).flat_map(|_| half::f16::from_bits(0x1400 + random() as u16 % 0x2000).to_f32().to_le_bytes()).collect();
    let codes: Vec<u8> = (0..1024).map(|_| random() as u8).collect();
    let table = std::array::from_fn(|i| (i as f32 - 7.3) / 8.0);
    let scales = FourBit { table, block_size: 64, absmax: AbsMax::Plain(buffer(&absmax)) };
    let matrix = Matrix::four_bit(16, 128, buffer(&codes), scales).unwrap();
    let packed = Packed::pack(&matrix).unwrap().unwrap();
    let (mut stored, mut found) = ([f32::NAN; 128], [f32::NAN; 128]);
    for row in 0..16 {
        matrix.decode_row(row, &mut stored);
        packed.decode_row(row, &mut found);
        assert_eq!(stored.map(f32::to_bits), found.map(f32::to_bits), "row {row}");
    }
}

#[test]
fn four_bit_blocks_or_rows_that_break_segments_stay_as_stored() {
    assert!(Packed::pack(&random_four_bit(16, 128, 32)).unwrap().is_none(), "blocks of 32");
    assert!(Packed::pack(&random_four_bit(16, 96, 64)).unwrap().is_none(), "rows of one segment and a half");
}

#[test]
fn group_int4_is_scale_times_code_less_zero_the_even_column_first() {
    let mut block = vec![0u8; Format::Int4(Group::Of32).block_bytes()];
    block[..2].copy_from_slice(&half::f16::from_f32(0.5).to_le_bytes());
    block[2] = 16;
    block[3] = 0xf1;
    let mut out = [f32::NAN; 32];
    decode(Format::Int4(Group::Of32), &block, &mut out);
    assert_eq!(out[..3], [-7.5, -0.5, -8.0]);
}

#[test]
fn a_column_order_survives_packing_and_decodes_in_the_weights_own_order() {
    let format = Format::Int4(Group::Of32);
    let (rows, cols) = (24, 64);
    let mut random = pseudo_random(9);
    let mut bytes: Vec<u8> = (0..format.bytes_for(rows * cols).unwrap()).map(|_| random() as u8).collect();
    bytes.chunks_exact_mut(format.block_bytes()).for_each(|block| block[1] &= 0x3f);
    let plain = Matrix::new(format, rows as usize, cols as usize, buffer(&bytes)).unwrap();
    let order: std::sync::Arc<[u32]> = (0..cols as u32).map(|i| (i * 29 + 3) % cols as u32).collect();
    let sorted = plain.clone().with_column_order(order.clone()).unwrap();
    let packed = Packed::pack(&sorted).unwrap().unwrap();
    assert_eq!(packed.column_order(), Some(&*order));
    assert_eq!(packed.bytes(), packed.data().len() + 4 * cols as usize);
    let again =
        Packed::from_parts(format, packed.rows(), packed.cols(), packed.tables().clone(), buffer(packed.data()));
    let again = again.unwrap();
    let (mut stored, mut expected, mut found) = ([f32::NAN; 64], [f32::NAN; 64], [f32::NAN; 64]);
    for row in 0..rows as usize {
        plain.decode_row(row, &mut stored);
        order.iter().zip(stored).for_each(|(column, value)| expected[*column as usize] = value);
        for decoder in [&packed, &again] {
            decoder.decode_row(row, &mut found);
            assert_eq!(found, expected);
        }
        sorted.decode_row(row, &mut found);
        assert_eq!(found, expected);
    }
    for order in [vec![0; 64], (0..63).collect(), (1..65).collect()] {
        assert!(plain.clone().with_column_order(order.into()).is_err());
    }
    assert!(Packed::from_parts(format, 24, 64, SideTables::default(), buffer(&packed.data()[1..])).is_err());
    assert!(Packed::from_parts(Format::Bnb4, 16, 64, SideTables::default(), buffer(&[0; 544])).is_err());
}

#[test]
fn tiles_of_packed_four_bit_are_its_decoded_rows() {
    use packed::{ROWS, TILE, Tile, block_bytes, blocks, decode_tile, slot_of_row};
    let packed = Packed::pack(&random_four_bit(16, 320, 128)).unwrap().unwrap();
    let mut row_values = vec![f32::NAN; 320];
    let mut rest = packed.strip(0);
    for (first, tiles) in blocks(320) {
        let (block, later) = rest.split_at(block_bytes(Format::Bnb4, tiles).unwrap());
        rest = later;
        for tile in 0..tiles {
            let mut values: Tile = [[f32::NAN; ROWS]; TILE];
            decode_tile(Format::Bnb4, packed.codebook(), block, tiles, tile, &mut values);
            for row in 0..ROWS {
                packed.decode_row(row, &mut row_values);
                let found = values.map(|column| column[slot_of_row(row)].to_bits());
                assert_eq!(
                    found[..],
                    row_values[first + TILE * tile..][..TILE].iter().map(|v| v.to_bits()).collect::<Vec<_>>()
                );
            }
        }
    }
}
