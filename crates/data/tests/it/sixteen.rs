//! The plan's sixteen data sets: each in its publisher's form and in the hub's, the same text either way; the real files
//! where they are at hand, with the publishers' counts.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use data::{Answer, Comparison, Found, Loaded, Places, check, load};
use parquet::basic::Compression;

use crate::parquet_files::{Column, Inner, write_table};

/// The plan's list, with the optional one.
pub(crate) const SIXTEEN: [&str; 16] = [
    "gsm8k",
    "svamp",
    "asdiv",
    "mbpp",
    "codexglue",
    "arc_easy",
    "arc_challenge",
    "hotpotqa",
    "drop",
    "strategyqa",
    "piqa",
    "hellaswag",
    "boolq",
    "wikitext",
    "fineweb_edu",
    "openwebtext",
];

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A cache that holds a table of one split of a data set's repository number `which`, as the hub lays it out.
pub(crate) fn cached(cache: &Path, id: &str, which: usize, split: &str, columns: &[Column]) {
    let hub = &data::dataset(id).unwrap().hub[which];
    let commit = match hub.revision {
        "main" => {
            let repository = data::hub::cache::repository_folder(cache, hub.repository);
            write(&repository, "refs/main", &"7".repeat(40));
            "7".repeat(40)
        }
        commit => commit.to_string(),
    };
    let folder = data::hub::cache::repository_folder(cache, hub.repository)
        .join("snapshots")
        .join(commit)
        .join(hub.under);
    let path = folder.join(format!("{split}-00000-of-00001.parquet"));
    write_table(&path, columns, Compression::SNAPPY);
}

fn from_cache(id: &str, cache: &Path) -> Loaded {
    let places = Places {
        root: None,
        cache: Some(cache.to_path_buf()),
    };
    load(id, &places).unwrap()
}

fn from_root(id: &str, root: &Path) -> Loaded {
    load(id, &Places::local(root)).unwrap()
}

/// Asserts that two readings give the same documents, items and worked solutions, wherever they came from.
#[track_caller]
fn same(a: &Loaded, b: &Loaded) {
    assert!(!a.train.is_empty() || !a.texts.is_empty());
    assert_eq!((&a.train, &a.texts), (&b.train, &b.texts));
    assert_eq!((&a.items, &a.worked), (&b.items, &b.worked));
    assert!(b.local.is_empty() && b.stand_in.is_empty() && a.cached.is_empty());
}

#[test]
fn every_set_of_the_plan_has_a_home_a_licence_counts_and_a_stage() {
    for id in SIXTEEN {
        let row = data::dataset(id).unwrap();
        assert!(!row.hub.is_empty() && !row.licence.is_empty(), "{id}");
        assert!(!row.published.is_empty() && !row.stages.is_empty(), "{id}");
        for hub in row.hub {
            assert_eq!(hub.repository.split('/').count(), 2, "{id}");
            let commit =
                hub.revision.len() == 40 && hub.revision.bytes().all(|b| b.is_ascii_hexdigit());
            let branch = hub.revision == "main" && ["strategyqa", "codexglue"].contains(&id);
            assert!(commit || branch, "{id}: {}", hub.revision);
        }
    }
}

