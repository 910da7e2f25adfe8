//! Mathematics: plain arithmetic by columns, word problems of one and two steps, price lists.
//!
//! Numbers stay within 0-99 and the worked steps are such that each needs one small computation. The keys of
//! sums, differences and products are those of the reasoning traces too ([`super::traces()`]), so a sum that is
//! held out is held out everywhere.

use super::Exercise;
use super::draw::Draw;
use super::lexicon::{COUNTED, GOODS, PEOPLE, article, capitalised};

pub(super) fn exercise(draw: &mut Draw) -> Exercise {
    match draw.below(10) {
        0 => {
            let (a, b) = addends(draw);
            Exercise::exact(
                add_key(a, b),
                format!("What is {a} + {b}?"),
                add_steps(a, b),
                a + b,
            )
        }
        1 => {
            let (a, b) = difference(draw);
            Exercise::exact(
                sub_key(a, b),
                format!("What is {a} - {b}?"),
                sub_steps(a, b),
                a - b,
            )
        }
        2 => {
            let (a, b) = factors(draw);
            Exercise::exact(
                mul_key(a, b),
                format!("What is {a} * {b}?"),
                mul_steps(a, b),
                a * b,
            )
        }
        3 => {
            let (a, b) = (draw.within(2, 10), draw.within(2, 10));
            let worked = format!("{a} * {b} = {}.", a * b);
            Exercise::exact(
                format!("fact times {a} {b}"),
                format!("What is {a} * {b}?"),
                worked,
                a * b,
            )
        }
        4 => {
            let (a, b) = (draw.within(3, 30), draw.within(2, 20));
            let question = add_question(draw, a, b);
            Exercise::exact(
                add_key(a, b),
                question,
                format!("{a} + {b} = {}.", a + b),
                a + b,
            )
        }
        5 => {
            let b = draw.within(2, 20);
            let a = b + draw.within(1, 25);
            let question = sub_question(draw, a, b);
            Exercise::exact(
                sub_key(a, b),
                question,
                format!("{a} - {b} = {}.", a - b),
                a - b,
            )
        }
        6 => {
            let (a, b, c) = add_sub(draw);
            let question = add_sub_question(draw, a, b, c);
            let worked = format!("{a} + {b} = {}. {} - {c} = {}.", a + b, a + b, a + b - c);
            Exercise::exact(add_sub_key(a, b, c), question, worked, a + b - c)
        }
        7 => boxes(draw),
        8 => {
            let list = price_list(draw);
            let (p, q) = (list.first.1, list.second.1);
            let worked = format!(
                "{} {p}. {} {q}. {p} + {q} = {}.",
                list.first.0,
                list.second.0,
                p + q
            );
            Exercise::exact(list.key, list.question, worked, p + q)
        }
        _ => both(draw),
    }
}

/// `k boxes of m things and c more`.
fn boxes(draw: &mut Draw) -> Exercise {
    let (k, m, c) = (draw.within(2, 9), draw.within(2, 9), draw.within(1, 15));
    let (person, thing) = (draw.pick(&PEOPLE), draw.pick(&COUNTED));
    let holder = draw.pick(&["boxes", "bags", "baskets"]);
    let (name, they) = (person.name, capitalised(person.they));
    let question = format!(
        "{name} has {k} {holder} with {m} {thing} each. {they} has {c} more {thing}. How many {thing} does {name} have?"
    );
    let worked = format!("{k} * {m} = {}. {} + {c} = {}.", k * m, k * m, k * m + c);
    Exercise::exact(format!("boxes {k} {m} {c}"), question, worked, k * m + c)
}

/// `One has a, the other has k more, how many together`.
fn both(draw: &mut Draw) -> Exercise {
    let (a, k) = (draw.within(2, 25), draw.within(2, 20));
    let pair = draw.several(&PEOPLE, 2);
    let (one, other, thing) = (pair[0].name, pair[1].name, draw.pick(&COUNTED));
    let question = format!(
        "{one} has {a} {thing}. {other} has {k} more than {one}. How many {thing} do they have together?"
    );
    let b = a + k;
    let worked = format!("{a} + {k} = {b}. {a} + {b} = {}.", a + b);
    Exercise::exact(format!("both {a} {k}"), question, worked, a + b)
}

/// Two numbers of two digits, neither round, whose sum has two digits.
pub(super) fn addends(draw: &mut Draw) -> (i64, i64) {
    let ones = (draw.within(1, 9), draw.within(1, 9));
    let carry = i64::from(ones.0 + ones.1 > 9);
    let first = draw.within(1, 8 - carry);
    let second = draw.within(1, 9 - carry - first);
    (10 * first + ones.0, 10 * second + ones.1)
}

/// Two numbers of two digits, the first with more tens, neither round.
pub(super) fn difference(draw: &mut Draw) -> (i64, i64) {
    let tens = draw.within(2, 9);
    let fewer = draw.within(1, tens - 1);
    (
        10 * tens + draw.within(1, 9),
        10 * fewer + draw.within(1, 9),
    )
}

/// One digit and a number of two digits that is not round, with a product below 100.
pub(super) fn factors(draw: &mut Draw) -> (i64, i64) {
    loop {
        let (a, b) = (draw.within(2, 8), draw.within(11, 49));
        if a * b < 100 && b % 10 != 0 {
            return (a, b);
        }
    }
}

