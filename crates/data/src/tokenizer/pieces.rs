//! Cutting a text into the pieces within which tokens are merged: GPT-2's pattern
//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`, on request with every digit as a piece
//! of its own before that.
//!
//! The classes are those of the crate `regex-syntax`, from which the `tokenizers` crate's own expression has them, so
//! both cut alike whatever the version of Unicode. No character is left between pieces.

use std::ops::Range;

use regex_syntax::hir::{Class as HirClass, HirKind};

/// What the pattern asks of a character.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// `[^\s\p{L}\p{N}]`
    Other,
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\s`
    Space,
    /// Cut out before the pattern is applied: the pattern sees the end of the text here.
    Apart,
}

/// The class of every character.
pub(super) struct Classes(Vec<Class>);

impl Classes {
    /// `digits`: whether each digit stands alone.
    pub(super) fn new(digits: bool) -> Self {
        let mut of = vec![Class::Other; char::MAX as usize + 1];
        for (pattern, class) in [
            (r"\p{L}", Class::Letter),
            (r"\p{N}", Class::Number),
            (r"\s", Class::Space),
        ] {
            for (first, last) in ranges(pattern) {
                of[first as usize..=last as usize].fill(class);
            }
        }
        if digits {
            for c in (0..=char::MAX as u32).filter_map(char::from_u32) {
                if c.is_numeric() {
                    of[c as usize] = Class::Apart;
                }
            }
        }
        Self(of)
    }

    /// The class of the character at a byte of a text, and its length; None at the end.
    fn at(&self, text: &str, at: usize) -> Option<(Class, usize)> {
        let byte = *text.as_bytes().get(at)?;
        if byte < 0x80 {
            return Some((self.0[usize::from(byte)], 1));
        }
        let c = text[at..].chars().next()?;
        Some((self.0[c as usize], c.len_utf8()))
    }

    /// Where a run of one class that holds from `at` on ends.
    fn end(&self, text: &str, mut at: usize, class: Class) -> usize {
        while let Some((_, length)) = self.at(text, at).filter(|(found, _)| *found == class) {
            at += length;
        }
        at
    }
}

/// The ranges of a class of characters.
fn ranges(pattern: &str) -> Vec<(char, char)> {
    let parsed = regex_syntax::parse(pattern).expect("a class of characters is an expression");
    let HirKind::Class(HirClass::Unicode(class)) = parsed.kind() else {
        unreachable!("{pattern} is a class of characters");
    };
    let range = |range: &regex_syntax::hir::ClassUnicodeRange| (range.start(), range.end());
    class.iter().map(range).collect()
}

/// The bytes of each piece of a text, in order.
pub(super) fn pieces(text: &str, classes: &Classes) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let begin = at;
        at = end_of_piece(text, begin, classes)?;
        Some(begin..at)
    })
}

/// Where the piece that begins at a byte ends; None at the end of the text.
fn end_of_piece(text: &str, at: usize, classes: &Classes) -> Option<usize> {
    let (class, length) = classes.at(text, at)?;
    if let Some(length) = contraction(&text.as_bytes()[at..]) {
        return Some(at + length);
    }
    if class == Class::Apart {
        return Some(at + length);
    }
    if class != Class::Space {
        return Some(classes.end(text, at, class));
    }
    let next = classes.at(text, at + length).map(|(class, _)| class);
    match next {
        // A space joins what follows it.
        Some(class @ (Class::Other | Class::Letter | Class::Number))
            if text.as_bytes()[at] == b' ' =>
        {
            Some(classes.end(text, at + length, class))
        }
        _ => Some(end_of_space(text, at, classes)),
    }
}

/// White space but for its last character, which is left to what follows; all of it where nothing follows or where there
/// is one character only.
fn end_of_space(text: &str, at: usize, classes: &Classes) -> usize {
    let end = classes.end(text, at, Class::Space);
    let followed = classes
        .at(text, end)
        .is_some_and(|(class, _)| class != Class::Apart);
    let last = text[at..end].char_indices().next_back().map_or(0, |c| c.0);
    match followed && last > 0 {
        true => at + last,
        false => end,
    }
}

/// The length of `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` or `'d`.
fn contraction(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'\'', b's' | b't' | b'm' | b'd', ..] => Some(2),
        [b'\'', b'r', b'e', ..] | [b'\'', b'v', b'e', ..] | [b'\'', b'l', b'l', ..] => Some(3),
        _ => None,
    }
}
