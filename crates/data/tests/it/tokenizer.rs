//! The byte-level tokenizer.

use data::{END_OF_DOCUMENT, Tokenizer};

const TEXTS: [&str; 4] = [
    "Question: Tom has 12 apples and eats 5. How many apples are left?\nAnswer: 12 - 5 = 7\n#### 7",
    "The cat sat on the mat. The cat was happy. The happy cat sat on the mat again and again.",
    "def add(a, b):\n    return a + b\n\ndef sub(a, b):\n    return a - b\n",
    "once upon a time there was a little cat who liked the mat that the dog liked too",
];

fn trained(vocab: usize) -> Tokenizer {
    Tokenizer::train(TEXTS.into_iter(), vocab).unwrap()
}

#[test]
fn any_string_comes_back_from_its_tokens() {
    let mut tokenizer = trained(300);
    tokenizer.add_special(&["[thinking]", "<step>"]);
    let every_char: String = (0..0x3000).filter_map(char::from_u32).collect();
    let texts = [
        "",
        " ",
        "  two  spaces ",
        "\n\n\t x\r\n",
        "naïve café — “quotes”",
        "日本語 🦀👩‍👩‍👧 e\u{301}",
        "\u{0}\u{1}\u{7f}",
        "<|end|> a[thinking]b <step>",
        "1,234.50 - 007",
        "don't we'll I'M",
        &every_char,
    ];
    for text in texts {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text)), text);
    }
}

#[test]
fn learning_is_the_same_every_time_and_its_file_reads_back() {
    let (a, b) = (trained(300), trained(300));
    assert_eq!(a.to_bytes(), b.to_bytes());
    assert_eq!(a.hash(), b.hash());
    assert_ne!(a.hash(), trained(299).hash());
    let read = Tokenizer::from_bytes(&a.to_bytes()).unwrap();
    assert_eq!(read.to_bytes(), a.to_bytes());
    for text in TEXTS {
        assert_eq!(read.encode(text), a.encode(text));
    }
}

#[test]
fn merges_shorten_text_and_ids_stay_within_the_vocabulary() {
    let (small, large) = (trained(257), trained(305));
    assert_eq!(small.vocab_size(), 257);
    assert_eq!(large.vocab_size(), 305);
    let count = |t: &Tokenizer| t.encode(TEXTS[1]).len();
    assert_eq!(count(&small), TEXTS[1].len());
    assert!(
        count(&large) * 2 < count(&small),
        "{} {}",
        count(&large),
        count(&small)
    );
    assert!(
        TEXTS
            .iter()
            .flat_map(|t| large.encode(t))
            .all(|id| id > 0 && id < 305)
    );
}

#[test]
fn the_merge_of_the_most_frequent_pair_comes_first() {
    let tokenizer = Tokenizer::train(["abab abab ab cdcd"].into_iter(), 258).unwrap();
    // `ab` occurs five times, more than any other pair, and is the only merge that fits.
    assert_eq!(tokenizer.encode("ab").len(), 1);
    assert_eq!(tokenizer.encode("cd").len(), 2);
}

#[test]
fn every_digit_is_a_token_of_its_own() {
    let tokenizer =
        Tokenizer::train(["12 12 12 12 and 1212 1212 x12 x12 x12"].into_iter(), 300).unwrap();
    let digits: Vec<u32> = ["1", "2"]
        .iter()
        .flat_map(|d| tokenizer.encode(d))
        .collect();
    assert_eq!(tokenizer.encode("12"), digits);
    assert_eq!(tokenizer.encode("x12")[1..], digits);
}

#[test]
fn the_end_of_document_is_token_0_and_special_tokens_follow_the_vocabulary_in_order() {
    let mut tokenizer = trained(300);
    assert_eq!(
        (
            tokenizer.end_of_document(),
            tokenizer.id_of(END_OF_DOCUMENT)
        ),
        (0, Some(0))
    );
    tokenizer.add_special(&["[thinking]", "[/endthinking]", "<step>"]);
    assert_eq!(tokenizer.vocab_size(), 303);
    let ids = tokenizer.encode("so [thinking]<step> 1[/endthinking] 2");
    let special: Vec<u32> = ids.into_iter().filter(|&id| id >= 300).collect();
    assert_eq!(special, [300, 302, 301]);
    tokenizer.add_special(&["<step>", "<new>"]);
    assert_eq!(
        (tokenizer.id_of("<step>"), tokenizer.id_of("<new>")),
        (Some(302), Some(303))
    );
    let read = Tokenizer::from_bytes(&tokenizer.to_bytes()).unwrap();
    assert_eq!((read.vocab_size(), read.encode("<new>")), (304, vec![303]));
    assert_eq!(read.hash(), tokenizer.hash());
}

#[test]
fn offsets_of_tokens_cover_the_text_in_order() {
    let tokenizer = trained(300);
    let text = "The café sat — on 12 mats";
    let offsets: Vec<_> = tokenizer
        .encode_with_offsets(text)
        .into_iter()
        .map(|(_, range)| range)
        .collect();
    assert_eq!(
        (offsets[0].start, offsets.last().unwrap().end),
        (0, text.len())
    );
    assert!(
        offsets
            .windows(2)
            .all(|w| w[0].start <= w[1].start && w[1].start <= w[0].end),
        "{offsets:?}"
    );
}

