//! Checks on Rust sources: module documentation, stubs, ignored tests, `unsafe`.
//!
//! Sources are read with a small scanner, not a parser: [`code_only`] blanks out comments and
//! literals, so that what is written *about* a rule, or quoted in a test, never counts as a breach.

use super::{Finding, Repository};

/// Phrases that stand where work was left undone, wherever they are written (in lower case; put
/// together here, as this file is checked as well).
const STUB_PHRASES: &[&str] = &[
    concat!("not yet ", "implemented"),
    concat!("place", "holder"),
    concat!("to be ", "described"),
];
const STUB_WORDS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];
const STUB_MACROS: &[&str] = &[concat!("todo", "!"), concat!("unimplemented", "!")];
/// Crates that may map files into memory, and need `unsafe` for that alone.
const MAPPING_CRATES: &[&str] = &["crates/store/", "crates/data/", "crates/merge/"];

pub(super) fn module_docs(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repository.sources() {
        let apart =
            path.contains("/tests/") || path.contains("/benches/") || path.ends_with("build.rs");
        if !apart && !text.lines().take(3).any(|line| line.starts_with("//!")) {
            let message =
                "does not open with `//!`; say its purpose, its algorithm and what it leaves out";
            findings.push(Finding::at(path, 1, message));
        }
    }
    findings
}

pub(super) fn stubs(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repository.sources() {
        let code = code_only(text);
        for (index, (line, code)) in text.lines().zip(code.lines()).enumerate() {
            let lower = line.to_lowercase();
            let phrase = STUB_PHRASES.iter().find(|phrase| lower.contains(**phrase));
            let word = STUB_WORDS
                .iter()
                .find(|word| words(line).any(|(_, found)| found == **word));
            let called = STUB_MACROS.iter().find(|name| code.contains(**name));
            if let Some(found) = phrase.or(word).or(called) {
                let message =
                    format!("`{found}` marks work left undone; do it, or take the item out");
                findings.push(Finding::at(path, index + 1, message));
            }
        }
    }
    findings
}

pub(super) fn ignored_tests(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repository.sources() {
        for (index, line) in code_only(text).lines().enumerate() {
            let packed: String = line.split_whitespace().collect();
            let conditional =
                packed.contains("cfg_attr(") && words(line).any(|(_, word)| word == "ignore");
            if packed.contains("#[ignore") || conditional {
                let message =
                    "an ignored test never fails; switch a slow one on by an environment variable";
                findings.push(Finding::at(path, index + 1, message));
            }
        }
    }
    findings
}

pub(super) fn unsafe_code(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repository.sources() {
        let code = code_only(text);
        let raw: Vec<&str> = text.lines().collect();
        for (at, _) in words(&code).filter(|(_, word)| *word == "unsafe") {
            let after = &code[at + "unsafe".len()..];
            if is_function_type(after) {
                continue;
            }
            let line = code[..at].matches('\n').count();
            if !path.starts_with("crates/kernels/") && !is_memory_map(path, after) {
                let message = "`unsafe` belongs to crates/kernels (and to memory maps in store, data and merge); \
                               call a safe function instead";
                findings.push(Finding::at(path, line + 1, message));
            } else if !is_justified(&raw, line) {
                let message =
                    "`unsafe` without a `// SAFETY:` comment above it; say why it is sound";
                findings.push(Finding::at(path, line + 1, message));
            }
        }
    }
    findings
}

/// Whether `unsafe` opens the *type* of a function pointer, which by itself does nothing.
fn is_function_type(after: &str) -> bool {
    let mut rest = after.trim_start();
    if let Some(named_abi) = rest.strip_prefix("extern") {
        rest = named_abi.trim_start();
    }
    rest.strip_prefix("fn")
        .is_some_and(|rest| rest.trim_start().starts_with('('))
}

/// Whether `unsafe` opens a block that maps a file, in a crate that may.
fn is_memory_map(path: &str, after: &str) -> bool {
    let Some(body) = after.trim_start().strip_prefix('{') else {
        return false;
    };
    let mut depth = 1;
    let end = body.find(|c: char| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        depth == 0
    });
    let mapping = MAPPING_CRATES.iter().any(|folder| path.starts_with(folder));
    mapping && body[..end.unwrap_or(body.len())].contains("Mmap")
}

/// Whether a comment on this line, or in the comments above it, says why the code is sound. A
/// statement may begin up to three lines before the word, hence the lines of code let pass.
fn is_justified(raw: &[&str], line: usize) -> bool {
    const CODE_LINES: usize = 3;
    let says = |line: &str| line.contains("SAFETY:") || line.contains("# Safety");
    if says(raw[line]) {
        return true;
    }
    let mut passed = 0;
    for above in raw[..line].iter().rev() {
        let above = above.trim_start();
        if says(above) {
            return true;
        }
        if !above.starts_with("//") && !above.starts_with("#[") {
            passed += 1;
        }
        if passed > CODE_LINES {
            return false;
        }
    }
    false
}

/// The words of `text` with the byte at which each begins.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let pieces = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    let start = text.as_ptr() as usize;
    let with_place = pieces.map(move |word| (word.as_ptr() as usize - start, word));
    with_place.filter(|(_, word)| !word.is_empty())
}

/// `source` with comments and the insides of literals as spaces: same lines, same byte offsets.
///
/// Knows line comments, nested block comments, strings with escapes, raw strings with any number
/// of hashes, byte strings, and characters as opposed to lifetimes.
pub fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let length = match rest {
            [b'/', b'/', ..] => rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()),
            [b'/', b'*', ..] => block_comment(rest),
            [b'"', ..] => quoted(rest, b'"'),
            [b'r', b'"' | b'#', ..] if !continues_word(&out) => raw_string(rest),
            [b'\'', ..] => character(rest),
            _ => 0,
        };
        if length == 0 {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(
                rest[..length]
                    .iter()
                    .map(|&b| if b == b'\n' { b'\n' } else { b' ' }),
            );
            at += length;
        }
    }
    String::from_utf8(out)
        .expect("only whole comments and literals of UTF-8 text were replaced, by ASCII")
}

/// Whether the next byte would continue a word (`br"..."` apart, whose `b` stands alone).
fn continues_word(out: &[u8]) -> bool {
    let word = out
        .iter()
        .rev()
        .take_while(|b| b.is_ascii_alphanumeric() || **b == b'_');
    !matches!(
        word.copied().collect::<Vec<u8>>().as_slice(),
        [] | [b'b'] | [b'c']
    )
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of a literal from its opening quote to its closing one.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of `r"..."` or `r#"..."#`; 0 for a raw identifier such as `r#type`.
fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let closing: Vec<u8> = std::iter::once(b'"')
        .chain(std::iter::repeat_n(b'#', hashes))
        .collect();
    let body = 2 + hashes;
    let end = rest[body..]
        .windows(closing.len())
        .position(|window| window == closing);
    end.map_or(rest.len(), |end| body + end + closing.len())
}

/// The length of a character literal; 0 for a lifetime or a label.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return quoted(rest, b'\'');
    }
    // One character of up to four bytes between two quotes: the second quote ends it.
    let end = rest
        .iter()
        .skip(2)
        .take(4)
        .position(|&b| b == b'\'')
        .map(|end| end + 3);
    let one = |end: &usize| {
        std::str::from_utf8(&rest[1..end - 1]).is_ok_and(|inside| inside.chars().count() == 1)
    };
    end.filter(one).unwrap_or(0)
}
