//! Generation with silent thoughts: before each run of a few tokens the model thinks beside the text, and
//! the tokens of the run come from the mixture.
//!
//! Several thoughts run in parallel and their mixed distributions are averaged. The text itself never sees
//! a thought: its stream goes on as without.

use super::chains::{Sampling, Thought, draw, grow};
use model::cognate::Streaming;
use model::stream::StreamState;
use model::thoughts::{ThoughtStream, ThoughtToken};
use model::{Batch, Bound, Cognate, Depth};
use tensor::random::Counted;
use tensor::{Tape, Tensor};

/// How to think while generating.
#[derive(Clone, Copy, Debug)]
pub struct Silent {
    /// Sampling of the thoughts.
    pub thoughts: Sampling,
    /// Tokens written between two rounds of thinking.
    pub ahead: usize,
    /// Temperature of the written tokens; 0 takes the most likely.
    pub temperature: f32,
    /// Seed of the counted random numbers.
    pub seed: u64,
}

/// Feeds tokens to the stream; the hidden state of the last [1, W].
fn read(model: &Cognate, state: &mut StreamState, tokens: &[u32]) -> Tensor {
    let mut last = None;
    for part in tokens.chunks(state.most_rows()) {
        let batch = Batch::new([(part, state.position(0) as u32)]);
        let tape = Tape::inference();
        let p = Bound::new(&tape, &model.params);
        let out = model.forward(
            &p,
            &batch,
            Depth::Halting,
            Some(Streaming {
                state: &mut *state,
                sequences: &[0],
            }),
            false,
        );
        last = Some(
            tape.value(out.hidden)
                .slice_rows(part.len() - 1..part.len()),
        );
    }
    last.expect("at least one token is read")
}

/// Continues a prompt (at least one token) until a stop token, which is not included, or `most` new tokens.
/// `forced` comes first, as if the model had chosen it: a marker before an answer, for instance.
pub fn generate_with_thoughts(
    model: &Cognate,
    prompt: &[u32],
    forced: &[u32],
    most: usize,
    stop: &[u32],
    how: Silent,
) -> Vec<u32> {
    let mut state = StreamState::new(model, 1);
    let mut base = read(model, &mut state, prompt);
    let mut written: Vec<u32> = Vec::new();
    let ahead = how.ahead.max(1);
    let mut round = 0;
    'rounds: while written.len() < most {
        let s = how.thoughts;
        let capacity = s.length + 2 + ahead + forced.len();
        let mut chains =
            ThoughtStream::from_stream(model, &state, &[0], s.thoughts, s.passes, capacity);
        let thoughts = grow(
            model,
            &mut chains,
            s.thoughts,
            s,
            &Counted::new(how.seed, "silent-thought", round),
        );
        round += 1;
        let unread = |(c, t): (usize, &Thought)| {
            if t.closed {
                None
            } else {
                Some((c, ThoughtToken::Token(*t.tokens.last()?)))
            }
        };
        let last: Vec<(usize, ThoughtToken)> =
            thoughts.iter().enumerate().filter_map(unread).collect();
        if !last.is_empty() {
            chains.extend(&last);
        }
        let every = |token: ThoughtToken| (0..s.thoughts).map(|c| (c, token)).collect::<Vec<_>>();
        let mut hidden = chains.extend(&every(ThoughtToken::End));
        let run = if written.len() < forced.len() {
            forced.len() - written.len() + ahead
        } else {
            ahead
        };
        for _ in 0..run {
            let p = mixture(model, &base, &hidden);
            let token = match forced.get(written.len()) {
                Some(&token) => token,
                None => {
                    let u = Counted::new(how.seed, "silent-token", 0).uniform(written.len() as u64);
                    draw(
                        &p.iter().map(|x| x.max(1e-30).ln()).collect::<Vec<_>>(),
                        how.temperature,
                        u,
                    )
                }
            };
            if stop.contains(&token) {
                break 'rounds;
            }
            written.push(token);
            if written.len() >= most {
                break 'rounds;
            }
            base = read(model, &mut state, &[token]);
            hidden = chains.extend(&every(ThoughtToken::Token(token)));
        }
    }
    written
}

/// Mean over the thoughts of softmax((1 - w) base + w thought).
fn mixture(model: &Cognate, base: &Tensor, thoughts: &Tensor) -> Vec<f32> {
    let tape = Tape::inference();
    let t = &tape;
    let p = Bound::new(t, &model.params);
    let thought = t.constant(thoughts);
    let base = t.gather_rows(t.constant(base), vec![0; thoughts.rows()].into());
    let weight = model.mixing_weight(&p, base, thought);
    let base_logits = model.logits(&p, base);
    let mixed = t.add(
        base_logits,
        t.mul_rows(t.sub(model.logits(&p, thought), base_logits), weight),
    );
    let probabilities = t.value(t.softmax(mixed)).to_vec();
    let vocab = model.config.vocab;
    let mut mean = vec![0.0; vocab];
    for row in probabilities.chunks(vocab) {
        for (m, x) in mean.iter_mut().zip(row) {
            *m += x / thoughts.rows() as f32;
        }
    }
    mean
}
