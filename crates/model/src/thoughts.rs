//! Parallel thoughts (Quiet-STaR): chains of tokens beside the text, one after each chosen position.
//!
//! A chain is anchored at a text row j. Its tokens attend to the text up to j (within the window), to the
//! persistent prefix, and to their own chain; their positions go on from j + 1. They read the memory as it
//! stands at the chunk of row j and never write it; their convolutions follow row j and then the chain;
//! they run a fixed number of passes, each pass against the text's keys of the same pass. The gradient
//! reaches the text's keys and values, but not the writes behind the memory that a thought reads.

use crate::cognate::{Cognate, Context, Normed, Qkv};
use crate::config::Part;
use crate::params::Bound;
use crate::stream::StreamState;
use std::collections::BTreeMap;
use std::sync::Arc;
use tensor::ops::memory::{ChunkState, chunk_state};
use tensor::{AttentionLayout, Range, Rotation, Segments, Tape, Tensor, Var};

/// Where a chain hangs.
#[derive(Clone, Copy, Debug)]
pub struct Anchor {
    /// Segment of the text.
    pub segment: usize,
    /// Row within the segment.
    pub row: u32,
    /// Position in the document.
    pub position: u32,
}

/// Chains, their rows one after another; chains of one segment stand together, in segment order.
#[derive(Clone, Debug)]
pub struct Chains {
    /// Where each hangs.
    pub anchors: Vec<Anchor>,
    /// Input embeddings are looked up by token; see [`Cognate::think`] for the two that are not tokens.
    pub tokens: Vec<ThoughtToken>,
    /// Rows of each chain.
    pub rows: Vec<Range<usize>>,
}

/// One input of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThoughtToken {
    /// The learned start of a thought.
    Start,
    /// The learned end of a thought.
    End,
    /// A token of the vocabulary.
    Token(u32),
}

impl Chains {
    /// Chains from their anchors and tokens, given in segment order.
    pub fn new(chains: impl IntoIterator<Item = (Anchor, Vec<ThoughtToken>)>) -> Self {
        let mut all = Self {
            anchors: Vec::new(),
            tokens: Vec::new(),
            rows: Vec::new(),
        };
        for (anchor, tokens) in chains {
            let at = all.tokens.len();
            all.tokens.extend(tokens);
            all.rows.push(at..all.tokens.len());
            all.anchors.push(anchor);
        }
        all
    }

    /// Total rows.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

impl Cognate {
    /// Hidden states [rows, W] of the chains after `passes` passes, given the captured context of the text
    /// (which must have run at least as many passes at full depth).
    pub fn think(&self, p: &Bound, context: &Context, chains: &Chains, passes: usize) -> Var {
        let (t, c) = (p.tape, &self.config);
        assert!(
            chains.anchors.is_sorted_by_key(|a| a.segment),
            "think: chains stand in segment order"
        );
        let positions: Vec<u32> = chains
            .anchors
            .iter()
            .zip(&chains.rows)
            .flat_map(|(a, r)| (0..r.len() as u32).map(|i| a.position + 1 + i))
            .collect();
        let rotation = Rotation::new(&positions, c.head_width() / 2, c.rope_theta);
        let layout = Arc::new(self.chain_layout(context, chains));

        let mut x = self.thought_inputs(p, chains.tokens.iter().copied());
        let memory_of = |block: usize| {
            context
                .memories
                .iter()
                .find(|m| m.block == block)
                .expect("captured for every memory block")
        };
        let outer = |i: usize, h: Var| {
            if c.blocks[i].scale == 0.0 {
                return h;
            }
            let mut attend =
                |n: Normed| self.chain_attention(p, context, i, 0, n, &rotation, &layout);
            let mut remember = |n: Normed| {
                let m = memory_of(i);
                let [raw] = self.memory_raw(p, i, ["q"], n);
                let segments: Segments = chains.rows.clone().into();
                let left = self.chain_left(p, context, m.raw_q, chains);
                let q = t.causal_conv(
                    raw,
                    p.var(&format!("blocks.{i}.memory.conv_q.weight")),
                    segments,
                    Some(left),
                );
                self.chain_memory(p, context, i, self.unit_heads(t, q), chains)
            };
            self.block(p, i, h, &mut attend, &mut remember)
        };
        for i in c.part(Part::Stem) {
            x = outer(i, x);
        }
        let mut y = x;
        let mut z = t.gather_rows(p.var("core.z0"), vec![0; chains.len()].into());
        for pass in 0..passes.clamp(1, c.passes) {
            let mut h = self.linear(p, t.concat_cols(&[x, y, z]), "core.in.weight");
            for i in c.part(Part::Core).filter(|&i| c.blocks[i].scale != 0.0) {
                let mut attend =
                    |n: Normed| self.chain_attention(p, context, i, pass, n, &rotation, &layout);
                h = self.block(p, i, h, &mut attend, &mut |_| {
                    unreachable!("validated: no memory in the core")
                });
            }
            z = h;
            let normed = t.rms_norm(z, p.var("core.norm.weight"), c.eps);
            y = t.add(y, self.linear(p, normed, "core.out.weight"));
        }
        for i in c.part(Part::Tail) {
            y = outer(i, y);
        }
        t.rms_norm(y, p.var("norm.weight"), c.eps)
    }

