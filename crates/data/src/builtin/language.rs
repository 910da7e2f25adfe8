//! Language: short stories from a grammar.
//!
//! A story is an opening, an event, a turn, and an ending; each is one of several sentence patterns whose slots
//! are filled from the lexicon. People, the thing and the place named at the start come back to the end, so
//! there is something to remember. The key is the tuple of patterns: a held-out story is a combination of
//! sentences that training never showed together, though each sentence stands in others.

use super::Line;
use super::draw::Draw;
use super::lexicon::{PEOPLE, article, capitalised};

const OPENINGS: [&str; 10] = [
    "One {weather} day, {hero} went to the {place}.",
    "{hero} was a {nature} child. {They} lived near the {place}.",
    "Once there was a {nature} child called {hero}. {They} loved the {place}.",
    "It was a {weather} morning. {hero} and {friend} walked to the {place}.",
    "{hero} had {a_colour} {thing}. {They} took it to the {place} every day.",
    "Near the {place} lived {a_animal}. {hero} came to see it.",
    "{hero} wanted to play. {They} asked {friend} to come to the {place}.",
    "Every day {hero} sat near the {place} and looked at the {animal}.",
    "{friend} called {hero} to the {place}. There was something to see.",
    "Last night it was {weather}. Today {hero} ran to the {place} with {their} {thing}.",
];

const EVENTS: [&str; 14] = [
    "{They} lost {their} {thing} there.",
    "{They} saw {a_animal} in the grass. It was {feeling}.",
    "{They} found {a_colour} {thing} under a tree.",
    "There {they} met {a_animal} that could talk.",
    "{They} wanted to eat the {food}, but the {animal} took it.",
    "{friend} came with {a_colour} {thing}. \"Is this yours?\" {friend} asked.",
    "{They} made a big {food} for {friend}.",
    "{They} heard a loud noise. It was {a_animal}!",
    "{They} fell and hurt {their} knee. {They} was {feeling}.",
    "The {thing} fell into the water.",
    "{They} saw that {friend} was {feeling} and sat alone.",
    "{They} built a small house for the {animal}.",
    "{friend} had no {food} and was hungry.",
    "The {animal} ran away with the {colour} {thing}.",
];

const TURNS: [&str; 12] = [
    "\"Do not worry,\" said {friend}. \"I will help you.\"",
    "{hero} was {feeling} and did not know what to do.",
    "So {hero} asked {their} {relative} for help.",
    "{hero} thought for a long time. Then {they} had an idea.",
    "\"Can I have the {food}?\" said the {animal}.",
    "{friend} said, \"Let us look for the {thing}.\"",
    "They looked under the bed, in the box and behind the door.",
    "The {animal} looked at {them} with big eyes.",
    "{hero} gave {friend} some {food} and they sat down.",
    "But then it began to rain, and they got wet.",
    "\"You must be kind,\" said {their} {relative}.",
    "{hero} ran home and came back with {a_colour} {thing}.",
];

const ENDINGS: [&str; 12] = [
    "At last {hero} had the {thing} again and was happy.",
    "From that day {hero} and the {animal} were friends.",
    "{hero} and {friend} shared the {food} and laughed.",
    "Then {they} went home from the {place} and slept.",
    "{hero} said, \"Thank you, {friend}!\" and gave {friend} a hug.",
    "{They} learned to be kind to every {animal}.",
    "In the end the {thing} was safe, and all were glad.",
    "\"I will come back to the {place},\" said {hero}.",
    "{friend} smiled. It was the best day of all.",
    "The {animal} slept in the sun, and {hero} sang a song.",
    "{They} told {their} {relative} all about the {place}.",
    "Now {hero} was not {feeling} any more.",
];

const PLACES: [&str; 12] = [
    "park", "garden", "forest", "river", "farm", "beach", "school", "market", "hill", "lake",
    "barn", "village",
];
pub(super) const THINGS: [&str; 14] = [
    "ball", "hat", "kite", "boat", "doll", "drum", "cup", "book", "shoe", "ring", "box", "bell",
    "car", "bag",
];
const ANIMALS: [&str; 14] = [
    "cat", "dog", "bird", "frog", "fox", "duck", "bear", "mouse", "goat", "pony", "rabbit", "fish",
    "owl", "hen",
];
const FOODS: [&str; 8] = [
    "cake", "bread", "apple", "soup", "pie", "cheese", "honey", "banana",
];
const COLOURS: [&str; 8] = [
    "red", "blue", "green", "yellow", "black", "white", "pink", "orange",
];
const NATURES: [&str; 8] = [
    "kind", "brave", "small", "shy", "clever", "happy", "quiet", "funny",
];
const FEELINGS: [&str; 6] = ["sad", "scared", "angry", "tired", "hungry", "cold"];
const WEATHERS: [&str; 6] = ["sunny", "rainy", "cold", "windy", "warm", "snowy"];
const RELATIVES: [&str; 6] = [
    "mother", "father", "sister", "brother", "grandma", "teacher",
];

pub(super) fn story(draw: &mut Draw) -> Line {
    let places = [
        draw.below(OPENINGS.len()),
        draw.below(EVENTS.len()),
        draw.below(TURNS.len()),
        draw.below(ENDINGS.len()),
    ];
    let pair = draw.several(&PEOPLE, 2);
    let (hero, friend) = (pair[0], pair[1]);
    let (thing, animal, food) = (
        *draw.pick(&THINGS),
        *draw.pick(&ANIMALS),
        *draw.pick(&FOODS),
    );
    let (place, colour) = (*draw.pick(&PLACES), *draw.pick(&COLOURS));
    let words = [
        ("{hero}", hero.name.to_string()),
        ("{friend}", friend.name.to_string()),
        ("{they}", hero.they.to_string()),
        ("{They}", capitalised(hero.they)),
        ("{them}", hero.them.to_string()),
        ("{their}", hero.their.to_string()),
        ("{thing}", thing.to_string()),
        ("{animal}", animal.to_string()),
        ("{a_animal}", format!("{} {animal}", article(animal))),
        ("{food}", food.to_string()),
        ("{place}", place.to_string()),
        ("{colour}", colour.to_string()),
        ("{a_colour}", format!("{} {colour}", article(colour))),
        ("{nature}", draw.pick(&NATURES).to_string()),
        ("{feeling}", draw.pick(&FEELINGS).to_string()),
        ("{weather}", draw.pick(&WEATHERS).to_string()),
        ("{relative}", draw.pick(&RELATIVES).to_string()),
    ];
    let [opening, event, turn, ending] = places;
    let patterns = [
        OPENINGS[opening],
        EVENTS[event],
        TURNS[turn],
        ENDINGS[ending],
    ];
    let mut text = patterns.join(" ");
    for (slot, word) in &words {
        text = text.replace(slot, word);
    }
    Line {
        key: format!("story {opening} {event} {turn} {ending}"),
        text,
    }
}
