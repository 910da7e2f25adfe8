//! Reading a thought: its form, and whether what it says is true.
//!
//! Form and truth are separate questions. [`validate`] and [`well_formed`] judge form alone and take any text (a
//! model's output, a trace from outside); [`check_computation`] reads the small language of the built-in
//! thoughts, clause by clause, and verifies every equation, comparison, count and walk in it. Leaves out the
//! free prose of data sets' worked solutions: an equation that it cannot read counts as not verified.

use thiserror::Error;

use super::strategy::{SPECIAL_TOKENS, Strategy};
use super::traces::Trace;

const OPEN: &str = SPECIAL_TOKENS[0];
const CLOSE: &str = SPECIAL_TOKENS[1];

/// The parts of a well-formed thought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedThought {
    /// The strategy whose token follows `[thinking]`.
    pub strategy: Strategy,
    /// What stands between the strategy's token and `[/endthinking]`, trimmed.
    pub body: String,
    /// The answer after it: the rest of the line after `####`, else the first line.
    pub answer: String,
}

/// What keeps a text from being a thought with an answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TraceFault {
    /// No `[thinking]`.
    #[error("Missing [thinking] token: the text must open with it")]
    MissingThinking,
    /// Something stands before `[thinking]`.
    #[error(
        "Text before the [thinking] token: found {found:?}; the text must open with [thinking]"
    )]
    TextBeforeThinking {
        /// Its beginning.
        found: String,
    },
    /// No strategy token directly after `[thinking]`.
    #[error("Missing strategy token after [thinking]: found {found:?}; allowed are {}", SPECIAL_TOKENS[2..].join(" "))]
    MissingStrategy {
        /// What stands there.
        found: String,
    },
    /// No `[/endthinking]`.
    #[error("Missing [/endthinking] token: the thought is never closed")]
    MissingEnd,
    /// Nothing between the strategy's token and `[/endthinking]`.
    #[error("Missing reasoning: nothing stands between {token} and [/endthinking]")]
    MissingReasoning {
        /// The strategy's token.
        token: &'static str,
    },
    /// One of the twelve tokens a second time.
    #[error("Token {token} out of place: a text has one thought, with one strategy")]
    Misplaced {
        /// The token.
        token: &'static str,
    },
    /// Nothing after `[/endthinking]`.
    #[error("Missing answer after [/endthinking]")]
    MissingAnswer,
}

/// Reads `[thinking]<strategy> body [/endthinking] answer`; white space around the parts is free.
pub fn validate(trace_text: &str) -> Result<ParsedThought, TraceFault> {
    let (before, inside) = trace_text
        .split_once(OPEN)
        .ok_or(TraceFault::MissingThinking)?;
    if !before.trim().is_empty() {
        let found = beginning(before);
        return Err(TraceFault::TextBeforeThinking { found });
    }
    let inside = inside.trim_start();
    let (strategy, rest) = Strategy::ALL
        .into_iter()
        .find_map(|strategy| Some((strategy, inside.strip_prefix(strategy.token())?)))
        .ok_or_else(|| TraceFault::MissingStrategy {
            found: beginning(inside),
        })?;
    let (body, after) = rest.split_once(CLOSE).ok_or(TraceFault::MissingEnd)?;
    let body = body.trim();
    if let Some(token) = SPECIAL_TOKENS
        .into_iter()
        .find(|token| body.contains(token) || after.contains(token))
    {
        return Err(TraceFault::Misplaced { token });
    }
    if body.is_empty() {
        let token = strategy.token();
        return Err(TraceFault::MissingReasoning { token });
    }
    let answer = after.split_once("####").map_or(after, |(_, answer)| answer);
    let answer = answer.split("<|").next().unwrap_or_default().trim_start();
    let answer = answer.lines().next().unwrap_or_default().trim();
    if answer.is_empty() {
        return Err(TraceFault::MissingAnswer);
    }
    Ok(ParsedThought {
        strategy,
        body: body.to_string(),
        answer: answer.to_string(),
    })
}

/// Whether a model's output is a thought in the asked strategy followed by an answer.
pub fn well_formed(output: &str, strategy: Strategy) -> bool {
    validate(output).is_ok_and(|thought| thought.strategy == strategy)
}

