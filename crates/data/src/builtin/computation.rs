//! What the ten strategies compute: one function each, from a task to the words of the thought.
//!
//! Each changes the computation: for 34 + 28 the cases are tens and ones, the expert rounds up and takes back, the
//! second method disagrees with the first in every intermediate number, the bounds come before the value. Every
//! sentence is a statement that [`super::check_computation`] verifies, or a label. Leaves out a choice of words: the
//! same task and strategy give the same thought, so that nothing in it has to be guessed.

use super::maths;
use super::strategy::Strategy;
use super::tasks::{Bags, Task, plain};

/// The body of the thought. Panics on a task that [`super::traces()`] does not pose to the strategy.
pub(super) fn thought(strategy: Strategy, task: &Task) -> String {
    match strategy {
        Strategy::ChainOfThought => steps(task),
        Strategy::Mece => cases(task),
        Strategy::Falsification => falsified(task),
        Strategy::Expert => rule(task),
        Strategy::Orthogonal => two_ways(task),
        Strategy::SelfDoubt => checked_back(task),
        Strategy::Bayesian => counted_odds(task),
        Strategy::Multidomain => mapped(task),
        Strategy::SelfCorrection => mended(task),
        Strategy::Uncertainty => bounded(task),
    }
}

/// One step after another: a running total, a running count, the least of what is left.
fn steps(task: &Task) -> String {
    match task {
        Task::Sum(a, b, c) => format!("{a} + {b} = {}. {} + {c} = {}.", a + b, a + b, a + b + c),
        Task::AddSub(a, b, c) => format!("{a} + {b} = {}. {} - {c} = {}.", a + b, a + b, a + b - c),
        Task::Prices(list) => {
            let ((one, p), (other, q)) = (list.first, list.second);
            format!("{one} {p}. {other} {q}. {p} + {q} = {}.", p + q)
        }
        Task::Letters { letters, targets } => {
            let mut count = 0;
            let told: Vec<String> = letters
                .iter()
                .map(|letter| {
                    count += usize::from(targets.contains(letter));
                    format!("{letter} {count}.")
                })
                .collect();
            told.join(" ")
        }
        Task::Sort(numbers) => {
            let mut left = numbers.clone();
            let mut told = Vec::new();
            while left.len() > 1 {
                let least = *left.iter().min().expect("two or more are left");
                told.push(format!("least of {} is {least}.", plain(&left)));
                left.retain(|number| *number != least);
            }
            format!("{} so {}.", told.join(" "), task.answer())
        }
        _ => unsuited(task),
    }
}

/// Disjoint cases, summed: tens and ones, or one letter and the other.
fn cases(task: &Task) -> String {
    match task {
        Task::Add(a, b) => digits(&[*a, *b]),
        Task::Sum(a, b, c) => digits(&[*a, *b, *c]),
        Task::Letters { letters, targets } => {
            let found = |target: &char| letters.iter().filter(|letter| *letter == target).count();
            let listed = |target: &char| vec![target.to_string(); found(target)].join(" ");
            let (n, m) = (found(&targets[0]), found(&targets[1]));
            format!(
                "{} is {n}. {} is {m}. all {n} + {m} = {}.",
                listed(&targets[0]),
                listed(&targets[1]),
                n + m
            )
        }
        _ => unsuited(task),
    }
}

fn digits(numbers: &[i64]) -> String {
    let tens: Vec<i64> = numbers.iter().map(|n| n / 10 * 10).collect();
    let ones: Vec<i64> = numbers.iter().map(|n| n % 10).collect();
    let sum = |parts: &[i64]| {
        parts
            .iter()
            .map(i64::to_string)
            .collect::<Vec<_>>()
            .join(" + ")
    };
    let (all_tens, all_ones) = (tens.iter().sum::<i64>(), ones.iter().sum::<i64>());
    format!(
        "tens {} = {all_tens}. ones {} = {all_ones}. all {all_tens} + {all_ones} = {}.",
        sum(&tens),
        sum(&ones),
        all_tens + all_ones
    )
}

