//! The neural long-term memory: chunked update and read, with the whole gradient.
//!
//! See `kernels::cpu::memory` for the recurrences. The backward pass recomputes the states of the chunks,
//! so the tape keeps the inputs only.

use crate::{Segments, Tape, Tensor, Var};
pub use kernel::{MemoryShape, MemoryState, State as ChunkState};
use kernels::cpu::{memory as kernel, memory_read};
use rayon::prelude::*;

/// Operands of [`Tape::memory`].
#[derive(Clone, Copy, Debug)]
pub struct Memorised {
    /// Queries, keys and values [N, H hd]; queries and keys of unit length per head.
    pub q: Var,
    /// See `q`.
    pub k: Var,
    /// See `q`.
    pub v: Var,
    /// Momentum, write strength and forgetting of each row and head [N, H].
    pub eta: Var,
    /// See `eta`.
    pub theta: Var,
    /// See `eta`.
    pub alpha: Var,
    /// Learned initial keys of the slots [H, S, hd].
    pub keys: Var,
    /// Learned initial values of the slots [H, S, hd].
    pub values: Var,
}

impl Memorised {
    /// All of them.
    pub fn inputs(&self) -> [Var; 8] {
        [
            self.q,
            self.k,
            self.v,
            self.eta,
            self.theta,
            self.alpha,
            self.keys,
            self.values,
        ]
    }
}

fn rows(x: &[Tensor]) -> kernel::Rows<'_> {
    kernel::Rows {
        q: x[0].data(),
        k: x[1].data(),
        v: x[2].data(),
        eta: x[3].data(),
        theta: x[4].data(),
        alpha: x[5].data(),
    }
}

/// The memory of a new sequence, from the learned initial slots.
pub fn memory_state(shape: MemoryShape, keys: &Tensor, values: &Tensor) -> MemoryState {
    MemoryState::new(shape, keys.data(), values.data())
}

/// The slots of a streaming memory, as thoughts read them.
pub fn chunk_state(state: &MemoryState) -> ChunkState {
    ChunkState {
        keys: state.keys.clone(),
        values: state.values.clone(),
    }
}

impl Tape {
    #[track_caller]
    fn memorised(&self, m: &Memorised, shape: &MemoryShape) -> Vec<Tensor> {
        let x: Vec<Tensor> = m.inputs().iter().map(|&v| self.value(v)).collect();
        let (n, d) = (x[0].rows(), shape.heads * shape.width);
        assert!(
            x[..3].iter().all(|t| t.dims() == [n, d]),
            "memory: q {:?}, k {:?}, v {:?}, width {d}",
            x[0].dims(),
            x[1].dims(),
            x[2].dims()
        );
        assert!(
            x[3..6].iter().all(|t| t.dims() == [n, shape.heads]),
            "memory: rates {:?} for {n} rows, {} heads",
            x[3].dims(),
            shape.heads
        );
        assert!(
            x[6..]
                .iter()
                .all(|t| t.numel() == shape.heads * shape.slots * shape.width),
            "memory: slots {:?}",
            x[6].dims()
        );
        x
    }

    /// What each row reads from the memory as it stands at the start of its chunk -> [N, H hd].
    #[track_caller]
    pub fn memory(&self, m: Memorised, shape: MemoryShape, segments: Segments) -> Var {
        let x = self.memorised(&m, &shape);
        let mut out = Tensor::dirty(x[0].dims());
        kernel::forward(
            shape,
            x[6].data(),
            x[7].data(),
            &rows(&x),
            &segments,
            out.data_mut(),
        );
        self.count_flops(18 * x[0].rows() * shape.heads * shape.width * shape.slots);
        self.push(out, &m.inputs(), move |dy, sink| {
            let mut g: Vec<Tensor> = x[..6].iter().map(|t| Tensor::zeros(t.dims())).collect();
            let (mut dkeys, mut dvalues) = (Tensor::zeros(x[6].dims()), Tensor::zeros(x[7].dims()));
            if let [dq, dk, dv, deta, dtheta, dalpha] = &mut g[..] {
                kernel::backward(
                    shape,
                    x[6].data(),
                    x[7].data(),
                    &rows(&x),
                    &segments,
                    dy.data(),
                    kernel::Gradients {
                        slots: [&mut dkeys, &mut dvalues].map(Tensor::data_mut),
                        wide: [dq, dk, dv].map(Tensor::data_mut),
                        narrow: [deta, dtheta, dalpha].map(Tensor::data_mut),
                    },
                );
            }
            for (v, g) in m
                .inputs()
                .into_iter()
                .zip(g.into_iter().chain([dkeys, dvalues]))
            {
                sink.add(v, g);
            }
        })
    }

