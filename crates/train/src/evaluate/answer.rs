//! Questions: the likelihood of each option, or what the model writes, and whether that is right.

use super::{ROWS, Scored, Subject, score};
use data::{
    Answer, Comparison, Item, ReadingScore, Tokenizer, extract_answer, extract_program,
    extract_span, reading_score, same_answer,
};
use model::LanguageModel;
use model::generate::{Sampler, generate};

/// Sequences that are generated at once.
const WIDTH: usize = 64;

/// The likelihood of one option.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OptionScore {
    /// Log-likelihood of its tokens after the prompt, in nats.
    pub log_likelihood: f64,
    /// Its tokens.
    pub tokens: u64,
    /// Its characters, without the space in front.
    pub characters: usize,
}

/// What a model made of an item.
#[derive(Clone, Debug, PartialEq)]
pub enum Answered {
    /// A choice: the likelihood of every option.
    Options(Vec<OptionScore>),
    /// What it wrote after the prompt.
    Text(String),
}

/// Asks the items; what is written has at most `most_new` tokens. The result is in the items' order.
pub fn answers(subject: &Subject, items: &[&Item], most_new: usize) -> Vec<Answered> {
    let mut answered: Vec<Answered> = items
        .iter()
        .map(|item| match &item.answer {
            Answer::Choice { options, .. } => Answered::Options(Vec::with_capacity(options.len())),
            Answer::Exact { .. } | Answer::Program { .. } => Answered::Text(String::new()),
        })
        .collect();
    ask_choices(subject, items, &mut answered);
    ask_written(subject, items, most_new, &mut answered);
    answered
}

/// An option as tokens: the prompt, which the options of an item share, and its own.
struct Asked<'a> {
    item: usize,
    option: &'a str,
    prompt: Vec<u32>,
    own: Vec<u32>,
}

fn ask_choices(subject: &Subject, items: &[&Item], answered: &mut [Answered]) {
    let mut asked = Vec::new();
    for (item, of) in items.iter().enumerate() {
        if let Answer::Choice { options, .. } = &of.answer {
            for option in options {
                let (prompt, own) = subject.pair(&of.prompt, option);
                asked.push(Asked {
                    item,
                    option,
                    prompt,
                    own,
                });
            }
        }
    }
    let sums = tensor::threads::hot(|| match subject.model.fork(0) {
        Some(_) => shared(subject, &asked),
        None => alone(
            subject,
            &asked.iter().enumerate().collect::<Vec<_>>(),
            asked.len(),
        ),
    });
    for (asked, (nats, tokens)) in asked.iter().zip(sums) {
        if let Answered::Options(scores) = &mut answered[asked.item] {
            let option = asked.option;
            scores.push(OptionScore {
                log_likelihood: -nats,
                tokens,
                characters: option.strip_prefix(' ').unwrap_or(option).chars().count(),
            });
        }
    }
}

/// Nats and tokens of options, each computed with its prompt; `asked` with its place among `results`.
fn alone(subject: &Subject, asked: &[(usize, &Asked)], results: usize) -> Vec<(f64, u64)> {
    let sequences: Vec<Scored> = asked
        .iter()
        .map(|&(of, asked)| {
            let mut tokens = asked.prompt.clone();
            tokens.extend(&asked.own);
            // The beginning of what is too long goes: n tokens in, n targets out.
            let most = subject.longest.map_or(tokens.len(), |n| n + 1);
            let tokens = tokens.split_off(tokens.len().saturating_sub(most));
            let from = tokens.len().saturating_sub(asked.own.len() + 1);
            Scored {
                tokens,
                of,
                from,
                start: 0,
            }
        })
        .collect();
    score(subject.model, &sequences, results)
}

/// The same with each item's prompt computed once, which its options then go on from.
fn shared(subject: &Subject, asked: &[Asked]) -> Vec<(f64, u64)> {
    let fits = |asked: &Asked| {
        let rows = asked.prompt.len() + asked.own.len();
        asked.prompt.len() > 1
            && !asked.own.is_empty()
            && subject.longest.is_none_or(|n| rows <= n + 1)
    };
    // Items of which an option is too long to keep its whole prompt, or which have nothing to share, go the other way.
    let items: Vec<&[Asked]> = asked.chunk_by(|a, b| a.item == b.item).collect();
    let (mut sharing, mut others, mut at) = (Vec::new(), Vec::new(), 0);
    for item in items {
        match item.iter().all(fits) {
            true => sharing.push((at, item)),
            false => others.extend((at..).zip(item)),
        }
        at += item.len();
    }
    let mut sums = alone(subject, &others, asked.len());
    let mut rest = &sharing[..];
    while !rest.is_empty() {
        // A stream keeps as many rows for every sequence as the longest has.
        let (mut options, mut longest) = (0, 0);
        let fit = rest.iter().take_while(|(_, item)| {
            options += item.len();
            let rows = item.iter().map(|a| a.prompt.len() + a.own.len());
            longest = rows.max().unwrap_or(0).max(longest);
            options * longest <= 4 * ROWS
        });
        let (part, left) = rest.split_at(fit.count().max(1));
        rest = left;
        group(subject, part, &mut sums);
    }
    sums
}

