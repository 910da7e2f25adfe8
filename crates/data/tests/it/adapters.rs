//! Data sets on disk: splits, formats, bad input.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;

use data::{Answer, Comparison, Family, Found, Loaded, Places, Split, load_folder};

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn load(id: &str, root: &Path) -> Result<Loaded, data::Error> {
    data::load(id, &Places::local(root))
}

fn check(root: Option<&Path>, ids: &[&str]) -> Vec<data::Check> {
    let root = root.map(Path::to_path_buf);
    data::check(&Places { root, cache: None }, ids, None)
}

fn fails(id: &str, root: &Path) -> String {
    load(id, root)
        .expect_err("the data set must be refused")
        .to_string()
}

fn says(message: &str, parts: &[&str]) {
    assert!(
        parts.iter().all(|part| message.contains(part)),
        "{message} lacks one of {parts:?}"
    );
}

const GSM8K: &str = r#"{"question": "Tom has 2 bags of 1,000 nuts. How many?", "answer": "He has 2*1000 = <<2*1000=2000>>2,000 nuts.\n#### 2,000"}"#;

#[test]
fn gsm8k_trains_on_worked_steps_without_marks() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "gsm8k/train.jsonl", GSM8K);
    fs::write(root.path().join("gsm8k/test.jsonl.gz"), gzip(GSM8K)).unwrap();
    let loaded = load("gsm8k", root.path()).unwrap();
    let text = "Question: Tom has 2 bags of 1,000 nuts. How many?\nAnswer: He has 2*1000 = 2,000 nuts.\n#### 2000";
    assert_eq!(
        (loaded.train[0].text.as_str(), loaded.texts[0].text.as_str()),
        (text, text)
    );
    assert_eq!(
        loaded.items[0].prompt,
        text.split_once(" He has").unwrap().0
    );
    assert_eq!(
        loaded.items[0].answer,
        Answer::Exact {
            answer: "2000".into(),
            also: Vec::new(),
            by: Comparison::Value,
        }
    );
    assert_eq!(loaded.worked[0].steps, ["He has 2*1000 = 2,000 nuts."]);
    assert_eq!(
        (loaded.train[0].id.as_str(), loaded.items[0].id.as_str()),
        ("train/1", "test/1")
    );
    assert_eq!(loaded.items[0].split, loaded.texts[0].evaluation_split());
}

#[test]
fn a_choice_is_scored_after_the_word_answer() {
    let root = tempfile::tempdir().unwrap();
    let record = r#"{"id":"q7","question":{"stem":"What is hot?","choices":[{"text":"ice","label":"1"},{"text":"fire","label":"2"}]},"answerKey":"2"}"#;
    write(root.path(), "arc_easy/train.jsonl", record);
    write(root.path(), "arc_easy/dev.jsonl", record);
    let loaded = load("arc_easy", root.path()).unwrap();
    assert_eq!(loaded.train[0].text, "Question: What is hot?\nAnswer: fire");
    let item = &loaded.items[0];
    assert_eq!(
        item.answer,
        Answer::Choice {
            options: vec![" ice".into(), " fire".into()],
            gold: 1
        }
    );
    assert_eq!(item.prompt, "Question: What is hot?\nAnswer:");
    assert_eq!(loaded.note, "not there: test.jsonl");
    write(
        root.path(),
        "arc_easy/dev.jsonl",
        &record.replace("Key\":\"2", "Key\":\"9"),
    );
    says(
        &fails("arc_easy", root.path()),
        &["dev.jsonl", "line 1", "answerKey", "`9`", "1, 2"],
    );
}

