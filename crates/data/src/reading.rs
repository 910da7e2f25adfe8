//! Exact match and F1 of an answer to a question on a passage, as the publishers of the data sets define them.
//!
//! *SQuAD's rule* (`evaluate-v1.1.py`, and `hotpot_evaluate_v1.py` of HotpotQA): lower case, ASCII punctuation and the
//! articles a, an, the taken out, white space made one; F1 of the two lists of words, counted with their repeats; an
//! answer yes, no or noanswer is right or worth nothing. *DROP's rule* (`drop_eval.py` of AllenNLP): the same word by
//! word, where words end at spaces and hyphens and numbers count by value; F1 of the two sets of words, 0 where the right
//! answer has numbers and none of them was given, rounded to two places. Of several right answers the best counts.
//!
//! Left out on purpose: DROP's alignment of several spans; ours are one text ([`crate::Answer::Exact`]).

use std::collections::{BTreeMap, BTreeSet};

use crate::record::Comparison;

/// How near an answer is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ReadingScore {
    /// Whether it is one of the right answers.
    pub exact: bool,
    /// Harmonic mean of the shares of words that are right and that were found, 0 to 1.
    pub f1: f64,
}

/// The better of `found`'s scores against each right answer, by SQuAD's or DROP's rule; [`Comparison::Value`] has no F1
/// of its own and takes SQuAD's.
pub fn reading_score<'a>(
    found: &str,
    right: impl IntoIterator<Item = &'a str>,
    by: Comparison,
) -> ReadingScore {
    let one = |right: &str| match by {
        Comparison::Drop => drop(found, right),
        Comparison::HotpotQa | Comparison::Value => squad(found, right),
    };
    let scores = right
        .into_iter()
        .filter(|right| !right.trim().is_empty())
        .map(one);
    scores.fold(ReadingScore::default(), |best, score| ReadingScore {
        exact: best.exact || score.exact,
        f1: best.f1.max(score.f1),
    })
}

fn squad(found: &str, right: &str) -> ReadingScore {
    let normal = |text: &str| {
        one_space(&without_articles(&without_punctuation(
            &text.to_lowercase(),
        )))
    };
    let (found, right) = (normal(found), normal(right));
    let exact = found == right;
    let closed = |text: &str| ["yes", "no", "noanswer"].contains(&text);
    if !exact && (closed(&found) || closed(&right)) {
        return ReadingScore::default();
    }
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for word in right.split(' ') {
        *left.entry(word).or_default() += 1;
    }
    let mut same = 0;
    for word in found.split(' ').filter(|word| !word.is_empty()) {
        if let Some(n) = left.get_mut(word).filter(|n| **n > 0) {
            *n -= 1;
            same += 1;
        }
    }
    let words = |text: &str| text.split(' ').filter(|word| !word.is_empty()).count();
    ReadingScore {
        exact,
        f1: harmonic(same, words(&found), words(&right)),
    }
}

fn drop(found: &str, right: &str) -> ReadingScore {
    let normal = |text: &str| {
        let words = text.split([' ', '-']).map(drop_word);
        words
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let (found, right) = (normal(found), normal(right));
    let bag =
        |text: &str| -> BTreeSet<String> { text.split_whitespace().map(str::to_string).collect() };
    let (has, wants) = (bag(&found), bag(&right));
    let mut numbers = wants.iter().filter(|word| value(word).is_some()).peekable();
    let hit = numbers.peek().is_none() || numbers.any(|number| has.contains(number));
    let same = has.intersection(&wants).count();
    // An empty bag is fully right and fully found, as AllenNLP has it.
    let share = |of: usize| {
        if of == 0 {
            1.0
        } else {
            same as f64 / of as f64
        }
    };
    let (precision, recall) = (share(has.len()), share(wants.len()));
    let f1 = match precision + recall {
        0.0 => 0.0,
        sum => 2.0 * precision * recall / sum,
    };
    ReadingScore {
        exact: found == right,
        f1: if hit {
            (f1 * 100.0).round_ties_even() / 100.0
        } else {
            0.0
        },
    }
}

/// One word by DROP's rule; "" for an article.
fn drop_word(word: &str) -> String {
    let word = word.to_lowercase();
    let word = match value(&word) {
        Some(_) => word,
        None => without_punctuation(&word),
    };
    let word = value(&word).map_or(word, |number| format!("{number:?}"));
    one_space(&without_articles(&word))
}

fn value(word: &str) -> Option<f64> {
    word.trim().parse().ok()
}

fn harmonic(same: usize, found: usize, right: usize) -> f64 {
    match same {
        0 => 0.0,
        n => 2.0 * n as f64 / (found + right) as f64,
    }
}

fn without_punctuation(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_punctuation()).collect()
}

fn one_space(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The words a, an and the as spaces; a word is a run of letters, digits and underscores.
fn without_articles(text: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest
            .find(|c| is_word(c) != is_word(first))
            .unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        out += if ["a", "an", "the"].contains(&run) {
            " "
        } else {
            run
        };
        rest = after;
    }
    out
}
