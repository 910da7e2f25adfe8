//! The three ways into the memory agree: whole batches, frozen states that are read, and streaming.

use crate::gradients::{memorised, memory_inputs};
use std::sync::Arc;
use tensor::ops::memory::{chunk_state, memory_state};
use tensor::{MemoryShape, MemoryState, Segments, Tape, Tensor, Var};

const SHAPE: MemoryShape = MemoryShape {
    heads: 2,
    width: 4,
    slots: 3,
    chunk: 4,
};

fn close(what: &str, found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!((f - w).abs() < 1e-5, "{what}: element {i} is {f}, not {w}");
    }
}

fn on(t: &Tape, x: &[Tensor]) -> Vec<Var> {
    x.iter().map(|x| t.constant(x)).collect()
}

#[test]
fn reading_the_states_of_all_chunks_gives_what_the_batch_reads() {
    let segments: Segments = Arc::new([0..10, 10..12, 12..17]);
    let t = Tape::inference();
    let v = on(&t, &memory_inputs(17, SHAPE));
    let whole = t.memory(memorised(&v), SHAPE, segments.clone());
    let chunks = |s: usize| (0..segments[s].len().div_ceil(SHAPE.chunk)).map(move |c| (s, c));
    let wanted: Vec<(usize, usize)> = (0..segments.len()).flat_map(chunks).collect();
    let states = t.memory_states(memorised(&v), SHAPE, &segments, &wanted);
    let state_of = |i: usize| {
        let s = segments.iter().position(|r| r.contains(&i)).unwrap();
        wanted
            .iter()
            .position(|w| *w == (s, (i - segments[s].start) / SHAPE.chunk))
            .unwrap() as u32
    };
    let read = t.memory_read(v[0], SHAPE, states.into(), (0..17).map(state_of).collect());
    close("reads", &t.value(read).to_vec(), &t.value(whole).to_vec());
}

#[test]
fn streaming_in_pieces_gives_what_the_batch_reads() {
    // Two sequences side by side, cut in pieces of different lengths.
    let lengths = [9, 8];
    let x = memory_inputs(17, SHAPE);
    let t = Tape::inference();
    let v = on(&t, &x);
    let whole = t.value(t.memory(memorised(&v), SHAPE, Arc::new([0..9, 9..17])));
    let mut states: Vec<MemoryState> = lengths
        .iter()
        .map(|_| memory_state(SHAPE, &x[6], &x[7]))
        .collect();
    let frozen = chunk_state(&states[0]);
    let mut at = [0, 9];
    for piece in [[1, 3], [4, 0], [1, 2], [3, 3]] {
        let rows: Vec<u32> = (0..2)
            .flat_map(|s| at[s] as u32..(at[s] + piece[s]) as u32)
            .collect();
        let mut part = v.clone();
        for v in &mut part[..6] {
            *v = t.gather_rows(*v, rows.clone().into());
        }
        let segments: Segments = Arc::new([0..piece[0], piece[0]..piece[0] + piece[1]]);
        let mut refs: Vec<&mut MemoryState> = states.iter_mut().collect();
        let out = t.memory_stream(memorised(&part), SHAPE, &segments, &mut refs);
        let whole = t.constant(&whole);
        let wanted = t.gather_rows(whole, rows.into());
        close("piece", &t.value(out).to_vec(), &t.value(wanted).to_vec());
        at = [at[0] + piece[0], at[1] + piece[1]];
    }
    assert_eq!(at, [9, 17]);
    assert_ne!(
        chunk_state(&states[0]).values,
        frozen.values,
        "the memory was written"
    );
}

#[test]
fn slot_reads_are_the_summed_magnitudes_of_the_activations() {
    let x = memory_inputs(5, SHAPE);
    let t = Tape::inference();
    let v = on(&t, &x);
    let found = t.memory_slot_reads(v[0], v[6], SHAPE);
    assert_eq!(found.dims(), [2, 3]);
    let (q, keys) = (x[0].to_vec(), x[6].to_vec());
    let activation = |i: usize, h: usize, s: usize| {
        let z: f32 = (0..4)
            .map(|c| q[i * 8 + h * 4 + c] * keys[(h * 3 + s) * 4 + c])
            .sum();
        (z / (1.0 + (-z).exp())).abs()
    };
    let wanted: Vec<f32> = (0..6)
        .map(|j| (0..5).map(|i| activation(i, j / 3, j % 3)).sum())
        .collect();
    close("slot reads", &found.to_vec(), &wanted);
}
