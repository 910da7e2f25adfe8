//! What streaming generation remembers of each sequence: keys and values within the window for every
//! attention site, the last rows before each memory convolution, and the memories themselves.
//!
//! Keys of all sequences share one tensor a site, `capacity` rows a sequence, filled from the front; when
//! a sequence runs out of room its last `window` rows move to the front. All sites of a sequence hold the
//! same rows, so one count a sequence serves all.

use crate::cognate::Cognate;
use crate::config::Part;
use std::collections::BTreeMap;
use tensor::{MemoryState, Range, Segments, Tape, Tensor, Var};

/// State of a number of sequences.
#[derive(Clone, Debug)]
pub struct StreamState {
    capacity: usize,
    window: usize,
    /// Keys and values of each site, [sequences capacity, W].
    kv: Vec<(Tensor, Tensor)>,
    /// Rows kept of each sequence.
    kept: Vec<usize>,
    /// Rows seen of each sequence.
    seen: Vec<usize>,
    /// Rows before the convolutions, by (block, branch): [sequences (CONV_WIDTH - 1), W].
    contexts: BTreeMap<(usize, &'static str), Tensor>,
    /// Memories by block, one a sequence.
    memories: BTreeMap<usize, Vec<MemoryState>>,
}

impl StreamState {
    /// Empty state of `sequences` sequences.
    pub fn new(model: &Cognate, sequences: usize) -> Self {
        let c = &model.config;
        let capacity = 2 * c.window;
        let zeros = || Tensor::zeros(&[sequences * capacity, c.width]);
        let mut contexts = BTreeMap::new();
        let mut memories = BTreeMap::new();
        for (i, b) in c
            .blocks
            .iter()
            .enumerate()
            .filter(|(_, b)| b.memory && b.scale != 0.0)
        {
            debug_assert!(b.part != Part::Core);
            for which in ["q", "k", "v"] {
                contexts.insert(
                    (i, which),
                    Tensor::zeros(&[sequences * Cognate::CONTEXT_ROWS, c.width]),
                );
            }
            let initial = |s: &str| model.params.get(&format!("blocks.{i}.memory.{s}"));
            memories.insert(
                i,
                vec![
                    tensor::ops::memory::memory_state(
                        model.memory_shape(),
                        initial("keys"),
                        initial("values")
                    );
                    sequences
                ],
            );
        }
        Self {
            capacity,
            window: c.window,
            kv: (0..model.sites()).map(|_| (zeros(), zeros())).collect(),
            kept: vec![0; sequences],
            seen: vec![0; sequences],
            contexts,
            memories,
        }
    }

    /// Most rows of one sequence that a single forward pass may append.
    pub fn most_rows(&self) -> usize {
        self.window
    }

    /// Rows seen of a sequence: the position of its next token.
    pub fn position(&self, sequence: usize) -> usize {
        self.seen[sequence]
    }

    /// Makes room for the rows of a forward pass.
    #[track_caller]
    pub(crate) fn make_room(&mut self, sequences: &[usize], segments: &[Range<usize>]) {
        assert!(
            sequences.is_sorted_by(|a, b| a < b),
            "stream: sequences must ascend, got {sequences:?}"
        );
        assert_eq!(
            sequences.len(),
            segments.len(),
            "stream: one sequence per segment"
        );
        for (&s, rows) in sequences.iter().zip(segments) {
            assert!(
                rows.len() <= self.window,
                "stream: {} rows at once, at most {}",
                rows.len(),
                self.window
            );
            if self.kept[s] + rows.len() > self.capacity {
                let drop = self.kept[s] - self.window;
                let at = s * self.capacity;
                for (k, v) in &mut self.kv {
                    k.copy_rows_within(at + drop, at, self.window);
                    v.copy_rows_within(at + drop, at, self.window);
                }
                self.kept[s] = self.window;
            }
        }
    }

    /// Rows of each segment's keys at a site, and how many of them precede the new rows.
    pub(crate) fn key_ranges(
        &self,
        sequences: &[usize],
        segments: &[Range<usize>],
    ) -> (Vec<Range<usize>>, Vec<u32>) {
        sequences
            .iter()
            .zip(segments)
            .map(|(&s, rows)| {
                (
                    s * self.capacity..s * self.capacity + self.kept[s] + rows.len(),
                    self.kept[s] as u32,
                )
            })
            .unzip()
    }

