//! Parallel thoughts (Quiet-STaR): chains of tokens beside the text, one after each chosen position.
//!
//! A chain is anchored at a text row j. Its tokens attend to the text up to j (within the window), to the
//! persistent prefix, and to their own chain; their positions go on from j + 1. They read the memory as it
//! stands at the chunk of row j and never write it; their convolutions follow row j and then the chain;
//! they run a fixed number of passes, each pass against the text's keys of the same pass. The gradient
//! reaches the text's keys and values, but not the writes behind the memory that a thought reads.

use crate::batch::no_rows;
use crate::cognate::{Cognate, Context, Qkv};
use crate::config::Part;
use crate::params::Bound;
use std::sync::Arc;
use tensor::{AttentionLayout, Ids, Range, Rotation, Segments, Tensor, Var};

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
        let mut all = Self { anchors: Vec::new(), tokens: Vec::new(), rows: Vec::new() };
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
        assert!(chains.anchors.is_sorted_by_key(|a| a.segment), "think: chains stand in segment order");
        let positions: Vec<u32> = chains.anchors.iter().zip(&chains.rows).flat_map(|(a, r)| (0..r.len() as u32).map(|i| a.position + 1 + i)).collect();
        let rotation = Rotation::new(&positions, c.head_width() / 2, c.rope_theta);
        let layout = Arc::new(self.chain_layout(context, chains));

        // Start and end are two rows behind the vocabulary.
        let table = t.concat_rows(&[p.var("embed.weight"), p.var("thought.start"), p.var("thought.end")]);
        let v = c.vocab as u32;
        let ids: Vec<u32> = chains
            .tokens
            .iter()
            .map(|token| match token {
                ThoughtToken::Start => v,
                ThoughtToken::End => v + 1,
                ThoughtToken::Token(id) => *id,
            })
            .collect();
        let mut x = t.gather_rows(table, ids.into());
        let memory_of = |block: usize| context.memories.iter().find(|m| m.block == block).expect("captured for every memory block");
        let outer = |i: usize, h: Var| {
            if c.blocks[i].scale == 0.0 {
                return h;
            }
            let mut attend = |n: Var| self.chain_attention(p, context, i, 0, n, &rotation, &layout);
            let mut remember = |n: Var| {
                let m = memory_of(i);
                let raw = self.memory_raw(p, i, "q", n);
                let segments: Segments = chains.rows.clone().into();
                let left = self.chain_left(p, context, m.raw_q, chains);
                let q = t.causal_conv(raw, p.var(&format!("blocks.{i}.memory.conv_q.weight")), segments, Some(left));
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
                let mut attend = |n: Var| self.chain_attention(p, context, i, pass, n, &rotation, &layout);
                h = self.block(p, i, h, &mut attend, &mut |_| unreachable!("validated: no memory in the core"));
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

    /// Attention of the chains: text keys of the same site, own chain as extra keys.
    #[allow(clippy::too_many_arguments)]
    fn chain_attention(&self, p: &Bound, context: &Context, block: usize, pass: usize, n: Var, rotation: &Rotation, layout: &Arc<AttentionLayout>) -> Var {
        let Qkv { q, k, v } = self.qkv(p, block, n, rotation);
        let (tk, tv) = context.kv[self.site(block, pass)].expect("the text ran this pass");
        p.tape.attention(self.attended(p, block, q, tk, tv, Some((k, v))), layout.clone())
    }

    fn chain_layout(&self, context: &Context, chains: &Chains) -> AttentionLayout {
        let mut queries = Vec::new();
        let mut at = 0;
        for s in 0..context.keys.len() {
            let rows: usize = chains.anchors.iter().zip(&chains.rows).filter(|(a, _)| a.segment == s).map(|(_, r)| r.len()).sum();
            queries.push(at..at + rows);
            at += rows;
        }
        let per_row = || chains.anchors.iter().zip(&chains.rows).flat_map(|(a, r)| r.clone().map(move |i| (a, r.start as u32..i as u32 + 1)));
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
    fn chain_memory(&self, p: &Bound, context: &Context, block: usize, q: Var, chains: &Chains) -> Var {
        let m = context.memories.iter().find(|m| m.block == block).expect("captured for every memory block");
        let mut wanted: Vec<(usize, usize)> = chains.anchors.iter().map(|a| (a.segment, a.row as usize / self.config.chunk)).collect();
        let all = wanted.clone();
        wanted.sort_unstable();
        wanted.dedup();
        let segments: Segments = context.keys.clone().into();
        let states = p.tape.memory_states(m.operands, self.memory_shape(), &segments, &wanted);
        let of_row: Vec<u32> = chains
            .rows
            .iter()
            .zip(all)
            .flat_map(|(r, w)| {
                let at = wanted.binary_search(&w).expect("every wanted state was computed") as u32;
                std::iter::repeat_n(at, r.len())
            })
            .collect();
        p.tape.memory_read(q, self.memory_shape(), states.into(), of_row.into())
    }

    /// The weight of the thought at each row: sigmoid of a small network on [base; thought], zero at first
    /// apart from its bias. Both inputs [N, W] -> [N].
    pub fn mixing_weight(&self, p: &Bound, base: Var, thought: Var) -> Var {
        let t = p.tape;
        let n = t.rows(base);
        let h = t.linear(t.concat_cols(&[base, thought]), p.var("mixing.hidden.weight"));
        let h = t.silu(t.add_bias(h, p.var("mixing.hidden.bias")));
        let w = t.add_bias(t.linear(h, p.var("mixing.out.weight")), p.var("mixing.out.bias"));
        t.reshape(w, &[n])
    }
}

/// No rows at all, as ids.
pub fn none() -> Ids {
    no_rows()
}
