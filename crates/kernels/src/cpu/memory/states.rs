//! Memories at single moments: which state a chunk of a segment finds, and reads from a given state.

use std::ops::Range;

use rayon::prelude::*;

use super::chunk::{self, HeadMemory};
use super::columns::{Columns, gather};
use super::pieces::{HeadRows, check_segments, split};
use super::{MemoryShape, Rows};

/// Keys and values `[H, S, D]` of a memory at some moment, ready for [`read`].
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Keys `[H, S, D]`.
    pub keys: Vec<f32>,
    /// Values `[H, S, D]`.
    pub values: Vec<f32>,
}

/// The memory as it stands at the start of each wanted (segment, chunk), in the order asked for.
///
/// Chunk c of a segment exists once c chunks before it are full, so c may be one past the last row
/// of a segment that fills its chunks. Reading these states is what [`super::forward`] does.
///
/// # Panics
/// As [`super::forward`], and when a wanted chunk does not exist.
#[track_caller]
pub fn chunk_states(
    shape: MemoryShape,
    keys0: &[f32],
    values0: &[f32],
    rows: &Rows,
    segments: &[Range<usize>],
    wanted: &[(usize, usize)],
) -> Vec<State> {
    shape.check_slots(keys0, values0);
    check_segments(segments, rows.count(shape));
    for &(segment, c) in wanted {
        let len = segments[segment].len();
        assert!(
            c * shape.chunk <= len,
            "memory: chunk {c} of segment {segment}, {len} rows long"
        );
    }
    // Each segment is walked once per head, up to the last chunk wanted of it.
    let mut sorted: Vec<usize> = (0..wanted.len()).collect();
    sorted.sort_by_key(|&i| wanted[i]);
    let walks: Vec<&[usize]> = sorted
        .chunk_by(|&a, &b| wanted[a].0 == wanted[b].0)
        .collect();
    let found: Vec<Vec<(usize, State)>> = (0..shape.heads * walks.len())
        .into_par_iter()
        .map(|task| {
            let (head, walk) = (task / walks.len(), walks[task % walks.len()]);
            let base = shape.head(keys0, values0, head);
            let range = segments[wanted[walk[0]].0].clone();
            let input = HeadRows::of(shape, rows, head, range);
            let mut memory = HeadMemory::start(base);
            let mut at = 0;
            let mut found = Vec::with_capacity(walk.len());
            for &i in walk {
                while at < wanted[i].1 {
                    chunk::write(shape, base, memory.view(), &input.chunk(at));
                    at += 1;
                }
                let (keys, values) = (memory.keys.to_vec(), memory.values.to_vec());
                found.push((i, State { keys, values }));
            }
            found
        })
        .collect();
    let empty = || Vec::with_capacity(shape.slots_len());
    let mut states: Vec<State> = wanted
        .iter()
        .map(|_| State {
            keys: empty(),
            values: empty(),
        })
        .collect();
    // Tasks are in order of heads, so the heads of each state arrive in order.
    for (i, memory) in found.into_iter().flatten() {
        states[i].keys.extend(memory.keys);
        states[i].values.extend(memory.values);
    }
    states
}

/// Reads rows q `[N, H*D]` from one memory, keys and values `[H, S, D]`; overwrites `out`
/// `[N, H*D]`.
///
/// # Panics
/// When a length does not fit `shape`.
#[track_caller]
pub fn read(shape: MemoryShape, keys: &[f32], values: &[f32], q: &[f32], out: &mut [f32]) {
    shape.check_slots(keys, values);
    let n = q.len() / shape.row_len();
    let lens = [q.len(), out.len()];
    assert_eq!(
        lens,
        [n * shape.row_len(); 2],
        "memory: q and out of {n} rows, {shape:?}"
    );
    let out = Columns::new(out, shape.heads, shape.width);
    let blocks: Vec<Range<usize>> = split(0..n).collect();
    for_each_task(shape, n, shape.heads * blocks.len(), |task| {
        let (head, block) = (task / blocks.len(), &blocks[task % blocks.len()]);
        let q = gather(q, shape.heads, shape.width, head, block.clone());
        let read = chunk::read(shape, shape.head(keys, values, head), &q);
        // SAFETY: blocks are disjoint and this task alone has this head of its block.
        unsafe { out.put(block.start, head, &read) };
    });
}

/// Sum over rows of |silu(key · q)| for every slot, `[H, S]`: how much each slot is read.
///
/// # Panics
/// When a length does not fit `shape`.
#[track_caller]
pub fn slot_reads(shape: MemoryShape, keys: &[f32], q: &[f32]) -> Vec<f32> {
    shape.check_slots(keys, keys);
    let n = q.len() / shape.row_len();
    assert_eq!(
        q.len(),
        n * shape.row_len(),
        "memory: q of {n} rows, {shape:?}"
    );
    let per_head: Vec<Vec<f32>> = (0..shape.heads)
        .into_par_iter()
        .map(|head| {
            let keys = shape.head(keys, keys, head).keys;
            let mut sums = vec![0.0; shape.slots];
            for block in split(0..n) {
                let q = gather(q, shape.heads, shape.width, head, block);
                chunk::add_slot_reads(shape, keys, &q, &mut sums);
            }
            sums
        })
        .collect();
    per_head.concat()
}

/// Runs tasks over `n` rows side by side, or in turn where waking the threads would cost more than
/// the work (a single row while generating).
fn for_each_task(shape: MemoryShape, n: usize, tasks: usize, run: impl Fn(usize) + Sync + Send) {
    if n * shape.slots_len() < 1 << 20 {
        (0..tasks).for_each(run);
    } else {
        (0..tasks).into_par_iter().for_each(run);
    }
}