    /// Writes new keys and values behind those kept; returns all of the site.
    pub(crate) fn append(
        &mut self,
        site: usize,
        sequences: &[usize],
        segments: &[Range<usize>],
        k: &Tensor,
        v: &Tensor,
    ) -> (Tensor, Tensor) {
        let (ks, vs) = &mut self.kv[site];
        for (&s, rows) in sequences.iter().zip(segments) {
            let at = s * self.capacity + self.kept[s];
            for (j, row) in rows.clone().enumerate() {
                ks.write_row(at + j, k, row);
                vs.write_row(at + j, v, row);
            }
        }
        (ks.clone(), vs.clone())
    }

    /// The rows before the new ones at a convolution [segments (CONV_WIDTH - 1), W]; takes in the new rows.
    pub(crate) fn convolution_context(
        &mut self,
        t: &Tape,
        block: usize,
        which: &'static str,
        sequences: &[usize],
        raw: Var,
        segments: &Segments,
    ) -> Var {
        let n = Cognate::CONTEXT_ROWS;
        let kept = self
            .contexts
            .get_mut(&(block, which))
            .expect("made for every memory block");
        let ids: Vec<u32> = sequences
            .iter()
            .flat_map(|&s| (s * n..(s + 1) * n).map(|r| r as u32))
            .collect();
        let context = t.gather_rows(t.constant(kept), ids.into());
        let (before, new) = (t.value(context), t.value(raw));
        for (g, (&s, rows)) in sequences.iter().zip(segments.iter()).enumerate() {
            for j in 0..n {
                // Row j of the next context, counted in (context ++ new rows).
                let at = rows.len() + j;
                if at < n {
                    kept.write_row(s * n + j, &before, g * n + at);
                } else {
                    kept.write_row(s * n + j, &new, rows.start + at - n);
                }
            }
        }
        context
    }

    /// The memories of a block for the given sequences.
    pub(crate) fn memories(&mut self, block: usize, sequences: &[usize]) -> Vec<&mut MemoryState> {
        let all = self
            .memories
            .get_mut(&block)
            .expect("made for every memory block");
        all.iter_mut()
            .enumerate()
            .filter(|(s, _)| sequences.binary_search(s).is_ok())
            .map(|(_, m)| m)
            .collect()
    }

    /// The memories of a block, one a sequence.
    pub(crate) fn memory(&self, block: usize, sequence: usize) -> &MemoryState {
        &self.memories[&block][sequence]
    }

    /// Keys and values of a site, all sequences.
    pub(crate) fn site(&self, site: usize) -> (&Tensor, &Tensor) {
        (&self.kv[site].0, &self.kv[site].1)
    }

    /// Kept key rows of a sequence.
    pub(crate) fn kept_rows(&self, sequence: usize) -> Range<usize> {
        sequence * self.capacity..sequence * self.capacity + self.kept[sequence]
    }

    /// Rows before a convolution, all sequences.
    pub(crate) fn context(&self, block: usize, which: &'static str) -> &Tensor {
        &self.contexts[&(block, which)]
    }

    pub(crate) fn advance(&mut self, sequences: &[usize], segments: &[Range<usize>]) {
        for (&s, rows) in sequences.iter().zip(segments) {
            self.kept[s] += rows.len();
            self.seen[s] += rows.len();
        }
    }

    /// Forgets one sequence, so that its place can take another.
    pub fn reset(&mut self, model: &Cognate, sequence: usize) {
        self.kept[sequence] = 0;
        self.seen[sequence] = 0;
        let n = Cognate::CONTEXT_ROWS;
        let blank = Tensor::zeros(&[n, model.config.width]);
        for c in self.contexts.values_mut() {
            c.write_rows(sequence * n, &blank);
        }
        for (i, m) in &mut self.memories {
            let initial = |s: &str| model.params.get(&format!("blocks.{i}.memory.{s}"));
            m[sequence] = tensor::ops::memory::memory_state(
                model.memory_shape(),
                initial("keys"),
                initial("values"),
            );
        }
    }
}