#[test]
fn a_bad_tokenizer_is_an_error_that_says_so() {
    let small = Tokenizer::train(TEXTS.into_iter(), 100)
        .err()
        .unwrap()
        .to_string();
    assert!(small.contains("257"), "{small}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let whole = trained(260).to_bytes();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let cut = Tokenizer::from_file(&path).err().unwrap().to_string();
    assert!(cut.contains("tokenizer.json"), "{cut}");
    let absent = Tokenizer::from_file(&dir.path().join("absent.json"))
        .err()
        .unwrap()
        .to_string();
    assert!(absent.contains("absent.json"), "{absent}");
}

#[test]
fn a_real_corpus_of_many_ties_learns_the_same_vocabulary_twice() {
    let Some(root) = crate::datasets() else {
        return;
    };
    let loaded = data::load("svamp", &data::Places::local(&root)).unwrap();
    let texts = || loaded.train.iter().map(|document| document.text.as_str());
    let (a, b) = (
        Tokenizer::train(texts(), 1024).unwrap(),
        Tokenizer::train(texts(), 1024).unwrap(),
    );
    assert_eq!(a.vocab_size(), 1024);
    assert_eq!(a.hash(), b.hash());
    for text in texts() {
        assert_eq!(a.decode(&a.encode(text)), text);
    }
}

#[test]
fn learning_and_packing_do_not_depend_on_the_number_of_threads() {
    let documents = data::builtin::documents(data::Family::Maths, 7, 600);
    let made = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let texts = documents.iter().map(|document| document.text.as_str());
            let tokenizer = Tokenizer::train(texts, 512).unwrap();
            let shard = data::pack_in_memory(&documents, data::Split::Train, &tokenizer);
            (tokenizer.to_bytes(), shard.manifest().clone())
        })
    };
    assert!(made(1) == made(3));
}

/// Strings that show every rule of the pattern, and every character of the first planes in changing company.
fn odd_texts() -> Vec<String> {
    let parts = [
        "a", " ", "  ", "\n", "\t", "\u{a0}", "\u{3000}", "1", "٣", "Ⅷ", "½", "é", "e\u{301}",
        "日", ".", "...", "'", "'s", "'re", "'ll", "'LL", "\u{200d}", "🦀", "_", "\r\n", "don't",
        "\u{0}", "x1y",
    ];
    let mut texts: Vec<String> = (0..4000)
        .map(|i| {
            let word = |j| parts[data::random::below(parts.len() as u64, 7, "odd", i, j) as usize];
            (0..12).map(word).collect()
        })
        .collect();
    let every = (0..=char::MAX as u32).filter_map(char::from_u32);
    let every: Vec<char> = every.collect();
    texts.extend(every.chunks(500).map(|some| {
        let mixed = some.iter().flat_map(|c| [' ', *c, 'a', *c, *c, '1']);
        mixed.collect()
    }));
    texts
}

#[test]
fn the_fast_encoder_gives_the_tokens_of_the_crate_for_any_text() {
    let mut ours = trained(300);
    // GPT-2's own form: digits are not cut apart.
    let gpt2 = String::from_utf8(ours.to_bytes()).unwrap();
    let mut file: serde_json::Value = serde_json::from_str(&gpt2).unwrap();
    file["pre_tokenizer"] = file["pre_tokenizer"]["pretokenizers"][1].clone();
    let gpt2 = Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap();
    let mut texts = odd_texts();
    texts.extend(TEXTS.map(str::to_string));
    for text in &texts {
        assert_eq!(ours.encode(text), ours.encode_by_crate(text), "{text:?}");
        assert_eq!(gpt2.encode(text), gpt2.encode_by_crate(text), "{text:?}");
    }
    ours.add_special(&["[thinking]"]);
    let special = ["so [thinking] 12", "<|end|>", "[think"];
    let long = ["ab".repeat(1000), "日本".repeat(400), " ".repeat(5000)];
    for text in special.into_iter().chain(long.iter().map(String::as_str)) {
        assert_eq!(ours.encode(text), ours.encode_by_crate(text), "{text:?}");
    }
}

#[test]
fn the_fast_encoder_gives_the_tokens_of_the_crate_on_every_data_set() {
    let Some(root) = crate::datasets() else {
        return;
    };
    let places = data::Places::local(&root);
    let sets = data::DATASETS
        .iter()
        .filter_map(|row| data::load(row.id, &places).ok());
    // A part of each, or the crate would take minutes.
    let texts: Vec<String> = sets
        .flat_map(|set| {
            let every = set.train.len() / 40 + 1;
            let some = set
                .train
                .into_iter()
                .step_by(every)
                .chain(set.texts.into_iter().take(10));
            some.map(|document| document.text)
        })
        .collect();
    let tokenizer = Tokenizer::train(texts.iter().map(String::as_str), 4096).unwrap();
    for text in &texts {
        assert_eq!(tokenizer.encode(text), tokenizer.encode_by_crate(text));
    }
}