    /// Input embeddings of thought tokens [rows, W].
    fn thought_inputs(&self, p: &Bound, tokens: impl Iterator<Item = ThoughtToken>) -> Var {
        let t = p.tape;
        // Tokens first; start and end are two rows behind them.
        let tokens: Vec<ThoughtToken> = tokens.collect();
        let ids: Vec<u32> = tokens
            .iter()
            .map(|token| {
                if let ThoughtToken::Token(id) = token {
                    *id
                } else {
                    0
                }
            })
            .collect();
        let looked_up = t.gather_rows(p.var("embed.weight"), ids.into());
        if tokens
            .iter()
            .all(|token| matches!(token, ThoughtToken::Token(_)))
        {
            return looked_up;
        }
        let table = t.concat_rows(&[looked_up, p.var("thought.start"), p.var("thought.end")]);
        let n = tokens.len() as u32;
        let rows: Vec<u32> = tokens
            .iter()
            .zip(0..)
            .map(|(token, i)| match token {
                ThoughtToken::Start => n,
                ThoughtToken::End => n + 1,
                ThoughtToken::Token(_) => i,
            })
            .collect();
        t.gather_rows(table, rows.into())
    }

    /// Attention of the chains: text keys of the same site, own chain as extra keys.
    #[allow(clippy::too_many_arguments)]
    fn chain_attention(
        &self,
        p: &Bound,
        context: &Context,
        block: usize,
        pass: usize,
        n: Normed,
        rotation: &Rotation,
        layout: &Arc<AttentionLayout>,
    ) -> Var {
        let Qkv { q, k, v } = self.qkv(p, block, n, rotation);
        let (tk, tv) = context.kv[self.site(block, pass)].expect("the text ran this pass");
        p.tape.attention(
            self.attended(p, block, q, tk, tv, Some((k, v))),
            layout.clone(),
        )
    }

    fn chain_layout(&self, context: &Context, chains: &Chains) -> AttentionLayout {
        let mut queries = Vec::new();
        let mut at = 0;
        for s in 0..context.keys.len() {
            let rows: usize = chains
                .anchors
                .iter()
                .zip(&chains.rows)
                .filter(|(a, _)| a.segment == s)
                .map(|(_, r)| r.len())
                .sum();
            queries.push(at..at + rows);
            at += rows;
        }
        let per_row = || {
            chains
                .anchors
                .iter()
                .zip(&chains.rows)
                .flat_map(|(a, r)| r.clone().map(move |i| (a, r.start as u32..i as u32 + 1)))
        };
        AttentionLayout {
            queries,
            keys: context.keys.clone(),
            last: per_row().map(|(a, _)| a.row).collect(),
            window: self.config.window,
            extra: per_row().map(|(_, r)| r).collect(),
        }
    }

    /// Rows of the text before each chain, for its convolutions; zero before the start of a segment.
    fn chain_left(&self, p: &Bound, context: &Context, raw: Var, chains: &Chains) -> Var {
        let t = p.tape;
        let n = t.rows(raw) as u32;
        let padded = t.concat_rows(&[raw, t.constant(&Tensor::zeros(&[1, self.config.width]))]);
        let back = Self::CONTEXT_ROWS as u32;
        let ids: Vec<u32> = chains
            .anchors
            .iter()
            .flat_map(|a| {
                let start = context.keys[a.segment].start as u32;
                (0..back).map(move |j| (a.row + 1 + j).checked_sub(back).map_or(n, |r| start + r))
            })
            .collect();
        t.gather_rows(padded, ids.into())
    }

