//! Documents that repeat others.

use data::{Duplicates, Repeat, sketches};

/// `n` words drawn from a vocabulary of 5,000.
fn text(seed: u64, n: usize) -> Vec<String> {
    let word = |i| format!("w{}", data::random::below(5000, seed, "words", 0, i));
    (0..n as u64).map(word).collect()
}

/// The text with every `every`-th word another.
fn changed(words: &[String], every: usize) -> String {
    let words = words.iter().enumerate();
    let other = words.map(|(i, word)| match i % every {
        0 => format!("other{i}"),
        _ => word.clone(),
    });
    other.collect::<Vec<_>>().join(" ")
}

fn found(least: f64, texts: &[&str]) -> Vec<Option<Repeat>> {
    let mut duplicates = Duplicates::new(least);
    let sketches = sketches(texts).into_iter();
    sketches.map(|sketch| duplicates.take(sketch)).collect()
}

#[test]
fn near_duplicates_go_distinct_texts_stay_and_the_earlier_one_is_kept() {
    for (seed, length) in [(1, 60), (2, 400), (3, 3000)] {
        let words = text(seed, length);
        let original = words.join(" ");
        // One word in a hundred changed leaves about 0.9 of the runs of five; one in four leaves none.
        let (near, far) = (changed(&words, 100), changed(&words, 4));
        let unlike = text(seed + 100, length).join(" ");
        let marks = original.to_uppercase().replace(' ', ", ");
        let texts = [&*original, &near, &far, &unlike, &original, &marks];
        assert_eq!(
            found(0.8, &texts),
            [
                None,
                Some(Repeat::Near),
                None,
                None,
                Some(Repeat::Exact),
                Some(Repeat::Near)
            ],
            "{length} words"
        );
        let texts = [&*near, &original];
        assert_eq!(found(0.8, &texts), [None, Some(Repeat::Near)]);
    }
}

#[test]
fn likeness_is_estimated_well_enough_to_tell_half_from_nine_tenths() {
    let mut wrong = 0;
    for seed in 0..200 {
        // Two texts of 800 runs: 760 in common are 0.905 alike, 534 are 0.5.
        let words = text(seed, 804);
        let ends = |kept: usize| {
            let mut ends = words[..kept + 4].to_vec();
            ends.extend(text(seed + 1000, 800 - kept));
            ends.join(" ")
        };
        let (like, half) = (ends(760), ends(534));
        let original = words.join(" ");
        let texts = [&*original, &like];
        wrong += usize::from(found(0.8, &texts)[1] != Some(Repeat::Near));
        wrong += usize::from(found(0.8, &[&*original, &half])[1].is_some());
    }
    assert!(wrong <= 2, "{wrong} of 400 pairs were judged wrongly");
}

#[test]
fn texts_of_fewer_than_five_words_are_compared_as_they_are() {
    assert_eq!(
        found(0.8, &["one two", "one two", "One two", "", ""]),
        [None, Some(Repeat::Exact), None, None, Some(Repeat::Exact)]
    );
}

#[test]
fn what_repeats_does_not_depend_on_the_number_of_threads() {
    let texts: Vec<String> = (0..300)
        .map(|i| changed(&text(i % 40, 200), 30 + i as usize % 3))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let pool = |n| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(n)
            .build()
            .unwrap()
    };
    let one = pool(1).install(|| found(0.7, &texts));
    assert_eq!(one, pool(3).install(|| found(0.7, &texts)));
    assert!(one.iter().filter(|repeat| repeat.is_some()).count() > 100);
}
