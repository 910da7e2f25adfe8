//! Parallel thoughts: chains beside the text hear of the text up to their anchor, of themselves, and of
//! nothing else.

use crate::sample::{Draw, config, distance, model_of};
use model::cognate::Streaming;
use model::stream::StreamState;
use model::thoughts::{Anchor, Chains, ThoughtStream, ThoughtToken};
use model::{Batch, Bound, Cognate, Depth, Part};
use tensor::{Grads, Tape, Tensor};

/// A random model with thoughts, and a window that holds its texts.
fn model(seed: u64) -> Cognate {
    let mut c = config(seed);
    c.mixing = 3;
    c.window = 4 * c.chunk;
    model_of(c, seed)
}

fn token(id: u32) -> ThoughtToken {
    ThoughtToken::Token(id)
}

/// Hidden rows of the text and of the chains.
fn hidden(m: &Cognate, batch: &Batch, chains: &Chains, passes: usize) -> (Vec<f32>, Vec<f32>) {
    let tape = Tape::inference();
    let p = Bound::new(&tape, &m.params);
    let out = m.forward(&p, batch, Depth::Full, None, true);
    let thought = m.think(&p, &out.context.unwrap(), chains, passes);
    (
        tape.value(out.hidden).to_vec(),
        tape.value(thought).to_vec(),
    )
}

/// Some chains of random tokens at random rows of two texts.
fn some_chains(m: &Cognate, d: &Draw, lengths: &[usize]) -> Chains {
    let mut all = Vec::new();
    for (segment, &n) in lengths.iter().enumerate() {
        for _ in 0..2 {
            let row = d.below(n) as u32;
            let mut tokens = vec![ThoughtToken::Start];
            tokens.extend(
                d.tokens(d.between(1, 4), m.config.vocab)
                    .into_iter()
                    .map(token),
            );
            tokens.push(ThoughtToken::End);
            all.push((
                Anchor {
                    segment,
                    row,
                    position: row,
                },
                tokens,
            ));
        }
    }
    Chains::new(all)
}

#[test]
fn a_chain_of_the_next_words_is_the_text_itself() {
    // Within one chunk of the memory, and within the window, thinking the next words is reading them.
    let mut compared = 0;
    for seed in 0..60 {
        let m = model(seed);
        let (c, d) = (&m.config, Draw::new(seed, "next words"));
        let texts: Vec<Vec<u32>> = (0..2).map(|_| d.tokens(4 * c.chunk, c.vocab)).collect();
        let start = d.below(30) as u32;
        let batch = Batch::new([(&texts[0][..], 0), (&texts[1][..], start)]);
        let mut chains = Vec::new();
        let mut expected = Vec::new();
        for (segment, text) in texts.iter().enumerate() {
            for chunk in 0..4 {
                let row = chunk * c.chunk + d.below(c.chunk - 1);
                let length = d.between(1, (chunk + 1) * c.chunk - row - 1);
                let position = row as u32 + if segment == 1 { start } else { 0 };
                let words = text[row + 1..=row + length]
                    .iter()
                    .map(|&t| token(t))
                    .collect();
                chains.push((
                    Anchor {
                        segment,
                        row: row as u32,
                        position,
                    },
                    words,
                ));
                let at = batch.segments[segment].start + row + 1;
                expected.extend(at..at + length);
            }
        }
        let (text, thought) = hidden(&m, &batch, &Chains::new(chains), c.passes);
        let expected: Vec<f32> = expected
            .iter()
            .flat_map(|&r| text[r * c.width..][..c.width].to_vec())
            .collect();
        let x = distance(&thought, &expected);
        assert!(x < 2e-5, "seed {seed}: {x}; {c:?}");
        compared += expected.len();
    }
    assert!(compared > 1000);
}