/// A candidate and the attempt to refute it: the difference digit by digit without a borrow, tested by adding
/// back, and mended by ten when refuted; or the first number, until none is larger.
fn falsified(task: &Task) -> String {
    match task {
        Task::Sub(a, b) => {
            let (guess, right) = (unborrowed(*a, *b), a - b);
            let holds = format!("try {right}. {right} + {b} = {a}, true.");
            if guess == right {
                holds
            } else {
                format!(
                    "try {guess}. {guess} + {b} = {}, not {a}. {holds}",
                    guess + b
                )
            }
        }
        Task::Largest(numbers) => {
            let mut best = numbers[0];
            let mut told = format!("try {best}.");
            for &next in &numbers[1..] {
                if next > best {
                    told += &format!(" {next} > {best}, try {next}.");
                    best = next;
                } else {
                    told += &format!(" {best} > {next}.");
                }
            }
            told + " true."
        }
        _ => unsuited(task),
    }
}

/// The difference with each column taken by itself, ten too much when the ones need a borrow.
fn unborrowed(a: i64, b: i64) -> i64 {
    (a / 10 - b / 10) * 10 + (a % 10 - b % 10).rem_euclid(10)
}

/// A named rule: nines by ten less one, fives by half of ten, and rounding up what is near the next ten.
fn rule(task: &Task) -> String {
    match task {
        Task::Mul(a, 9) => {
            let ten = a * 10;
            format!(
                "rule ten less one. {a} * 10 = {ten}. {ten} - {a} = {}.",
                ten - a
            )
        }
        Task::Mul(a, 5) => {
            let ten = a * 10;
            format!(
                "rule half of ten. {a} * 10 = {ten}. {ten} / 2 = {}.",
                ten / 2
            )
        }
        Task::Add(a, b) => format!("rule round up. {}", rounded_sum(*a, *b)),
        Task::Sub(a, b) => format!("rule round up. {}", rounded_difference(*a, *b)),
        _ => unsuited(task),
    }
}

/// `34 + 30 = 64. 64 - 2 = 62.`
fn rounded_sum(a: i64, b: i64) -> String {
    let round = next_ten(b);
    format!(
        "{a} + {round} = {}. {} - {} = {}.",
        a + round,
        a + round,
        round - b,
        a + b
    )
}

/// `62 - 30 = 32. 32 + 2 = 34.`
fn rounded_difference(a: i64, b: i64) -> String {
    let round = next_ten(b);
    format!(
        "{a} - {round} = {}. {} + {} = {}.",
        a - round,
        a - round,
        round - b,
        a - b
    )
}

fn next_ten(n: i64) -> i64 {
    n / 10 * 10 + 10
}

/// By tens and ones, then by rounding up; both must agree.
fn two_ways(task: &Task) -> String {
    match task {
        Task::Add(a, b) => {
            let part = a + b / 10 * 10;
            let first = format!(
                "{a} + {} = {part}. {part} + {} = {}.",
                b / 10 * 10,
                b % 10,
                a + b
            );
            format!("one {first} two {} same.", rounded_sum(*a, *b))
        }
        Task::Sub(a, b) => {
            format!(
                "one {} two {} same.",
                maths::sub_steps(*a, *b),
                rounded_difference(*a, *b)
            )
        }
        _ => unsuited(task),
    }
}

/// The first answer, then the way back to what was given.
fn checked_back(task: &Task) -> String {
    let back = match task {
        Task::Sum(a, b, c) => format!("{} - {c} = {}. {} - {b} = {a}.", a + b + c, a + b, a + b),
        Task::AddSub(a, b, c) => format!("{} + {c} = {}. {} - {b} = {a}.", a + b - c, a + b, a + b),
        Task::Prices(list) => {
            let (p, q) = (list.first.1, list.second.1);
            format!("{} - {q} = {p}.", p + q)
        }
        _ => unsuited(task),
    };
    format!("{} sure? {back} yes.", steps(task))
}

