//! The baseline that every language model has to beat: an interpolated Kneser-Ney 5-gram model.
//!
//! With h the tokens before, c the counts of the highest order and, below it, the number of different tokens that were seen
//! before a gram (Kneser and Ney 1995; Chen and Goodman 1999, one discount an order):
//!
//! ```text
//! p(w | h) = max(c(h w) - D, 0) / sum_v c(h v)  +  D n(h) / sum_v c(h v) p(w | h')
//! D = n1 / (n1 + 2 n2),  n(h) = number of different tokens after h,  h' = h without its oldest token
//! ```
//!
//! Below one token stands the uniform distribution over the vocabulary, so nothing has probability 0. Counts are sorted
//! arrays: they take 20 bytes a different gram, and the same text gives the same model in any order.
//!
//! Left out on purpose: more orders, modified discounts, pruning. It is a baseline, not a product.

use crate::evaluate::TextScore;
use data::{Document, Tokenizer};
use rayon::prelude::*;

/// Tokens of the longest gram.
const ORDER: usize = 5;
/// Bits of a token in a gram: five fit into 128, whatever vocabulary a u16 or a common u32 tokenizer has.
const BITS: u32 = 25;

/// Grams of one length.
#[derive(Debug)]
struct Grams {
    /// Tokens, the oldest highest, with their counts; sorted.
    counts: Vec<(u128, u32)>,
    /// The tokens before the last one, with the sum of the counts and their number; sorted.
    contexts: Vec<(u128, u64, u64)>,
    /// What is taken off each count.
    discount: f64,
}

impl Grams {
    /// Counts equal neighbours of a sorted list.
    fn count(sorted: &[u128]) -> Self {
        let counts: Vec<(u128, u32)> = sorted
            .chunk_by(|a, b| a == b)
            .map(|run| (run[0], run.len() as u32))
            .collect();
        let contexts = counts
            .chunk_by(|a, b| a.0 >> BITS == b.0 >> BITS)
            .map(|run| {
                let sum = run.iter().map(|(_, n)| u64::from(*n)).sum();
                (run[0].0 >> BITS, sum, run.len() as u64)
            })
            .collect();
        let seen = |times: u32| counts.iter().filter(|(_, n)| *n == times).count() as f64;
        let (once, twice) = (seen(1), seen(2));
        let discount = match once + 2.0 * twice {
            0.0 => 0.5,
            sum => once / sum,
        };
        Self {
            counts,
            contexts,
            discount,
        }
    }
}

/// An interpolated Kneser-Ney model of five tokens.
#[derive(Debug)]
pub struct KneserNey {
    /// By length, from 1.
    grams: Vec<Grams>,
    vocab: usize,
}

impl KneserNey {
    /// Counts sequences of token ids below `vocab`. The first token of a sequence is seen and not predicted, as in a piece
    /// of a training batch; what lies before it is one more token that stands nowhere else.
    ///
    /// # Panics
    /// The vocabulary has more than 2^25 - 1 tokens.
    pub fn train(vocab: usize, sequences: impl IntoIterator<Item = Vec<u32>>) -> Self {
        assert!(vocab < (1 << BITS) - 1, "a vocabulary of {vocab} tokens");
        let mut grams: Vec<u128> = Vec::new();
        for tokens in sequences {
            grams.extend((1..tokens.len()).map(|at| gram(vocab, &tokens, at, ORDER)));
        }
        grams.par_sort_unstable();
        let mut orders = vec![Grams::count(&grams)];
        for length in (1..ORDER).rev() {
            // What is counted of a shorter gram is the different tokens before it.
            let mask = (1u128 << (BITS * length as u32)) - 1;
            let longer = orders.last().map_or(&[][..], |o| &o.counts);
            let mut shorter: Vec<u128> = longer.iter().map(|(g, _)| g & mask).collect();
            shorter.par_sort_unstable();
            orders.push(Grams::count(&shorter));
        }
        orders.reverse();
        Self {
            grams: orders,
            vocab,
        }
    }

    /// Probability of the token at `at` after those before it.
    pub fn probability(&self, tokens: &[u32], at: usize) -> f64 {
        let mut p = 1.0 / self.vocab as f64;
        for (i, order) in self.grams.iter().enumerate() {
            let gram = gram(self.vocab, tokens, at, i + 1);
            let found = order
                .contexts
                .binary_search_by_key(&(gram >> BITS), |c| c.0);
            let Ok(found) = found else { break };
            let (_, sum, different) = order.contexts[found];
            let count = order.counts.binary_search_by_key(&gram, |c| c.0);
            let count = count.map_or(0.0, |i| f64::from(order.counts[i].1));
            p = (count - order.discount).max(0.0) / sum as f64
                + order.discount * different as f64 / sum as f64 * p;
        }
        p
    }

    /// Scores whole documents, each token predicted, the first one from the end-of-document token.
    pub fn texts(&self, tokenizer: &Tokenizer, documents: &[&Document]) -> Vec<TextScore> {
        let score = |d: &&Document| {
            let mut tokens = vec![tokenizer.end_of_document()];
            tokens.extend(tokenizer.encode(&d.text));
            let predicted = 1..tokens.len();
            TextScore {
                tokens: predicted.len() as u64,
                bytes: d.text.len() as u64,
                words: d.text.split_whitespace().count() as u64,
                nats: predicted
                    .map(|at| -self.probability(&tokens, at).ln())
                    .sum(),
            }
        };
        documents.par_iter().map(score).collect()
    }
}

/// The `length` tokens up to `at`, the oldest highest; before the beginning stands the token `vocab`.
fn gram(vocab: usize, tokens: &[u32], at: usize, length: usize) -> u128 {
    let from = (at + 1).saturating_sub(length);
    let missing = length.saturating_sub(at + 1);
    let start = (0..missing).fold(0u128, |key, _| (key << BITS) | vocab as u128);
    tokens[from..=at]
        .iter()
        .fold(start, |key, &t| (key << BITS) | u128::from(t))
}
