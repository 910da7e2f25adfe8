//! The Cognate: TRM x Titans-MAG.
//!
//! Equations, with x the stem's output and N(.) an RMS norm:
//!
//! ```text
//! x   = stem(embed(tokens));  y_0 = x;  z_0 learned
//! z_t = core(A [x; y_(t-1); z_(t-1)])        A [W, 3W], starts as the sum
//! y_t = y_(t-1) + B N(z_t)                   B [W, W], starts as the identity
//! hidden = N(tail(y_d)),  logits = hidden embed^T     d = passes executed by the token
//! ```
//!
//! Gradients run through every executed pass. A token that has halted keeps its y and offers later passes
//! the keys and values of its last executed pass, layer by layer: nothing is recomputed for it. A block is
//! pre-norm attention and pre-norm SwiGLU; in two blocks outside the core a Titans memory is gated beside
//! attention: o = g N(attention) + (1 - g) N(memory), g = sigmoid(G [attention; memory] + b).
//!
//! One code path serves training and streaming: streaming is the same pass over the new rows, with keys,
//! convolution rows and memories of earlier rows taken from a [`StreamState`].
//!
//! Left out on purpose: dropout (data are seen at most a few times) and bias terms in linear maps.

use crate::batch::{Batch, all_rows, no_rows, offsets};
use crate::config::{CONV_WIDTH, Config, ExitScale, Part};
use crate::params::{Bound, Params};
use crate::stream::StreamState;
use std::collections::BTreeMap;
use std::sync::Arc;
use tensor::ops::memory::Memorised;
use tensor::ops::ternary::{PackedTernary, TernarySettings};
use tensor::{
    Attended, AttentionLayout, FeedForward, Ids, MemoryShape, Range, Rotation, Tape, Tensor, Var,
};

/// A model: configuration and tensors.
#[derive(Clone, Debug)]
pub struct Cognate {
    /// Sizes and constants.
    pub config: Config,
    /// The tensors.
    pub params: Params,
    /// Hidden matrices that run in ternary form; empty for a model in full precision.
    pub ternary: BTreeMap<String, TernarySettings>,
    /// Matrices that are there in packed form only: such a model is for inference.
    pub packed: BTreeMap<String, PackedTernary>,
}

/// How many passes each token gets.
#[derive(Clone, Copy, Debug)]
pub enum Depth<'a> {
    /// All of them.
    Full,
    /// The same number for all tokens.
    Fixed(usize),
    /// As given, per row, at least 1.
    PerToken(&'a [u8]),
    /// Decided by the exit gate against the model's ACT threshold.
    Halting,
}

/// What a forward pass gives.
pub struct Output {
    /// Normalised hidden states [N, W]; logits are their products with the embedding.
    pub hidden: Var,
    /// Passes executed by each row.
    pub depths: Vec<u8>,
    /// After each pass but the last: the rows that ran it, and the raw logits of their gate [rows, 1].
    pub gates: Vec<(Ids, Var)>,
    /// What thoughts need, when asked for.
    pub context: Option<Context>,
}

/// What parallel thoughts read of the text: keys and values by site, and the memories.
pub struct Context {
    /// Keys and values [rows, W] of each attention site.
    pub kv: Vec<Option<(Var, Var)>>,
    /// Rows of each segment in the keys.
    pub keys: Vec<Range<usize>>,
    /// One per memory block, in block order.
    pub memories: Vec<MemoryContext>,
}

impl Context {
    fn values(&self) -> impl Iterator<Item = Var> {
        let memory = |m: &MemoryContext| m.operands.inputs().into_iter().chain([m.raw_q]);
        pairs(&self.kv).chain(self.memories.iter().flat_map(memory))
    }
}

fn pairs(kv: &[Option<(Var, Var)>]) -> impl Iterator<Item = Var> {
    kv.iter().flatten().flat_map(|&(k, v)| [k, v])
}

/// What a thought needs to read one memory.
pub struct MemoryContext {
    /// The block.
    pub block: usize,
    /// Its operands over the text rows.
    pub operands: Memorised,
    /// Query rows before the convolution [N, W].
    pub raw_q: Var,
}

/// A streaming forward pass: the state, and which sequence each segment continues.
pub struct Streaming<'a> {
    /// What earlier rows left.
    pub state: &'a mut StreamState,
    /// Ascending, one per segment.
    pub sequences: &'a [usize],
}

/// Query, key and value rows of one attention.
#[derive(Clone, Copy)]
pub(crate) struct Qkv {
    pub(crate) q: Var,
    pub(crate) k: Var,
    pub(crate) v: Var,
}

