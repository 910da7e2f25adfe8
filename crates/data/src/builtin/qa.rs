//! Questions of two hops over invented facts that stand in the prompt.
//!
//! Two or three people (or things) each lead to a middle term and each middle term to an end; the facts come
//! in random order and the question asks for one person's end. Middle and end terms are invented names or
//! small words, so nothing can be known beforehand. Half the exercises are answered freely, with both hops
//! written out, half by a choice among the ends. The key names the asked chain.

use super::Exercise;
use super::draw::Draw;
use super::lexicon::{PEOPLE, capitalised, invented};

const PETS: [&str; 8] = ["cat", "dog", "bird", "frog", "goat", "hen", "duck", "pony"];
const FOODS: [&str; 8] = [
    "corn", "fish", "bread", "grass", "milk", "seeds", "rice", "meat",
];
const TOOLS: [&str; 8] = ["cup", "hat", "bag", "drum", "kite", "lamp", "boat", "ball"];
const COLOURS: [&str; 8] = [
    "red", "blue", "green", "black", "white", "pink", "brown", "grey",
];

/// One chain: who, by which middle term, to which end, and the two facts that say so.
struct Chain {
    middle: String,
    end: String,
    first: String,
    second: String,
}

pub(super) fn exercise(draw: &mut Draw) -> Exercise {
    let count = 2 + draw.below(2);
    let who: Vec<String> = draw
        .several(&PEOPLE, count)
        .iter()
        .map(|person| person.name.to_string())
        .collect();
    let kind = draw.below(4);
    let (mut middles, mut ends) = match kind {
        0 => (names(draw, count), names(draw, count)),
        1 => (words(draw, &PETS, count), words(draw, &FOODS, count)),
        2 => (words(draw, &TOOLS, count), words(draw, &COLOURS, count)),
        _ => (names(draw, count), words(draw, &COLOURS, count)),
    };
    if kind == 0 {
        // A land never has the name of a town of the same question.
        ends.retain(|end| !middles.contains(end));
        while ends.len() < count {
            let name = invented(draw);
            if !ends.contains(&name) && !middles.contains(&name) {
                ends.push(name);
            }
        }
    }
    let chains: Vec<Chain> = who
        .iter()
        .zip(middles.drain(..).zip(ends.drain(..)))
        .map(|(who, (middle, end))| chain(kind, who, middle, end))
        .collect();

    let mut facts: Vec<&str> = chains
        .iter()
        .flat_map(|chain| [chain.first.as_str(), chain.second.as_str()])
        .collect();
    draw.shuffle(&mut facts);
    let asked = draw.below(count);
    let (person, goal) = (&who[asked], &chains[asked]);
    let question = match kind {
        0 => format!("In which land does {person} live?"),
        1 => format!("What does the pet of {person} eat?"),
        2 => format!("What colour is the thing that {person} has?"),
        _ => format!("Which colour is the flag of the town of {person}?"),
    };
    let question = format!("{} {question}", facts.join(" "));
    let key = format!("hops {person} {} {}", goal.middle, goal.end);
    if draw.below(2) == 0 {
        let worked = format!("{} {}", goal.first, goal.second);
        Exercise::exact(key, question, worked, &goal.end)
    } else {
        let mut options: Vec<String> = chains.iter().map(|chain| chain.end.clone()).collect();
        draw.shuffle(&mut options);
        Exercise::choice(key, question, &goal.end, options)
    }
}

fn chain(kind: usize, who: &str, middle: String, end: String) -> Chain {
    let (first, second) = match kind {
        0 => (
            format!("{who} lives in {middle}."),
            format!("{middle} is in {end}."),
        ),
        1 => (
            format!("{who} has a {middle}."),
            format!("The {middle} eats {end}."),
        ),
        2 => (
            format!("{who} has the {middle}."),
            format!("The {middle} is {end}."),
        ),
        _ => (
            format!("{who} lives in {middle}."),
            format!("The flag of {} is {end}.", capitalised(&middle)),
        ),
    };
    Chain {
        middle,
        end,
        first,
        second,
    }
}

/// Different invented names.
fn names(draw: &mut Draw, count: usize) -> Vec<String> {
    let mut made: Vec<String> = Vec::new();
    while made.len() < count {
        let name = invented(draw);
        if !made.contains(&name) {
            made.push(name);
        }
    }
    made
}

fn words(draw: &mut Draw, from: &[&str], count: usize) -> Vec<String> {
    draw.several(from, count)
        .into_iter()
        .map(String::from)
        .collect()
}
