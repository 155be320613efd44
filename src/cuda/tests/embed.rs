//! Embeddings and rotary angles, and the norm of rows.

use super::super::args::{EmbedArgs, NormArgs, QuantisedRow, Row};
use super::super::memory::DevicePtr;
use super::{Bench, assert_close, assert_quantised, decoded, in_other_order, rms_norm, values, weight};
use crate::model::Batch;
use crate::quant::Format;

#[test]
fn embeddings_of_every_format_are_the_reference_decoders_rows() {
    let Some(mut bench) = Bench::open() else { return };
    let kernel = bench.kernel("embed");
    let shapes = [(40, 512), (33, 2304), (5, 256), (20, 96)];
    let mut weights: Vec<_> = Format::ALL
        .into_iter()
        .flat_map(|f| shapes.into_iter().map(move |shape| (f, shape)))
        .filter(|(format, (_, cols))| cols % format.block_elements() == 0)
        .map(|(format, (rows, cols))| weight(format, rows, cols, cols as u32))
        .collect();
    weights.push(in_other_order(24, 320, 9));
    for weight in weights {
        let rows: Vec<Row> = [(3u32, 0u32), (weight.rows() as u32 - 1, 70_000), (0, 5)]
            .map(|(token, position)| Row { token, position, sequence: 0, slot: 0 })
            .into();
        // The last row goes on with what was chosen for its slot.
        let chosen = [7, rows[2].token];
        let told: Vec<Row> = [rows[0], rows[1], Row { token: Batch::CHOSEN, slot: 1, ..rows[2] }].into();
        let frequencies = [1.0f32, 0.1, 0.003];
        let (cols, count) = (weight.cols(), rows.len());
        let (x, angles) = (bench.room::<f32>(count * cols), bench.room::<f32>(count * 6));
        let args = EmbedArgs {
            embedding: bench.matrix(&weight),
            rows: bench.put(&told),
            x: x.slice.start(),
            frequencies: bench.put(&frequencies),
            angles: angles.slice.start(),
            chosen: bench.put(&chosen),
            angle_scale: 1.25,
            pairs: 3,
            count: count as u32,
            unused: 0,
        };
        bench.run(&kernel, [count, 1, 1], 1024, 0, args);
        let decoded = decoded(&weight);
        let expected: Vec<f64> =
            rows.iter().flat_map(|row| decoded[row.token as usize].iter().map(|v| f64::from(*v))).collect();
        assert_close(&bench.gpu.download(x.slice), &expected, 1e-6, "embeddings");
        let angle = |row: &Row| frequencies.map(|f| row.position as f32 * f);
        let expected: Vec<f64> = rows
            .iter()
            .flat_map(|row| [angle(row).map(f32::cos), angle(row).map(f32::sin)].concat())
            .map(|v| 1.25 * f64::from(v))
            .collect();
        assert_close(&bench.gpu.download(angles.slice), &expected, 1e-6, "angles");
        bench.kept.clear();
    }
}

#[test]
fn rms_norm_matches_float64_at_odd_sizes() {
    let Some(mut bench) = Bench::open() else { return };
    let kernel = bench.kernel("rms_norm");
    for width in [1usize, 31, 100, 2048, 4128, 5003] {
        let x: Vec<Vec<f32>> = (0..4).map(|i| values(i, width)).collect();
        let weight = values(9, width);
        for picks in [None, Some([3u32, 1, 1, 0])] {
            let out = bench.room::<f32>(4 * width);
            let (codes, factors) = (bench.room::<u8>(4 * width), bench.room::<f32>(4 * width / 16));
            let row = QuantisedRow { codes: codes.slice.cast().start(), factors: factors.slice.start() };
            let args = NormArgs {
                x: bench.put(&x.concat()),
                weight: bench.put(&weight),
                out: out.slice.start(),
                pick: picks.map_or(DevicePtr::NULL, |picks| bench.put(&picks)),
                row: QuantisedRow::NONE,
                eps: 1e-6,
                width: width as u32,
                count: 4,
                early: 0,
            };
            bench.run(&kernel, [4, 1, 1], 256, 0, args);
            let order = picks.unwrap_or([0, 1, 2, 3]);
            let expected: Vec<f64> =
                order.iter().flat_map(|i| rms_norm(&x[*i as usize], &weight, 1e-6)).map(f64::from).collect();
            let floats = bench.gpu.download(out.slice);
            assert_close(&floats, &expected, 1e-5, "rms_norm");
            if !width.is_multiple_of(32) {
                continue;
            }
            for kept in [out.slice.start(), DevicePtr::NULL] {
                bench.gpu.stream.fill(codes.slice, 0xff).unwrap();
                bench.gpu.stream.fill(out.slice, 0xff).unwrap();
                bench.run(&kernel, [4, 1, 1], 256, 0, NormArgs { out: kept, row, ..args });
                let (codes, factors) = (bench.gpu.download(codes.slice), bench.gpu.download(factors.slice));
                assert_quantised(&codes, &factors, &floats, "rms_norm");
                if !kept.is_null() {
                    assert_eq!(bench.gpu.download(out.slice), floats);
                }
            }
        }
    }
}
