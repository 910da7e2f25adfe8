//! Reasoning traces: a question, the strategy that is asked for, and a short thought that really uses it.
//!
//! A prompt is `Question: ...\nThink: mece\nAnswer:`; the completion has one form,
//! ` [thinking]<mece> steps [/endthinking]\n#### 62`, and `direct` is what a model without thoughts writes after
//! the same prompt, `\n#### 62`. Steps are short and regular, with at most one small computation each, made for
//! models of half a million parameters; what each strategy does stands in [`super::computation`]. Every statement
//! can be verified by [`super::check_computation`]; an equation that ends in `?` is a wrong step on purpose, and
//! the thought goes on to mend it.

use std::collections::BTreeSet;

use super::computation::thought;
use super::draw::Draw;
use super::maths;
use super::on_side;
use super::strategy::Strategy;
use super::tasks::Task;

/// How many repeated prompts in a row are drawn again before one is accepted.
const TRIES: usize = 64;

/// One question answered by thinking in a given way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// How it thinks.
    pub strategy: Strategy,
    /// Unique for its strategy and seed.
    pub id: String,
    /// `Question: ...\nThink: mece\nAnswer:`
    pub prompt: String,
    /// ` [thinking]<mece> ... [/endthinking]\n#### 62`
    pub completion: String,
    /// The right answer.
    pub answer: String,
    /// `\n#### 62`: the completion of a model that answers without thinking.
    pub direct: String,
    /// Whether its parameters are kept out of training.
    pub held_out: bool,
}

impl Trace {
    /// A trace in the one form that all have.
    pub(super) fn new(
        strategy: Strategy,
        id: String,
        question: &str,
        thought: &str,
        answer: String,
        held_out: bool,
    ) -> Self {
        Trace {
            strategy,
            id,
            prompt: format!("Question: {question}\nThink: {}\nAnswer:", strategy.name()),
            completion: format!(
                " [thinking]{} {thought} [/endthinking]\n#### {answer}",
                strategy.token()
            ),
            direct: format!("\n#### {answer}"),
            answer,
            held_out,
        }
    }
}

/// `count` traces of one strategy; held-out ones share no parameters with training ones of any strategy, nor with
/// the training documents of [`super::documents`]. Prompts differ (should a strategy ever run out of new ones,
/// they repeat).
pub fn traces(strategy: Strategy, seed: u64, count: usize, held_out: bool) -> Vec<Trace> {
    let purpose = format!("trace/{}/{held_out}", strategy.name());
    let mut seen = BTreeSet::new();
    (0..count)
        .map(|index| {
            let draw = &mut Draw::new(seed, &purpose, index);
            let mut trace = trace(strategy, draw, seed, index, held_out);
            for _ in 0..TRIES {
                if seen.insert(trace.prompt.clone()) {
                    break;
                }
                trace = self::trace(strategy, draw, seed, index, held_out);
            }
            trace
        })
        .collect()
}

fn trace(strategy: Strategy, draw: &mut Draw, seed: u64, index: usize, held_out: bool) -> Trace {
    let (task, key) = on_side(
        held_out,
        || {
            let task = pose(strategy, draw);
            let key = task.key();
            (task, key)
        },
        |(_, key)| key,
    );
    let question = task.question(draw);
    let id = format!("{}/{key}/{seed}#{index}", strategy.name());
    let thought = thought(strategy, &task);
    Trace::new(strategy, id, &question, &thought, task.answer(), held_out)
}

fn add(draw: &mut Draw) -> Task {
    let (a, b) = maths::addends(draw);
    Task::Add(a, b)
}

fn sub(draw: &mut Draw) -> Task {
    let (a, b) = maths::difference(draw);
    Task::Sub(a, b)
}

fn mul(draw: &mut Draw) -> Task {
    let (a, b) = maths::factors(draw);
    Task::Mul(a, b)
}

fn add_sub(draw: &mut Draw) -> Task {
    let (a, b, c) = maths::add_sub(draw);
    Task::AddSub(a, b, c)
}

/// A question that suits the strategy.
fn pose(strategy: Strategy, draw: &mut Draw) -> Task {
    match strategy {
        Strategy::ChainOfThought => match draw.below(5) {
            0 => Task::sum(draw),
            1 => add_sub(draw),
            2 => Task::Prices(maths::price_list(draw)),
            3 => Task::letters(draw, 1),
            _ => Task::Sort(Task::numbers(draw, 3)),
        },
        Strategy::Mece => match draw.below(3) {
            0 => add(draw),
            1 => Task::sum(draw),
            _ => Task::letters(draw, 2),
        },
        Strategy::Falsification => match draw.below(2) {
            0 => sub(draw),
            _ => {
                let count = 3 + draw.below(2);
                Task::Largest(Task::numbers(draw, count))
            }
        },
        Strategy::Expert => match draw.below(4) {
            0 => Task::Mul(draw.within(2, 20), 9),
            1 => Task::Mul(draw.within(11, 39), 5),
            2 => suited(
                draw,
                add,
                |task| matches!(task, Task::Add(_, b) if b % 10 >= 7),
            ),
            _ => suited(
                draw,
                sub,
                |task| matches!(task, Task::Sub(_, b) if b % 10 >= 7),
            ),
        },
        Strategy::Orthogonal => match draw.below(2) {
            0 => add(draw),
            _ => sub(draw),
        },
        Strategy::SelfDoubt => match draw.below(3) {
            0 => add_sub(draw),
            1 => Task::sum(draw),
            _ => Task::Prices(maths::price_list(draw)),
        },
        Strategy::Bayesian => Task::bags(draw),
        Strategy::Multidomain => match draw.below(3) {
            0 => add(draw),
            1 => sub(draw),
            _ => mul(draw),
        },
        Strategy::SelfCorrection => match draw.below(2) {
            0 => suited(
                draw,
                add,
                |task| matches!(task, Task::Add(a, b) if a % 10 + b % 10 > 9),
            ),
            _ => suited(
                draw,
                sub,
                |task| matches!(task, Task::Sub(a, b) if a % 10 < b % 10),
            ),
        },
        Strategy::Uncertainty => match draw.below(3) {
            0 => add(draw),
            1 => sub(draw),
            _ => mul(draw),
        },
    }
}

fn suited(draw: &mut Draw, make: fn(&mut Draw) -> Task, fits: fn(&Task) -> bool) -> Task {
    loop {
        let task = make(draw);
        if fits(&task) {
            return task;
        }
    }
}
