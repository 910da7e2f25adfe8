//! Evaluation: bits per byte on text, multiple choice by likelihood, written answers by generation.
//!
//! Definitions are those of EleutherAI's lm-evaluation-harness, so that figures compare with published ones; a
//! comparison with it is in `bench/peers/harness.py`. [`text`] scores texts, [`answer`] asks questions, [`task`] turns
//! both into the metrics of a task with their standard errors.

pub mod answer;
pub mod task;
pub mod text;

use data::Tokenizer;
use model::llama2c::Vocabulary;
use model::{Batch, LanguageModel};

pub use answer::{Answered, ItemScore, OptionScore, answers, items, judge};
pub use task::{Metric, TaskScore, by_task, metrics, text_metrics};
pub use text::{TextScore, by_family, rolling, text, texts};

/// Rows of one forward pass of an evaluation.
const ROWS: usize = 2048;

/// How text becomes tokens and comes back.
pub trait Spelling: Sync {
    /// The tokens of a text, without any in front or behind.
    fn encode(&self, text: &str) -> Vec<u32>;
    /// The text of tokens.
    fn decode(&self, tokens: &[u32]) -> String;
}

impl Spelling for Tokenizer {
    fn encode(&self, text: &str) -> Vec<u32> {
        Tokenizer::encode(self, text)
    }
    fn decode(&self, tokens: &[u32]) -> String {
        Tokenizer::decode(self, tokens)
    }
}

impl Spelling for Vocabulary {
    fn encode(&self, text: &str) -> Vec<u32> {
        Vocabulary::encode(self, text, false)
    }
    fn decode(&self, tokens: &[u32]) -> String {
        Vocabulary::decode(self, tokens)
    }
}

/// A model with all that an evaluation must know of how it reads.
#[derive(Clone)]
pub struct Subject<'a> {
    /// The model.
    pub model: &'a dyn LanguageModel,
    /// Its tokens.
    pub spelling: &'a dyn Spelling,
    /// Tokens in front of a question: what its tokenizer puts there.
    pub opening: Vec<u32>,
    /// The token that the first token of a text is predicted from.
    pub start: u32,
    /// Tokens that end what it writes.
    pub stop: Vec<u32>,
    /// Predictions in one piece of a long text.
    pub window: usize,
    /// Most tokens that the model takes at once; what is longer loses its beginning. None for any number.
    pub longest: Option<usize>,
}

impl<'a> Subject<'a> {
    /// A model trained here: every text begins and ends with the end-of-document token, and none is too long.
    pub fn own(model: &'a dyn LanguageModel, tokenizer: &'a Tokenizer) -> Self {
        let end = tokenizer.end_of_document();
        Self {
            model,
            spelling: tokenizer,
            opening: vec![end],
            start: end,
            stop: vec![end],
            window: crate::report::MAX_LEN,
            longest: None,
        }
    }

    /// The tokens of a prompt, and those of an option behind it: encoded together and cut where the prompt alone would
    /// end, white space at the prompt's end counting to the option.
    fn pair(&self, prompt: &str, option: &str) -> (Vec<u32>, Vec<u32>) {
        let context = self.spelling.encode(prompt.trim_end());
        let mut whole = self.spelling.encode(&format!("{prompt}{option}"));
        let option = whole.split_off(context.len().min(whole.len()));
        let opening = self.opening.iter().copied();
        (opening.chain(context).collect(), option)
    }
}

/// A sequence to be scored: tokens, and where in the list of results it goes.
struct Scored {
    tokens: Vec<u32>,
    of: usize,
    /// The first prediction that counts.
    from: usize,
    /// Position of the first token.
    start: u32,
}

/// Sums of nll and counts, by `of`.
fn score(model: &dyn LanguageModel, sequences: &[Scored], results: usize) -> Vec<(f64, u64)> {
    let mut sums = vec![(0.0, 0); results];
    let mut at = 0;
    while at < sequences.len() {
        let mut end = at;
        let mut rows = 0;
        while end < sequences.len() && (end == at || rows + sequences[end].tokens.len() <= ROWS) {
            rows += sequences[end].tokens.len();
            end += 1;
        }
        let part = &sequences[at..end];
        let batch = Batch::new(
            part.iter()
                .map(|s| (&s.tokens[..s.tokens.len() - 1], s.start)),
        );
        let targets: Vec<u32> = part
            .iter()
            .flat_map(|s| s.tokens[1..].iter().copied())
            .collect();
        let nll = model.nll(&batch, &targets);
        for (s, rows) in part.iter().zip(batch.segments.iter()) {
            for &x in &nll[rows.clone()][s.from..] {
                sums[s.of].0 += f64::from(x);
                sums[s.of].1 += 1;
            }
        }
        at = end;
    }
    sums
}

/// Mean and standard error of paired differences.
pub fn paired(a: &[f64], b: &[f64]) -> (f64, f64) {
    assert_eq!(a.len(), b.len(), "paired: lengths");
    let n = a.len().max(1) as f64;
    let mean = a.iter().zip(b).map(|(x, y)| x - y).sum::<f64>() / n;
    let var = a
        .iter()
        .zip(b)
        .map(|(x, y)| (x - y - mean).powi(2))
        .sum::<f64>()
        / (n - 1.0).max(1.0);
    (mean, (var / n).sqrt())
}