    /// What the chains read from the memory of a block, at the chunks of their anchors.
    fn chain_memory(
        &self,
        p: &Bound,
        context: &Context,
        block: usize,
        q: Var,
        chains: &Chains,
    ) -> Var {
        let m = context
            .memories
            .iter()
            .find(|m| m.block == block)
            .expect("captured for every memory block");
        let mut wanted: Vec<(usize, usize)> = chains
            .anchors
            .iter()
            .map(|a| (a.segment, a.row as usize / self.config.chunk))
            .collect();
        let all = wanted.clone();
        wanted.sort_unstable();
        wanted.dedup();
        let segments: Segments = context.keys.clone().into();
        let states = p
            .tape
            .memory_states(m.operands, self.memory_shape(), &segments, &wanted);
        let of_row: Vec<u32> = chains
            .rows
            .iter()
            .zip(all)
            .flat_map(|(r, w)| {
                let at = wanted
                    .binary_search(&w)
                    .expect("every wanted state was computed") as u32;
                std::iter::repeat_n(at, r.len())
            })
            .collect();
        p.tape
            .memory_read(q, self.memory_shape(), states.into(), of_row.into())
    }

    /// The weight of the thought at each row: sigmoid of a small network on [base; thought] whose last
    /// layer starts at its bias alone. Both inputs [N, W] -> [N].
    pub fn mixing_weight(&self, p: &Bound, base: Var, thought: Var) -> Var {
        let t = p.tape;
        let n = t.rows(base);
        let h = t.linear(
            t.concat_cols(&[base, thought]),
            p.var("mixing.hidden.weight"),
        );
        let h = t.silu(t.add_bias(h, p.var("mixing.hidden.bias")));
        let w = t.add_bias(
            t.linear(h, p.var("mixing.out.weight")),
            p.var("mixing.out.bias"),
        );
        t.reshape(t.sigmoid(w), &[n])
    }
}

/// Chains that grow a token at a time, for sampling: the same hidden states as [`Cognate::think`] over whole
/// chains, with the keys of earlier rows kept instead of computed again. Values only.
pub struct ThoughtStream<'a> {
    model: &'a Cognate,
    passes: usize,
    /// Most rows of a chain.
    capacity: usize,
    anchors: Vec<Anchor>,
    /// Row ranges of the text's segments in its keys.
    keys: Vec<Range<usize>>,
    /// Keys and values of the text by site.
    text: Vec<Option<(Tensor, Tensor)>>,
    /// Keys and values of the chains by site, [chains capacity, W].
    own: Vec<(Tensor, Tensor)>,
    /// Rows so far of each chain.
    lengths: Vec<usize>,
    memories: BTreeMap<usize, ChainMemory>,
}

/// What the chains keep of one memory block.
struct ChainMemory {
    /// Frozen slots.
    states: Arc<[ChunkState]>,
    /// The state that each chain reads.
    of_chain: Vec<u32>,
    /// Rows before the convolution, [chains (CONV_WIDTH - 1), W].
    left: Tensor,
}

impl<'a> ThoughtStream<'a> {
    /// Chains of at most `capacity` rows at `anchors` (in segment order) of a text whose forward pass was
    /// captured on the tape of `p`.
    pub fn from_text(
        model: &'a Cognate,
        p: &Bound,
        context: &Context,
        anchors: Vec<Anchor>,
        passes: usize,
        capacity: usize,
    ) -> Self {
        assert!(
            anchors.is_sorted_by_key(|a| a.segment),
            "thoughts: anchors stand in segment order"
        );
        let t = p.tape;
        let chunk = |a: &Anchor| (a.segment, a.row as usize / model.config.chunk);
        let mut wanted: Vec<(usize, usize)> = anchors.iter().map(chunk).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let of_chain: Vec<u32> = anchors
            .iter()
            .map(|a| {
                wanted
                    .binary_search(&chunk(a))
                    .expect("every chunk is wanted") as u32
            })
            .collect();
        let segments: Segments = context.keys.clone().into();
        let empty = Chains {
            anchors: anchors.clone(),
            tokens: Vec::new(),
            rows: vec![0..0; anchors.len()],
        };
        let memories = context
            .memories
            .iter()
            .map(|m| {
                let states = t
                    .memory_states(m.operands, model.memory_shape(), &segments, &wanted)
                    .into();
                (
                    m.block,
                    ChainMemory {
                        states,
                        of_chain: of_chain.clone(),
                        left: t.value(model.chain_left(p, context, m.raw_q, &empty)),
                    },
                )
            })
            .collect();
        let text = context
            .kv
            .iter()
            .map(|kv| kv.map(|(k, v)| (t.value(k), t.value(v))))
            .collect();
        Self::new(
            model,
            context.keys.clone(),
            text,
            memories,
            anchors,
            passes,
            capacity,
        )
    }

