//! Commonsense: a small world of sizes, speeds, places, uses, opposites, sounds and orders, asked by choice.
//!
//! What can be inferred (which of several animals is the largest) is split by the set that is compared: a
//! held-out comparison was never shown in any form, but both of its members stand in others. What cannot be
//! inferred (where a fish lives) is split by template: every fact is told as a statement in the training text,
//! but for a held-out fact the *question* is never shown.

use super::draw::{Draw, held_out};
use super::lexicon::{article, capitalised};
use super::{Exercise, Line};

/// From small to large.
const SIZES: [&str; 18] = [
    "ant", "bee", "snail", "mouse", "frog", "rat", "duck", "hen", "cat", "fox", "goat", "wolf",
    "pig", "lion", "bear", "cow", "camel", "whale",
];
/// From slow to fast.
const SPEEDS: [&str; 12] = [
    "snail", "worm", "turtle", "crab", "duck", "pig", "dog", "horse", "bus", "car", "train",
    "plane",
];
/// From light to heavy.
const WEIGHTS: [&str; 12] = [
    "feather", "leaf", "pen", "egg", "cup", "shoe", "book", "bag", "chair", "bed", "car", "ship",
];

/// A relation of the small world: the question, the statement (`{x}` the subject, `{y}` the object), the pairs.
struct Relation {
    name: &'static str,
    question: &'static str,
    statement: &'static str,
    pairs: &'static [(&'static str, &'static str)],
}

const RELATIONS: [Relation; 8] = [
    Relation {
        name: "place",
        question: "Where do you find a {x}?",
        statement: "You find a {x} in the {y}.",
        pairs: &[
            ("fish", "water"),
            ("bird", "nest"),
            ("book", "library"),
            ("cook", "kitchen"),
            ("nurse", "hospital"),
            ("teacher", "school"),
            ("camel", "desert"),
            ("cow", "field"),
            ("star", "sky"),
            ("pillow", "bed"),
            ("ship", "sea"),
            ("bee", "hive"),
            ("tree", "forest"),
            ("worm", "soil"),
            ("king", "castle"),
            ("train", "station"),
        ],
    },
    Relation {
        name: "use",
        question: "What do you do with a {x}?",
        statement: "With a {x} you {y}.",
        pairs: &[
            ("knife", "cut"),
            ("pen", "write"),
            ("bed", "sleep"),
            ("cup", "drink"),
            ("bike", "ride"),
            ("broom", "sweep"),
            ("drum", "play"),
            ("book", "read"),
            ("shovel", "dig"),
            ("phone", "call"),
            ("needle", "sew"),
            ("pot", "cook"),
            ("rope", "pull"),
            ("brush", "paint"),
        ],
    },
    Relation {
        name: "opposite",
        question: "What is the opposite of {x}?",
        statement: "The opposite of {x} is {y}.",
        pairs: &[
            ("hot", "cold"),
            ("big", "small"),
            ("day", "night"),
            ("up", "down"),
            ("fast", "slow"),
            ("old", "young"),
            ("wet", "dry"),
            ("full", "empty"),
            ("light", "dark"),
            ("open", "closed"),
            ("happy", "sad"),
            ("hard", "soft"),
            ("loud", "quiet"),
            ("rich", "poor"),
            ("near", "far"),
            ("first", "last"),
            ("win", "lose"),
            ("begin", "end"),
        ],
    },
    Relation {
        name: "sound",
        question: "Which animal makes the sound {x}?",
        statement: "The sound {x} is made by the {y}.",
        pairs: &[
            ("moo", "cow"),
            ("woof", "dog"),
            ("meow", "cat"),
            ("quack", "duck"),
            ("buzz", "bee"),
            ("oink", "pig"),
            ("neigh", "horse"),
            ("roar", "lion"),
            ("howl", "wolf"),
            ("hiss", "snake"),
        ],
    },
    Relation {
        name: "colour",
        question: "What colour is {x}?",
        statement: "The colour of {x} is {y}.",
        pairs: &[
            ("grass", "green"),
            ("snow", "white"),
            ("coal", "black"),
            ("blood", "red"),
            ("the sky", "blue"),
            ("a lemon", "yellow"),
            ("mud", "brown"),
            ("a carrot", "orange"),
            ("ash", "grey"),
            ("a plum", "purple"),
        ],
    },
    Relation {
        name: "young",
        question: "What is a young {x} called?",
        statement: "A young {x} is called a {y}.",
        pairs: &[
            ("cat", "kitten"),
            ("dog", "puppy"),
            ("cow", "calf"),
            ("horse", "foal"),
            ("sheep", "lamb"),
            ("hen", "chick"),
            ("bear", "cub"),
            ("goat", "kid"),
            ("man", "boy"),
            ("woman", "girl"),
        ],
    },
    Relation {
        name: "after",
        question: "What comes after {x}?",
        statement: "After {x} comes {y}.",
        pairs: &[
            ("Monday", "Tuesday"),
            ("Tuesday", "Wednesday"),
            ("Wednesday", "Thursday"),
            ("Thursday", "Friday"),
            ("Friday", "Saturday"),
            ("Saturday", "Sunday"),
            ("Sunday", "Monday"),
            ("spring", "summer"),
            ("summer", "autumn"),
            ("autumn", "winter"),
            ("winter", "spring"),
            ("morning", "noon"),
            ("noon", "evening"),
            ("evening", "night"),
            ("March", "April"),
            ("April", "May"),
            ("May", "June"),
            ("June", "July"),
            ("July", "August"),
        ],
    },
    Relation {
        name: "made",
        question: "What is a {x} made of?",
        statement: "A {x} is made of {y}.",
        pairs: &[
            ("window", "glass"),
            ("table", "wood"),
            ("sock", "wool"),
            ("shoe", "leather"),
            ("coin", "metal"),
            ("book", "paper"),
            ("wall", "stone"),
            ("candle", "wax"),
            ("tyre", "rubber"),
            ("shirt", "cotton"),
        ],
    },
];