#[test]
fn a_record_without_its_field_is_named_by_file_line_and_field() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        "gsm8k/train.jsonl",
        &format!("{GSM8K}\n\n{}", GSM8K.replace("question", "query")),
    );
    says(
        &fails("gsm8k", root.path()),
        &["train.jsonl", "line 3", "`question`", "query, answer"],
    );
    write(
        root.path(),
        "gsm8k/train.jsonl",
        r#"{"question": 5, "answer": "x #### 1"}"#,
    );
    says(
        &fails("gsm8k", root.path()),
        &["line 1", "`question` must be text, found a number"],
    );
    write(
        root.path(),
        "gsm8k/train.jsonl",
        r#"{"question": "x", "answer": "none"}"#,
    );
    says(&fails("gsm8k", root.path()), &["line 1", "#### N"]);
    write(
        root.path(),
        "svamp/SVAMP.json",
        r#"[{"ID":"chal-1","Body":"a","Question":"b","Equation":"1"}]"#,
    );
    says(
        &fails("svamp", root.path()),
        &["SVAMP.json", "record 1", "`Answer`"],
    );
}

#[test]
fn a_truncated_file_is_an_error_and_never_a_shorter_data_set() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        "gsm8k/train.jsonl",
        &format!("{GSM8K}\n{}", &GSM8K[..GSM8K.len() - 9]),
    );
    says(
        &fails("gsm8k", root.path()),
        &["train.jsonl", "line 2", "cut off"],
    );
    write(root.path(), "gsm8k/train.jsonl", "");
    says(&fails("gsm8k", root.path()), &["train.jsonl", "no records"]);
    write(
        root.path(),
        "svamp/SVAMP.json",
        r#"[{"ID":"chal-1","Body":"a""#,
    );
    says(&fails("svamp", root.path()), &["SVAMP.json", "cut off"]);
    let packed = gzip(&"{\"id\": \"a\", \"text\": \"b\"}\n".repeat(50));
    fs::create_dir_all(root.path().join("prose_openstax")).unwrap();
    fs::write(
        root.path().join("prose_openstax/a.jsonl.gz"),
        &packed[..packed.len() - 5],
    )
    .unwrap();
    says(&fails("prose", root.path()), &["a.jsonl.gz", "gzip"]);
    write(
        root.path(),
        "wikitext2/wiki.train.tokens",
        "no title here\n",
    );
    says(
        &fails("wikitext", root.path()),
        &["wiki.train.tokens", "no article"],
    );
}

#[test]
fn a_missing_or_misspelt_data_set_says_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    says(&fails("gsm8k", root.path()), &["gsm8k", "data.root"]);
    fs::create_dir(root.path().join("gsm8k")).unwrap();
    says(&fails("gsm8k", root.path()), &["train.jsonl or test.jsonl"]);
    says(
        &fails("gsmk8", root.path()),
        &["gsmk8", "did you mean `gsm8k`", "wikitext"],
    );
    assert!(!fails("something_else", root.path()).contains("did you mean"));
}

#[test]
fn wikitext_is_cut_into_articles() {
    let root = tempfile::tempdir().unwrap();
    let text = " \n = One = \n \n First text . \n \n = = Part = = \n \n More = of = it . \n \n = Two = \n \n Second . \n";
    write(root.path(), "wikitext2/wiki.train.tokens", text);
    write(root.path(), "wikitext2/wiki.test.tokens", text);
    let loaded = load("wikitext", root.path()).unwrap();
    let texts: Vec<&str> = loaded.train.iter().map(|d| d.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "= One =\nFirst text .\n= = Part = =\nMore = of = it .",
            "= Two =\nSecond ."
        ]
    );
    assert_eq!(loaded.texts[1].id, "test/1");
}

