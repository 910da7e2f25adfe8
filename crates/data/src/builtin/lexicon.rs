//! The words that the generators share: a small lexicon, so that a vocabulary of 512 tokens suffices.

/// A person of the stories and problems.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Person {
    pub(super) name: &'static str,
    /// she, he
    pub(super) they: &'static str,
    /// her, him
    pub(super) them: &'static str,
    /// her, his
    pub(super) their: &'static str,
}

const fn woman(name: &'static str) -> Person {
    Person {
        name,
        they: "she",
        them: "her",
        their: "her",
    }
}

const fn man(name: &'static str) -> Person {
    Person {
        name,
        they: "he",
        them: "him",
        their: "his",
    }
}

pub(super) const PEOPLE: [Person; 12] = [
    woman("Ann"),
    man("Ben"),
    woman("Eva"),
    man("Tom"),
    woman("Mia"),
    man("Sam"),
    woman("Lily"),
    man("Max"),
    woman("Rosa"),
    man("Finn"),
    woman("Zoe"),
    man("Jack"),
];

/// Things that are counted (plural).
pub(super) const COUNTED: [&str; 10] = [
    "apples", "nuts", "books", "cards", "shells", "eggs", "coins", "cups", "plums", "stones",
];

/// Things with a price (singular).
pub(super) const GOODS: [&str; 10] = [
    "pen", "cup", "hat", "ball", "cake", "book", "lamp", "bag", "doll", "kite",
];

/// An invented name of a town or a land: two syllables of a consonant and a vowel, some closed by a consonant.
pub(super) fn invented(draw: &mut super::draw::Draw) -> String {
    const ONSETS: &[u8] = b"bdfgklmnprstvz";
    const VOWELS: &[u8] = b"aeiou";
    let mut name = String::new();
    for _ in 0..2 {
        name.push(char::from(*draw.pick(ONSETS)));
        name.push(char::from(*draw.pick(VOWELS)));
    }
    match draw.below(4) {
        0 => name.push('n'),
        1 => name.push('r'),
        _ => {}
    }
    capitalised(&name)
}

/// The text with its first letter in upper case.
pub(super) fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}

/// `a` or `an` before the word.
pub(super) fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}
