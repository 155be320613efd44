//! Weights in host memory.

use std::ops::Range;
use std::sync::Arc;

use super::plan::{MatrixPlan, Place, Tables};
use super::{Host, Store};
use crate::checkpoint::Role;
use crate::error::Result;
use crate::quant::{AbsMax, Bytes, Floats, Format, FourBit, Matrix, Packed, SideTables, Weight};

impl Store for Host {
    type Matrix = Weight;
    type Floats = Floats;
    type Block = Bytes;

    fn floats(&self, place: &Place) -> Result<Floats> {
        Floats::new(self.0.slice(place.range.clone())?)
    }

    fn block(&self, range: Range<usize>) -> Result<Bytes> {
        self.0.slice(range)
    }

    fn matrix(&self, _role: Role, place: &Place, plan: &MatrixPlan) -> Result<Weight> {
        let MatrixPlan { format, rows, cols, packed, tables } = *plan;
        let all = self.0.slice(place.range.clone())?;
        let table_bytes = plan.table_bytes().unwrap_or(usize::MAX).min(all.len());
        let body = all.slice(table_bytes..all.len())?;
        let values = Floats::new(all.slice(0..table_bytes)?)?;
        let table = || values.first_chunk::<16>().copied().unwrap_or_default();
        if packed {
            let codebook = (tables == Tables::Codebook).then(|| Arc::new(table()));
            // A file may say that its columns have an order of their own where they stand in the usual one.
            let column_order = (tables == Tables::ColumnOrder)
                .then(|| values.iter().take(cols).map(|value| value.to_bits()).collect::<Arc<[u32]>>())
                .filter(|order| !order.iter().copied().eq(0..cols as u32));
            let tables = SideTables { codebook, column_order };
            return Ok(Weight::Packed(Packed::from_parts(format, rows, cols, tables, body)?));
        }
        Ok(Weight::Stored(match tables {
            Tables::Scales { block_size, blocks } if format == Format::Bnb4 => {
                let absmax = AbsMax::Plain(all.slice(64..64 + 4 * blocks)?);
                Matrix::four_bit(rows, cols, body, FourBit { table: table(), block_size, absmax })?
            }
            _ => Matrix::new(format, rows, cols, body)?,
        }))
    }
}
