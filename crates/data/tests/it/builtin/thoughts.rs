//! The reasoning traces: true in every statement, of one form, and each strategy a computation of its own.

use std::collections::BTreeSet;

use data::builtin::{
    SPECIAL_TOKENS, Strategy, Trace, TraceFault, check_computation, from_worked_solutions, traces,
    validate, well_formed,
};
use data::{Worked, extract_answer};

use super::solvers::{question, solve};

#[test]
fn every_statement_of_every_trace_is_true_and_its_answer_right() {
    for strategy in Strategy::ALL {
        for held_out in [false, true] {
            let made = traces(strategy, 21, 500, held_out);
            let prompts: BTreeSet<&str> = made.iter().map(|trace| trace.prompt.as_str()).collect();
            assert_eq!(prompts.len(), 500, "{strategy} repeats prompts");
            for trace in made {
                assert_eq!(
                    trace.answer,
                    solve(question(&trace.prompt)),
                    "{}",
                    trace.prompt
                );
                assert!(
                    check_computation(&trace),
                    "{}{}",
                    trace.prompt,
                    trace.completion
                );
                assert!(
                    trace
                        .prompt
                        .ends_with(&format!("\nThink: {strategy}\nAnswer:"))
                );
                assert!(
                    trace
                        .completion
                        .starts_with(&format!(" [thinking]{} ", strategy.token()))
                );
                assert!(
                    trace
                        .completion
                        .ends_with(&format!(" [/endthinking]\n#### {}", trace.answer))
                );
                assert_eq!(trace.direct, format!("\n#### {}", trace.answer));
                assert_eq!(extract_answer(&trace.completion).unwrap(), trace.answer);
                assert_eq!(extract_answer(&trace.direct).unwrap(), trace.answer);
                assert!(well_formed(&trace.completion, strategy));
            }
        }
    }
}

#[test]
fn each_strategy_changes_the_computation() {
    for strategy in Strategy::ALL {
        let mut refuted = 0;
        for trace in traces(strategy, 3, 200, false) {
            let body = validate(&trace.completion).unwrap().body;
            let reached = body.matches(&format!("= {}.", trace.answer)).count();
            let asks_sum = body.contains("= ");
            let holds = match strategy {
                Strategy::ChainOfThought => !body.contains("sure?") && !body.contains("try"),
                Strategy::Mece => body.contains(" all ") && reached >= 1,
                Strategy::Falsification => {
                    refuted += usize::from(body.matches("try").count() > 1);
                    body.starts_with("try ") && body.ends_with("true.")
                }
                Strategy::Expert => body.starts_with("rule ") && reached == 1,
                Strategy::Orthogonal => {
                    body.contains(" two ") && reached == 2 && body.ends_with("same.")
                }
                Strategy::SelfDoubt => {
                    let (first, back) = body.split_once(" sure? ").unwrap();
                    first.ends_with(&format!("= {}.", trace.answer))
                        && back.starts_with(&format!("{} ", trace.answer))
                }
                Strategy::Bayesian => {
                    body.starts_with("prior ")
                        && body.contains("likely ")
                        && body.matches(" * ").count() == 2
                }
                Strategy::Multidomain => ["coins.", "walk.", "area."]
                    .iter()
                    .any(|domain| body.starts_with(domain)),
                Strategy::SelfCorrection => body.contains("? no, ") && reached == 1,
                Strategy::Uncertainty => {
                    body.starts_with("low ")
                        && body.contains(" high ")
                        && body.contains(&format!(" < {} < ", trace.answer))
                }
            };
            assert!(
                holds && (asks_sum || !body.contains('+')),
                "{strategy}: {body}"
            );
        }
        assert!(
            strategy != Strategy::Falsification || (60..180).contains(&refuted),
            "{refuted}"
        );
    }
}

