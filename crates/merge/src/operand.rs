//! One tensor of one model, wherever it lies, read block by block.
//!
//! A method never holds whole tensors: it walks over blocks of all models at once, as often as its formula
//! needs (once for a mean, once more before for a norm). So a merge of files reads memory maps in order, and
//! what it holds is a few blocks.

use crate::rounding::{Dtype, decode, round_slice};
use std::sync::Arc;

/// Elements of a block: those of a few models and their sums stay in the first two levels of cache.
pub(crate) const BLOCK: usize = 1024;

/// Where the elements of a tensor lie.
#[derive(Clone, Copy, Debug)]
enum Values<'a> {
    Memory(&'a [f32]),
    Stored(&'a [u8], Dtype),
}

/// Which row of a tensor becomes which row of a result with another vocabulary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Elements of a row.
    pub width: usize,
    /// For each row of the result: a row of the tensor, or of `made`.
    pub from: Vec<Row>,
    /// Rows that the tensor does not have, one after the other.
    pub made: Arc<Vec<f32>>,
}

/// Where one row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// That row of the tensor.
    Own(u32),
    /// That row of [`Rows::made`].
    Made(u32),
}

/// A tensor of n elements as a method reads it: fp32 values that are numbers of the type the merge is done in.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    values: Values<'a>,
    rows: Option<&'a Rows>,
    /// What the values are rounded to.
    to: Dtype,
}

impl<'a> From<&'a [f32]> for Operand<'a> {
    fn from(values: &'a [f32]) -> Self {
        Operand {
            values: Values::Memory(values),
            rows: None,
            to: Dtype::F32,
        }
    }
}

impl<'a> Operand<'a> {
    /// Little-endian numbers of type `dtype`, rounded to `to` as they are read. Panics when bytes are left over.
    #[track_caller]
    pub fn stored(bytes: &'a [u8], dtype: Dtype, to: Dtype) -> Self {
        assert_eq!(bytes.len() % dtype.size(), 0, "stored: bytes of {dtype:?}");
        Operand {
            values: Values::Stored(bytes, dtype),
            rows: None,
            to,
        }
    }

    /// The same tensor with its rows in another order.
    pub fn with_rows(self, rows: &'a Rows) -> Self {
        Operand {
            rows: Some(rows),
            ..self
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match (self.rows, self.values) {
            (Some(rows), _) => rows.width * rows.from.len(),
            (None, Values::Memory(values)) => values.len(),
            (None, Values::Stored(bytes, dtype)) => bytes.len() / dtype.size(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the elements from `start` on. Panics beyond the end.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        match self.rows {
            None => self.copy(start, out),
            Some(rows) => self.gather(rows, start, out),
        }
        if !matches!(self.values, Values::Stored(_, dtype) if dtype == self.to) {
            round_slice(self.to, out);
        }
    }

    fn copy(&self, start: usize, out: &mut [f32]) {
        match self.values {
            Values::Memory(values) => out.copy_from_slice(&values[start..start + out.len()]),
            Values::Stored(bytes, dtype) => {
                let size = dtype.size();
                decode(dtype, &bytes[start * size..(start + out.len()) * size], out);
            }
        }
    }

    fn gather(&self, rows: &Rows, start: usize, out: &mut [f32]) {
        let mut at = start;
        let mut rest = out;
        while !rest.is_empty() {
            let (row, column) = (at / rows.width, at % rows.width);
            let (part, behind) = rest.split_at_mut(rest.len().min(rows.width - column));
            match rows.from[row] {
                Row::Own(own) => self.copy(own as usize * rows.width + column, part),
                Row::Made(made) => {
                    let first = made as usize * rows.width + column;
                    part.copy_from_slice(&rows.made[first..first + part.len()]);
                }
            }
            at += part.len();
            rest = behind;
        }
    }
}

/// Calls `f(start, values)` with blocks of at most `size` elements of all operands, in order. Panics unless all have the
/// length of the first: mixing shapes is the caller's mistake.
#[track_caller]
pub(crate) fn each_block(
    operands: &[Operand<'_>],
    size: usize,
    mut f: impl FnMut(usize, &mut [Vec<f32>]),
) {
    let n = same_length("merge", operands);
    let mut buffers = vec![vec![0.0; size.min(n)]; operands.len()];
    let mut start = 0;
    while start < n {
        let length = size.min(n - start);
        for (buffer, operand) in buffers.iter_mut().zip(operands) {
            buffer.truncate(length);
            operand.read(start, buffer);
        }
        f(start, &mut buffers);
        start += length;
    }
}

/// The common length of the operands.
#[track_caller]
pub(crate) fn same_length(what: &str, operands: &[Operand<'_>]) -> usize {
    let lengths: Vec<usize> = operands.iter().map(Operand::len).collect();
    let n = lengths.first().copied().unwrap_or(0);
    assert!(
        lengths.iter().all(|&l| l == n),
        "{what}: tensors of different lengths {lengths:?}"
    );
    n
}