#[test]
fn a_folder_of_ones_own_is_read_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.txt", "plain text\n");
    write(
        dir.path(),
        "deep/b.jsonl",
        "{\"text\": \"line one\"}\n{\"text\": \"line two\"}\n",
    );
    write(dir.path(), "c.json", "[{\"text\": \"array\"}]");
    write(
        dir.path(),
        "d.csv",
        "id,text\r\n1,\"quoted, with \"\"marks\"\"\nand a line\"\n2,bare\n",
    );
    fs::write(dir.path().join("e.txt.gz"), gzip("packed")).unwrap();
    write(dir.path(), "f.pdf", "not read");
    write(dir.path(), ".hidden.txt", "not read");
    let loaded = load_folder(dir.path()).unwrap();
    let all: BTreeSet<&str> = loaded
        .train
        .iter()
        .chain(&loaded.texts)
        .map(|d| d.text.as_str())
        .collect();
    let expected = [
        "plain text",
        "line one",
        "line two",
        "array",
        "quoted, with \"marks\"\nand a line",
        "bare",
        "packed",
    ];
    assert_eq!(all, BTreeSet::from(expected));
    says(&loaded.note, &["1 .pdf"]);
    assert!(!loaded.texts.is_empty(), "something is held out");
    assert_eq!(load_folder(dir.path()).unwrap(), loaded);
    assert_eq!(
        load_folder(&dir.path().join("a.txt")).unwrap().train[0].text,
        "plain text"
    );
}

#[test]
fn records_are_read_one_after_the_other_and_no_further_than_they_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    // What follows the second record is no JSON, in an array as in lines, packed as plain.
    let array = "[{\"text\": \"one\"}, {\"text\": \"two\"}, {{{";
    let lines = "{\"text\": \"one\"}\n{\"text\": \"two\"}\n{{{\n";
    write(dir.path(), "a.json", array);
    write(dir.path(), "b.jsonl", lines);
    fs::write(dir.path().join("c.jsonl.gz"), gzip(lines)).unwrap();
    for name in ["a.json", "b.jsonl", "c.jsonl.gz"] {
        let read = |most: usize| {
            let mut texts = Vec::new();
            data::each_document(&dir.path().join(name), "mine", &mut |document, _| {
                texts.push(document.text);
                Ok(texts.len() < most)
            })
            .map(|_| texts)
        };
        assert_eq!(read(2).unwrap(), ["one", "two"], "{name}");
        says(&read(3).unwrap_err().to_string(), &[name]);
    }
}

#[test]
fn a_bad_file_of_ones_own_is_named() {
    let bad = |name: &str, bytes: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(name), bytes).unwrap();
        load_folder(dir.path())
            .expect_err("the folder must be refused")
            .to_string()
    };
    says(
        &bad("x.jsonl", b"{\"text\": \"a\"}\n{\"body\": \"b\"}"),
        &["x.jsonl", "line 2", "`text`", "body"],
    );
    says(
        &bad("x.jsonl", b"{\"text\": \"a\""),
        &["x.jsonl", "line 1", "cut off"],
    );
    says(
        &bad("x.txt", b"good\nb\xffd"),
        &["x.txt", "line 2", "UTF-8"],
    );
    says(&bad("x.txt.gz", b"not gzip"), &["x.txt.gz", "gzip"]);
    says(
        &bad("x.csv", b"text\n\"never ends"),
        &["x.csv", "line 2", "cut off"],
    );
    says(
        &bad("x.csv", b"id,text\n1,a\n2\n"),
        &["x.csv", "line 3", "1 fields where the header has 2"],
    );
    says(&bad("x.pdf", b"x"), &[".txt", ".jsonl"]);
    says(
        &load_folder(Path::new("no/such/folder"))
            .err()
            .unwrap()
            .to_string(),
        &["no/such/folder"],
    );
}