#[test]
fn a_false_step_anywhere_is_found() {
    let mut broken = 0;
    for strategy in Strategy::ALL {
        for trace in traces(strategy, 13, 60, false) {
            for (at, _) in trace.completion.match_indices(" = ") {
                let digit = trace.completion.as_bytes()[at + 3];
                // A wrong step stays wrong under most changes: only its being *right* would be a fault.
                let end = trace.completion[at + 3..].find(['.', ',', '?']).unwrap() + at + 3;
                if !digit.is_ascii_digit() || trace.completion.as_bytes()[end] == b'?' {
                    continue;
                }
                let mut completion = trace.completion.clone();
                completion.replace_range(at + 3..at + 4, if digit == b'7' { "8" } else { "7" });
                broken += 1;
                let false_trace = Trace {
                    completion,
                    ..trace.clone()
                };
                assert!(
                    !check_computation(&false_trace),
                    "{}",
                    false_trace.completion
                );
            }
        }
    }
    assert!(broken > 1000);
}

fn a_trace(thought: &str, answer: &str) -> Trace {
    Trace {
        strategy: Strategy::SelfCorrection,
        id: "a".into(),
        prompt: "Question: What is 34 + 28?\nThink: self_correction\nAnswer:".into(),
        completion: format!(" [thinking]<correct> {thought} [/endthinking]\n#### {answer}"),
        answer: answer.into(),
        direct: format!("\n#### {answer}"),
        held_out: false,
    }
}

#[test]
fn the_check_reads_each_kind_of_clause() {
    let right = [
        "34 + 28 = 52? no, 4 + 8 = 12. 50 + 12 = 62.",
        "50 < 62 < 70. 62",
        "least of 70 62 90 is 62.",
        "from 28 to 90 is 62.",
        "a a is 2. so 62.",
        "44 + 28 = 72, not 62. 62.",
        "a 0. b 1. c 1. a 2. so 62.",
    ];
    let wrong = [
        "34 + 28 = 62? no, 4 + 8 = 12. 50 + 12 = 62.",
        "50 < 62 < 61. 62",
        "least of 70 62 61 is 62.",
        "from 29 to 90 is 62.",
        "a b is 2. so 62.",
        "34 + 28 = 62, not 62.",
        "a 0. b 1. c 3. so 62.",
        "34 + = 62.",
        "30 + 20 = 50.",
        "so 62.",
    ];
    for thought in right {
        assert!(check_computation(&a_trace(thought, "62")), "{thought}");
    }
    for thought in wrong {
        assert!(!check_computation(&a_trace(thought, "62")), "{thought}");
    }
}

#[test]
fn a_malformed_thought_is_told_what_it_lacks() {
    let fault = |text: &str| validate(text).unwrap_err();
    assert_eq!(
        fault("<step> 1 + 1 = 2. [/endthinking] 2"),
        TraceFault::MissingThinking
    );
    assert!(fault("").to_string().contains("Missing [thinking] token"));
    assert!(matches!(
        fault("well [thinking]<step> a [/endthinking] 2"),
        TraceFault::TextBeforeThinking { .. }
    ));
    let missing = fault("[thinking] 1 + 1 = 2. [/endthinking] 2").to_string();
    assert!(
        missing.contains("Missing strategy token") && missing.contains("<falsify>"),
        "{missing}"
    );
    assert_eq!(
        fault("[thinking]<step> 1 + 1 = 2. #### 2"),
        TraceFault::MissingEnd
    );
    assert_eq!(
        fault("[thinking]<step> [/endthinking] 2"),
        TraceFault::MissingReasoning { token: "<step>" }
    );
    assert_eq!(
        fault("[thinking]<step> a [/endthinking]\n#### "),
        TraceFault::MissingAnswer
    );
    assert_eq!(
        fault("[thinking]<step> a <doubt> b [/endthinking] 2"),
        TraceFault::Misplaced { token: "<doubt>" }
    );
    assert_eq!(
        fault("[thinking]<step> a [/endthinking] 2 [thinking]"),
        TraceFault::Misplaced {
            token: "[thinking]"
        }
    );

    let read = validate(" [thinking]<doubt>a b.[/endthinking]\n#### 12<|end|>").unwrap();
    assert_eq!(
        (read.strategy, read.body.as_str(), read.answer.as_str()),
        (Strategy::SelfDoubt, "a b.", "12")
    );
    assert_eq!(
        validate("[thinking] <step> a [/endthinking] yes\nmore")
            .unwrap()
            .answer,
        "yes"
    );
    assert!(!well_formed(
        "[thinking]<doubt> a [/endthinking] 2",
        Strategy::Mece
    ));
    assert!(!well_formed("2", Strategy::Mece));
}

