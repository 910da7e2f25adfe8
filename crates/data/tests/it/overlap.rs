//! Contamination between training and evaluation.

use data::{Answer, Comparison, Family, Item, Split, contamination};

fn item(prompt: &str) -> Item {
    let answer = Answer::Exact {
        answer: "1".into(),
        also: Vec::new(),
        by: Comparison::Value,
    };
    let (dataset, id) = ("x".into(), "1".into());
    Item {
        dataset,
        family: Family::Qa,
        id,
        prompt: prompt.into(),
        answer,
        split: Split::Fitness,
    }
}

#[test]
fn items_that_share_a_run_of_words_are_counted_once() {
    let train = [
        crate::document(
            "x",
            Family::Qa,
            "0",
            "Alpha, beta GAMMA delta (epsilon) zeta. alpha beta gamma delta epsilon",
        ),
        crate::document(
            "x",
            Family::Qa,
            "1",
            "nothing in common with the others at all",
        ),
    ];
    let items = [
        item("so: alpha beta\ngamma delta epsilon!"),
        item("alpha beta gamma delta differs here"),
        item("epsilon delta gamma beta alpha"),
        item("beta"),
    ];
    assert_eq!(contamination(&train, &items, 5), 1);
    assert_eq!(contamination(&train, &items, 4), 2);
    assert_eq!(contamination(&train, &items, 1), 4);
    assert_eq!(contamination(&[], &items, 1), 0);
}