#[test]
fn later_text_never_reaches_a_chain() {
    for seed in 0..40 {
        let m = model(seed);
        let (c, d) = (&m.config, Draw::new(seed, "later text"));
        let n = 3 * c.chunk + 1;
        let text = d.tokens(n, c.vocab);
        let row = d.below(n - 1);
        let words: Vec<ThoughtToken> = d.tokens(6, c.vocab).into_iter().map(token).collect();
        let chains = Chains::new([(
            Anchor {
                segment: 0,
                row: row as u32,
                position: row as u32,
            },
            words,
        )]);
        let mut other = text.clone();
        other[row + 1..]
            .iter_mut()
            .for_each(|t| *t = (*t + 1) % c.vocab as u32);
        let (_, a) = hidden(&m, &Batch::single(&text), &chains, c.passes);
        let (_, b) = hidden(&m, &Batch::single(&other), &chains, c.passes);
        assert_eq!(a, b, "seed {seed}: anchored at {row} of {n}");
        other[row] = (text[row] + 1) % c.vocab as u32;
        if c.blocks.iter().any(|b| b.scale != 0.0) {
            let (_, b) = hidden(&m, &Batch::single(&other), &chains, c.passes);
            assert!(
                distance(&a, &b) > 1e-6,
                "seed {seed}: the chain does not hear its anchor"
            );
        }
    }
}

#[test]
fn chains_are_causal_and_independent() {
    for seed in 0..40 {
        let m = model(seed);
        let (w, d) = (m.config.width, Draw::new(seed, "chains"));
        let lengths = [2 * m.config.chunk + 1, m.config.chunk];
        let texts: Vec<Vec<u32>> = lengths
            .iter()
            .map(|&n| d.tokens(n, m.config.vocab))
            .collect();
        let batch = Batch::new(texts.iter().map(|t| (&t[..], 0)));
        let chains = some_chains(&m, &d, &lengths);
        let passes = d.between(1, m.config.passes);
        let (_, together) = hidden(&m, &batch, &chains, passes);
        for (anchor, rows) in chains.anchors.iter().zip(&chains.rows) {
            let alone = Chains::new([(*anchor, chains.tokens[rows.clone()].to_vec())]);
            let (_, one) = hidden(&m, &batch, &alone, passes);
            let x = distance(&one, &together[rows.start * w..rows.end * w]);
            assert!(
                x < 5e-5,
                "seed {seed}, rows {rows:?}: alone it differs by {x}; {:?}",
                m.config
            );

            let mut changed = chains.clone();
            changed.tokens[rows.end - 1] = ThoughtToken::Start;
            let (_, after) = hidden(&m, &batch, &changed, passes);
            for row in 0..chains.len() {
                let moved = distance(&after[row * w..][..w], &together[row * w..][..w]);
                let last = row == rows.end - 1;
                assert!(
                    if last { moved > 1e-4 } else { moved == 0.0 },
                    "seed {seed}: row {row} moved by {moved} with the end of {rows:?}"
                );
            }
        }
    }
}

#[test]
fn thoughts_leave_the_text_alone() {
    for seed in 0..10 {
        let m = model(seed);
        let d = Draw::new(seed, "beside");
        let text = d.tokens(2 * m.config.chunk, m.config.vocab);
        let batch = Batch::single(&text);
        let tape = Tape::inference();
        let p = Bound::new(&tape, &m.params);
        let plain = m.forward(&p, &batch, Depth::Full, None, false);
        let (beside, _) = hidden(&m, &batch, &some_chains(&m, &d, &[text.len()]), 1);
        assert_eq!(tape.value(plain.hidden).to_vec(), beside);
        assert!(plain.context.is_none());
    }
}

/// Runs whole chains a token at a time, ragged: in each round some chains grow.
fn grown(stream: &mut ThoughtStream, chains: &Chains, w: usize, d: &Draw) -> Vec<f32> {
    let mut all = vec![f32::NAN; chains.len() * w];
    let mut done = vec![0; chains.rows.len()];
    while done.iter().zip(&chains.rows).any(|(&n, r)| n < r.len()) {
        let grows: Vec<usize> = (0..done.len())
            .filter(|&i| done[i] < chains.rows[i].len() && d.below(3) > 0)
            .collect();
        let entries: Vec<(usize, ThoughtToken)> = grows
            .iter()
            .map(|&i| (i, chains.tokens[chains.rows[i].start + done[i]]))
            .collect();
        if entries.is_empty() {
            continue;
        }
        let hidden = stream.extend(&entries).to_vec();
        for (row, &i) in grows.iter().enumerate() {
            let at = chains.rows[i].start + done[i];
            all[at * w..][..w].copy_from_slice(&hidden[row * w..][..w]);
            done[i] += 1;
        }
    }
    all
}

