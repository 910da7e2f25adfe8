//! Evaluation: bits per byte on text, exact match by generation, multiple choice by likelihood.
//!
//! Perplexities under different tokenizers do not compare, so text is scored in bits per byte. A choice is
//! the option with the highest mean log-likelihood a token. An exact answer is generated greedily and
//! extracted.

use data::{Answer, Document, Family, Item, Tokenizer, extract_answer, same_answer};
use model::generate::{Sampler, generate};
use model::{Batch, LanguageModel};
use serde::Serialize;
use std::collections::BTreeMap;

/// Rows of one forward pass of an evaluation.
const ROWS: usize = 2048;

/// The score of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TextScore {
    /// Predicted tokens.
    pub tokens: u64,
    /// Bytes of the text.
    pub bytes: u64,
    /// Words, separated by white space.
    pub words: u64,
    /// Total negative log-likelihood.
    pub nats: f64,
}

impl TextScore {
    /// Bits per byte of text.
    pub fn bits_per_byte(&self) -> f64 {
        self.nats / std::f64::consts::LN_2 / self.bytes.max(1) as f64
    }
    /// Nats per predicted token.
    pub fn nll_per_token(&self) -> f64 {
        self.nats / self.tokens.max(1) as f64
    }
    /// e^(nats per word).
    pub fn word_perplexity(&self) -> f64 {
        (self.nats / self.words.max(1) as f64).exp()
    }
    /// Both texts together.
    pub fn plus(self, o: Self) -> Self {
        Self {
            tokens: self.tokens + o.tokens,
            bytes: self.bytes + o.bytes,
            words: self.words + o.words,
            nats: self.nats + o.nats,
        }
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

/// Scores each document; every token is predicted, the first one from the end-of-document token. A long
/// document is cut into pieces of `max_len` predictions, each of which sees the last token before it.
pub fn texts(
    model: &dyn LanguageModel,
    tokenizer: &Tokenizer,
    documents: &[&Document],
    max_len: usize,
) -> Vec<TextScore> {
    let mut sequences = Vec::new();
    for (of, d) in documents.iter().enumerate() {
        let mut tokens = vec![tokenizer.end_of_document()];
        tokens.extend(tokenizer.encode(&d.text));
        let mut start = 0;
        while start + 1 < tokens.len() {
            let end = (start + max_len).min(tokens.len() - 1);
            sequences.push(Scored {
                tokens: tokens[start..=end].to_vec(),
                of,
                from: 0,
                start: start as u32,
            });
            start = end;
        }
    }
    let sums = tensor::threads::hot(|| score(model, &sequences, documents.len()));
    documents
        .iter()
        .zip(sums)
        .map(|(d, (nats, tokens))| TextScore {
            tokens,
            bytes: d.text.len() as u64,
            words: d.text.split_whitespace().count() as u64,
            nats,
        })
        .collect()
}

/// The sum of [`texts`].
pub fn text(
    model: &dyn LanguageModel,
    tokenizer: &Tokenizer,
    documents: &[&Document],
    max_len: usize,
) -> TextScore {
    texts(model, tokenizer, documents, max_len)
        .into_iter()
        .fold(TextScore::default(), TextScore::plus)
}

/// The score of one item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ItemScore {
    /// Whether it was answered right.
    pub correct: bool,
    /// Whether no answer could be read from the output.
    pub format_error: bool,
    /// Chance of a blind guess; 0 for exact answers.
    pub chance: f64,
}

/// Scores items in their order; exact answers get at most `most_new` generated tokens.
pub fn items(
    model: &dyn LanguageModel,
    tokenizer: &Tokenizer,
    items: &[&Item],
    most_new: usize,
) -> Vec<ItemScore> {
    let mut scores = vec![
        ItemScore {
            correct: false,
            format_error: false,
            chance: 0.0
        };
        items.len()
    ];
    let end = tokenizer.end_of_document();
    let prompt = |item: &Item| -> Vec<u32> {
        std::iter::once(end)
            .chain(tokenizer.encode(&item.prompt))
            .collect()
    };
    let (mut sequences, mut owners) = (Vec::new(), Vec::new());
    let (mut prompts, mut exact) = (Vec::new(), Vec::new());
    for (i, item) in items.iter().enumerate() {
        match &item.answer {
            Answer::Choice { options, .. } => {
                let p = prompt(item);
                scores[i].chance = 1.0 / options.len() as f64;
                for (o, option) in options.iter().enumerate() {
                    let mut tokens = p.clone();
                    tokens.extend(tokenizer.encode(option));
                    sequences.push(Scored {
                        tokens,
                        of: owners.len(),
                        from: p.len() - 1,
                        start: 0,
                    });
                    owners.push((i, o));
                }
            }
            Answer::Exact { .. } => {
                prompts.push(prompt(item));
                exact.push(i);
            }
        }
    }
    let mut best: BTreeMap<usize, (usize, f64)> = BTreeMap::new();
    for ((item, option), (nats, n)) in owners.iter().zip(score(model, &sequences, owners.len())) {
        let mean = nats / n.max(1) as f64;
        let entry = best.entry(*item).or_insert((*option, mean));
        if mean < entry.1 {
            *entry = (*option, mean);
        }
    }
    for (i, (option, _)) in best {
        if let Answer::Choice { gold, .. } = &items[i].answer {
            scores[i].correct = option == *gold;
        }
    }
    for (i, output) in exact.into_iter().zip(generate(
        model,
        &prompts,
        most_new,
        &[end],
        Sampler::GREEDY,
        64,
    )) {
        if let Answer::Exact { answer, also } = &items[i].answer {
            match extract_answer(&tokenizer.decode(&output)) {
                Some(found) => {
                    let mut right = std::iter::once(answer).chain(also);
                    scores[i].correct = right.any(|answer| same_answer(&found, answer));
                }
                None => scores[i].format_error = true,
            }
        }
    }
    scores
}

/// Accuracy of one task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TaskScore {
    /// Share answered right.
    pub accuracy: f64,
    /// Standard error of the share.
    pub stderr: f64,
    /// Number of items.
    pub items: usize,
    /// Outputs without a readable answer.
    pub format_errors: usize,
    /// Accuracy of blind guessing.
    pub chance: f64,
}

/// Item scores by data set.
pub fn by_task(items: &[&Item], scores: &[ItemScore]) -> BTreeMap<String, TaskScore> {
    let mut groups: BTreeMap<String, Vec<ItemScore>> = BTreeMap::new();
    for (item, score) in items.iter().zip(scores) {
        groups.entry(item.dataset.clone()).or_default().push(*score);
    }
    groups
        .into_iter()
        .map(|(task, s)| {
            let n = s.len() as f64;
            let accuracy = s.iter().filter(|s| s.correct).count() as f64 / n;
            let score = TaskScore {
                accuracy,
                stderr: (accuracy * (1.0 - accuracy) / n).sqrt(),
                items: s.len(),
                format_errors: s.iter().filter(|s| s.format_error).count(),
                chance: s.iter().map(|s| s.chance).sum::<f64>() / n,
            };
            (task, score)
        })
        .collect()
}

/// Text scores by family.
pub fn by_family(documents: &[&Document], scores: &[TextScore]) -> BTreeMap<Family, TextScore> {
    let mut families = BTreeMap::new();
    for (d, s) in documents.iter().zip(scores) {
        let sum: &mut TextScore = families.entry(d.family).or_default();
        *sum = sum.plus(*s);
    }
    families
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