/// The input of a block on its way into linear maps: rows that are normed already, or that the maps norm themselves.
#[derive(Clone, Copy)]
pub(crate) struct Normed {
    x: Var,
    /// Gain and epsilon of what is still to be done.
    norm: Option<(Var, f32)>,
}

impl Normed {
    /// The normed rows themselves.
    fn rows(self, t: &Tape) -> Var {
        let of = |(gain, eps)| t.rms_norm(self.x, gain, eps);
        self.norm.map_or(self.x, of)
    }
}

/// logit(0.95): where the median of a standardised gate lies.
pub const GATE_CENTRE: f32 = 2.944_439;

impl Cognate {
    /// A freshly initialised model.
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            params: Params::new(&config, seed),
            ..Self::empty(config)
        }
    }

    /// A configuration around tensors that the caller fills in: `Cognate { params, ..Cognate::empty(config) }`.
    pub fn empty(config: Config) -> Self {
        Self {
            params: Params::none(),
            config,
            ternary: BTreeMap::new(),
            packed: BTreeMap::new(),
        }
    }

    /// Turns the matrices into bf16, for generation and evaluation: half the memory, and half of it read a token.
    /// Packed matrices stay as they are; a model in ternary form keeps its matrices.
    pub fn narrow(&mut self) {
        if self.ternary.is_empty() {
            self.params.narrow(&["embed.weight"]);
        }
    }

    /// Shape of one memory layer.
    pub fn memory_shape(&self) -> MemoryShape {
        let c = &self.config;
        MemoryShape {
            heads: c.heads,
            width: c.head_width(),
            slots: c.slots_per_head(),
            chunk: c.chunk,
        }
    }

    /// Number of the attention of a block in a pass; keys and values are kept per site.
    pub(crate) fn site(&self, block: usize, pass: usize) -> usize {
        match self.config.blocks[block].part {
            Part::Stem => block,
            Part::Core => block + pass * self.config.core_blocks(),
            Part::Tail => block + (self.config.passes - 1) * self.config.core_blocks(),
        }
    }

    /// How many attention sites there are.
    pub fn sites(&self) -> usize {
        self.config.blocks.len() + (self.config.passes - 1) * self.config.core_blocks()
    }

    pub(crate) fn linear(&self, p: &Bound, x: Var, name: &str) -> Var {
        p.watch(name, x);
        if let Some(w) = self.packed.get(name) {
            return p.tape.packed_linear(x, w);
        }
        match self.ternary.get(name) {
            Some(settings) => p.tape.ternary_linear(x, p.var(name), *settings),
            None => p.tape.linear(x, p.var(name)),
        }
    }

    /// Linear maps of the same rows: at once, unless something is to happen to one of them.
    pub(crate) fn maps<const M: usize>(
        &self,
        p: &Bound,
        n: Normed,
        names: [String; M],
    ) -> [Var; M] {
        if !p.watches() && names.iter().all(|name| self.is_plain(name)) {
            return p.tape.linears(n.x, n.norm, names.map(|name| p.var(&name)));
        }
        let rows = n.rows(p.tape);
        names.map(|name| self.linear(p, rows, &name))
    }

    /// y + x Wᵀ
    fn add_linear(&self, p: &Bound, y: Var, x: Var, name: &str) -> Var {
        if !p.watches() && self.is_plain(name) {
            return p.tape.add_linear(y, x, p.var(name));
        }
        p.tape.add(y, self.linear(p, x, name))
    }

    /// Logits [N, V] of hidden rows.
    pub fn logits(&self, p: &Bound, hidden: Var) -> Var {
        p.tape.linear(hidden, p.var("embed.weight"))
    }

    /// The probability of continuing that a raw gate logit after `pass` (from 0) stands for.
    pub fn continue_probability(&self, pass: usize, raw: f32) -> f32 {
        let s = self.config.exit[pass];
        let x = (raw - s.median) / s.deviation.max(1e-6) + GATE_CENTRE;
        1.0 / (1.0 + (-x).exp())
    }

    /// Queries, keys and values of a block from its normalised input.
    pub(crate) fn qkv(&self, p: &Bound, block: usize, n: Normed, rotation: &Rotation) -> Qkv {
        let (t, h) = (p.tape, self.config.heads);
        let name = |s: &str| format!("blocks.{block}.attn.{s}");
        let [q, k, v] = self.maps(p, n, ["q.weight", "k.weight", "v.weight"].map(name));
        let q = t.head_norm_rope(q, h, Some(p.var(&name("q_gain"))), Some(rotation));
        let k = t.head_norm_rope(k, h, Some(p.var(&name("k_gain"))), Some(rotation));
        Qkv { q, k, v }
    }

    /// The operands of an attention of this model.
    pub(crate) fn attended(
        &self,
        p: &Bound,
        block: usize,
        q: Var,
        k: Var,
        v: Var,
        extra: Option<(Var, Var)>,
    ) -> Attended {
        let name = |s: &str| format!("blocks.{block}.attn.{s}");
        let prefix =
            (self.config.prefix > 0).then(|| (p.var(&name("prefix_k")), p.var(&name("prefix_v"))));
        Attended {
            q,
            k,
            v,
            prefix,
            extra,
            heads: self.config.heads,
            kv_heads: self.config.heads,
            site: Some(block),
        }
    }

    /// A block: `attend` gives the attention output for the normalised input, `remember` the memory's.
    pub(crate) fn block(
        &self,
        p: &Bound,
        block: usize,
        h: Var,
        attend: &mut dyn FnMut(Normed) -> Var,
        remember: &mut dyn FnMut(Normed) -> Var,
    ) -> Var {
        let (t, c) = (p.tape, &self.config);
        let b = c.blocks[block];
        let name = |s: &str| format!("blocks.{block}.{s}");
        let norm = (p.var(&name("norm1.weight")), c.eps);
        // Where more than attention reads it, it is normed once.
        let n = match b.memory {
            true => (t.rms_norm(h, norm.0, norm.1), None),
            false => (h, Some(norm)),
        };
        let n = Normed { x: n.0, norm: n.1 };
        let mut o = attend(n);
        if b.memory {
            let m = remember(n);
            let gate = self.linear(p, t.concat_cols(&[o, m]), &name("memory.gate.weight"));
            let gate = t.sigmoid(t.add_bias(gate, p.var(&name("memory.gate.bias"))));
            let a = t.rms_norm(o, p.var(&name("memory.norm_attn.weight")), c.eps);
            let m = t.rms_norm(m, p.var(&name("memory.norm_memory.weight")), c.eps);
            o = t.mix(gate, a, m);
        }
        let out = name("attn.o.weight");
        let h = match b.scale == 1.0 {
            true => self.add_linear(p, h, o, &out),
            false => t.add(h, t.scale(self.linear(p, o, &out), b.scale)),
        };
        // At once, unless something is to happen to the layer or one of its maps.
        let [gate, up, down] = ["ffn.gate.weight", "ffn.up.weight", "ffn.down.weight"].map(name);
        let plain = |name: &String| self.is_plain(name);
        let gain = p.var(&name("norm2.weight"));
        if b.scale == 1.0 && !p.watches() && [&gate, &up, &down].into_iter().all(plain) {
            let [gate, up, down] = [gate, up, down].map(|name| p.var(&name));
            let eps = c.eps;
            let layer = FeedForward {
                gain,
                eps,
                gate,
                up,
                down,
            };
            return t.feed_forward(h, layer);
        }
        let n = t.rms_norm(h, gain, c.eps);
        let hidden = t.swiglu(self.linear(p, n, &gate), self.linear(p, n, &up));
        match b.scale == 1.0 {
            true => self.add_linear(p, h, hidden, &down),
            false => t.add(h, t.scale(self.linear(p, hidden, &down), b.scale)),
        }
    }

    /// Whether a linear map is a product with its weights as they are.
    fn is_plain(&self, name: &str) -> bool {
        !self.packed.contains_key(name) && !self.ternary.contains_key(name)
    }

    /// Branches of the memory's inputs before their convolution: SiLU(W n).
    pub(crate) fn memory_raw<const M: usize>(
        &self,
        p: &Bound,
        block: usize,
        which: [&str; M],
        n: Normed,
    ) -> [Var; M] {
        let names = which.map(|which| format!("blocks.{block}.memory.{which}.weight"));
        self.maps(p, n, names).map(|x| p.tape.silu(x))
    }

    /// Unit length per head.
    pub(crate) fn unit_heads(&self, t: &Tape, x: Var) -> Var {
        let c = &self.config;
        let gain = t.constant(&Tensor::full(
            &[c.heads],
            1.0 / (c.head_width() as f32).sqrt(),
        ));
        t.head_norm_rope(x, c.heads, Some(gain), None)
    }

    /// The operands of a memory from its convolved inputs, and the rates from the normalised input.
    fn memorised(&self, p: &Bound, block: usize, n: Normed, q: Var, k: Var, v: Var) -> Memorised {
        let (t, c) = (p.tape, &self.config);
        let name = |s: &str| format!("blocks.{block}.memory.{s}");
        let rates = t.linear(n.rows(t), p.var(&name("rates.weight")));
        let rates = t.sigmoid(t.add_bias(rates, p.var(&name("rates.bias"))));
        Memorised {
            q: self.unit_heads(t, q),
            k: self.unit_heads(t, k),
            v,
            eta: t.slice_cols(rates, 0..c.heads),
            theta: t.scale(t.slice_cols(rates, c.heads..2 * c.heads), c.theta_max),
            alpha: t.slice_cols(rates, 2 * c.heads..3 * c.heads),
            keys: p.var(&name("keys")),
            values: p.var(&name("values")),
        }
    }

    /// The forward pass over a batch.
    ///
    /// With `streaming`, segment s continues a sequence; its rows follow those that the state has seen.
    /// With `capture`, the output carries what parallel thoughts need.
    pub fn forward(
        &self,
        p: &Bound,
        batch: &Batch,
        depth: Depth,
        mut streaming: Option<Streaming>,
        capture: bool,
    ) -> Output {
        let (t, c) = (p.tape, &self.config);
        let n = batch.len();
        let rotation = Rotation::new(&batch.positions, c.head_width() / 2, c.rope_theta);
        if let Some(s) = &mut streaming {
            s.state.make_room(s.sequences, &batch.segments);
        }
        let everything = all_rows(n);
        let layout = Arc::new(self.layout(batch, &everything, streaming.as_ref()));
        let mut context = Context {
            kv: vec![None; self.sites()],
            keys: batch.segments.to_vec(),
            memories: Vec::new(),
        };

        // Only what is still to be read stays on the tape.
        let begin = t.mark();
        let forget = |context: &Context, gates: &[(Ids, Var)], values: &[Var]| {
            let mut keep = values.to_vec();
            keep.extend(gates.iter().map(|(_, logits)| *logits));
            if capture {
                keep.extend(context.values());
            }
            t.forget(begin, &keep);
        };
        let mut x = t.embedding(p.var("embed.weight"), batch.tokens.clone());
        for i in c.part(Part::Stem) {
            x = self.outer_block(
                p,
                i,
                x,
                batch,
                &rotation,
                &layout,
                &mut streaming,
                &mut context,
            );
            forget(&context, &[], &[x]);
        }

        let mut y = x;
        let mut z = t.gather_rows(p.var("core.z0"), vec![0; n].into());
        let mut depths = vec![0u8; n];
        let mut gates = Vec::new();
        let mut active = everything.clone();
        let core: Vec<usize> = c.part(Part::Core).collect();
        // Keys and values of every row in each core block, from its last executed pass.
        let mut latest: Vec<Option<(Var, Var)>> = vec![None; core.len()];
        for pass in 0..c.passes {
            active = match depth {
                Depth::Full => active,
                Depth::Fixed(d) => {
                    if pass < d.max(1) {
                        active
                    } else {
                        no_rows()
                    }
                }
                Depth::PerToken(d) => active
                    .iter()
                    .copied()
                    .filter(|&i| pass == 0 || d[i as usize] as usize > pass)
                    .collect::<Vec<_>>()
                    .into(),
                Depth::Halting => active,
            };
            if active.is_empty() {
                if streaming.is_none() {
                    break;
                }
                for (j, &i) in core.iter().enumerate() {
                    if let Some((k, v)) = latest[j] {
                        self.keep(t, &mut streaming, batch, self.site(i, pass), k, v);
                    }
                }
                continue;
            }
            let whole = active.len() == n;
            let pick = |v: Var| {
                if whole {
                    v
                } else {
                    t.gather_rows(v, active.clone())
                }
            };
            let ya = pick(y);
            let (rot, lay) = if whole {
                (rotation.clone(), layout.clone())
            } else {
                (
                    rotation.rows(&active),
                    Arc::new(self.layout(batch, &active, streaming.as_ref())),
                )
            };
            let of = (!whole).then(|| active.clone());
            let mut h = self.linear(p, t.concat_cols_of(&[x, y, z], of), "core.in.weight");
            for (j, &i) in core.iter().enumerate() {
                if c.blocks[i].scale == 0.0 {
                    continue;
                }
                let site = self.site(i, pass);
                let mut attend = |normed: Normed| {
                    let Qkv { q, k, v } = self.qkv(p, i, normed, &rot);
                    let (k, v) = match latest[j] {
                        Some((k0, v0)) if !whole => (
                            t.replace_rows(k0, k, active.clone()),
                            t.replace_rows(v0, v, active.clone()),
                        ),
                        _ => (k, v),
                    };
                    latest[j] = Some((k, v));
                    context.kv[site] = latest[j];
                    let (k, v) = self.keep(t, &mut streaming, batch, site, k, v);
                    t.attention(self.attended(p, i, q, k, v, None), lay.clone())
                };
                h = self.block(p, i, h, &mut attend, &mut |_| {
                    unreachable!("validated: no memory in the core")
                });
                let mut values = vec![x, y, z, ya, h];
                values.extend(pairs(&latest));
                forget(&context, &gates, &values);
            }
            let normed = t.rms_norm(h, p.var("core.norm.weight"), c.eps);
            let stepped = self.add_linear(p, ya, normed, "core.out.weight");
            (y, z) = if whole {
                (stepped, h)
            } else {
                (
                    t.replace_rows(y, stepped, active.clone()),
                    t.replace_rows(z, h, active.clone()),
                )
            };
            for &i in active.iter() {
                depths[i as usize] = pass as u8 + 1;
            }
            if pass + 1 < c.passes {
                let w = t.gather_rows(p.var("exit.weight"), [pass as u32].into());
                let b = t.slice_cols(
                    t.reshape(p.var("exit.bias"), &[1, c.passes - 1]),
                    pass..pass + 1,
                );
                let logits = t.add_bias(t.linear(normed, w), b);
                let ran = active.clone();
                if matches!(depth, Depth::Halting) {
                    let raw = t.value(logits).to_vec();
                    let goes_on = |r: f32| self.continue_probability(pass, r) > c.act_threshold;
                    active = ran
                        .iter()
                        .zip(raw)
                        .filter(|(_, r)| goes_on(*r))
                        .map(|(&i, _)| i)
                        .collect::<Vec<_>>()
                        .into();
                }
                gates.push((ran, logits));
            }
            let mut values = vec![x, y, z];
            values.extend(pairs(&latest));
            forget(&context, &gates, &values);
        }
        let mut h = y;
        for i in c.part(Part::Tail) {
            h = self.outer_block(
                p,
                i,
                h,
                batch,
                &rotation,
                &layout,
                &mut streaming,
                &mut context,
            );
            forget(&context, &gates, &[h]);
        }
        let hidden = t.rms_norm(h, p.var("norm.weight"), c.eps);
        if let Some(s) = &mut streaming {
            s.state.advance(s.sequences, &batch.segments);
        }
        Output {
            hidden,
            depths,
            gates,
            context: capture.then_some(context),
        }
    }

    /// A stem or tail block over all rows.
    #[allow(clippy::too_many_arguments)]
    fn outer_block(
        &self,
        p: &Bound,
        i: usize,
        h: Var,
        batch: &Batch,
        rotation: &Rotation,
        layout: &Arc<AttentionLayout>,
        streaming: &mut Option<Streaming>,
        context: &mut Context,
    ) -> Var {
        let t = p.tape;
        if self.config.blocks[i].scale == 0.0 {
            return h;
        }
        // Attention and memory both need the state and the context, one after the other.
        let shared = std::cell::RefCell::new((streaming, context));
        let mut attend = |normed: Normed| {
            let (streaming, context) = &mut *shared.borrow_mut();
            let Qkv { q, k, v } = self.qkv(p, i, normed, rotation);
            let site = self.site(i, 0);
            context.kv[site] = Some((k, v));
            let (k, v) = self.keep(t, streaming, batch, site, k, v);
            t.attention(self.attended(p, i, q, k, v, None), layout.clone())
        };
        let mut remember = |normed: Normed| {
            let (streaming, context) = &mut *shared.borrow_mut();
            self.remember(p, i, normed, batch, streaming, context)
        };
        self.block(p, i, h, &mut attend, &mut remember)
    }

    /// The memory branch of a block.
    fn remember(
        &self,
        p: &Bound,
        i: usize,
        normed: Normed,
        batch: &Batch,
        streaming: &mut Option<Streaming>,
        context: &mut Context,
    ) -> Var {
        let t = p.tape;
        let branches = ["q", "k", "v"];
        let raw = self.memory_raw(p, i, branches, normed);
        let [q, k, v] = std::array::from_fn(|at| {
            let (which, raw) = (branches[at], raw[at]);
            let left = streaming.as_mut().map(|s| {
                s.state
                    .convolution_context(t, i, which, s.sequences, raw, &batch.segments)
            });
            t.causal_conv(
                raw,
                p.var(&format!("blocks.{i}.memory.conv_{which}.weight")),
                batch.segments.clone(),
                left,
            )
        });
        let operands = self.memorised(p, i, normed, q, k, v);
        context.memories.push(MemoryContext {
            block: i,
            operands,
            raw_q: raw[0],
        });
        match streaming {
            Some(s) => t.memory_stream(
                operands,
                self.memory_shape(),
                &batch.segments,
                &mut s.state.memories(i, s.sequences),
            ),
            None => t.memory(operands, self.memory_shape(), batch.segments.clone()),
        }
    }

    /// Streaming: appends the new keys and values of a site and returns all that are kept.
    fn keep(
        &self,
        t: &Tape,
        streaming: &mut Option<Streaming>,
        batch: &Batch,
        site: usize,
        k: Var,
        v: Var,
    ) -> (Var, Var) {
        match streaming {
            None => (k, v),
            Some(s) => {
                let (k, v) =
                    s.state
                        .append(site, s.sequences, &batch.segments, &t.value(k), &t.value(v));
                (t.constant(&k), t.constant(&v))
            }
        }
    }

    /// Which keys the given rows see.
    fn layout(
        &self,
        batch: &Batch,
        rows: &[u32],
        streaming: Option<&Streaming>,
    ) -> AttentionLayout {
        let at = offsets(&batch.segments);
        let mut queries = Vec::with_capacity(batch.segments.len());
        let mut from = 0;
        for s in batch.segments.iter() {
            let to = from
                + rows[from..]
                    .iter()
                    .take_while(|&&r| (r as usize) < s.end)
                    .count();
            queries.push(from..to);
            from = to;
        }
        let (keys, before): (Vec<Range<usize>>, Vec<u32>) = match streaming {
            None => (batch.segments.to_vec(), vec![0; batch.segments.len()]),
            Some(s) => s.state.key_ranges(s.sequences, &batch.segments),
        };
        let last = queries
            .iter()
            .zip(before)
            .flat_map(|(q, b)| {
                rows[q.clone()]
                    .iter()
                    .map(|&r| b + at[r as usize])
                    .collect::<Vec<_>>()
            })
            .collect();
        AttentionLayout {
            queries,
            keys,
            last,
            window: self.config.window,
            extra: Vec::new(),
        }
    }

    /// Per-row negative log-likelihood of `targets`, without gradients.
    pub fn nll(&self, batch: &Batch, targets: &[u32], depth: Depth) -> (Vec<f32>, Vec<u8>) {
        let tape = Tape::inference();
        let p = Bound::new(&tape, &self.params);
        let out = self.forward(&p, batch, depth, None, false);
        let nll = tape.cross_entropy(out.hidden, p.var("embed.weight"), targets.to_vec().into());
        (tape.value(nll).to_vec(), out.depths)
    }

    /// Raw gate logits of every row after each pass but the last, at full depth.
    pub fn gate_logits(&self, batch: &Batch) -> Vec<Vec<f32>> {
        let tape = Tape::inference();
        let p = Bound::new(&tape, &self.params);
        let out = self.forward(&p, batch, Depth::Full, None, false);
        out.gates
            .iter()
            .map(|(_, l)| tape.value(*l).to_vec())
            .collect()
    }

    /// Sets the constants of the gate's standardisation from text: median to logit(0.95), deviation to 1.
    pub fn standardise_gate(&mut self, batch: &Batch) {
        self.standardise_gate_to(self.gate_logits(batch));
    }

    /// The same from gate logits that are there already: those of [`Cognate::gate_logits`].
    pub fn standardise_gate_to(&mut self, logits: Vec<Vec<f32>>) {
        for (pass, mut raw) in logits.into_iter().enumerate() {
            if raw.is_empty() {
                continue;
            }
            raw.sort_by(f32::total_cmp);
            let n = raw.len() as f64;
            let mean = raw.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let var = raw
                .iter()
                .map(|&x| (f64::from(x) - mean).powi(2))
                .sum::<f64>()
                / n;
            self.config.exit[pass] = ExitScale {
                median: raw[raw.len() / 2],
                deviation: (var.sqrt() as f32).max(1e-6),
            };
        }
    }

    /// Rows of a convolution's context.
    pub(crate) const CONTEXT_ROWS: usize = CONV_WIDTH - 1;
}