/// Prior times likelihood for both causes.
fn counted_odds(task: &Task) -> String {
    let Task::Bags(bags) = task else {
        unsuited(task)
    };
    let Bags {
        kinds: (one, other),
        bags: (n, m),
        big: (x, y),
        chance,
    } = bags;
    let (first, second) = (n * x, m * y);
    let end = if *chance {
        format!(
            "{first} + {second} = {}. so {}.",
            first + second,
            task.answer()
        )
    } else {
        let sign = if first > second { '>' } else { '<' };
        format!("{first} {sign} {second}. so {}.", task.answer())
    };
    format!(
        "prior {n} and {m}. likely {x} and {y}. {one} {n} * {x} = {first}. {other} {m} * {y} = {second}. {end}"
    )
}

/// Sums as coins, differences as a walk by way of the next ten, products as an area in two pieces.
fn mapped(task: &Task) -> String {
    match task {
        Task::Add(a, b) => {
            let (dimes, cents) = (a / 10 + b / 10, a % 10 + b % 10);
            format!(
                "coins. dimes {} + {} = {dimes}. cents {} + {} = {cents}. {} + {cents} = {}.",
                a / 10,
                b / 10,
                a % 10,
                b % 10,
                dimes * 10,
                a + b
            )
        }
        Task::Sub(a, b) => {
            let stop = next_ten(*b);
            let (near, far) = (stop - b, a - stop);
            format!(
                "walk. from {b} to {stop} is {near}. from {stop} to {a} is {far}. {near} + {far} = {}.",
                a - b
            )
        }
        Task::Mul(a, b) => format!("area. {}", maths::mul_steps(*a, *b)),
        _ => unsuited(task),
    }
}

/// A step without its carry or borrow, noticed and mended.
fn mended(task: &Task) -> String {
    match task {
        Task::Add(a, b) => {
            let (tens, ones) = (a / 10 * 10 + b / 10 * 10, a % 10 + b % 10);
            let slip = tens + ones % 10;
            format!(
                "{a} + {b} = {slip}? no, {} + {} = {ones}. {tens} + {ones} = {}.",
                a % 10,
                b % 10,
                a + b
            )
        }
        Task::Sub(a, b) => {
            let slip = unborrowed(*a, *b);
            format!(
                "{a} - {b} = {slip}? no, {slip} + {b} = {}. {slip} - 10 = {}.",
                slip + b,
                a - b
            )
        }
        _ => unsuited(task),
    }
}

/// Bounds by rounding down and up, then the value, then that it lies between them.
fn bounded(task: &Task) -> String {
    match task {
        Task::Add(a, b) => {
            let (p, q) = (a / 10 * 10, b / 10 * 10);
            let (low, ones, sum) = (p + q, a % 10 + b % 10, a + b);
            format!(
                "low {p} + {q} = {low}. high {low} + 20 = {}. {} + {} = {ones}. {low} + {ones} = {sum}. {low} < {sum} < {}.",
                low + 20,
                a % 10,
                b % 10,
                low + 20
            )
        }
        Task::Sub(a, b) => {
            let (low, high) = (a / 10 * 10 - next_ten(*b), next_ten(*a) - b / 10 * 10);
            format!(
                "low {} - {} = {low}. high {low} + 20 = {high}. {} {low} < {} < {high}.",
                a / 10 * 10,
                next_ten(*b),
                maths::sub_steps(*a, *b),
                a - b
            )
        }
        Task::Mul(a, b) => {
            let (tens, ones) = (b / 10 * 10, b % 10);
            let (low, high) = (a * tens, a * (tens + 10));
            format!(
                "low {a} * {tens} = {low}. high {a} * {} = {high}. {a} * {ones} = {}. {low} + {} = {}. {low} < {} < {high}.",
                tens + 10,
                a * ones,
                a * ones,
                a * b,
                a * b
            )
        }
        _ => unsuited(task),
    }
}

/// A programmer's mistake: the posed task and the strategy disagree.
fn unsuited(task: &Task) -> ! {
    panic!("no thought of this strategy for the task {}", task.key())
}
