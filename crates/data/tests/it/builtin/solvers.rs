//! Solvers that read a question's text alone and share nothing with the generators.

use data::Family;

pub(super) fn question(prompt: &str) -> &str {
    let question = prompt.strip_prefix("Question: ").unwrap();
    let end = ["\nThink:", "\nChoices:", "\nAnswer:"]
        .iter()
        .filter_map(|mark| question.find(mark))
        .min();
    &question[..end.unwrap()]
}

pub(super) fn numbers(text: &str) -> Vec<i64> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// Solves a question of the maths documents and the traces from its text.
pub(super) fn solve(question: &str) -> String {
    let n = numbers(question);
    let has = |part: &str| question.contains(part);
    let gains = ["finds", "buys", "gets", "puts in"]
        .iter()
        .any(|word| has(word));
    let loses = ["loses", "sells", "gives away", "takes out", "needs"]
        .iter()
        .any(|word| has(word));
    if let Some(list) = question.strip_prefix("Prices: ") {
        let (list, asked) = list.split_once(". ").unwrap();
        let priced = list.split(", ").map(|entry| entry.split_once(' ').unwrap());
        let asked: Vec<&str> = asked.trim_end_matches('?').split(' ').collect();
        let total: i64 = priced
            .filter(|(good, _)| asked.contains(good))
            .map(|(_, p)| p.parse::<i64>().unwrap())
            .sum();
        return total.to_string();
    }
    if has(" are in: ") {
        let (asked, letters) = question.split_once(" are in: ").unwrap();
        let targets: Vec<&str> = asked
            .trim_start_matches("How many ")
            .split(" or ")
            .collect();
        return letters
            .trim_end_matches('?')
            .split(' ')
            .filter(|l| targets.contains(l))
            .count()
            .to_string();
    }
    if has("Sort ") {
        let mut ordered = n;
        ordered.sort_unstable();
        return ordered
            .iter()
            .map(i64::to_string)
            .collect::<Vec<_>>()
            .join(" ");
    }
    if has("largest") {
        return n.iter().max().unwrap().to_string();
    }
    if has("big balls") {
        let (first, second) = (n[0] * n[1], n[2] * n[3]);
        let words: Vec<&str> = question.split(' ').collect();
        let (one, other) = (
            words[3],
            words[words.iter().position(|w| *w == "and").unwrap() + 2],
        );
        return match has("chance") {
            true => format!("{first}/{}", first + second),
            false if first > second => one.to_string(),
            false => other.to_string(),
        };
    }
    let value = match n[..] {
        [a, b] if has(" * ") => a * b,
        [a, b] if has(" - ") || loses => a - b,
        [a, b] if has("more than") => a + a + b,
        [a, b] if has(" + ") || gains || has("How many") => a + b,
        [a, b, c] if has(" + ") => a + b + c,
        [a, b, c] if has(" each. ") => a * b + c,
        [a, b, c] if gains && loses => a + b - c,
        _ => panic!("no solver for {question}"),
    };
    value.to_string()
}

/// Runs one of the generators' programs.
pub(super) fn run(program: &str) -> String {
    let lines: Vec<&str> = program.lines().collect();
    let last = lines[lines.len() - 1];
    let quoted = |line: &str| line.split('"').nth(1).unwrap_or_default().to_string();
    let list = |line: &str| numbers(&line[line.find('[').unwrap()..=line.find(']').unwrap()]);
    if last.contains("[::-1]") {
        return quoted(last).chars().rev().collect();
    }
    if last.contains("sorted") {
        let mut numbers = list(last);
        numbers.sort_unstable();
        return format!("{numbers:?}");
    }
    if lines[0].starts_with("s = ") {
        let s = quoted(lines[0]);
        return match last.split_once("t * ") {
            Some((_, times)) => s + &quoted(lines[1]).repeat(numbers(times)[0] as usize),
            None => s + &quoted(last),
        };
    }
    if lines[0].starts_with("a = ") {
        let mut a = list(lines[0]);
        a.extend(
            lines
                .iter()
                .filter(|line| line.contains("append"))
                .map(|line| numbers(line)[0]),
        );
        return match last {
            "print(a)" => format!("{a:?}"),
            "print(len(a))" => a.len().to_string(),
            "print(sum(a))" => a.iter().sum::<i64>().to_string(),
            "print(max(a))" => a.iter().max().unwrap().to_string(),
            "print(min(a))" => a.iter().min().unwrap().to_string(),
            _ => a[numbers(last)[0] as usize].to_string(),
        };
    }
    let mut x = numbers(lines[0])[0];
    let mut turns = 1;
    for (at, line) in lines.iter().enumerate().skip(1) {
        if line.starts_with("if") {
            let taken = if x > numbers(line)[0] { at + 1 } else { at + 3 };
            return quoted(lines[taken]);
        } else if line.starts_with("for") {
            turns = numbers(line)[0];
        } else if !line.starts_with("print") {
            for _ in 0..turns {
                let right = numbers(line)[0];
                x = match line.split(' ').rev().nth(1).unwrap() {
                    "+" => x + right,
                    "-" => x - right,
                    _ => x * right,
                };
            }
        }
    }
    x.to_string()
}

/// Follows two facts of the question: from the person to the last word of their fact, from there to the end.
pub(super) fn follow(question: &str) -> String {
    let sentences: Vec<&str> = question
        .split_inclusive(['.', '?'])
        .map(str::trim)
        .collect();
    let asked = *sentences.last().unwrap();
    let mentions = |text: &str, word: &str| text.split([' ', '.', '?']).any(|other| other == word);
    let end = |text: &str| {
        text.trim_end_matches('.')
            .rsplit(' ')
            .next()
            .unwrap()
            .to_string()
    };
    let facts = &sentences[..sentences.len() - 1];
    let person = facts
        .iter()
        .map(|fact| fact.split(' ').next().unwrap())
        .find(|who| *who != "The" && mentions(asked, who))
        .unwrap();
    let first = facts
        .iter()
        .find(|fact| fact.starts_with(&format!("{person} ")))
        .unwrap();
    let middle = end(first);
    let second = facts
        .iter()
        .find(|fact| *fact != first && mentions(fact, &middle))
        .unwrap();
    end(second)
}

pub(super) fn solved(family: Family, question: &str) -> String {
    match family {
        Family::Maths => solve(question),
        Family::Code => run(question.strip_prefix("What does this print?\n").unwrap()),
        Family::Qa => follow(question),
        Family::Commonsense | Family::Language => panic!("no solver"),
    }
}