/// A question with two to four options.
pub(super) fn exercise(draw: &mut Draw) -> Exercise {
    if draw.below(2) == 0 {
        return comparison(draw);
    }
    let relation = draw.pick(&RELATIONS);
    let (x, y) = *draw.pick(relation.pairs);
    let mut ends: Vec<&str> = Vec::new();
    for (_, end) in relation.pairs {
        if *end != y && *end != x && !ends.contains(end) {
            ends.push(end);
        }
    }
    let wrong = 1 + draw.below(3);
    let mut options: Vec<String> = draw
        .several(&ends, wrong)
        .into_iter()
        .map(String::from)
        .collect();
    options.push(y.to_string());
    draw.shuffle(&mut options);
    Exercise::choice(
        fact_key(relation, x),
        filled(relation.question, x, y),
        y,
        options,
    )
}

/// Several statements, for training: any fact, and comparisons that are not held out.
pub(super) fn statements(draw: &mut Draw) -> Line {
    let mut told = Vec::new();
    while told.len() < 4 {
        if draw.below(2) == 0 {
            let relation = draw.pick(&RELATIONS);
            let (x, y) = *draw.pick(relation.pairs);
            told.push(filled(relation.statement, x, y));
            continue;
        }
        let scale = scale(draw);
        let (low, high) = ordered_pair(draw, scale.order);
        if held_out(&comparison_key(scale.name, &[low, high])) {
            continue;
        }
        let (a, b) = (article(low), article(high));
        told.push(if draw.below(2) == 0 {
            capitalised(&format!("{b} {high} is {} than {a} {low}.", scale.more))
        } else {
            capitalised(&format!("{a} {low} is {} than {b} {high}.", scale.less))
        });
    }
    Line {
        key: "fact statements".to_string(),
        text: told.join(" "),
    }
}

struct Scale {
    name: &'static str,
    order: &'static [&'static str],
    more: &'static str,
    less: &'static str,
}

fn scale(draw: &mut Draw) -> Scale {
    match draw.below(3) {
        0 => Scale {
            name: "size",
            order: &SIZES,
            more: "bigger",
            less: "smaller",
        },
        1 => Scale {
            name: "speed",
            order: &SPEEDS,
            more: "faster",
            less: "slower",
        },
        _ => Scale {
            name: "weight",
            order: &WEIGHTS,
            more: "heavier",
            less: "lighter",
        },
    }
}

/// Two members of an order, the lower first.
fn ordered_pair<'a>(draw: &mut Draw, order: &[&'a str]) -> (&'a str, &'a str) {
    let high = 1 + draw.below(order.len() - 1);
    (order[draw.below(high)], order[high])
}

fn comparison(draw: &mut Draw) -> Exercise {
    let scale = scale(draw);
    let places: Vec<usize> = (0..scale.order.len()).collect();
    let count = 2 + draw.below(3);
    let shown = draw.several(&places, count);
    let mut ordered = shown.clone();
    ordered.sort_unstable();
    let most = draw.below(2) == 0;
    let gold = if most { ordered[count - 1] } else { ordered[0] };
    let word = if most { scale.more } else { scale.less };
    let members: Vec<&str> = ordered.iter().map(|&place| scale.order[place]).collect();
    let options = shown
        .iter()
        .map(|&place| scale.order[place].to_string())
        .collect();
    let question = if count == 2 {
        format!("Which is {word}?")
    } else {
        format!("Which is {word} than the others?")
    };
    Exercise::choice(
        comparison_key(scale.name, &members),
        question,
        scale.order[gold],
        options,
    )
}

fn comparison_key(scale: &str, ordered: &[&str]) -> String {
    format!("{scale} {}", ordered.join(" "))
}

fn fact_key(relation: &Relation, x: &str) -> String {
    format!("asked {} {x}", relation.name)
}

/// The pattern with its subject and object; `a ant` becomes `an ant`.
fn filled(pattern: &str, x: &str, y: &str) -> String {
    let with_article = format!("{} {x}", article(x));
    pattern
        .replace("a {x}", &with_article)
        .replace("A {x}", &capitalised(&with_article))
        .replace("{x}", x)
        .replace("{y}", y)
}