    /// `each` chains behind the last row of each of the given sequences (ascending) of a stream.
    pub fn from_stream(
        model: &'a Cognate,
        state: &StreamState,
        sequences: &[usize],
        each: usize,
        passes: usize,
        capacity: usize,
    ) -> Self {
        let keys: Vec<Range<usize>> = sequences.iter().map(|&s| state.kept_rows(s)).collect();
        let chains = || {
            sequences
                .iter()
                .enumerate()
                .flat_map(|(segment, &s)| std::iter::repeat_n((segment, s), each))
        };
        let anchors = chains()
            .map(|(segment, s)| Anchor {
                segment,
                row: keys[segment].len() as u32 - 1,
                position: state.position(s) as u32 - 1,
            })
            .collect();
        let text = (0..model.sites())
            .map(|i| state.site(i))
            .map(|(k, v)| Some((k.clone(), v.clone())))
            .collect();
        let back = Cognate::CONTEXT_ROWS;
        let blocks = model
            .config
            .blocks
            .iter()
            .enumerate()
            .filter(|(_, b)| b.memory && b.scale != 0.0);
        let memories = blocks
            .map(|(i, _)| {
                let states: Vec<ChunkState> = sequences
                    .iter()
                    .map(|&s| chunk_state(state.memory(i, s)))
                    .collect();
                let mut left = Tensor::zeros(&[sequences.len() * each * back, model.config.width]);
                for (chain, (_, s)) in chains().enumerate() {
                    for j in 0..back {
                        left.write_row(chain * back + j, state.context(i, "q"), s * back + j);
                    }
                }
                (
                    i,
                    ChainMemory {
                        states: states.into(),
                        of_chain: chains().map(|c| c.0 as u32).collect(),
                        left,
                    },
                )
            })
            .collect();
        Self::new(model, keys, text, memories, anchors, passes, capacity)
    }

    #[allow(clippy::too_many_arguments)]
    fn new(
        model: &'a Cognate,
        keys: Vec<Range<usize>>,
        text: Vec<Option<(Tensor, Tensor)>>,
        memories: BTreeMap<usize, ChainMemory>,
        anchors: Vec<Anchor>,
        passes: usize,
        capacity: usize,
    ) -> Self {
        let zeros = || Tensor::zeros(&[anchors.len() * capacity, model.config.width]);
        let own = (0..model.sites()).map(|_| (zeros(), zeros())).collect();
        Self {
            model,
            passes: passes.clamp(1, model.config.passes),
            capacity,
            lengths: vec![0; anchors.len()],
            anchors,
            keys,
            text,
            own,
            memories,
        }
    }

