//! The questions that the reasoning traces answer: arithmetic, counting, comparing and look-up.
//!
//! One question can be thought about in several ways, so what a trace does follows from the strategy that the
//! prompt asks for, not from the question. Keys of sums, differences, products and price lists are those of
//! [`super::maths`].

use super::draw::Draw;
use super::maths;

/// A question's parameters.
pub(super) enum Task {
    /// `a + b`, two digits each, neither round.
    Add(i64, i64),
    /// `a - b`, the same, the first with more tens.
    Sub(i64, i64),
    /// `a * b`.
    Mul(i64, i64),
    /// `a + b + c`.
    Sum(i64, i64, i64),
    /// `a + b - c` in words.
    AddSub(i64, i64, i64),
    /// Two prices from a list.
    Prices(maths::PriceList),
    /// How many letters are one of the targets.
    Letters {
        letters: Vec<char>,
        targets: Vec<char>,
    },
    /// Numbers to be put in order.
    Sort(Vec<i64>),
    /// The largest of some numbers.
    Largest(Vec<i64>),
    /// Two kinds of bags, how many of each, and how many big balls one of each holds.
    Bags(Bags),
}

/// A choice between two causes by prior and likelihood: from which kind of bag comes a big ball, every ball
/// being equally likely to be drawn?
pub(super) struct Bags {
    pub(super) kinds: (&'static str, &'static str),
    /// How many bags of each kind (the prior).
    pub(super) bags: (i64, i64),
    /// Big balls in one bag of each kind (proportional to the likelihood).
    pub(super) big: (i64, i64),
    /// Asks for the chance of the first kind instead of the likelier one.
    pub(super) chance: bool,
}

impl Task {
    pub(super) fn sum(draw: &mut Draw) -> Task {
        loop {
            let three = [
                draw.within(11, 49),
                draw.within(11, 49),
                draw.within(11, 49),
            ];
            if three.iter().sum::<i64>() < 100 && three.iter().all(|n| n % 10 != 0) {
                return Task::Sum(three[0], three[1], three[2]);
            }
        }
    }

    /// Six letters of `a` to `f`; each target occurs.
    pub(super) fn letters(draw: &mut Draw, targets: usize) -> Task {
        let all: Vec<char> = ('a'..='f').collect();
        let targets = draw.several(&all, targets);
        loop {
            let letters: Vec<char> = (0..6).map(|_| *draw.pick(&all)).collect();
            if targets.iter().all(|target| letters.contains(target)) {
                return Task::Letters { letters, targets };
            }
        }
    }

    /// Different numbers.
    pub(super) fn numbers(draw: &mut Draw, count: usize) -> Vec<i64> {
        draw.several(&(2..60).collect::<Vec<i64>>(), count)
    }

    /// Bags whose two products differ.
    pub(super) fn bags(draw: &mut Draw) -> Task {
        const COLOURS: [&str; 6] = ["red", "blue", "green", "white", "black", "pink"];
        let kinds = draw.several(&COLOURS, 2);
        loop {
            let bags = (draw.within(2, 9), draw.within(2, 9));
            let big = (draw.within(2, 6), draw.within(2, 6));
            if bags.0 * big.0 != bags.1 * big.1 {
                return Task::Bags(Bags {
                    kinds: (kinds[0], kinds[1]),
                    bags,
                    big,
                    chance: draw.below(3) == 0,
                });
            }
        }
    }

    /// Names the parameters, not the wording.
    pub(super) fn key(&self) -> String {
        match self {
            Task::Add(a, b) => maths::add_key(*a, *b),
            Task::Sub(a, b) => maths::sub_key(*a, *b),
            Task::Mul(a, b) => maths::mul_key(*a, *b),
            Task::Sum(a, b, c) => format!("sum {}", in_order(&[*a, *b, *c])),
            Task::AddSub(a, b, c) => maths::add_sub_key(*a, *b, *c),
            Task::Prices(list) => list.key.clone(),
            Task::Letters { letters, targets } => {
                format!("letters {} {}", spaced(letters), spaced(targets))
            }
            Task::Sort(numbers) => format!("sort {}", in_order(numbers)),
            Task::Largest(numbers) => format!("largest {}", in_order(numbers)),
            Task::Bags(Bags { bags, big, .. }) => {
                let (first, second) = ((bags.0, big.0), (bags.1, big.1));
                let (low, high) = (first.min(second), first.max(second));
                format!("bags {} {} {} {}", low.0, low.1, high.0, high.1)
            }
        }
    }

    /// The question in one of its wordings.
    pub(super) fn question(&self, draw: &mut Draw) -> String {
        match self {
            Task::Add(a, b) => match draw.below(2) {
                0 => format!("What is {a} + {b}?"),
                _ => maths::add_question(draw, *a, *b),
            },
            Task::Sub(a, b) => match draw.below(2) {
                0 => format!("What is {a} - {b}?"),
                _ => maths::sub_question(draw, *a, *b),
            },
            Task::Mul(a, b) => format!("What is {a} * {b}?"),
            Task::Sum(a, b, c) => format!("What is {a} + {b} + {c}?"),
            Task::AddSub(a, b, c) => maths::add_sub_question(draw, *a, *b, *c),
            Task::Prices(list) => list.question.clone(),
            Task::Letters { letters, targets } => {
                let wanted: Vec<String> = targets.iter().map(char::to_string).collect();
                format!(
                    "How many {} are in: {}?",
                    wanted.join(" or "),
                    spaced(letters)
                )
            }
            Task::Sort(numbers) => format!("Sort from small to large: {}.", plain(numbers)),
            Task::Largest(numbers) => format!("Which is the largest: {}?", plain(numbers)),
            Task::Bags(bags) => bags.question(),
        }
    }

    pub(super) fn answer(&self) -> String {
        match self {
            Task::Add(a, b) => (a + b).to_string(),
            Task::Sub(a, b) => (a - b).to_string(),
            Task::Mul(a, b) => (a * b).to_string(),
            Task::Sum(a, b, c) => (a + b + c).to_string(),
            Task::AddSub(a, b, c) => (a + b - c).to_string(),
            Task::Prices(list) => (list.first.1 + list.second.1).to_string(),
            Task::Letters { letters, targets } => {
                let found = letters.iter().filter(|letter| targets.contains(letter));
                found.count().to_string()
            }
            Task::Sort(numbers) => in_order(numbers),
            Task::Largest(numbers) => numbers.iter().max().expect("some numbers").to_string(),
            Task::Bags(bags) => bags.answer(),
        }
    }
}

impl Bags {
    fn question(&self) -> String {
        let ((one, other), (n, m), (x, y)) = (self.kinds, self.bags, self.big);
        let ask = if self.chance {
            format!("What is the chance of {one}?")
        } else {
            format!("Is it more likely {one} or {other}?")
        };
        format!(
            "There are {n} {one} bags with {x} big balls each and {m} {other} with {y} each. A ball is big. {ask}"
        )
    }

    fn answer(&self) -> String {
        let (first, second) = (self.bags.0 * self.big.0, self.bags.1 * self.big.1);
        if self.chance {
            format!("{first}/{}", first + second)
        } else if first > second {
            self.kinds.0.to_string()
        } else {
            self.kinds.1.to_string()
        }
    }
}

fn in_order(numbers: &[i64]) -> String {
    let mut ordered = numbers.to_vec();
    ordered.sort_unstable();
    plain(&ordered)
}

pub(super) fn plain(numbers: &[i64]) -> String {
    numbers
        .iter()
        .map(i64::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

pub(super) fn spaced(letters: &[char]) -> String {
    letters
        .iter()
        .map(char::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}
