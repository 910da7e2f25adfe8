//! Contamination between training and evaluation.

use data::{Answer, Comparison, Evaluation, Family, Item, Overlap, Split};

fn item(prompt: &str) -> Item {
    let answer = Answer::Exact {
        answer: "1".into(),
        also: Vec::new(),
        by: Comparison::Value,
    };
    Item {
        dataset: "asked".into(),
        family: Family::Qa,
        id: data::random::bits(0, prompt, 0, 0).to_string(),
        prompt: prompt.into(),
        answer,
        split: Split::Fitness,
    }
}

/// `n` words that occur nowhere else, by their beginning.
fn words(beginning: &str, n: usize) -> String {
    let words: Vec<String> = (0..n).map(|i| format!("{beginning}{i}")).collect();
    words.join(" ")
}

fn documents(texts: &[String]) -> Vec<data::Document> {
    let document =
        |(i, text): (usize, &String)| crate::document("read", Family::Qa, &i.to_string(), text);
    texts.iter().enumerate().map(document).collect()
}

fn compared(items: &[Item], texts: &[data::Document], train: &[String]) -> Overlap {
    let mut evaluation = Evaluation::default();
    evaluation.add("asked", items, texts);
    let mut screen = evaluation.close();
    screen.read("read", &documents(train));
    screen.overlap()
}

#[test]
fn a_document_that_holds_thirteen_words_of_a_question_is_contaminated_whatever_their_case_and_marks()
 {
    let question = words("ask", 13);
    let items = [item(&format!("Question: {question}\nAnswer:"))];
    let train = [
        format!(
            "so: {}, and more",
            question.to_uppercase().replace(' ', ", ")
        ),
        format!("so: {}", words("ask", 12)),
        format!(
            "{} between {}",
            words("ask", 7),
            words("ask", 13).rsplit_once(' ').unwrap().0
        ),
    ];
    let overlap = compared(&items, &[], &train);
    assert_eq!(overlap.documents, [vec![0]]);
    let [pair] = overlap.pairs.as_slice() else {
        panic!("{:?}", overlap.pairs);
    };
    assert_eq!(
        (pair.training.as_str(), pair.evaluation.as_str()),
        ("read", "asked")
    );
    assert_eq!((pair.documents, pair.items), (1, 1));
}

#[test]
fn the_passage_before_a_question_does_not_contaminate() {
    let passage = words("passage", 40);
    let question = words("ask", 20);
    let items = [item(&format!("{passage}\nQuestion: {question}\nAnswer:"))];
    assert_eq!(
        compared(&items, &[], &[passage]).documents,
        [Vec::<usize>::new()]
    );
    assert_eq!(compared(&items, &[], &[question]).documents, [vec![0]]);
}

#[test]
fn a_question_of_eight_words_is_looked_for_whole_and_a_shorter_one_not_at_all() {
    let (eight, seven) = (words("eight", 8), words("seven", 7));
    let items = [
        item(&format!("Question: {eight}\nAnswer:")),
        item(&format!("Question: {seven}\nAnswer:")),
    ];
    let train = [
        words("eight", 7),
        format!("a {eight} b"),
        format!("a {seven} b"),
    ];
    let overlap = compared(&items, &[], &train);
    assert_eq!(overlap.documents, [vec![1]]);
    assert_eq!(overlap.short["asked"], 1);
}

#[test]
fn a_phrase_of_more_than_ten_documents_shows_nothing() {
    let phrase = words("phrase", 13);
    let items = [item(&format!("Question: {phrase}\nAnswer:"))];
    let some = |n: usize| -> Vec<String> { (0..n).map(|i| format!("{i} {phrase}")).collect() };
    assert_eq!(compared(&items, &[], &some(10)).documents[0].len(), 10);
    assert_eq!(compared(&items, &[], &some(11)).documents[0].len(), 0);
}

#[test]
fn a_held_out_text_contaminates_what_holds_a_fifth_of_it_and_an_items_own_text_is_its_question() {
    let text = words("text", 112);
    let held_out = [crate::document("asked", Family::Qa, "test/1", &text)];
    // Of its 100 runs, 20 and 19.
    let train = [words("text", 32), words("text", 31)];
    assert_eq!(compared(&[], &held_out, &train).documents, [vec![0]]);
    let mut items = [item(&format!("Question: {}\nAnswer:", words("ask", 13)))];
    items[0].id = "test/1".into();
    assert_eq!(
        compared(&items, &held_out, &train).documents,
        [Vec::<usize>::new()]
    );
}

#[test]
fn every_pair_of_sets_is_compared_at_any_number_of_threads() {
    let Some(root) = crate::datasets() else {
        return;
    };
    let places = data::Places::local(&root);
    let ids = ["svamp", "asdiv", "mbpp"];
    let check = || data::check(&places, &ids, Some(0.8));
    let pool = |n| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(n)
            .build()
            .unwrap()
    };
    let checks = pool(1).install(check);
    assert_eq!(checks, pool(3).install(check));
    let pair = |training: &str, evaluation: &str| {
        let mut all = checks.iter().flat_map(|check| &check.overlaps);
        let found = all.find(|p| p.training == training && p.evaluation == evaluation);
        found.map(|pair| pair.items)
    };
    // SVAMP's problems are variations of ASDiv's and of one another.
    assert!(
        pair("svamp", "svamp") > Some(50),
        "{:?}",
        pair("svamp", "svamp")
    );
    assert!(
        pair("asdiv", "svamp") > Some(10),
        "{:?}",
        pair("asdiv", "svamp")
    );
    assert_eq!(pair("mbpp", "svamp"), None);
}