    /// Appends one token to each of the given chains (ascending); hidden states [entries, W].
    #[track_caller]
    pub fn extend(&mut self, entries: &[(usize, ThoughtToken)]) -> Tensor {
        let Self {
            model,
            passes,
            capacity,
            anchors,
            keys,
            text,
            own,
            lengths,
            memories,
        } = self;
        let (model, c, capacity) = (*model, &model.config, *capacity);
        assert!(
            entries.is_sorted_by(|a, b| a.0 < b.0),
            "thoughts: chains must ascend"
        );
        assert!(
            entries.iter().all(|e| lengths[e.0] < capacity),
            "thoughts: a chain has at most {capacity} rows"
        );
        let tape = Tape::inference();
        let (t, p) = (&tape, Bound::new(&tape, &model.params));
        let positions: Vec<u32> = entries
            .iter()
            .map(|e| anchors[e.0].position + 1 + lengths[e.0] as u32)
            .collect();
        let rotation = Rotation::new(&positions, c.head_width() / 2, c.rope_theta);
        let mut queries = Vec::with_capacity(keys.len());
        let mut at = 0;
        for s in 0..keys.len() {
            let rows = entries[at..]
                .iter()
                .take_while(|e| anchors[e.0].segment == s)
                .count();
            queries.push(at..at + rows);
            at += rows;
        }
        let layout = Arc::new(AttentionLayout {
            queries,
            keys: keys.clone(),
            last: entries.iter().map(|e| anchors[e.0].row).collect(),
            window: c.window,
            extra: entries
                .iter()
                .map(|e| (e.0 * capacity) as u32..(e.0 * capacity + lengths[e.0] + 1) as u32)
                .collect(),
        });
        let mut attend = |i: usize, pass: usize, n: Normed| {
            let site = model.site(i, pass);
            let Qkv { q, k, v } = model.qkv(&p, i, n, &rotation);
            let (k, v) = (t.value(k), t.value(v));
            let (ks, vs) = &mut own[site];
            for (row, e) in entries.iter().enumerate() {
                let to = e.0 * capacity + lengths[e.0];
                ks.write_row(to, &k, row);
                vs.write_row(to, &v, row);
            }
            let (tk, tv) = text[site].as_ref().expect("the text ran this pass");
            let extra = Some((t.constant(ks), t.constant(vs)));
            t.attention(
                model.attended(&p, i, q, t.constant(tk), t.constant(tv), extra),
                layout.clone(),
            )
        };
        let mut remember = |i: usize, n: Normed| {
            let m = memories.get_mut(&i).expect("made for every memory block");
            let [raw] = model.memory_raw(&p, i, ["q"], n);
            let back = Cognate::CONTEXT_ROWS;
            let ids: Vec<u32> = entries
                .iter()
                .flat_map(|e| (e.0 * back..(e.0 + 1) * back).map(|r| r as u32))
                .collect();
            let left = t.gather_rows(t.constant(&m.left), ids.into());
            let segments: Segments = (0..entries.len())
                .map(|r| r..r + 1)
                .collect::<Vec<_>>()
                .into();
            let q = t.causal_conv(
                raw,
                p.var(&format!("blocks.{i}.memory.conv_q.weight")),
                segments,
                Some(left),
            );
            let (before, new) = (t.value(left), t.value(raw));
            for (row, e) in entries.iter().enumerate() {
                for j in 0..back - 1 {
                    m.left
                        .write_row(e.0 * back + j, &before, row * back + j + 1);
                }
                m.left.write_row((e.0 + 1) * back - 1, &new, row);
            }
            let of_row: Vec<u32> = entries.iter().map(|e| m.of_chain[e.0]).collect();
            t.memory_read(
                model.unit_heads(t, q),
                model.memory_shape(),
                m.states.clone(),
                of_row.into(),
            )
        };
        let mut x = model.thought_inputs(&p, entries.iter().map(|e| e.1));
        for i in c.part(Part::Stem).filter(|&i| c.blocks[i].scale != 0.0) {
            x = model.block(&p, i, x, &mut |n| attend(i, 0, n), &mut |n| remember(i, n));
        }
        let mut y = x;
        let mut z = t.gather_rows(p.var("core.z0"), vec![0; entries.len()].into());
        for pass in 0..*passes {
            z = model.linear(&p, t.concat_cols(&[x, y, z]), "core.in.weight");
            for i in c.part(Part::Core).filter(|&i| c.blocks[i].scale != 0.0) {
                z = model.block(&p, i, z, &mut |n| attend(i, pass, n), &mut |_| {
                    unreachable!("validated: no memory in the core")
                });
            }
            let normed = t.rms_norm(z, p.var("core.norm.weight"), c.eps);
            y = t.add(y, model.linear(&p, normed, "core.out.weight"));
        }
        for i in c.part(Part::Tail).filter(|&i| c.blocks[i].scale != 0.0) {
            y = model.block(&p, i, y, &mut |n| attend(i, 0, n), &mut |n| remember(i, n));
        }
        let hidden = t.value(t.rms_norm(y, p.var("norm.weight"), c.eps));
        for e in entries {
            lengths[e.0] += 1;
        }
        hidden
    }
}
