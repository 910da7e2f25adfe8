//! Traces from the worked solutions that data sets bring along.
//!
//! GSM8K's solutions become chains of thought; StrategyQA's decompositions become cases, each part followed by the
//! fact that settles it, with the answer yes or no. Nothing is generated: every sentence is the data set's own.
//! Leaves out solutions without any step.

use super::strategy::Strategy;
use super::traces::Trace;
use crate::Worked;

/// One trace for each solution that has steps: `mece` where the question falls into parts, else `chain_of_thought`.
/// One in ten is held out, by a hash of data set and id.
pub fn from_worked_solutions(solutions: &[Worked]) -> Vec<Trace> {
    solutions.iter().filter_map(trace).collect()
}

fn trace(solution: &Worked) -> Option<Trace> {
    let (strategy, thought) = if solution.parts.is_empty() {
        (Strategy::ChainOfThought, sentences(&solution.steps))
    } else {
        (
            Strategy::Mece,
            interleaved(&solution.parts, &solution.steps),
        )
    };
    if solution.steps.is_empty() || thought.is_empty() {
        return None;
    }
    let id = format!("{}/{}/{}", strategy.name(), solution.dataset, solution.id);
    let held_out = blake3::hash(id.as_bytes()).as_bytes()[0] < 26;
    let (question, answer) = (one_line(&solution.question), one_line(&solution.answer));
    Some(Trace::new(
        strategy, id, &question, &thought, answer, held_out,
    ))
}

/// Part 1, fact 1, part 2, fact 2, and what is left of the longer list.
fn interleaved(parts: &[String], facts: &[String]) -> String {
    let mut told = Vec::new();
    for at in 0..parts.len().max(facts.len()) {
        told.extend(parts.get(at).cloned());
        told.extend(facts.get(at).cloned());
    }
    sentences(&told)
}

/// The steps on one line, each closed by a full stop where it has no ending.
fn sentences(steps: &[String]) -> String {
    let closed: Vec<String> = steps
        .iter()
        .map(|step| one_line(step))
        .filter(|step| !step.is_empty())
        .map(|step| {
            if step.ends_with(['.', '?', '!']) {
                step
            } else {
                step + "."
            }
        })
        .collect();
    closed.join(" ")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
