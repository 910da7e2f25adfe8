//! The official scores of reading, and WikiText's pages, against the functions of lm-evaluation-harness
//! (`tests/fixtures/harness.json`, made by `bench/peers/harness.py --write-formulas`).

use data::{Comparison, Places, reading_score, wikitext_pages};
use serde_json::Value;

fn made_by_the_harness() -> Value {
    serde_json::from_str(include_str!("../fixtures/harness.json")).unwrap()
}

fn strings(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap();
    list.iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn drop_and_squad_scores_are_those_of_the_harness() {
    for row in made_by_the_harness()["reading"].as_array().unwrap() {
        let found = row["found"].as_str().unwrap();
        for (name, by) in [("drop", Comparison::Drop), ("squad", Comparison::HotpotQa)] {
            let score = reading_score(found, strings(&row["right"]), by);
            let (exact, f1) = (row[name][0] == 1.0, row[name][1].as_f64().unwrap());
            assert_eq!(score.exact, exact, "{name}: {row}");
            assert!((score.f1 - f1).abs() < 1e-12, "{name}: {row}: {}", score.f1);
        }
    }
}

#[test]
fn yes_and_no_are_right_or_worth_nothing_in_hotpotqa() {
    let score = |found, right| reading_score(found, [right], Comparison::HotpotQa);
    assert_eq!(
        (score("Yes.", "yes").exact, score("Yes.", "yes").f1),
        (true, 1.0)
    );
    assert_eq!(score("yes it is", "yes").f1, 0.0);
    assert_eq!(score("no", "no man's land").f1, 0.0);
    assert!(score("no man", "no man's land").f1 > 0.0);
}

#[test]
fn a_right_answer_that_is_empty_does_not_count() {
    let score = reading_score("", ["", " "], Comparison::Drop);
    assert_eq!((score.exact, score.f1), (false, 0.0));
}

#[test]
fn wikitext_pages_are_those_of_the_harness() {
    let json = made_by_the_harness();
    let rows = json["wikitext"].as_array().unwrap();
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("wikitext2");
    std::fs::create_dir(&folder).unwrap();
    // As published, the file begins with an empty line and pages follow on one another.
    let pages: Vec<&str> = rows
        .iter()
        .map(|row| row["page"].as_str().unwrap())
        .collect();
    let file = format!(" \n{}", pages.join("\n"));
    std::fs::write(folder.join("wiki.test.tokens"), file).unwrap();
    let found = wikitext_pages(&Places::local(root.path())).unwrap();
    assert_eq!(found.len(), rows.len());
    for (page, row) in found.iter().zip(rows) {
        assert_eq!(page.text, row["text"].as_str().unwrap());
        assert_eq!(
            (page.words, page.bytes),
            (
                row["words"].as_u64().unwrap(),
                row["bytes"].as_u64().unwrap()
            )
        );
    }
    let gone = wikitext_pages(&Places::local(&root.path().join("nothing"))).unwrap_err();
    assert!(
        gone.to_string().contains("forge data fetch wikitext"),
        "{gone}"
    );
}
