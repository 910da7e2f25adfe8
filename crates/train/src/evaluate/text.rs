//! Bits per byte and perplexity of texts.
//!
//! Perplexities under different tokenizers do not compare, so text is scored in bits per byte.

use super::{Scored, Subject, score};
use data::{Document, Family, Tokenizer};
use model::LanguageModel;
use serde::Serialize;
use std::collections::BTreeMap;

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

/// Text scores by family.
pub fn by_family(documents: &[&Document], scores: &[TextScore]) -> BTreeMap<Family, TextScore> {
    let mut families = BTreeMap::new();
    for (d, s) in documents.iter().zip(scores) {
        let sum: &mut TextScore = families.entry(d.family).or_default();
        *sum = sum.plus(*s);
    }
    families
}

/// Nats and predicted tokens of each text, in the rolling windows of lm-evaluation-harness: every token is predicted
/// once, the first from the start token; a window is `subject.window` predictions long and sees the token before it, the
/// last one reaches back so far that it is as long as the others.
pub fn rolling(subject: &Subject, texts: &[&str]) -> Vec<(f64, u64)> {
    let (mut sequences, most) = (Vec::new(), subject.window);
    for (of, text) in texts.iter().enumerate() {
        let mut tokens = vec![subject.start];
        tokens.extend(subject.spelling.encode(text));
        let (last, mut done) = (tokens.len() - 1, 0);
        while done < last {
            let end = (done + most).min(last);
            let begin = end.saturating_sub(most);
            sequences.push(Scored {
                tokens: tokens[begin..=end].to_vec(),
                of,
                from: done - begin,
                start: 0,
            });
            done = end;
        }
    }
    tensor::threads::hot(|| score(subject.model, &sequences, texts.len()))
}
