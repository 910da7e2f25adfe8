//! Words as numbers, for all that asks whether two texts say the same: what stands between white space, in lower case and
//! without its punctuation, as lm-evaluation-harness has it (`Don't!` is `dont`); runs of words as one number each.

/// The hash of every word of a text, in order. What has no letter and no digit is no word.
pub(crate) fn words(text: &str) -> Vec<u64> {
    let mut words = Vec::with_capacity(text.len() / 5);
    let mut word = EMPTY;
    let mut rest = text;
    while !rest.is_empty() {
        let plain = rest
            .bytes()
            .position(|b| !b.is_ascii())
            .unwrap_or(rest.len());
        for byte in rest[..plain].bytes() {
            match PLAIN[usize::from(byte)] {
                SPACE => finish(&mut words, &mut word),
                MARK => {}
                letter => word = step(word, letter.into()),
            }
        }
        rest = &rest[plain..];
        let Some(c) = rest.chars().next() else {
            break;
        };
        rest = &rest[c.len_utf8()..];
        if c.is_whitespace() {
            finish(&mut words, &mut word);
        } else if c.is_alphanumeric() {
            word = c.to_lowercase().fold(word, |word, c| step(word, c.into()));
        }
    }
    finish(&mut words, &mut word);
    words
}

const MARK: u8 = 0;
const SPACE: u8 = b' ';

/// What becomes of an ASCII character: its lower case, a space, or nothing.
const PLAIN: [u8; 128] = {
    let (mut all, mut byte) = ([MARK; 128], 0u8);
    while byte < 128 {
        // White space as `char::is_whitespace` has it.
        all[byte as usize] = match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => byte.to_ascii_lowercase(),
            b'\t'..=b'\r' | b' ' => SPACE,
            _ => MARK,
        };
        byte += 1;
    }
    all
};

/// FNV-1a's beginning: the word of no letters.
const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

fn step(word: u64, c: u32) -> u64 {
    (word ^ u64::from(c)).wrapping_mul(0x100_0000_01b3)
}

fn finish(words: &mut Vec<u64>, word: &mut u64) {
    if *word != EMPTY {
        words.push(crate::random::mix(*word));
        *word = EMPTY;
    }
}

/// The hash of every run of `n` words, in order: a polynomial of the words, one step a run whatever its length.
pub(crate) fn runs(words: &[u64], n: usize) -> impl Iterator<Item = u64> {
    let highest = (0..n).fold(1u64, |power, _| power.wrapping_mul(BASE));
    let ahead = words.iter().take(n.saturating_sub(1));
    let mut sum = ahead.fold(0, |sum: u64, &w| add(sum, w));
    words
        .iter()
        .skip(n.saturating_sub(1))
        .enumerate()
        .map(move |(begin, &last)| {
            sum = add(sum, last);
            let run = crate::random::mix(sum);
            // What the first word of this run has become by now, one step before it leaves.
            let first = words[begin].wrapping_mul(highest.wrapping_mul(INVERSE));
            sum = sum.wrapping_sub(first);
            run
        })
}

/// An odd number, so that no word is ever multiplied away.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

/// `BASE * INVERSE` is 1 (Newton's iteration: three bits are right at first, five doublings make it all 64).
const INVERSE: u64 = {
    let (mut inverse, mut i) = (BASE, 0);
    while i < 5 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(BASE.wrapping_mul(inverse)));
        i += 1;
    }
    inverse
};

fn add(sum: u64, word: u64) -> u64 {
    sum.wrapping_mul(BASE).wrapping_add(word)
}