#[test]
fn a_long_text_is_cut_at_paragraphs_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let paragraph = "word ".repeat(200);
    let text = vec![paragraph.trim(); 60].join("\n\n");
    write(dir.path(), "long.txt", &text);
    let loaded = load_folder(dir.path()).unwrap();
    let mut parts: Vec<_> = loaded.train.iter().chain(&loaded.texts).collect();
    parts.sort_by_key(|part| {
        part.id
            .rsplit_once('#')
            .unwrap()
            .1
            .parse::<usize>()
            .unwrap()
    });
    assert_eq!(
        parts
            .iter()
            .map(|part| part.text.as_str())
            .collect::<Vec<_>>()
            .join("\n\n"),
        text
    );
    assert!(parts.len() > 3 && parts.iter().all(|part| part.text.len() <= 24 << 10));
    assert!(!loaded.train.is_empty() && !loaded.texts.is_empty());
    says(&loaded.note, &["parts"]);
    assert_eq!(Split::deal("book#1"), Split::deal("book#22"));
}

#[test]
fn a_check_tells_what_is_there_and_what_is_not() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "gsm8k/train.jsonl", GSM8K);
    let checks = check(Some(root.path()), &["gsm8k", "svamp", "nonsense"]);
    assert_eq!(
        checks.iter().map(|c| c.found).collect::<Vec<_>>(),
        [Found::Local, Found::Missing, Found::Missing]
    );
    assert_eq!(checks[0].examples["train"], 1);
    says(&checks[0].note, &["test.jsonl"]);
    says(
        checks[0].missing.as_deref().unwrap(),
        &["test, all 1319 records", "train, 7472 of 7473 records"],
    );
    says(
        checks[0].remedy.as_deref().unwrap(),
        &["forge data fetch gsm8k", "openai/gsm8k", "folder gsm8k"],
    );
    assert_eq!(checks[1].missing.as_deref(), Some("all of it"));
    assert_eq!((&checks[2].missing, &checks[2].remedy), (&None, &None));
    says(&checks[1].note, &["svamp", "data.root"]);
    let json = serde_json::to_value(&checks[0]).unwrap();
    let keys: Vec<&str> = json
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        [
            "dataset",
            "family",
            "found",
            "examples",
            "official",
            "bytes",
            "licence",
            "left_out",
            "overlaps",
            "too_short",
            "note",
            "missing",
            "remedy",
            "optional"
        ]
    );
    assert_eq!(
        (&json["found"], &json["family"]),
        (&"local".into(), &"maths".into())
    );
    says(&check(None, &["gsm8k"])[0].note, &["data.root"]);
}

/// Every set of the real folder, with what its documentation says of its splits.
#[test]
fn real_data_has_its_published_sizes_and_no_evaluation_record_is_trained_on() {
    let Some(root) = crate::datasets() else {
        return;
    };
    // Data set, training documents, items, texts; prose is checked apart.
    let expected = [
        ("gsm8k", 7473, 1319, 1319),
        ("svamp", 700, 300, 300),
        ("mbpp", 374, 590, 590),
        ("arc_easy", 2251, 570 + 2376, 570 + 2376),
        ("arc_challenge", 1119, 299 + 1170, 299 + 1170),
        ("strategyqa", 2061, 229, 229),
        ("commonsenseqa", 9741, 1221, 1221),
    ];
    for (id, train, items, texts) in expected {
        let loaded = load(id, &root).unwrap();
        assert_eq!(
            (loaded.train.len(), loaded.items.len(), loaded.texts.len()),
            (train, items, texts),
            "{id}"
        );
        sound(id, &loaded);
    }
    let wikitext = load("wikitext", &root).unwrap();
    let articles = |of: &[data::Document], split: &str| {
        let ids = of.iter().filter(|d| d.id.starts_with(split));
        ids.map(|d| d.id.split('#').next().unwrap())
            .collect::<BTreeSet<_>>()
            .len()
    };
    let found = (
        articles(&wikitext.train, "train/"),
        articles(&wikitext.texts, "valid/"),
        articles(&wikitext.texts, "test/"),
    );
    assert_eq!(found, (600, 60, 60));
    sound("wikitext", &wikitext);
}