#[test]
fn the_twelve_tokens_and_thresholds_are_those_of_the_plan() {
    assert_eq!(
        SPECIAL_TOKENS[..3],
        ["[thinking]", "[/endthinking]", "<step>"]
    );
    let tokens: BTreeSet<&str> = SPECIAL_TOKENS.into_iter().collect();
    assert_eq!(tokens.len(), 12);
    for (strategy, token) in Strategy::ALL.into_iter().zip(&SPECIAL_TOKENS[2..]) {
        assert_eq!(strategy.token(), *token);
        assert_eq!(Strategy::named(strategy.name()), Some(strategy));
    }
    assert_eq!(Strategy::Uncertainty.token(), "<uncertain>");
    assert_eq!(Strategy::named("magic"), None);
    let thresholds: Vec<f64> = Strategy::ALL.into_iter().map(Strategy::threshold).collect();
    assert_eq!(
        thresholds,
        [0.90, 0.85, 0.80, 0.85, 0.85, 0.85, 0.75, 0.85, 0.85, 0.85]
    );
    let easy: Vec<&str> = Strategy::ALL
        .into_iter()
        .filter(|s| s.is_easy())
        .map(Strategy::name)
        .collect();
    assert_eq!(easy, ["chain_of_thought", "self_doubt"]);
}

#[test]
fn worked_solutions_become_traces() {
    let worked = |id: &str, parts: &[&str], steps: &[&str], answer: &str| Worked {
        dataset: "gsm8k".into(),
        id: id.into(),
        question: "How many clips\ndid she sell?".into(),
        parts: parts.iter().map(|part| part.to_string()).collect(),
        steps: steps.iter().map(|step| step.to_string()).collect(),
        answer: answer.into(),
    };
    let made = from_worked_solutions(&[
        worked(
            "1",
            &[],
            &["She sold 48/2 = 24 in May", "In all 48+24 = 72."],
            "72",
        ),
        worked("2", &["Is it big?", "Is #1 true?"], &["It is big."], "yes"),
        worked("3", &[], &[], "5"),
    ]);
    assert_eq!(made.len(), 2, "a solution without steps makes no trace");
    assert_eq!(made[0].strategy, Strategy::ChainOfThought);
    assert_eq!(
        made[0].prompt,
        "Question: How many clips did she sell?\nThink: chain_of_thought\nAnswer:"
    );
    let expected =
        " [thinking]<step> She sold 48/2 = 24 in May. In all 48+24 = 72. [/endthinking]\n#### 72";
    assert_eq!(made[0].completion, expected);
    assert_eq!(made[0].direct, "\n#### 72");
    assert_eq!(made[1].strategy, Strategy::Mece);
    assert_eq!(
        made[1].completion,
        " [thinking]<mece> Is it big? It is big. Is #1 true? [/endthinking]\n#### yes"
    );
    let many: Vec<Worked> = (0..2000)
        .map(|n| worked(&n.to_string(), &[], &["1 + 1 = 2."], "2"))
        .collect();
    let held = from_worked_solutions(&many)
        .iter()
        .filter(|trace| trace.held_out)
        .count();
    assert!((120..280).contains(&held), "{held}");
}
