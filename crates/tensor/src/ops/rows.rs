//! Moving rows and columns: gather, replace, concatenate, slice.

use crate::{Ids, Tape, Tensor, Var};
use kernels::math::from_bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Elements that one task moves at least.
const TASK: usize = 1 << 14;

/// Writes each row of a tensor, given its number, in parallel.
fn each_row(out: &mut Tensor, f: impl Fn(usize, &mut [f32]) + Sync) {
    let d = out.cols().max(1);
    let rows = out.data_mut().par_chunks_mut(d).with_min_len(TASK / d + 1);
    rows.enumerate().for_each(|(i, row)| f(i, row));
}

fn gather(x: &Tensor, ids: &[u32]) -> Tensor {
    let d = x.cols();
    let mut out = Tensor::dirty(&[ids.len(), d]);
    each_row(&mut out, |at, o| {
        let row = ids[at] as usize * d..(ids[at] as usize + 1) * d;
        match x.half() {
            None => o.copy_from_slice(&x.data()[row]),
            Some(half) => (o.iter_mut().zip(&half[row])).for_each(|(o, &x)| *o = from_bf16(x)),
        }
    });
    out
}

/// For each of `rows` rows its place among the ids, if any.
fn places(rows: usize, ids: &[u32]) -> Vec<Option<usize>> {
    let mut places = vec![None; rows];
    for (i, &at) in ids.iter().enumerate() {
        places[at as usize] = Some(i);
    }
    places
}

fn scatter_add(into: &mut Tensor, rows: &Tensor, ids: &[u32]) {
    let d = rows.cols();
    let into = into.data_mut();
    for (g, &i) in rows.data().chunks(d).zip(ids) {
        for (o, g) in into[i as usize * d..][..d].iter_mut().zip(g) {
            *o += g;
        }
    }
}

impl Tape {
    /// Rows `ids` of x [N, D]. Also the embedding: x is the table [V, W], ids the tokens.
    #[track_caller]
    pub fn gather_rows(&self, x: Var, ids: Ids) -> Var {
        let value = self.value(x);
        assert!(
            ids.iter().all(|&i| (i as usize) < value.rows()),
            "gather_rows: row outside {:?}",
            value.dims()
        );
        let out = gather(&value, &ids);
        self.push(out, &[x], move |dy, sink| {
            if sink.wants(x) {
                scatter_add(sink.buffer(x), dy, &ids);
            }
        })
    }

    /// Embedding rows of `tokens` from table [V, W].
    #[track_caller]
    pub fn embedding(&self, table: Var, tokens: Ids) -> Var {
        self.gather_rows(table, tokens)
    }

    /// `base` [N, D] with row `ids[i]` replaced by row i of `rows`; ids must differ from each other.
    #[track_caller]
    pub fn replace_rows(&self, base: Var, rows: Var, ids: Ids) -> Var {
        let (old, new) = (self.value(base), self.value(rows));
        assert!(
            new.cols() == old.cols() && new.rows() == ids.len(),
            "replace_rows: {:?} into {:?} at {} places",
            new.dims(),
            old.dims(),
            ids.len()
        );
        let d = old.cols();
        // For each row of the result the row of `rows` that it is, if any.
        let which = places(old.rows(), &ids);
        let mut out = Tensor::dirty(old.dims());
        each_row(&mut out, |at, row| {
            let (from, i) = which[at].map_or((&old, at), |i| (&new, i));
            row.copy_from_slice(&from.data()[i * d..][..d]);
        });
        self.push(out, &[base, rows], move |dy, sink| {
            if sink.wants(rows) {
                sink.add(rows, gather(dy, &ids));
            }
            if sink.wants(base) {
                let mut g = Tensor::dirty(dy.dims());
                each_row(&mut g, |at, row| match which[at] {
                    Some(_) => row.fill(0.0),
                    None => row.copy_from_slice(&dy.data()[at * d..][..d]),
                });
                sink.add(base, g);
            }
        })
    }

    /// All rows of the inputs, one after another.
    #[track_caller]
    pub fn concat_rows(&self, parts: &[Var]) -> Var {
        let values: Vec<Tensor> = parts.iter().map(|&p| self.value(p)).collect();
        let d = values[0].cols();
        assert!(
            values.iter().all(|v| v.cols() == d),
            "concat_rows: column counts differ"
        );
        let sizes: Vec<usize> = values.iter().map(Tensor::rows).collect();
        let mut out = Tensor::dirty(&[sizes.iter().sum(), d]);
        let mut at = 0;
        for v in &values {
            out.data_mut()[at..at + v.numel()].copy_from_slice(v.data());
            at += v.numel();
        }
        let parts: Vec<Var> = parts.to_vec();
        self.push(out, &parts.clone(), move |dy, sink| {
            let mut at = 0;
            for (&p, n) in parts.iter().zip(sizes) {
                if sink.wants(p) {
                    sink.add(p, dy.slice_rows(at..at + n));
                }
                at += n;
            }
        })
    }

