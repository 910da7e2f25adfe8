//! Finding the final answer in what a model wrote, and comparing it with the right one.
//!
//! The rule is GSM8K's (`#### 42` on the last line), widened to what small models write; it never looks at the right
//! answer, so it cannot be too kind.

/// The final answer in `text`: what follows the first `####`; else what follows the last `Answer:` when that is a number
/// or at most four words; else the last number. None where there is none of these.
pub fn extract_answer(text: &str) -> Option<String> {
    if let Some((_, rest)) = text.split_once("####") {
        return first_line(rest);
    }
    if let Some((_, rest)) = text.rsplit_once("Answer:")
        && let Some(line) = first_line(rest)
        && (number(&line).is_some() || line.split_whitespace().count() <= 4)
    {
        return Some(line);
    }
    let words = text.split(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ',' | '-')));
    let mut numbers = words.map(|word| {
        let word = word.trim_end_matches(['.', ',', '-']);
        // `9-4` is a subtraction, `-4` a number.
        word.rfind('-')
            .filter(|&at| at > 0)
            .map_or(word, |at| &word[at + 1..])
    });
    numbers
        .rfind(|word| number(word).is_some())
        .map(str::to_string)
}

/// The answer to a question on a passage: what follows the first `####`, else the last `Answer:`, else the first line
/// that is not empty. None where there is nothing.
pub fn extract_span(text: &str) -> Option<String> {
    let marked = text.split_once("####").or(text.rsplit_once("Answer:"));
    first_line(marked.map_or(text.trim_start(), |(_, rest)| rest))
}

/// The program in what a model wrote after a prompt: what stands between marks of three backquotes, if any do, else all
/// up to the next `Question:` or `[DONE]`.
pub fn extract_program(text: &str) -> String {
    let fenced = text.split_once("```").and_then(|(_, rest)| {
        // A language may stand behind the marks.
        let (language, body) = rest.split_once('\n')?;
        let named = language.trim().chars().all(char::is_alphanumeric);
        named.then(|| body.split("```").next().unwrap_or(body))
    });
    let program = fenced.unwrap_or_else(|| {
        let ends = ["\nQuestion:", "[DONE]", "<|"];
        let end = ends.iter().filter_map(|mark| text.find(mark)).min();
        &text[..end.unwrap_or(text.len())]
    });
    program.trim_start_matches('\n').trim_end().to_string()
}

/// Whether two answers are the same: numbers by value (`1,000` = `1000.0` = `$1000`), anything else by its text with
/// case, surrounding punctuation and the width of white space put aside.
pub fn same_answer(a: &str, b: &str) -> bool {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a == b || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()),
        (None, None) => plain(a) == plain(b),
        _ => false,
    }
}

fn first_line(rest: &str) -> Option<String> {
    let line = rest.trim_start_matches([' ', '\n', '\r']).lines().next()?;
    let line = line.split("<|").next()?.trim();
    (!line.is_empty()).then(|| line.to_string())
}

fn plain(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    words
        .join(" ")
        .trim_matches(['.', '!', '?', '"', '\'', ' '])
        .to_string()
}

/// The value of a decimal number, with `$`, `%`, a full stop and thousands separators put aside.
fn number(text: &str) -> Option<f64> {
    let text = text
        .trim()
        .trim_end_matches(['.', '%'])
        .trim_start_matches('+');
    let (sign, text) = text
        .strip_prefix('-')
        .map_or((1.0, text), |rest| (-1.0, rest));
    let text = text.strip_prefix('$').unwrap_or(text).trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let groups: Vec<&str> = whole.split(',').collect();
    let grouped = groups.len() == 1
        || ((1..=3).contains(&groups[0].len()) && groups[1..].iter().all(|g| g.len() == 3));
    let digits: String = groups.concat();
    let ok = grouped
        && digits.bytes().all(|b| b.is_ascii_digit())
        && fraction.bytes().all(|b| b.is_ascii_digit())
        && !(digits.is_empty() && (fraction.is_empty() || !text.starts_with('.')));
    ok.then(|| format!("0{digits}.{fraction}0").parse::<f64>().ok())
        .flatten()
        .map(|x| sign * x)
}