#[test]
fn chains_grown_a_token_at_a_time_equal_whole_chains() {
    for seed in 0..40 {
        let m = model(seed);
        let (w, d) = (m.config.width, Draw::new(seed, "grown"));
        let lengths = [2 * m.config.chunk + 1, m.config.chunk];
        let texts: Vec<Vec<u32>> = lengths
            .iter()
            .map(|&n| d.tokens(n, m.config.vocab))
            .collect();
        let batch = Batch::new(texts.iter().map(|t| (&t[..], 0)));
        let chains = some_chains(&m, &d, &lengths);
        let passes = d.between(1, m.config.passes);
        let (_, whole) = hidden(&m, &batch, &chains, passes);
        let tape = Tape::inference();
        let p = Bound::new(&tape, &m.params);
        let context = m
            .forward(&p, &batch, Depth::Full, None, true)
            .context
            .unwrap();
        let mut stream =
            ThoughtStream::from_text(&m, &p, &context, chains.anchors.clone(), passes, 6);
        let x = distance(&grown(&mut stream, &chains, w, &d), &whole);
        assert!(x < 5e-5, "seed {seed}: {x}; {:?}", m.config);
    }
}

#[test]
fn chains_behind_a_stream_equal_those_behind_its_text() {
    for seed in 0..40 {
        let m = model(seed);
        let (w, d) = (m.config.width, Draw::new(seed, "behind a stream"));
        // Longer than the window, so that the stream has dropped rows.
        let texts: Vec<Vec<u32>> = (0..3)
            .map(|_| {
                d.tokens(
                    m.config.window + d.between(1, m.config.window),
                    m.config.vocab,
                )
            })
            .collect();
        let batch = Batch::new(texts.iter().map(|t| (&t[..], 0)));
        let mut state = StreamState::new(&m, 3);
        let longest = texts.iter().map(Vec::len).max().unwrap();
        for at in (0..longest).step_by(3) {
            let parts: Vec<(usize, &[u32])> = texts
                .iter()
                .enumerate()
                .filter(|(_, t)| t.len() > at)
                .map(|(s, t)| (s, &t[at..t.len().min(at + 3)]))
                .collect();
            let sequences: Vec<usize> = parts.iter().map(|p| p.0).collect();
            let piece = Batch::new(parts.iter().map(|p| (p.1, at as u32)));
            let tape = Tape::inference();
            let p = Bound::new(&tape, &m.params);
            m.forward(
                &p,
                &piece,
                Depth::Full,
                Some(Streaming {
                    state: &mut state,
                    sequences: &sequences,
                }),
                false,
            );
        }
        let chosen = [0, 2];
        let chains = Chains::new(chosen.iter().flat_map(|&s| {
            let row = texts[s].len() as u32 - 1;
            [0, 1].map(|_| {
                (
                    Anchor {
                        segment: s,
                        row,
                        position: row,
                    },
                    d.tokens(d.between(1, 4), m.config.vocab)
                        .into_iter()
                        .map(token)
                        .collect(),
                )
            })
        }));
        let (_, whole) = hidden(&m, &batch, &chains, m.config.passes);
        let mut stream = ThoughtStream::from_stream(&m, &state, &chosen, 2, m.config.passes, 4);
        let x = distance(&grown(&mut stream, &chains, w, &d), &whole);
        assert!(x < 1e-4, "seed {seed}: {x}; {:?}", m.config);
    }
}