    /// The memory at the start of the given chunks, as (segment, chunk), without gradients.
    #[track_caller]
    pub fn memory_states(
        &self,
        m: Memorised,
        shape: MemoryShape,
        segments: &Segments,
        wanted: &[(usize, usize)],
    ) -> Vec<ChunkState> {
        let x = self.memorised(&m, &shape);
        kernel::chunk_states(shape, x[6].data(), x[7].data(), &rows(&x), segments, wanted)
    }

    /// Reads of q [N, H hd] from frozen states: row i reads `states[of_row[i]]`. The gradient reaches q only.
    #[track_caller]
    pub fn memory_read(
        &self,
        q: Var,
        shape: MemoryShape,
        states: std::sync::Arc<[ChunkState]>,
        of_row: std::sync::Arc<[u32]>,
    ) -> Var {
        let x = self.value(q);
        assert_eq!(
            x.rows(),
            of_row.len(),
            "memory_read: q {:?}, {} rows",
            x.dims(),
            of_row.len()
        );
        let mut out = Tensor::dirty(x.dims());
        memory_read::read_rows(shape, &states, &of_row, x.data(), out.data_mut());
        self.push(out, &[q], move |dy, sink| {
            let mut dq = Tensor::zeros(x.dims());
            memory_read::read_rows_backward(
                shape,
                &states,
                &of_row,
                x.data(),
                dy.data(),
                dq.data_mut(),
            );
            sink.add(q, dq);
        })
    }

    /// Streaming form, without gradients: segment s continues `states[s]`.
    #[track_caller]
    pub fn memory_stream(
        &self,
        m: Memorised,
        shape: MemoryShape,
        segments: &Segments,
        states: &mut [&mut MemoryState],
    ) -> Var {
        let x = self.memorised(&m, &shape);
        assert_eq!(
            segments.len(),
            states.len(),
            "memory_stream: segments and states"
        );
        let mut out = Tensor::zeros(x[0].dims());
        let d = shape.row_len();
        let mut parts = Vec::with_capacity(states.len());
        let mut rest = out.data_mut();
        for (state, s) in states.iter_mut().zip(segments.iter()) {
            let (front, back) = rest.split_at_mut(s.len() * d);
            parts.push((state, s.clone(), front));
            rest = back;
        }
        let all = rows(&x);
        parts.into_par_iter().for_each(|(state, s, out)| {
            let (wide, narrow) = (
                s.start * d..s.end * d,
                s.start * shape.heads..s.end * shape.heads,
            );
            let part = kernel::Rows {
                q: &all.q[wide.clone()],
                k: &all.k[wide.clone()],
                v: &all.v[wide.clone()],
                eta: &all.eta[narrow.clone()],
                theta: &all.theta[narrow.clone()],
                alpha: &all.alpha[narrow.clone()],
            };
            kernel::extend(shape, x[6].data(), x[7].data(), state, &part, out);
        });
        self.constant(&out)
    }

    /// For each slot, the summed magnitude of its activations over the rows of q [N, H hd]: [H, S].
    pub fn memory_slot_reads(&self, q: Var, keys: Var, shape: MemoryShape) -> Tensor {
        let reads = kernel::slot_reads(shape, self.value(keys).data(), self.value(q).data());
        Tensor::from_vec(reads, &[shape.heads, shape.slots])
    }
}
