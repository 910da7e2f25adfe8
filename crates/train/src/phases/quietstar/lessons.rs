//! The material of baking: traces as token sequences, dealt into batches, and held-out questions.
//!
//! A lesson is `end-of-document, prompt, completion, end-of-document`, with loss on the completion and the
//! closing token. The same question with its direct answer is the lesson of the control. Everything is a
//! function of the recipe, the seed and the run's data, so nothing of it is checkpointed.

use super::recipe::BakingRecipe;
use data::builtin::{Strategy, Trace, from_worked_solutions, traces};
use data::{Family, Piece, Tokenizer, Worked};
use tensor::random::Counted;

/// One question with its thoughtful and its direct completion.
#[derive(Clone, Debug)]
pub struct Lesson {
    /// How the thoughtful completion thinks.
    pub strategy: Strategy,
    /// End of document and prompt.
    pub prompt: Vec<u32>,
    /// Thinking block and answer.
    pub thinking: Vec<u32>,
    /// The answer alone.
    pub direct: Vec<u32>,
    /// Tokens of `direct` before the answer itself (the answer's marker).
    pub marker: usize,
    /// The right answer.
    pub answer: String,
}

/// Which completion is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// Thinking, then the answer.
    Thinking,
    /// The answer at once.
    Direct,
}

/// All lessons of a run.
pub struct Lessons {
    /// To train on.
    pub train: Vec<Lesson>,
    /// Held-out questions of each strategy, in the order of [`Strategy::ALL`].
    pub held_out: Vec<Vec<Lesson>>,
    /// Traces left out because they are too long.
    pub too_long: usize,
    end: u32,
}

impl Lesson {
    fn new(trace: &Trace, tokenizer: &Tokenizer) -> Self {
        let mut prompt = vec![tokenizer.end_of_document()];
        prompt.extend(tokenizer.encode(&trace.prompt));
        let direct = tokenizer.encode(&trace.direct);
        let marker = tokenizer
            .encode("\n#### ")
            .iter()
            .zip(&direct)
            .take_while(|(a, b)| a == b)
            .count();
        // The block opens right behind the prompt: that is where a silent thought hangs as well.
        let thinking = tokenizer.encode(trace.completion.trim_start_matches(' '));
        Self {
            strategy: trace.strategy,
            prompt,
            thinking,
            marker: marker.min(direct.len() - 1),
            direct,
            answer: trace.answer.clone(),
        }
    }

    fn piece(&self, arm: Arm, end: u32) -> Piece {
        let completion = if arm == Arm::Thinking {
            &self.thinking
        } else {
            &self.direct
        };
        let mut tokens = self.prompt.clone();
        tokens.extend(completion);
        tokens.push(end);
        let loss = (1..tokens.len())
            .map(|i| f32::from(u8::from(i >= self.prompt.len())))
            .collect();
        Piece {
            tokens,
            loss,
            start: 0,
            dataset: 0,
            family: Family::Maths,
        }
    }

    fn rows(&self, arm: Arm) -> usize {
        self.prompt.len()
            + if arm == Arm::Thinking {
                self.thinking.len()
            } else {
                self.direct.len()
            }
    }
}

impl Lessons {
    /// Built-in traces, and those of the data sets' worked solutions.
    pub fn new(recipe: &BakingRecipe, worked: &[Worked], tokenizer: &Tokenizer, seed: u64) -> Self {
        let mut all: Vec<Lesson> = Strategy::ALL
            .iter()
            .flat_map(|&s| traces(s, seed, recipe.traces, false))
            .map(|t| Lesson::new(&t, tokenizer))
            .collect();
        let solutions = from_worked_solutions(worked);
        all.extend(
            solutions
                .iter()
                .filter(|t| !t.held_out)
                .take(recipe.worked)
                .map(|t| Lesson::new(t, tokenizer)),
        );
        let before = all.len();
        all.retain(|l| l.rows(Arm::Thinking) <= recipe.max_len);
        let held_out = Strategy::ALL
            .iter()
            .map(|&s| {
                traces(s, seed, recipe.held_out, true)
                    .iter()
                    .map(|t| Lesson::new(t, tokenizer))
                    .collect()
            })
            .collect();
        Self {
            too_long: before - all.len(),
            train: all,
            held_out,
            end: tokenizer.end_of_document(),
        }
    }

    /// One pass over the lessons (those of the easy strategies, if asked) in batches of about `tokens` rows.
    pub fn deal(&self, arm: Arm, easy: bool, pass: u64, tokens: usize, seed: u64) -> Vec<Vec<u32>> {
        let chosen: Vec<u32> = (0..self.train.len() as u32)
            .filter(|&i| !easy || self.train[i as usize].strategy.is_easy())
            .collect();
        let purpose = if arm == Arm::Thinking {
            "quietstar/order"
        } else {
            "quietstar/order/direct"
        };
        let order = Counted::new(seed, purpose, pass).permutation(chosen.len());
        let (mut batches, mut batch, mut rows) = (Vec::new(), Vec::new(), 0);
        for i in order {
            let lesson = chosen[i as usize];
            let n = self.train[lesson as usize].rows(arm);
            if rows + n > tokens && !batch.is_empty() {
                batches.push(std::mem::take(&mut batch));
                rows = 0;
            }
            rows += n;
            batch.push(lesson);
        }
        if !batch.is_empty() {
            batches.push(batch);
        }
        batches
    }

    /// The pieces of a dealt batch.
    pub fn pieces(&self, arm: Arm, batch: &[u32]) -> Vec<Piece> {
        batch
            .iter()
            .map(|&i| self.train[i as usize].piece(arm, self.end))
            .collect()
    }

    /// Held-out questions, one of each strategy in turn.
    pub fn mixed_held_out(&self, count: usize) -> Vec<&Lesson> {
        let longest = self.held_out.iter().map(Vec::len).max().unwrap_or(0);
        (0..longest)
            .flat_map(|i| self.held_out.iter().filter_map(move |list| list.get(i)))
            .take(count)
            .collect()
    }
}