#[test]
fn gsm8k_and_svamp_are_the_same_from_the_hub() {
    let (root, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (question, answer) = ("How much is 2 and 3?", "2+3=<<2+3=5>>5.\n#### 5");
    let line = serde_json::json!({ "question": question, "answer": answer }).to_string();
    write(root.path(), "gsm8k/train.jsonl", &line);
    write(root.path(), "gsm8k/test.jsonl", &line);
    let columns = || {
        [
            Column::Text("question", vec![question]),
            Column::Text("answer", vec![answer]),
        ]
    };
    cached(cache.path(), "gsm8k", 0, "train", &columns());
    cached(cache.path(), "gsm8k", 0, "test", &columns());
    same(
        &from_root("gsm8k", root.path()),
        &from_cache("gsm8k", cache.path()),
    );
    // `chal-1` to `chal-4` fall on both sides whatever split the hub puts them in.
    let ids = ["chal-1", "chal-2", "chal-3", "chal-4"];
    let record = |id: &&str| {
        serde_json::json!({ "ID": id, "Body": "Bo has 5 nuts.", "Question": "How many are left if he eats 2?",
                            "Equation": "( 5.0 - 2.0 )", "Answer": 3.0, "Type": "Subtraction" })
    };
    let records: Vec<_> = ids.iter().map(record).collect();
    write(
        root.path(),
        "svamp/SVAMP.json",
        &serde_json::to_string(&records).unwrap(),
    );
    cached(
        cache.path(),
        "svamp",
        0,
        "train",
        &[
            Column::Text("ID", ids.to_vec()),
            Column::Text("Body", vec!["Bo has 5 nuts."; 4]),
            Column::Text("Question", vec!["How many are left if he eats 2?"; 4]),
            Column::Text("Equation", vec!["( 5.0 - 2.0 )"; 4]),
            Column::Text("Answer", vec!["3.0"; 4]),
        ],
    );
    same(
        &from_root("svamp", root.path()),
        &from_cache("svamp", cache.path()),
    );
}

#[test]
fn asdiv_is_split_by_the_fold_of_its_number() {
    let (root, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let problem = |id: &str, answer: &str, formula: &str| {
        format!(
            "<Problem ID=\"{id}\" Grade=\"1\" Source=\"x\">\n<Body>Ann &amp; Bo have seven nuts and two figs.</Body>\n\
             <Question>How many fruits?</Question>\n<Solution-Type>Addition</Solution-Type>\n\
             <Answer>{answer}</Answer>\n<Formula>{formula}</Formula>\n</Problem>\n"
        )
    };
    // Number 1 is in fold 4, number 153 in fold 0.
    let text = problem("nluds-0001", "9 (fruits)", "7+2=9")
        + &problem("nluds-0153", "9 (fruits)", "7+2=9")
        + &problem("nluds-0154", "Yes", "9>2");
    write(
        root.path(),
        "asdiv/ASDiv.xml",
        &format!("<?xml version=\"1.0\"?>\n<ProblemSet>\n{text}</ProblemSet>\n"),
    );
    let loaded = from_root("asdiv", root.path());
    let all: Vec<_> = loaded.train.iter().chain(&loaded.texts).collect();
    assert_eq!(all.len(), 3);
    let of = |id: &str| all.iter().find(|d| d.id.ends_with(id)).unwrap();
    assert_eq!(
        of("nluds-0153").text,
        "Question: Ann & Bo have seven nuts and two figs. How many fruits?\nAnswer: 7+2=9\n#### 9"
    );
    assert!(of("nluds-0154").text.ends_with("Answer:\n#### Yes"));
    assert_eq!(of("nluds-0153").id, "train/nluds-0153");
    cached(
        cache.path(),
        "asdiv",
        0,
        "test",
        &[
            Column::Text("id", vec!["asdiv_a__nluds-0001", "asdiv_a__nluds-0153"]),
            Column::Text(
                "question",
                vec!["Ann & Bo have seven nuts and two figs. How many fruits?"; 2],
            ),
            Column::Text(
                "chain",
                vec![
                    "<gadget id=\"calculator\">7 + 2</gadget>\n<output>9</output>\n\n<result>9</result>";
                    2
                ],
            ),
            Column::Text("result", vec!["9", "9"]),
        ],
    );
    let hub = from_cache("asdiv", cache.path());
    let ids = |loaded: &Loaded| {
        let all = loaded.train.iter().chain(&loaded.texts);
        all.map(|d| d.id.clone()).collect::<BTreeSet<_>>()
    };
    assert!(ids(&hub).is_subset(&ids(&loaded)), "{:?}", ids(&hub));
    assert!(hub.train.iter().chain(&hub.texts).all(|d| {
        d.text
            .ends_with("How many fruits?\nAnswer: 7 + 2 = 9\n#### 9")
    }));
    write(root.path(), "asdiv/ASDiv.xml", &text[..text.len() - 12]);
    let said = load("asdiv", &Places::local(root.path()))
        .unwrap_err()
        .to_string();
    for part in ["ASDiv.xml", "line 15", "`Problem`", "cut off"] {
        assert!(said.contains(part), "{said}");
    }
    write(
        root.path(),
        "asdiv/ASDiv.xml",
        &problem("nluds-9999", "1", "1=1"),
    );
    let said = load("asdiv", &Places::local(root.path()))
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("nluds-9999") && said.contains("nluds-2305"),
        "{said}"
    );
}

#[test]
fn choices_of_two_lists_are_those_of_one_list_of_pairs() {
    let (root, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let record = r#"{"id":"q7","question":{"stem":"What is hot?","choices":[{"text":"ice","label":"A"},{"text":"fire","label":"B"}]},"answerKey":"B"}"#;
    let columns = || {
        [
            Column::Text("id", vec!["q7"]),
            Column::Text("question", vec!["What is hot?"]),
            Column::Struct(
                "choices",
                vec![
                    Inner::Texts("text", vec![vec!["ice", "fire"]]),
                    Inner::Texts("label", vec![vec!["A", "B"]]),
                ],
            ),
            Column::Text("answerKey", vec!["B"]),
        ]
    };
    for (id, train, dev) in [
        ("arc_easy", "train.jsonl", "dev.jsonl"),
        ("arc_challenge", "train.jsonl", "dev.jsonl"),
        (
            "commonsenseqa",
            "train_rand_split.jsonl",
            "dev_rand_split.jsonl",
        ),
    ] {
        let folder = data::dataset(id).unwrap().folders[0];
        write(root.path(), &format!("{folder}/{train}"), record);
        write(root.path(), &format!("{folder}/{dev}"), record);
        cached(cache.path(), id, 0, "train", &columns());
        cached(cache.path(), id, 0, "validation", &columns());
        same(&from_root(id, root.path()), &from_cache(id, cache.path()));
    }
}

#[test]
fn mbpp_is_split_by_task_and_strategyqa_by_question_wherever_they_stand() {
    let cache = tempfile::tempdir().unwrap();
    let columns = |ids: Vec<i64>| {
        let n = ids.len();
        [
            Column::Number("task_id", ids),
            Column::Text("text", vec!["Write a function."; n]),
            Column::Text("code", vec!["def f():\r\n    pass"; n]),
            Column::Texts("test_list", vec![vec!["assert f() is None", "f()"]; n]),
            Column::Text("test_setup_code", vec!["x = 1\r\ny = 2"; n]),
        ]
    };
    cached(cache.path(), "mbpp", 0, "prompt", &columns(vec![1, 10]));
    cached(cache.path(), "mbpp", 0, "train", &columns(vec![601, 974]));
    cached(cache.path(), "mbpp", 0, "test", &columns(vec![11, 510]));
    let loaded = from_cache("mbpp", cache.path());
    let ids = |docs: &[data::Document]| docs.iter().map(|d| d.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&loaded.train), ["train/601", "train/974"]);
    assert_eq!(ids(&loaded.texts), ["test/11", "test/510"]);
    // An item names its tests, which are run after the program.
    let item = &loaded.items[0];
    assert_eq!((loaded.items.len(), item.id.as_str()), (2, "test/11"));
    assert_eq!(
        item.prompt,
        "Question: Write a function. Your code should pass these tests:\nassert f() is None\nf()\nAnswer:"
    );
    let check = "x = 1\ny = 2\nassert f() is None\nf()\n".to_string();
    assert_eq!(item.answer, Answer::Program { check });
    assert!(item.answer.needs_sandbox());
    let row = |qid: &'static str| {
        [
            Column::Text("qid", vec![qid]),
            Column::Text("question", vec!["Is it so?"]),
            Column::Truth("answer", vec![true]),
            Column::Text("facts", vec!["It is."]),
        ]
    };
    cached(cache.path(), "strategyqa", 0, "train", &row("aaaa"));
    cached(cache.path(), "strategyqa", 0, "test", &row("bbbb"));
    let loaded = from_cache("strategyqa", cache.path());
    assert_eq!(ids(&loaded.train), ["train/aaaa", "train/bbbb"]);
    assert_eq!(loaded.note, "not there: dev.json");
    assert_eq!(
        loaded.train[0].text,
        "Question: Is it so?\nAnswer: yes\nIt is."
    );
}