/// `a + b - c` with everything positive and small.
pub(super) fn add_sub(draw: &mut Draw) -> (i64, i64, i64) {
    let (a, b) = (draw.within(5, 40), draw.within(3, 30));
    (a, b, draw.within(2, (a + b - 1).min(30)))
}

pub(super) fn add_key(a: i64, b: i64) -> String {
    format!("add {} {}", a.min(b), a.max(b))
}

pub(super) fn sub_key(a: i64, b: i64) -> String {
    format!("sub {a} {b}")
}

pub(super) fn mul_key(a: i64, b: i64) -> String {
    format!("mul {} {}", a.min(b), a.max(b))
}

pub(super) fn add_sub_key(a: i64, b: i64, c: i64) -> String {
    format!("add sub {a} {b} {c}")
}

/// Column by column: `30 + 20 = 50. 4 + 8 = 12. 50 + 12 = 62.`
pub(super) fn add_steps(a: i64, b: i64) -> String {
    let (tens, ones) = (a / 10 * 10 + b / 10 * 10, a % 10 + b % 10);
    format!(
        "{} + {} = {tens}. {} + {} = {ones}. {tens} + {ones} = {}.",
        a / 10 * 10,
        b / 10 * 10,
        a % 10,
        b % 10,
        a + b
    )
}

/// Tens first, then ones: `62 - 20 = 42. 42 - 8 = 34.`
pub(super) fn sub_steps(a: i64, b: i64) -> String {
    let rest = a - b / 10 * 10;
    format!(
        "{a} - {} = {rest}. {rest} - {} = {}.",
        b / 10 * 10,
        b % 10,
        a - b
    )
}

/// Tens and ones of the second factor: `7 * 10 = 70. 7 * 4 = 28. 70 + 28 = 98.`
pub(super) fn mul_steps(a: i64, b: i64) -> String {
    let (tens, ones) = (a * (b / 10 * 10), a * (b % 10));
    format!(
        "{a} * {} = {tens}. {a} * {} = {ones}. {tens} + {ones} = {}.",
        b / 10 * 10,
        b % 10,
        a * b
    )
}

pub(super) fn add_question(draw: &mut Draw, a: i64, b: i64) -> String {
    let (person, thing) = (draw.pick(&PEOPLE), draw.pick(&COUNTED));
    let (name, they) = (person.name, person.they);
    match draw.below(3) {
        0 => format!(
            "{name} has {a} {thing}. {} {} {b} more. How many {thing} does {name} have now?",
            capitalised(they),
            draw.pick(&["finds", "buys", "gets"])
        ),
        1 => {
            let other = draw.pick(&PEOPLE).name;
            let other = if other == name { "Grandma" } else { other };
            format!(
                "{name} has {a} {thing} and {other} has {b} {thing}. How many {thing} are there?"
            )
        }
        _ => format!(
            "There are {a} {thing} in a box. {name} puts in {b} more. How many {thing} are in the box?"
        ),
    }
}

pub(super) fn sub_question(draw: &mut Draw, a: i64, b: i64) -> String {
    let (person, thing) = (draw.pick(&PEOPLE), draw.pick(&COUNTED));
    let (name, they) = (person.name, person.they);
    match draw.below(3) {
        0 => format!(
            "{name} has {a} {thing}. {} {} {b}. How many {thing} are left?",
            capitalised(they),
            draw.pick(&["loses", "sells", "gives away"])
        ),
        1 => format!(
            "There are {a} {thing} in a box. {name} takes out {b}. How many {thing} stay in the box?"
        ),
        _ => {
            format!("{name} needs {a} {thing} and has {b}. How many more {thing} does {they} need?")
        }
    }
}

pub(super) fn add_sub_question(draw: &mut Draw, a: i64, b: i64, c: i64) -> String {
    let (person, thing) = (draw.pick(&PEOPLE), draw.pick(&COUNTED));
    let (name, they) = (person.name, capitalised(person.they));
    let (gain, loss) = (
        draw.pick(&["finds", "buys", "gets"]),
        draw.pick(&["loses", "sells", "gives away"]),
    );
    format!(
        "{name} has {a} {thing}. {they} {gain} {b} and {loss} {c}. How many {thing} does {name} have?"
    )
}

/// A price list and a question for two of its goods.
pub(super) struct PriceList {
    pub(super) key: String,
    pub(super) question: String,
    pub(super) first: (&'static str, i64),
    pub(super) second: (&'static str, i64),
}

pub(super) fn price_list(draw: &mut Draw) -> PriceList {
    let count = 3 + draw.below(2);
    let list: Vec<(&str, i64)> = draw
        .several(&GOODS, count)
        .into_iter()
        .map(|good| (good, draw.within(2, 40)))
        .collect();
    let asked = draw.several(&list, 2);
    let shown: Vec<String> = list
        .iter()
        .map(|(good, price)| format!("{good} {price}"))
        .collect();
    let (first, second) = (asked[0], asked[1]);
    PriceList {
        key: format!("prices {} {}", first.1.min(second.1), first.1.max(second.1)),
        question: format!(
            "Prices: {}. What do {} {} and {} {} cost?",
            shown.join(", "),
            article(first.0),
            first.0,
            article(second.0),
            second.0
        ),
        first,
        second,
    }
}
