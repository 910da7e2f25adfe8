//! Silent thoughts at places of a text: sampling them, and what they do to the tokens ahead.
//!
//! A place is a row j of the text whose next tokens are judged. A thought's chain is
//! `start, thought, end, x_{j+1}, ...`: the rows from `end` on predict x_{j+1}, x_{j+2}, ... with the
//! thought. The prediction mixes logits, softmax((1 - w) base + w thought), with w from the mixing head on
//! both hidden states; so it is a distribution, and w = 0 is the model without thoughts.
//!
//! The gradient of the mixture reaches the thought's side and the head, not the base side: otherwise the
//! answers of tasks, which the base model is meant to think about first, would be drilled into it.

use model::cognate::Context;
use model::thoughts::{Anchor, Chains, ThoughtStream, ThoughtToken};
use model::{Batch, Bound, Cognate};
use std::ops::Range;
use tensor::random::Counted;
use tensor::{Ids, Tape, Tensor, Var};

/// A row of a text and what follows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Segment of the batch.
    pub segment: usize,
    /// Row within the segment, behind which the thought hangs.
    pub row: usize,
    /// The tokens ahead. The segment holds all but the last of them as rows.
    pub target: Vec<u32>,
    /// Which of them are judged.
    pub judged: Range<usize>,
}

/// Sampling of thoughts.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Thoughts at each place.
    pub thoughts: usize,
    /// Most tokens.
    pub length: usize,
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Passes of the core.
    pub passes: usize,
    /// The token that closes a thought; it does not count to its tokens.
    pub close: u32,
}

/// A sampled thought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thought {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Whether it closed by itself.
    pub closed: bool,
}

/// Where each place hangs, `each` times.
fn anchors<'a>(
    batch: &'a Batch,
    places: &'a [Place],
    each: usize,
) -> impl Iterator<Item = Anchor> + 'a {
    places.iter().flat_map(move |p| {
        let row = batch.segments[p.segment].start + p.row;
        std::iter::repeat_n(
            Anchor {
                segment: p.segment,
                row: p.row as u32,
                position: batch.positions[row],
            },
            each,
        )
    })
}

/// Index drawn from softmax(logits / temperature) by `u` in [0, 1).
pub fn draw(logits: &[f32], temperature: f32, u: f64) -> u32 {
    let (best, top) =
        logits.iter().enumerate().fold(
            (0, f32::NEG_INFINITY),
            |b, (i, &x)| if x > b.1 { (i, x) } else { b },
        );
    if temperature <= 0.0 {
        return best as u32;
    }
    let weights: Vec<f64> = logits
        .iter()
        .map(|x| f64::from((x - top) / temperature).exp())
        .collect();
    let mut left = u * weights.iter().sum::<f64>();
    for (i, w) in weights.iter().enumerate() {
        left -= w;
        if left < 0.0 {
            return i as u32;
        }
    }
    best as u32
}

/// Logits of hidden rows, as values.
pub fn logits(model: &Cognate, hidden: &Tensor) -> Vec<f32> {
    Tensor::matmul(hidden, model.params.get("embed.weight"), false, true).to_vec()
}

/// Samples thoughts at each place, place after place. `random` is indexed by chain and token.
pub fn sample(
    model: &Cognate,
    p: &Bound,
    context: &Context,
    batch: &Batch,
    places: &[Place],
    s: Sampling,
    random: &Counted,
) -> Vec<Thought> {
    let mut stream = ThoughtStream::from_text(
        model,
        p,
        context,
        anchors(batch, places, s.thoughts).collect(),
        s.passes,
        s.length + 1,
    );
    grow(model, &mut stream, places.len() * s.thoughts, s, random)
}

/// Lets the chains of a fresh stream think. The stream has then read every token but the last of a thought
/// that did not close by itself.
pub fn grow(
    model: &Cognate,
    stream: &mut ThoughtStream,
    chains: usize,
    s: Sampling,
    random: &Counted,
) -> Vec<Thought> {
    let mut thoughts = vec![Thought::default(); chains];
    let mut entries: Vec<(usize, ThoughtToken)> =
        (0..chains).map(|c| (c, ThoughtToken::Start)).collect();
    let vocab = model.config.vocab;
    for step in 0..s.length {
        let scores = logits(model, &stream.extend(&entries));
        let mut next = Vec::with_capacity(entries.len());
        for (row, &(chain, _)) in entries.iter().enumerate() {
            let token = draw(
                &scores[row * vocab..][..vocab],
                s.temperature,
                random.uniform((chain * s.length + step) as u64),
            );
            if token == s.close {
                thoughts[chain].closed = true;
            } else {
                thoughts[chain].tokens.push(token);
                next.push((chain, ThoughtToken::Token(token)));
            }
        }
        if next.is_empty() {
            break;
        }
        entries = next;
    }
    thoughts
}