#[test]
fn the_gradient_of_a_chain_reaches_the_text_and_is_right() {
    // Without memories: what a thought reads of them counts as given, so differences would see more.
    let mut c = config(5);
    c.mixing = 4;
    c.passes = 2;
    c.exit = vec![c.exit.first().copied().unwrap_or(model::config::ExitScale {
        median: 0.0,
        deviation: 1.0,
    })];
    c.blocks = [Part::Stem, Part::Core, Part::Tail]
        .map(|part| model::Block {
            part,
            memory: false,
            scale: 1.0,
        })
        .to_vec();
    let mut m = model_of(c, 5);
    let d = Draw::new(5, "thought gradients");
    let lengths = [9, 6];
    let texts: Vec<Vec<u32>> = lengths
        .iter()
        .map(|&n| d.tokens(n, m.config.vocab))
        .collect();
    let batch = Batch::new(texts.iter().map(|t| (&t[..], 0)));
    let chains = some_chains(&m, &d, &lengths);
    let ends: Vec<u32> = chains.rows.iter().map(|r| r.end as u32 - 1).collect();
    let bases: Vec<u32> = chains
        .anchors
        .iter()
        .map(|a| batch.segments[a.segment].start as u32 + a.row)
        .collect();
    let targets = d.tokens(ends.len(), m.config.vocab);
    // Likelihood after the thought: base and thought mixed.
    let run = |m: &Cognate, grads: Option<&mut Grads>| {
        let tape = Tape::new();
        let p = Bound::new(&tape, &m.params);
        let out = m.forward(&p, &batch, Depth::Full, None, true);
        let thought = m.think(&p, &out.context.unwrap(), &chains, 2);
        let thought = tape.gather_rows(thought, ends.clone().into());
        let base = tape.gather_rows(out.hidden, bases.clone().into());
        let weight = m.mixing_weight(&p, base, thought);
        let difference = tape.mul_rows(tape.sub(thought, base), weight);
        let mixed = tape.add(base, difference);
        let nll = tape.cross_entropy(mixed, p.var("embed.weight"), targets.clone().into());
        let value: f64 = tape.value(nll).to_vec().iter().map(|x| f64::from(*x)).sum();
        if let Some(g) = grads {
            tape.backward(tape.sum(nll), g);
        }
        value
    };
    let mut grads = Grads::new(m.params.len());
    run(&m, Some(&mut grads));
    for slot in 0..m.params.len() {
        let name = m.params.names()[slot].clone();
        if name.starts_with("exit") {
            continue;
        }
        let gradient = grads
            .get(slot)
            .unwrap_or_else(|| panic!("{name} got no gradient"))
            .clone();
        let length = gradient.sum_sq().sqrt();
        assert!(length > 0.0, "{name}: the gradient is zero");
        let start = m.params.at(slot).clone();
        let mut at = |h: f64| {
            let mut moved = start.clone();
            moved.add_scaled_(&gradient, (h / length) as f32);
            *m.params.at_mut(slot) = moved;
            let value = run(&m, None);
            *m.params.at_mut(slot) = start.clone();
            value
        };
        let mut slope = |h: f64| (at(h) - at(-h)) / (2.0 * h);
        let numeric = (4.0 * slope(5e-3) - slope(1e-2)) / 3.0;
        assert!(
            (numeric - length).abs() <= 1e-2 * length + 2e-4,
            "{name}: gradient {length}, differences {numeric}"
        );
    }
}

#[test]
fn the_mixing_weight_starts_as_its_bias() {
    let mut c = config(2);
    c.mixing = 5;
    let mut m = Cognate::new(c, 2);
    m.params.set("mixing.out.bias", Tensor::full(&[1], -2.5));
    let tape = Tape::inference();
    let p = Bound::new(&tape, &m.params);
    let rows = |purpose| {
        Tensor::randn(
            &[4, m.config.width],
            1.0,
            &tensor::random::Counted::new(1, purpose, 0),
        )
    };
    let w = m.mixing_weight(&p, tape.constant(&rows("a")), tape.constant(&rows("b")));
    let expected = 1.0 / (1.0 + 2.5f32.exp());
    assert!(distance(&tape.value(w).to_vec(), &[expected; 4]) < 1e-6);
}