#[test]
fn codexglue_joins_translation_and_text_to_code() {
    let (root, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (java, cs) = (
        "public int one() {return 1;}",
        "public int One(){return 1;}",
    );
    let pair = |split: &str, java: &str, cs: &str| {
        let name = format!("codexglue/code-to-code-trans/{split}.java-cs.txt");
        write(root.path(), &format!("{name}.java"), java);
        write(root.path(), &format!("{name}.cs"), cs);
    };
    pair(
        "train",
        &format!("{java}\n{java}\n"),
        &format!("{cs}\n{cs}\n"),
    );
    pair("test", &format!("{java}\n"), &format!("{cs}\n"));
    let (nl, code) = (
        "adds one concode_field_sep int x concode_elem_sep int y",
        "int f ( ) { }",
    );
    let line = serde_json::json!({ "nl": nl, "code": code }).to_string();
    write(
        root.path(),
        "codexglue/text-to-code/concode/train.json",
        &line,
    );
    write(
        root.path(),
        "codexglue/text-to-code/concode/dev.json",
        &line,
    );
    let translated = |n: usize| {
        [
            Column::Text("java", vec![java; n]),
            Column::Text("cs", vec![cs; n]),
        ]
    };
    cached(cache.path(), "codexglue", 0, "train", &translated(2));
    cached(cache.path(), "codexglue", 0, "test", &translated(1));
    let written = [
        Column::Text("nl", vec![nl]),
        Column::Text("code", vec![code]),
    ];
    cached(cache.path(), "codexglue", 1, "train", &written);
    cached(cache.path(), "codexglue", 1, "validation", &written);
    let local = from_root("codexglue", root.path());
    same(&local, &from_cache("codexglue", cache.path()));
    assert_eq!(
        local.train[0].text,
        format!("Question: Write this Java method in C#.\n{java}\nAnswer:\n{cs}")
    );
    assert_eq!(
        local.train[2].text,
        "Question: Write a Java method of this class.\nadds one\nint x; int y\nAnswer:\nint f ( ) { }"
    );
    assert!(local.items.is_empty() && local.note.contains("valid.java-cs"));
    pair("train", java, &format!("{cs}\n{cs}\n"));
    let said = load("codexglue", &Places::local(root.path()))
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("2 lines") && said.contains("aligned"),
        "{said}"
    );
    // One task alone is enough, and the other is named.
    fs::remove_dir_all(root.path().join("codexglue/code-to-code-trans")).unwrap();
    let loaded = from_root("codexglue", root.path());
    assert!(loaded.train.len() == 1 && loaded.note.contains("train.java-cs.txt.java"));
}