/// Whether a built-in trace is true throughout: every clause of its thought, and the thought arrives at its answer.
pub fn check_computation(trace: &Trace) -> bool {
    let Ok(thought) = validate(&trace.completion) else {
        return false;
    };
    let same = thought.strategy == trace.strategy
        && thought.answer == trace.answer
        && trace.direct.trim_start() == format!("#### {}", trace.answer)
        && trace
            .prompt
            .ends_with(&format!("\nThink: {}\nAnswer:", trace.strategy));
    let (mut facts, mut arrives, mut said) = (0, false, Said::default());
    for clause in clauses(&thought.body) {
        let words: Vec<&str> = clause.text.split_whitespace().collect();
        match said.verified(&words) {
            Some(truth) if truth == clause.doubted => return false,
            Some(_) => facts += 1,
            None => {}
        }
        arrives |= format!(" {}", clause.text).ends_with(&format!(" {}", trace.answer));
    }
    same && facts > 0 && arrives
}

struct Clause {
    text: String,
    /// Ends in `?`: the statement is wrong on purpose.
    doubted: bool,
}

/// Cuts at `.`, `,` and `?`.
fn clauses(body: &str) -> Vec<Clause> {
    body.split_inclusive(['.', ',', '?'])
        .map(|piece| Clause {
            text: piece.trim_end_matches(['.', ',', '?']).trim().to_string(),
            doubted: piece.ends_with('?'),
        })
        .filter(|clause| !clause.text.is_empty())
        .collect()
}

/// What earlier clauses said that a later one refers to.
#[derive(Default)]
struct Said {
    /// The count of letters so far.
    count: i64,
    /// The value of the last equation.
    value: Option<i64>,
}

impl Said {
    /// The truth of one clause; `None` where it claims nothing.
    fn verified(&mut self, words: &[&str]) -> Option<bool> {
        if let Some(at) = words.iter().position(|word| *word == "=") {
            let left = expression(&words[..at]);
            self.value = (words.len() == at + 2)
                .then(|| number(words[at + 1]))
                .flatten();
            return Some(left.is_some() && left == self.value);
        }
        if words.iter().any(|word| matches!(*word, "<" | ">")) {
            return Some(chain(words));
        }
        match words {
            ["least", "of", list @ .., "is", least] => {
                let list: Option<Vec<i64>> = list.iter().map(|word| number(word)).collect();
                Some(list.is_some_and(|list| list.iter().min().copied() == number(least)))
            }
            ["from", from, "to", to, "is", steps] => {
                let (from, to, steps) = (number(from)?, number(to)?, number(steps)?);
                Some(to - from == steps)
            }
            [found @ .., "is", count] => {
                let alike = found.windows(2).all(|pair| pair[0] == pair[1]);
                Some(alike && number(count) == Some(found.len() as i64))
            }
            ["not", other] => Some(number(other).is_some() && number(other) != self.value),
            [letter, count] if letter.len() == 1 => {
                let (before, now) = (self.count, number(count)?);
                self.count = now;
                Some(now == before || now == before + 1)
            }
            _ => None,
        }
    }
}

/// `a + b + c`, `a - b`, `a * b`, `a / b` (exact) at the end of the words, which may begin with a label; from
/// left to right, as no built-in expression mixes signs.
fn expression(words: &[&str]) -> Option<i64> {
    let start = words.iter().position(|word| number(word).is_some())?;
    let mut value = number(words[start])?;
    let rest = &words[start + 1..];
    if rest.is_empty() || !rest.len().is_multiple_of(2) {
        return None;
    }
    for pair in rest.chunks_exact(2) {
        let right = number(pair[1])?;
        value = match pair[0] {
            "+" => value.checked_add(right)?,
            "-" => value.checked_sub(right)?,
            "*" => value.checked_mul(right)?,
            "/" if right != 0 && value % right == 0 => value / right,
            _ => return None,
        };
    }
    Some(value)
}

/// `a < b < c`, `a > b`.
fn chain(words: &[&str]) -> bool {
    words.len() >= 3
        && words.len() % 2 == 1
        && words.windows(3).step_by(2).all(|link| {
            match (number(link[0]), link[1], number(link[2])) {
                (Some(a), "<", Some(b)) => a < b,
                (Some(a), ">", Some(b)) => a > b,
                _ => false,
            }
        })
}

fn number(word: &str) -> Option<i64> {
    word.parse().ok()
}

fn beginning(text: &str) -> String {
    text.trim().chars().take(24).collect()
}