fn sound(id: &str, loaded: &Loaded) {
    let family = data::dataset(id).unwrap().family;
    let train: BTreeSet<&str> = loaded.train.iter().map(|d| d.id.as_str()).collect();
    assert_eq!(train.len(), loaded.train.len(), "{id}: ids are unique");
    assert!(
        loaded.texts.iter().all(|d| !train.contains(d.id.as_str())),
        "{id}"
    );
    assert!(
        loaded
            .train
            .iter()
            .chain(&loaded.texts)
            .all(|d| d.family == family && d.dataset == id)
    );
    let splits: BTreeSet<Split> = loaded.texts.iter().map(|d| d.evaluation_split()).collect();
    assert_eq!(splits.len(), 3, "{id}: each evaluation split gets some");
    for item in &loaded.items {
        assert!(
            item.prompt.starts_with("Question: ") && item.prompt.ends_with("\nAnswer:"),
            "{item:?}"
        );
        assert!(item.split != Split::Train);
        let text = &loaded.texts.iter().find(|d| d.id == item.id).unwrap().text;
        match &item.answer {
            Answer::Program { check } => assert!(check.contains("assert"), "{check}"),
            Answer::Exact { answer, .. } => {
                let found = data::extract_answer(text.strip_prefix(&item.prompt).unwrap()).unwrap();
                assert!(data::same_answer(&found, answer), "{item:?}");
            }
            Answer::Choice { options, gold } => {
                assert!(text.starts_with(&format!("{}{}", item.prompt, options[*gold])));
                assert!(
                    options
                        .iter()
                        .all(|option| option.starts_with(' ') && option.len() > 1)
                );
            }
        }
    }
}

#[test]
fn real_prose_holds_out_whole_texts_and_svamp_reads_well() {
    let Some(root) = crate::datasets() else {
        return;
    };
    let small = tempfile::tempdir().unwrap();
    // Two of the four folders are enough here, and a link costs nothing.
    let link = |name: &str| {
        fs::create_dir_all(small.path().join(name)).and_then(|()| {
            fs::copy(
                root.join(name).join("18f.jsonl"),
                small.path().join(name).join("18f.jsonl"),
            )
            .map(|_| ())
        })
    };
    link("prose_web_usgov").unwrap();
    let loaded = load("prose", small.path()).unwrap();
    let whole = |docs: &[data::Document]| {
        docs.iter()
            .map(|d| d.id.split('#').next().unwrap().to_string())
            .collect::<BTreeSet<_>>()
    };
    let (train, texts) = (whole(&loaded.train), whole(&loaded.texts));
    assert!(train.is_disjoint(&texts) && train.len() + texts.len() == 508);
    assert!(
        (10..=45).contains(&texts.len()),
        "about one in twenty of 508: {}",
        texts.len()
    );
    let svamp = load("svamp", &root).unwrap();
    let all = svamp
        .train
        .iter()
        .chain(&svamp.texts)
        .find(|d| d.id.ends_with("/chal-1"))
        .unwrap();
    let text = "Question: Each pack of dvds costs 76 dollars. If there is a discount of 25 dollars on each pack, how much \
                do you have to pay to buy each pack?\nAnswer: 76 - 25 = 51\n#### 51";
    assert_eq!(all.text, text);
    assert_eq!(data::dataset("svamp").unwrap().family, Family::Maths);
}

#[test]
fn built_in_sets_need_no_folder() {
    let ids = data::expand(&["builtin", "gsm8k"]);
    assert_eq!(ids.len(), 6);
    for id in &ids[..5] {
        let loaded = load(id, Path::new("no/such/folder")).unwrap();
        assert!(
            loaded
                .train
                .iter()
                .chain(&loaded.texts)
                .all(|d| d.dataset == *id)
        );
        assert!(
            loaded.train.len() >= 1000 && loaded.texts.len() >= 100 && loaded.bytes > 0,
            "{id}"
        );
        assert_eq!(loaded.items.is_empty(), id == "builtin_language");
        assert_eq!(check(None, &[id])[0].found, Found::Local);
    }
}