#[test]
fn piqa_takes_its_labels_from_their_file() {
    let (root, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let line = r#"{"goal": "open a jar", "sol1": "kick it", "sol2": "turn its lid"}"#;
    write(
        root.path(),
        "piqa/valid.jsonl",
        &format!("{line}\n{line}\n"),
    );
    write(root.path(), "piqa/valid-labels.lst", "1\n0\n");
    let loaded = from_root("piqa", root.path());
    assert_eq!(
        loaded.texts[0].text,
        "Question: open a jar\nAnswer: turn its lid"
    );
    assert_eq!(
        loaded.texts[1].text,
        "Question: open a jar\nAnswer: kick it"
    );
    assert_eq!(loaded.note, "not there: train.jsonl");
    cached(
        cache.path(),
        "piqa",
        0,
        "piqa_validation",
        &[
            Column::Text("goal", vec!["open a jar"; 2]),
            Column::Text("sol1", vec!["kick it"; 2]),
            Column::Text("sol2", vec!["turn its lid"; 2]),
            Column::Number("label", vec![1, 0]),
        ],
    );
    same(&loaded, &from_cache("piqa", cache.path()));
    write(root.path(), "piqa/valid-labels.lst", "1\n");
    let refused = |parts: &[&str]| {
        let said = load("piqa", &Places::local(root.path()))
            .unwrap_err()
            .to_string();
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    };
    refused(&["valid-labels.lst", "1 labels for the 2 records"]);
    write(root.path(), "piqa/valid-labels.lst", "1\n2\n");
    refused(&["valid.jsonl", "line 2", "`label` is 2", "0 to 1"]);
    fs::remove_file(root.path().join("piqa/valid-labels.lst")).unwrap();
    refused(&["valid-labels.lst", "check that it exists"]);
}

#[test]
fn hellaswag_goes_on_with_its_context() {
    let (root, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let line = r#"{"ind": 0, "ctx": "Baking: A cook stirs. he", "endings": ["sings.", "pours [step] it."], "label": 1}"#;
    write(root.path(), "hellaswag/derived_hellaswag_val.jsonl", line);
    cached(
        cache.path(),
        "hellaswag",
        0,
        "validation",
        &[
            Column::Text("activity_label", vec!["Baking"]),
            Column::Text("ctx", vec!["A cook stirs. he"]),
            Column::Texts("endings", vec![vec!["sings.", "pours [step] it."]]),
            Column::Text("label", vec!["1"]),
        ],
    );
    let local = from_root("hellaswag", root.path());
    same(&local, &from_cache("hellaswag", cache.path()));
    let item = &local.items[0];
    assert_eq!(item.prompt, "Baking: A cook stirs. he");
    assert_eq!(
        item.answer,
        Answer::Choice {
            options: vec![" sings.".into(), " pours it.".into()],
            gold: 1
        }
    );
    assert_eq!(local.texts[0].text, "Baking: A cook stirs. he pours it.");
    let none = line.replace(r#"["sings.", "pours [step] it."]"#, "[]");
    write(root.path(), "hellaswag/derived_hellaswag_val.jsonl", &none);
    let said = load("hellaswag", &Places::local(root.path()))
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("line 1") && said.contains("`label`"),
        "{said}"
    );
}

#[test]
fn boolq_puts_its_passage_first_and_says_when_it_has_none() {
    let (root, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let record = r#"{"question": "is snow cold", "title": "Snow", "answer": true, "passage": "Snow is frozen water."}"#;
    write(root.path(), "boolq/dev.jsonl", record);
    let instructed = r#"[{"instruction": "Please answer the following question with true or false, question: is fire cold?\n\nAnswer format: true/false", "input": "", "output": "the correct answer is false", "answer": "false"}]"#;
    write(
        root.path(),
        "boolq/llm_adapters_train_no_passage.json",
        instructed,
    );
    let local = from_root("boolq", root.path());
    assert_eq!(
        local.texts[0].text,
        "Snow is frozen water.\nQuestion: is snow cold?\nAnswer: yes"
    );
    assert_eq!(local.train[0].text, "Question: is fire cold?\nAnswer: no");
    assert_eq!(local.lacking, ["the passages of 1 questions"]);
    assert_eq!(
        local.remark(),
        "without the passages of 1 questions; only a part of train"
    );
    assert_eq!(
        (&local.stand_in[..], &local.local[..]),
        (&["train".to_string()][..], &["dev".to_string()][..])
    );
    let columns = [
        Column::Text("question", vec!["is snow cold"]),
        Column::Truth("answer", vec![true]),
        Column::Text("passage", vec!["Snow is frozen water."]),
    ];
    cached(cache.path(), "boolq", 0, "validation", &columns);
    let hub = from_cache("boolq", cache.path());
    assert_eq!((&hub.texts, &hub.items), (&local.texts, &local.items));
    // With both places, each split comes from the first that has it, and what only stands in comes last.
    cached(cache.path(), "boolq", 0, "train", &columns);
    let both = Places {
        root: Some(root.path().to_path_buf()),
        cache: Some(cache.path().to_path_buf()),
    };
    let loaded = load("boolq", &both).unwrap();
    assert_eq!(
        (&loaded.cached[..], &loaded.local[..]),
        (&["train".to_string()][..], &["dev".to_string()][..])
    );
    assert!(loaded.lacking.is_empty() && loaded.train[0].text.contains("snow"));
    let checked = &check(&both, &["boolq"], None)[0];
    assert_eq!(checked.found, Found::Local);
    assert!(
        checked.note.contains("train from the cache"),
        "{}",
        checked.note
    );
    let cache_only = Places { root: None, ..both };
    assert_eq!(check(&cache_only, &["boolq"], None)[0].found, Found::Cache);
}

#[test]
fn hotpotqa_shows_ten_paragraphs_in_either_form() {
    let (root, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let record = r#"{"_id": "5a71", "question": "Which is older?", "answer": "Aha", "supporting_facts": [["Aha", 0]],
                     "context": [["Aha", ["Aha is old.", " Very old."]], ["Bebe", ["Bebe is new."]]], "type": "x", "level": "hard"}"#;
    let line = record.replace('\n', " ");
    write(
        root.path(),
        "hotpotqa/hotpot_train_v1.1.json",
        &format!("[{record}]"),
    );
    write(root.path(), "hotpotqa/amor_test_500.jsonl", &line);
    let columns = || {
        [
            Column::Text("id", vec!["5a71"]),
            Column::Text("question", vec!["Which is older?"]),
            Column::Text("answer", vec!["Aha"]),
            Column::Struct(
                "context",
                vec![
                    Inner::Texts("title", vec![vec!["Aha", "Bebe"]]),
                    Inner::Deep(
                        "sentences",
                        vec![vec![
                            vec!["Aha is old.", " Very old."],
                            vec!["Bebe is new."],
                        ]],
                    ),
                ],
            ),
        ]
    };
    cached(cache.path(), "hotpotqa", 0, "train", &columns());
    cached(cache.path(), "hotpotqa", 0, "validation", &columns());
    let local = from_root("hotpotqa", root.path());
    same(&local, &from_cache("hotpotqa", cache.path()));
    assert_eq!(
        local.train[0].text,
        "Aha: Aha is old. Very old.\nBebe: Bebe is new.\nQuestion: Which is older?\nAnswer:\n#### Aha"
    );
    write(
        root.path(),
        "hotpotqa/amor_test_500.jsonl",
        &line.replace("[\"Aha is old.\", \" Very old.\"]", "5"),
    );
    let said = load("hotpotqa", &Places::local(root.path()))
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("`context`") && said.contains("line 1"),
        "{said}"
    );
}

#[test]
fn drop_has_one_id_and_several_right_answers_in_every_form() {
    let (root, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (passage, question) = ("Ada won in 1990 and Bo in 1995.", "How many years apart?");
    let simple = serde_json::json!({ "context": format!("Passage: {passage}\nQuestion: {question}\nAnswer:"),
                                     "completion": " 5", "ref_text": "5|five" });
    let official = serde_json::json!({ "history_1": { "passage": passage, "qa_pairs": [{
        "question": question, "query_id": "q", "answer": { "number": "5", "spans": [], "date": {} },
        "validated_answers": [{ "number": "", "spans": ["five"], "date": {} },
                              { "number": "5", "spans": [], "date": {} }] }] } });
    write(root.path(), "drop/drop_v0_dev.jsonl", &simple.to_string());
    let of_simple = from_root("drop", root.path());
    write(
        root.path(),
        "drop/drop_dataset_dev.json",
        &official.to_string(),
    );
    let of_official = from_root("drop", root.path());
    cached(
        cache.path(),
        "drop",
        0,
        "validation",
        &[
            Column::Text("passage", vec![passage]),
            Column::Text("question", vec![question]),
            Column::Struct(
                "answers_spans",
                vec![
                    Inner::Texts("spans", vec![vec!["5", "five", "five"]]),
                    Inner::Texts("types", vec![vec!["number", "span", "span"]]),
                ],
            ),
        ],
    );
    same(&of_official, &from_cache("drop", cache.path()));
    assert_eq!(of_official.items, of_simple.items);
    assert_eq!(
        of_simple.texts[0].text,
        format!("{passage}\nQuestion: {question}\nAnswer:\n#### 5")
    );
    assert_eq!(
        of_simple.items[0].answer,
        Answer::Exact {
            answer: "5".into(),
            also: vec!["five".into()],
            by: Comparison::Drop,
        }
    );
    let date = official.to_string().replace(
        r#"{"number":"5","spans":[],"date":{}},"#,
        r#"{"number":"","spans":[],"date":{"day":"3","month":"May","year":"1990"}},"#,
    );
    write(root.path(), "drop/drop_dataset_dev.json", &date);
    let loaded = from_root("drop", root.path());
    assert!(
        loaded.texts[0].text.ends_with("#### 3 May 1990"),
        "{}",
        loaded.texts[0].text
    );
}

#[test]
fn a_training_answer_of_several_spans_is_learned_whole_from_either_form_of_drop() {
    let (root, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (passage, question) = ("Ada and Bo won.", "Who won?");
    let official = serde_json::json!({ "history_1": { "passage": passage, "qa_pairs": [{
        "question": question, "query_id": "q", "answer": { "number": "", "spans": ["Ada", "Bo"], "date": {} } }] } });
    write(
        root.path(),
        "drop/drop_dataset_train.json",
        &official.to_string(),
    );
    let columns = [
        Column::Text("passage", vec![passage]),
        Column::Text("question", vec![question]),
        Column::Struct(
            "answers_spans",
            vec![
                Inner::Texts("spans", vec![vec!["Ada", "Bo"]]),
                Inner::Texts("types", vec![vec!["span", "span"]]),
            ],
        ),
    ];
    cached(cache.path(), "drop", 0, "train", &columns);
    let local = from_root("drop", root.path());
    assert!(local.train[0].text.ends_with("#### Ada and Bo"));
    assert_eq!(local.train, from_cache("drop", cache.path()).train);
}

#[test]
fn a_split_of_several_files_counts_its_records_on() {
    let cache = tempfile::tempdir().unwrap();
    for (file, numbers) in [
        ("train-00000-of-00002", 0..3),
        ("train-00001-of-00002", 3..5),
    ] {
        let questions: Vec<String> = numbers.map(|i| format!("How much is {i}?")).collect();
        let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
        let answers = vec!["It is.\n#### 1"; questions.len()];
        let columns = [
            Column::Text("question", questions),
            Column::Text("answer", answers),
        ];
        cached(cache.path(), "gsm8k", 0, file, &columns);
    }
    let loaded = from_cache("gsm8k", cache.path());
    let ids: Vec<&str> = loaded.train.iter().map(|d| d.id.as_str()).collect();
    assert_eq!(ids, ["train/1", "train/2", "train/3", "train/4", "train/5"]);
    assert!(loaded.train[4].text.contains("How much is 4?"));
}

#[test]
fn of_a_copy_of_a_repository_the_configuration_of_the_set_is_read() {
    let root = tempfile::tempdir().unwrap();
    for (configuration, question) in [("main", "plain?"), ("socratic", "asked?")] {
        let columns = [
            Column::Text("question", vec![question]),
            Column::Text("answer", vec!["It is.\n#### 1"]),
        ];
        let file = format!("gsm8k/{configuration}/train-00000-of-00001.parquet");
        write_table(&root.path().join(file), &columns, Compression::SNAPPY);
    }
    let loaded = from_root("gsm8k", root.path());
    assert_eq!(loaded.train.len(), 1);
    assert!(loaded.train[0].text.contains("plain?"));
}

#[test]
fn wikitext_and_the_web_sets_come_from_the_hub_as_well() {
    let (root, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let lines = [
        "",
        " = One = \n",
        "",
        " First text . \n",
        "",
        " = Two = \n",
        "",
        " Second . \n",
    ];
    let text = lines
        .map(|line| if line.is_empty() { "\n" } else { line })
        .concat();
    write(root.path(), "wikitext2/wiki.train.tokens", &text);
    write(root.path(), "wikitext2/wiki.test.tokens", &text);
    for split in ["train", "test"] {
        let rows = [Column::Text("text", lines.to_vec())];
        cached(cache.path(), "wikitext", 0, split, &rows);
    }
    same(
        &from_root("wikitext", root.path()),
        &from_cache("wikitext", cache.path()),
    );
    for id in ["fineweb_edu", "openwebtext"] {
        let words: Vec<String> = (0..60).map(|i| format!("page {i}")).collect();
        let rows = Column::Text("text", words.iter().map(String::as_str).collect());
        cached(cache.path(), id, 0, "000_train", &[rows]);
        let loaded = from_cache(id, cache.path());
        assert_eq!(loaded.train.len() + loaded.texts.len(), 60);
        assert!(!loaded.texts.is_empty());
        let places = Places {
            root: None,
            cache: Some(cache.path().to_path_buf()),
        };
        assert_eq!(check(&places, &[id], None)[0].official["all"].found, 60);
    }
    write(
        root.path(),
        "fineweb_edu_sample/a.csv",
        "text,score\n\"one, two\",3\n",
    );
    let loaded = from_root("fineweb_edu", root.path());
    assert_eq!(loaded.train.len() + loaded.texts.len(), 1);
}

/// The hub's copy of StrategyQA is cut at random; the real questions, dealt into its splits, come out as the authors'.
#[test]
fn the_authors_questions_are_known_in_other_splits() {
    let Some(root) = crate::datasets() else {
        return;
    };
    let (cache, authors) = (tempfile::tempdir().unwrap(), from_root("strategyqa", &root));
    let all: Vec<_> = authors.train.iter().chain(&authors.texts).collect();
    for (split, rest) in [("train", 0), ("test", 1)] {
        let some: Vec<_> = all.iter().skip(rest).step_by(2).collect();
        let qid = |d: &&&data::Document| d.id.rsplit_once('/').unwrap().1.to_string();
        let qids: Vec<String> = some.iter().map(qid).collect();
        let columns = [
            Column::Text("qid", qids.iter().map(String::as_str).collect()),
            Column::Text("question", vec!["Is it?"; some.len()]),
            Column::Truth("answer", vec![true; some.len()]),
        ];
        cached(cache.path(), "strategyqa", 0, split, &columns);
    }
    let hub = from_cache("strategyqa", cache.path());
    let ids = |docs: &[data::Document]| docs.iter().map(|d| d.id.clone()).collect::<BTreeSet<_>>();
    assert_eq!(ids(&hub.train), ids(&authors.train));
    assert_eq!(ids(&hub.texts), ids(&authors.texts));
    assert_eq!(hub.note, "");
}

/// So is ASDiv's fold, by the authors' own list.
#[test]
fn asdiv_holds_out_fold_4_of_the_authors() {
    let Some(root) = crate::datasets() else {
        return;
    };
    let fold = fs::read_to_string(root.join("asdiv/nfolds/asdiv-w/fold4.txt")).unwrap();
    let fold: BTreeSet<String> = fold
        .lines()
        .map(|id| format!("test/{}", id.trim()))
        .collect();
    let held_out = from_root("asdiv", &root).texts;
    assert_eq!(
        held_out.into_iter().map(|d| d.id).collect::<BTreeSet<_>>(),
        fold
    );
}

/// A data set, the records of its official splits that are there, and what the check says is missing.
type Expected = (
    &'static str,
    &'static [(&'static str, usize)],
    Option<&'static str>,
);

/// What is there of each set in the real folder, in records by official split.
#[test]
fn the_real_files_hold_what_was_published_or_the_check_says_what_is_missing() {
    let Some(root) = crate::datasets() else {
        return;
    };
    let expected: [Expected; 16] = [
        ("gsm8k", &[("train", 7473), ("test", 1319)], None),
        ("svamp", &[("train", 700), ("test", 300)], None),
        ("asdiv", &[("train", 1776), ("test", 529)], None),
        (
            "mbpp",
            &[("train", 374), ("validation", 90), ("test", 500)],
            None,
        ),
        (
            "codexglue",
            &[("train", 10_295), ("valid", 2_499), ("test", 1000)],
            Some("train, 100005 of 110300 records; valid, 1 of 2500 records"),
        ),
        (
            "arc_easy",
            &[("train", 2251), ("dev", 570), ("test", 2376)],
            None,
        ),
        (
            "arc_challenge",
            &[("train", 1119), ("dev", 299), ("test", 1170)],
            Some("test, 2 of 1172 records"),
        ),
        (
            "hotpotqa",
            &[("train", 100), ("dev", 500)],
            Some("dev, 6905 of 7405 records; train, 90347 of 90447 records"),
        ),
        ("drop", &[("dev", 9536)], Some("train, all 77409 records")),
        ("strategyqa", &[("train", 2061), ("dev", 229)], None),
        ("piqa", &[("valid", 1838)], Some("train, all 16113 records")),
        (
            "hellaswag",
            &[("val", 10_042)],
            Some("train, all 39905 records"),
        ),
        (
            "boolq",
            &[("train", 9427), ("dev", 3270)],
            Some("the passages of 9427 questions"),
        ),
        (
            "wikitext",
            &[("train", 600), ("valid", 60), ("test", 60)],
            None,
        ),
        (
            "fineweb_edu",
            &[("all", 150)],
            Some("all, 9671951 of 9672101 records"),
        ),
        ("openwebtext", &[], Some("all of it")),
    ];
    let places = Places::local(&root);
    for (id, splits, missing) in expected {
        let checked = check(&places, &[id], None).remove(0);
        for (split, found) in splits {
            assert_eq!(checked.official[*split].found, *found, "{id} {split}");
        }
        let found: usize = checked.official.values().map(|split| split.found).sum();
        assert_eq!(found, splits.iter().map(|(_, n)| n).sum::<usize>(), "{id}");
        assert_eq!(
            checked.missing.as_deref(),
            missing,
            "{id}: {}",
            checked.note
        );
        assert_eq!(checked.remedy.is_some(), missing.is_some(), "{id}");
        if id == "arc_challenge" {
            let remedy = checked.remedy.as_deref().unwrap();
            assert!(remedy.contains("for test first move away"), "{remedy}");
        }
        let there = if id == "openwebtext" {
            Found::Missing
        } else {
            Found::Local
        };
        assert_eq!(
            (checked.found, checked.optional),
            (there, id == "openwebtext"),
            "{id}"
        );
        if there == Found::Local {
            let loaded = load(id, &places).unwrap();
            questions_are_sound(id, &loaded);
        }
    }
}

/// Items have their text under the same id, and what is right in that text.
fn questions_are_sound(id: &str, loaded: &Loaded) {
    let ids: BTreeSet<&str> = loaded.train.iter().map(|d| d.id.as_str()).collect();
    assert_eq!(ids.len(), loaded.train.len(), "{id}: ids are unique");
    assert!(
        loaded.texts.iter().all(|d| !ids.contains(d.id.as_str())),
        "{id}"
    );
    let texts: std::collections::BTreeMap<&str, &str> = loaded
        .texts
        .iter()
        .map(|d| (d.id.as_str(), d.text.as_str()))
        .collect();
    for item in &loaded.items {
        if let Answer::Program { check } = &item.answer {
            // The prompt names the tests, which the text leaves out.
            assert!(
                item.prompt.contains(check.lines().last().unwrap()),
                "{item:?}"
            );
            continue;
        }
        let end = texts[item.id.as_str()].strip_prefix(&item.prompt).unwrap();
        match &item.answer {
            Answer::Program { .. } => unreachable!("looked at above"),
            Answer::Exact { answer, .. } => {
                let found = data::extract_answer(end).unwrap();
                assert!(
                    data::same_answer(&found, answer),
                    "{item:?} is answered by {found}"
                );
            }
            Answer::Choice { options, gold } => {
                assert!(end.starts_with(options[*gold].trim_end()), "{item:?}");
                assert!(
                    options.iter().all(|o| o.starts_with(' ') && o.len() > 1),
                    "{item:?}"
                );
            }
        }
    }
}
