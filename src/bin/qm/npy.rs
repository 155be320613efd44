//! The .npy format, version 1.0: numpy.lib.format.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writes `values`, row-major `[values.len() / columns, columns]`, as little-endian float32.
pub fn write(path: &Path, values: &[f32], columns: usize) -> io::Result<()> {
    let rows = values.len() / columns.max(1);
    let fields = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // Magic, version, header length and header fill a multiple of 64 bytes; the header ends in a newline.
    let padded = (10 + fields.len() + 1).next_multiple_of(64) - 10;
    let header = format!("{fields:<width$}\n", width = padded - 1);
    let length = u16::try_from(header.len()).map_err(io::Error::other)?;
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for value in values {
        out.write_all(&value.to_le_bytes())?;
    }
    out.flush()
}
