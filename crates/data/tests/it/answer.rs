//! Finding and comparing final answers.

use data::{extract_answer, extract_program, extract_span, same_answer};

fn found(text: &str) -> Option<String> {
    extract_answer(text)
}

#[test]
fn the_marked_answer_wins_over_numbers_in_the_steps() {
    assert_eq!(
        found(" 3 + 4 = 7 apples.\n#### 42\nQuestion: 5?").as_deref(),
        Some("42")
    );
    assert_eq!(found("#### [1, 2]\n").as_deref(), Some("[1, 2]"));
    assert_eq!(found("####\n42<|end|>").as_deref(), Some("42"));
    assert_eq!(found("He has 7.\nAnswer: 42").as_deref(), Some("42"));
    assert_eq!(
        found("Answer: the red ball").as_deref(),
        Some("the red ball")
    );
}

#[test]
fn without_a_mark_the_last_number_is_the_answer() {
    assert_eq!(
        found("Answer: first 3 apples, and then 4 pears, so 7.").as_deref(),
        Some("7")
    );
    assert_eq!(
        found("he pays $1,234.50 in all.").as_deref(),
        Some("1,234.50")
    );
    assert_eq!(found("9-4 is").as_deref(), Some("4"));
    assert_eq!(found("it is -4").as_deref(), Some("-4"));
    assert_eq!(found("nothing here ."), None);
    assert_eq!(found(""), None);
}

#[test]
fn numbers_compare_by_value_and_words_by_their_letters() {
    for (a, b) in [
        ("1,000", "1000"),
        ("1000.0", "1000"),
        ("$5", "5."),
        ("-3", "-3.00"),
        ("007", "7"),
        ("50%", "50"),
        (".5", "0.5"),
    ] {
        assert!(same_answer(a, b), "{a} {b}");
    }
    for (a, b) in [
        ("10", "1"),
        ("1,00", "100"),
        ("yes", "1"),
        ("12", "1 2"),
        ("-3", "3"),
        ("", "0"),
    ] {
        assert!(!same_answer(a, b), "{a} {b}");
    }
    assert!(
        same_answer(" Yes.", "yes")
            && same_answer("The  Red Ball", "the red ball")
            && !same_answer("yes", "no")
    );
}

#[test]
fn an_answer_on_a_passage_is_what_is_marked_or_the_first_line() {
    let found = |text| extract_span(text);
    assert_eq!(
        found("\n#### Kansas Song\nQuestion:").as_deref(),
        Some("Kansas Song")
    );
    assert_eq!(
        found("So it is.\nAnswer: 3 March").as_deref(),
        Some("3 March")
    );
    assert_eq!(
        found("\n Chicago Bears\nmore").as_deref(),
        Some("Chicago Bears")
    );
    assert_eq!(found(" \n "), None);
}

#[test]
fn a_program_ends_at_the_next_question_or_stands_in_a_fence() {
    let program = "def f(x):\n    return x";
    for text in [
        format!("\n{program}\nQuestion: next"),
        format!("\n{program}\n[DONE]\nrest"),
        format!("Here it is:\n```python\n{program}\n```\nIt returns x."),
        format!("```\n{program}\n"),
    ] {
        assert_eq!(extract_program(&text), program, "{text}");
    }
    assert_eq!(extract_program(" \n"), "");
}
