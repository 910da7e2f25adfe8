//! Contamination: how many evaluation items share a run of words with the training text.
//!
//! Words are split at white space, lower-cased and stripped of punctuation at their ends; runs of `n` words are compared
//! by a 64-bit hash (13 words as in GPT-3's appendix C). The items' runs are held in memory, the training text streams
//! past. Items of fewer than `n` words are left out: a short question occurs in any text.

use std::collections::{BTreeSet, HashMap};

use crate::record::{Document, Item};

/// The number of items whose prompt shares at least one run of `n` words with a training document.
///
/// # Panics
/// `n` is 0.
#[track_caller]
pub fn contamination(train: &[Document], items: &[Item], n: usize) -> usize {
    assert!(n > 0, "contamination compares runs of n > 0 words");
    let mut runs: HashMap<u64, Vec<usize>> = HashMap::new();
    for (i, item) in items.iter().enumerate() {
        for run in hashes(&item.prompt, n) {
            runs.entry(run).or_default().push(i);
        }
    }
    let mut found: BTreeSet<usize> = BTreeSet::new();
    for document in train {
        for run in hashes(&document.text, n) {
            found.extend(runs.get(&run).into_iter().flatten());
        }
    }
    found.len()
}

fn hashes(text: &str, n: usize) -> impl Iterator<Item = u64> {
    let words: Vec<u64> = text.split_whitespace().filter_map(word_hash).collect();
    let runs = words.len().saturating_sub(n - 1);
    (0..runs).map(move |i| {
        words[i..i + n].iter().fold(0, |h, w| {
            (h ^ w).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        })
    })
}

fn word_hash(word: &str) -> Option<u64> {
    let word = word.trim_matches(|c: char| !c.is_alphanumeric());
    let bytes = word.chars().flat_map(char::to_lowercase).map(u64::from);
    (!word.is_empty()).then(|| {
        bytes.fold(0xcbf2_9ce4_8422_2325, |h: u64, b| {
            (h ^ b).wrapping_mul(0x100_0000_01b3)
        })
    })
}
