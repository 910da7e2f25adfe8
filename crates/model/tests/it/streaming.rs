//! Streaming gives the logits of the training pass: memory, window, halting and prefix, ragged pieces,
//! several sequences, sequences that end and make place for others.

use crate::sample::{Draw, distance, logits, model};
use model::cognate::Streaming;
use model::stream::StreamState;
use model::{Batch, Bound, Cognate, Depth, LanguageModel};
use tensor::Tape;

const TOLERANCE: f32 = 1e-4;

/// What streaming gave for one text.
#[derive(Default)]
struct Streamed {
    text: Vec<u32>,
    logits: Vec<f32>,
    depths: Vec<u8>,
}

/// Streams texts (one a sequence) through `state` in random pieces, several sequences at a time.
fn stream(
    m: &Cognate,
    state: &mut StreamState,
    places: &[usize],
    texts: &[Vec<u32>],
    halting: bool,
    d: &Draw,
) -> Vec<Streamed> {
    let mut done: Vec<Streamed> = texts
        .iter()
        .map(|t| Streamed {
            text: t.clone(),
            ..Default::default()
        })
        .collect();
    while done.iter().any(|s| s.depths.len() < s.text.len()) {
        let mut pieces = Vec::new();
        for (i, s) in done.iter().enumerate() {
            let at = s.depths.len();
            let left = s.text.len() - at;
            if left > 0 && d.below(3) > 0 {
                pieces.push((i, at, d.between(1, left.min(state.most_rows()))));
            }
        }
        if pieces.is_empty() {
            continue;
        }
        let sequences: Vec<usize> = pieces.iter().map(|p| places[p.0]).collect();
        let batch = Batch::new(
            pieces
                .iter()
                .map(|&(i, at, n)| (&texts[i][at..at + n], state.position(places[i]) as u32)),
        );
        let chosen: Vec<u8> = d.depths(batch.len(), m.config.passes);
        let depth = if halting {
            Depth::Halting
        } else {
            Depth::PerToken(&chosen)
        };
        let tape = Tape::inference();
        let p = Bound::new(&tape, &m.params);
        let out = m.forward(
            &p,
            &batch,
            depth,
            Some(Streaming {
                state,
                sequences: &sequences,
            }),
            false,
        );
        let values = tape.value(m.logits(&p, out.hidden)).to_vec();
        for (&(i, ..), rows) in pieces.iter().zip(batch.segments.iter()) {
            done[i]
                .logits
                .extend(&values[rows.start * m.config.vocab..rows.end * m.config.vocab]);
            done[i].depths.extend(&out.depths[rows.clone()]);
        }
    }
    done
}

/// Compares with the training pass over the same texts at the depths that streaming ran.
fn compare(m: &Cognate, streamed: &[Streamed], what: &str) {
    let batch = Batch::new(streamed.iter().map(|s| (&s.text[..], 0)));
    let depths: Vec<u8> = streamed.iter().flat_map(|s| s.depths.clone()).collect();
    let all: Vec<f32> = streamed.iter().flat_map(|s| s.logits.clone()).collect();
    let (trained, _) = logits(m, &batch, Depth::PerToken(&depths));
    let d = distance(&all, &trained);
    assert!(
        d < TOLERANCE,
        "{what}: logits differ by {d}; {:?}",
        m.config
    );
}

#[test]
fn streaming_logits_equal_training_logits() {
    let mut deep = 0;
    for seed in 0..60 {
        let m = model(seed);
        let c = &m.config;
        let d = Draw::new(seed, "stream");
        let sequences = d.between(1, 3);
        let text = |_| d.tokens(d.between(c.window, 3 * c.window + 2), c.vocab);
        let texts: Vec<Vec<u32>> = (0..sequences).map(text).collect();
        let places: Vec<usize> = (0..sequences).collect();
        for halting in [true, false] {
            let mut state = StreamState::new(&m, sequences);
            let streamed = stream(&m, &mut state, &places, &texts, halting, &d);
            compare(&m, &streamed, &format!("seed {seed}, halting {halting}"));
            if halting {
                // Decisions agree too: none of these lies within rounding of the threshold.
                let (_, ran) = logits(
                    &m,
                    &Batch::new(texts.iter().map(|t| (&t[..], 0))),
                    Depth::Halting,
                );
                let chosen: Vec<u8> = streamed.iter().flat_map(|s| s.depths.clone()).collect();
                assert_eq!(chosen, ran, "seed {seed}: halting decisions");
                deep += chosen.iter().filter(|&&d| d > 1).count();
            }
            // One sequence starts over; the others go on.
            let again = d.below(sequences);
            state.reset(&m, again);
            assert_eq!(state.position(again), 0);
            let fresh = vec![d.tokens(2 * c.window, c.vocab)];
            let restarted = stream(&m, &mut state, &[again], &fresh, halting, &d);
            compare(&m, &restarted, &format!("seed {seed}, after a reset"));
        }
    }
    assert!(deep > 100, "halting let only {deep} tokens go on");
}

#[test]
fn a_stream_answers_prompts_of_any_length() {
    for seed in 0..30 {
        let m = model(seed);
        let (c, d) = (&m.config, Draw::new(seed, "prompts"));
        let texts: Vec<Vec<u32>> = (0..3)
            .map(|_| d.tokens(d.between(2, 4 * c.window), c.vocab))
            .collect();
        let cuts: Vec<usize> = texts.iter().map(|t| d.between(1, t.len() - 1)).collect();
        let mut s = m.stream(3);
        let halves = [(0, texts[0].len() - cuts[0]), (2, texts[2].len() - cuts[2])];
        let first: Vec<(usize, &[u32])> =
            halves.iter().map(|&(i, n)| (i, &texts[i][..n])).collect();
        s.extend(&first);
        s.extend(&[(1, &texts[1])]);
        let rest: Vec<(usize, &[u32])> = halves.iter().map(|&(i, n)| (i, &texts[i][n..])).collect();
        let ends = s.extend(&rest).to_vec();
        for (row, &(i, _)) in halves.iter().enumerate() {
            let (whole, _) = logits(&m, &Batch::single(&texts[i]), Depth::Halting);
            let x = distance(
                &ends[row * c.vocab..][..c.vocab],
                &whole[whole.len() - c.vocab..],
            );
            assert!(x < TOLERANCE, "seed {seed}, sequence {i}: {x}");
        }
        s.reset(0);
        let (alone, _) = logits(&m, &Batch::single(&texts[1]), Depth::Halting);
        let x = distance(
            &s.extend(&[(0, &texts[1])]).to_vec(),
            &alone[alone.len() - c.vocab..],
        );
        assert!(x < TOLERANCE, "seed {seed}, after a reset: {x}");
    }
}

#[test]
#[should_panic(expected = "stream: sequences must ascend")]
fn sequences_out_of_order_are_a_callers_mistake() {
    let m = model(1);
    m.stream(2).extend(&[(1, &[0]), (0, &[0])]);
}