/// One group of items, each with the place of its first option among `sums`.
fn group(subject: &Subject, items: &[(usize, &[Asked])], sums: &mut [(f64, u64)]) {
    let options: usize = items.iter().map(|(_, item)| item.len()).sum();
    let Some(mut stream) = subject.model.fork(options) else {
        return;
    };
    // The first option's sequence takes the prompt but for its last token, from which the options' first are predicted.
    let mut prompts = Vec::new();
    let mut first = 0;
    for (_, item) in items {
        let prompt = &item[0].prompt;
        prompts.push((first, &prompt[..prompt.len() - 1]));
        first += item.len();
    }
    stream.extend(&prompts);
    for (&(first, _), (_, item)) in prompts.iter().zip(items) {
        for other in 1..item.len() {
            stream.fork(first, first + other);
        }
    }
    let inputs: Vec<Vec<u32>> = items
        .iter()
        .flat_map(|(_, item)| *item)
        .map(|asked| {
            let last = asked.prompt.last().copied().into_iter();
            last.chain(asked.own[..asked.own.len() - 1].iter().copied())
                .collect()
        })
        .collect();
    let entries: Vec<(usize, &[u32])> = inputs
        .iter()
        .enumerate()
        .map(|(i, t)| (i, &t[..]))
        .collect();
    let all = || items.iter().flat_map(|(at, item)| (*at..).zip(*item));
    let targets: Vec<u32> = all()
        .flat_map(|(_, asked)| asked.own.iter().copied())
        .collect();
    let nll = stream.nll(&entries, &targets);
    let mut rows = &nll[..];
    for (at, asked) in all() {
        let (own, left) = rows.split_at(asked.own.len());
        sums[at] = (own.iter().map(|&x| f64::from(x)).sum(), own.len() as u64);
        rows = left;
    }
}

fn ask_written(subject: &Subject, items: &[&Item], most_new: usize, answered: &mut [Answered]) {
    let (mut prompts, mut owners) = (Vec::new(), Vec::new());
    for (i, item) in items.iter().enumerate() {
        if let Answered::Text(_) = &answered[i] {
            let mut prompt = subject.opening.clone();
            prompt.extend(subject.spelling.encode(&item.prompt));
            if prompt.is_empty() {
                prompt.push(subject.start);
            }
            if let Some(longest) = subject.longest {
                let most = longest.saturating_sub(most_new).max(1);
                prompt = prompt.split_off(prompt.len().saturating_sub(most));
            }
            prompts.push(prompt);
            owners.push(i);
        }
    }
    let written = generate(
        subject.model,
        &prompts,
        most_new,
        &subject.stop,
        Sampler::GREEDY,
        WIDTH,
    );
    for (i, tokens) in owners.into_iter().zip(written) {
        answered[i] = Answered::Text(subject.spelling.decode(&tokens));
    }
}

/// The option of highest `of`, the first of equal ones.
pub(super) fn best(options: &[OptionScore], of: impl Fn(&OptionScore) -> f64) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (i, option) in options.iter().enumerate() {
        let value = of(option);
        if best.is_none_or(|(_, highest)| value > highest) {
            best = Some((i, value));
        }
    }
    best.map(|(i, _)| i)
}

/// The log-likelihood a character, by which options of different lengths are compared: independent of the tokenizer.
pub(super) fn per_character(option: &OptionScore) -> f64 {
    option.log_likelihood / option.characters.max(1) as f64
}

/// The score of one item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ItemScore {
    /// Whether it was answered right.
    pub correct: bool,
    /// Whether no answer could be read from the output.
    pub format_error: bool,
    /// Chance of a blind guess; 0 for exact answers.
    pub chance: f64,
    /// F1 of an answer to a question on a passage; else 1 or 0, as `correct`.
    pub f1: f64,
}

/// Judges an answer: the option of highest likelihood a character, or what was extracted from the text. A program counts
/// as wrong here: only a sandbox can say otherwise.
pub fn judge(item: &Item, answered: &Answered) -> ItemScore {
    let scored = |correct: bool, chance: f64| ItemScore {
        correct,
        format_error: false,
        chance,
        f1: f64::from(u8::from(correct)),
    };
    let none = ItemScore {
        format_error: true,
        ..scored(false, 0.0)
    };
    match (&item.answer, answered) {
        (Answer::Choice { options, gold }, Answered::Options(scores)) => scored(
            best(scores, per_character) == Some(*gold),
            1.0 / options.len() as f64,
        ),
        (Answer::Exact { answer, also, by }, Answered::Text(text)) => {
            let mut right = std::iter::once(answer).chain(also);
            match by {
                Comparison::Value => extract_answer(text).map_or(none, |found| {
                    scored(right.any(|answer| same_answer(&found, answer)), 0.0)
                }),
                Comparison::HotpotQa | Comparison::Drop => {
                    extract_span(text).map_or(none, |found| {
                        let ReadingScore { exact, f1 } =
                            reading_score(&found, right.map(String::as_str), *by);
                        ItemScore {
                            f1,
                            ..scored(exact, 0.0)
                        }
                    })
                }
            }
        }
        (Answer::Program { .. }, Answered::Text(text)) => ItemScore {
            format_error: extract_program(text).trim().is_empty(),
            ..scored(false, 0.0)
        },
        (Answer::Choice { .. }, Answered::Text(_)) | (_, Answered::Options(_)) => {
            unreachable!("answers() gives options for choices and text for all else")
        }
    }
}

/// Scores items of a model trained here, in their order; exact answers get at most `most_new` generated tokens.
pub fn items(
    model: &dyn LanguageModel,
    tokenizer: &Tokenizer,
    items: &[&Item],
    most_new: usize,
) -> Vec<ItemScore> {
    let answered = answers(&Subject::own(model, tokenizer), items, most_new);
    let judged = items.iter().zip(&answered);
    judged
        .map(|(item, answered)| judge(item, answered))
        .collect()
}