/// The chains of thoughts at places, given as (place, thought) in the order of places.
pub fn chains(batch: &Batch, places: &[Place], thoughts: &[(usize, &[u32])]) -> Chains {
    let at: Vec<Anchor> = anchors(batch, places, 1).collect();
    Chains::new(thoughts.iter().map(|&(place, thought)| {
        let target = &places[place].target;
        let ahead = &target[..target.len() - 1];
        let tokens = std::iter::once(ThoughtToken::Start)
            .chain(thought.iter().map(|&t| ThoughtToken::Token(t)))
            .chain([ThoughtToken::End])
            .chain(ahead.iter().map(|&t| ThoughtToken::Token(t)));
        (at[place], tokens.collect())
    }))
}

/// Judged predictions: rows of the text and of the chains that make them, and the right tokens.
pub struct Judged {
    /// Rows of the text's hidden states.
    pub base: Ids,
    /// Rows of the chains' hidden states.
    pub chain: Ids,
    /// The right tokens.
    pub target: Ids,
    /// Which of these belong to each chain.
    pub of_chain: Vec<Range<usize>>,
}

/// The judged rows of `thoughts`, matching [`chains`].
pub fn judged(
    batch: &Batch,
    places: &[Place],
    thoughts: &[(usize, &[u32])],
    chains: &Chains,
) -> Judged {
    let (mut base, mut chain, mut target, mut of_chain) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (&(place, thought), rows) in thoughts.iter().zip(&chains.rows) {
        let p = &places[place];
        let text = batch.segments[p.segment].start + p.row;
        let end = rows.start + 1 + thought.len();
        let from = target.len();
        for i in p.judged.clone() {
            base.push((text + i) as u32);
            chain.push((end + i) as u32);
            target.push(p.target[i]);
        }
        of_chain.push(from..target.len());
    }
    Judged {
        base: base.into(),
        chain: chain.into(),
        target: target.into(),
        of_chain,
    }
}

/// Mixed predictions at judged rows.
pub struct Mixed {
    /// Log-probabilities [R, V].
    pub log_p: Var,
    /// Weight of the thought [R].
    pub weight: Var,
    /// Logits without the thought [R, V], without gradient.
    pub base: Var,
}

/// Mixes the predictions of the text's and the chains' hidden states at judged rows.
pub fn mix(model: &Cognate, p: &Bound, text: Var, chain: Var, rows: &Judged) -> Mixed {
    let t = p.tape;
    let base = t.detach(t.gather_rows(text, rows.base.clone()));
    let thought = t.gather_rows(chain, rows.chain.clone());
    let weight = model.mixing_weight(p, base, thought);
    let base_logits = t.detach(model.logits(p, base));
    let difference = t.sub(model.logits(p, thought), base_logits);
    let log_p = t.log_softmax(t.add(base_logits, t.mul_rows(difference, weight)));
    Mixed {
        log_p,
        weight,
        base: base_logits,
    }
}

/// Negative log-likelihoods under `model` of each thought's own tokens (and its close, when asked), as one
/// value a predicted token; `rows` says which belong to each thought. `temperature` divides the logits.
pub struct Policy {
    /// [tokens]
    pub nll: Var,
    /// Tokens of each thought.
    pub of_thought: Vec<Range<usize>>,
}

/// See [`Policy`].
pub fn policy(
    p: &Bound,
    hidden: Var,
    chains: &Chains,
    thoughts: &[&Thought],
    close: Option<u32>,
    temperature: f32,
) -> Policy {
    let t = p.tape;
    let (mut rows, mut targets, mut of_thought) = (Vec::new(), Vec::new(), Vec::new());
    for (thought, range) in thoughts.iter().zip(&chains.rows) {
        let from = targets.len();
        let closing = close.filter(|_| thought.closed);
        for (i, token) in thought.tokens.iter().copied().chain(closing).enumerate() {
            rows.push((range.start + i) as u32);
            targets.push(token);
        }
        of_thought.push(from..targets.len());
    }
    let mut picked = t.gather_rows(hidden, rows.into());
    if temperature != 1.0 {
        picked = t.scale(picked, 1.0 / temperature);
    }
    Policy {
        nll: t.cross_entropy(picked, p.var("embed.weight"), targets.into()),
        of_thought,
    }
}

/// Entropy in nats of the next token behind each row of hidden states.
pub fn entropies(model: &Cognate, hidden: &Tensor) -> Vec<f64> {
    let tape = Tape::inference();
    let vocab = model.config.vocab;
    let log_p = tape.log_softmax(tape.constant(&Tensor::from_vec(
        logits(model, hidden),
        &[hidden.rows(), vocab],
    )));
    tape.value(log_p)
        .to_vec()
        .chunks(vocab)
        .map(|row| row.iter().map(|&l| -f64::from(l.exp() * l)).sum())
        .collect()
}