    /// Columns of the inputs side by side: [N, D1], [N, D2], ... -> [N, D1 + D2 + ...]
    #[track_caller]
    pub fn concat_cols(&self, parts: &[Var]) -> Var {
        self.concat_cols_of(parts, None)
    }

    /// [`Tape::concat_cols`] of rows `ids`, which must differ from each other, of all inputs; of all rows without.
    #[track_caller]
    pub fn concat_cols_of(&self, parts: &[Var], ids: Option<Ids>) -> Var {
        let values: Vec<Tensor> = parts.iter().map(|&p| self.value(p)).collect();
        let all = values[0].rows();
        assert!(
            values.iter().all(|v| v.rows() == all),
            "concat_cols: row counts differ"
        );
        let n = ids.as_ref().map_or(all, |ids| ids.len());
        // For each row of the inputs the row of the result that it is, if any.
        let which = ids.as_ref().map(|ids| places(all, ids));
        let widths: Vec<usize> = values.iter().map(Tensor::cols).collect();
        let total: usize = widths.iter().sum();
        let mut out = Tensor::dirty(&[n, total]);
        each_row(&mut out, |i, row| {
            let i = ids.as_ref().map_or(i, |ids| ids[i] as usize);
            let mut at = 0;
            for (v, &d) in values.iter().zip(&widths) {
                row[at..at + d].copy_from_slice(&v.data()[i * d..][..d]);
                at += d;
            }
        });
        let parts: Vec<Var> = parts.to_vec();
        self.push(out, &parts.clone(), move |dy, sink| {
            let mut at = 0;
            for (&p, d) in parts.iter().zip(widths) {
                match &which {
                    _ if !sink.wants(p) => {}
                    None => sink.add(p, columns(dy, at..at + d)),
                    Some(which) => each_row(sink.buffer(p), |row, sum| {
                        if let Some(i) = which[row] {
                            let dy = &dy.data()[i * total + at..][..d];
                            sum.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
                        }
                    }),
                }
                at += d;
            }
        })
    }

    /// Columns `range` of x [N, D].
    #[track_caller]
    pub fn slice_cols(&self, x: Var, range: Range<usize>) -> Var {
        let value = self.value(x);
        let d = value.cols();
        assert!(
            range.end <= d,
            "slice_cols: {range:?} of {:?}",
            value.dims()
        );
        self.push(columns(&value, range.clone()), &[x], move |dy, sink| {
            if sink.wants(x) {
                let w = range.len();
                let buffer = sink.buffer(x);
                for (o, g) in buffer.data_mut().chunks_mut(d).zip(dy.data().chunks(w)) {
                    for (o, g) in o[range.clone()].iter_mut().zip(g) {
                        *o += g;
                    }
                }
            }
        })
    }

    /// Element `ids[i]` of each row of x [N, V] -> [N]
    #[track_caller]
    pub fn gather_cols(&self, x: Var, ids: Ids) -> Var {
        let value = self.value(x);
        let v = value.cols();
        assert_eq!(
            value.rows(),
            ids.len(),
            "gather_cols: {:?} with {} ids",
            value.dims(),
            ids.len()
        );
        let out = Tensor::from_vec(
            value
                .data()
                .chunks(v)
                .zip(ids.iter())
                .map(|(r, &i)| r[i as usize])
                .collect(),
            &[ids.len()],
        );
        self.push(out, &[x], move |dy, sink| {
            if sink.wants(x) {
                let buffer = sink.buffer(x).data_mut();
                for (i, (&id, g)) in ids.iter().zip(dy.data()).enumerate() {
                    buffer[i * v + id as usize] += g;
                }
            }
        })
    }
}

fn columns(x: &Tensor, range: Range<usize>) -> Tensor {
    let (n, d) = (x.rows(), x.cols());
    let mut out = Tensor::dirty(&[n, range.len()]);
    each_row(&mut out, |i, row| {
        row.copy_from_slice(&x.data()[i * d..][range.clone()]);
    });
    out
}
